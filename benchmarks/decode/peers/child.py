"""A child process with one peer: reads jobs as lines of JSON from stdin, writes answers to stdout.

    python -m benchmarks.decode.peers.child NAME CHECKPOINT THREADS

Its first line describes the peer: {"precisions": [...], "versions": {...}, "note": str}. A job is
{"precision", "prefixes", "beams", "new_tokens"}, its answer {"seconds", "token_ids"} or {"refused": reason}.
"""

import importlib
import json
import os
import sys
import time
import traceback
from collections.abc import Mapping
from pathlib import Path
from typing import Any, TextIO

from benchmarks.decode.peers.peer import Peer, Unsupported


def answer(peer: Peer, job: Mapping[str, Any]) -> dict[str, Any]:
    """Run a job; a failure is an answer too, so that the other peers continue."""
    precision = job["precision"]
    try:
        peer.load(precision)
        began = time.perf_counter()
        token_ids = peer.run(precision, job["prefixes"], job["beams"], job["new_tokens"])
        seconds = time.perf_counter() - began
    except Unsupported as refused:
        return {"refused": str(refused)}
    except Exception as error:  # noqa: BLE001 - each library here has its own errors
        traceback.print_exc()
        return {"refused": f"{type(error).__name__}: {error}"[:500]}
    return {"seconds": seconds, "token_ids": token_ids}


def serve(peer: Peer, jobs: TextIO, answers: TextIO) -> None:
    """Answer jobs until input ends."""
    said = {"precisions": list(peer.precisions), "versions": dict(peer.versions), "note": peer.note}
    print(json.dumps(said), file=answers, flush=True)
    for line in jobs:
        print(json.dumps(answer(peer, json.loads(line))), file=answers, flush=True)


def main() -> None:
    """Command line."""
    name, checkpoint, threads = sys.argv[1:]
    # Output of the libraries goes into the log, not between the answers.
    answers = os.fdopen(os.dup(1), "w", encoding="utf-8")
    os.dup2(2, 1)
    module = importlib.import_module(f"benchmarks.decode.peers.{name}")
    serve(module.Peer(Path(checkpoint), int(threads)), sys.stdin, answers)


if __name__ == "__main__":
    main()
