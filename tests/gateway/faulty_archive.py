"""The archive of the tiny model with faults in it, each of which happens when a test asks for it."""

import signal
from pathlib import Path

from launcher.archives import HANDLER
from launcher.server import Server
from tests.archives import rewrite

STAGES = ("preprocessing", "prefill", "decode", "response")

CODE = f"""

import os as _os
import tempfile as _tempfile

from prelim.decoders.cross_attention import CrossAttentionDecoder as _CrossAttention
from prelim.encoding.image_encoder import ImageEncoder as _ImageEncoder
from prelim.generation import engine as _engine


def _is_due(fault):
    try:
        _os.remove(_os.path.join(_tempfile.gettempdir(), "fault-" + fault))
    except FileNotFoundError:
        return False
    return True


def _add(fault, owner, name, happen):
    before = getattr(owner, name)

    def faulty(*arguments, **options):
        result = before(*arguments, **options)
        return happen(result) if _is_due(fault) else result

    setattr(owner, name, faulty)


def _die(_):
    _os.kill(_os.getpid(), {signal.SIGKILL:d})


def _need_memory(_):
    raise MemoryError


def _poison(logits):
    # A tensor of inference mode cannot be changed outside of it.
    logits = logits.clone()
    logits[0] = float("nan")
    return logits


_add("preprocessing", _ImageEncoder, "prepare", _die)
_add("prefill", _engine.Engine, "_prefill", _die)
_add("decode", _engine.Engine, "_forward", _die)
_add("response", response, "report_answer", _die)
_add("memory", _CrossAttention, "prefill", _need_memory)
_add("nan", _engine.Engine, "_forward", _poison)
"""


def add_faults(archive: Path) -> None:
    """Let the handler of an archive do what its server's temporary folder has files for."""

    def change(folder: Path) -> None:
        with (folder / HANDLER).open("a", encoding="utf-8") as handler:
            handler.write(CODE)

    rewrite(archive, change)


def ask_for(server: Server, fault: str) -> None:
    """Let a fault happen once, at the next opportunity."""
    (server.temporary / f"fault-{fault}").touch()
