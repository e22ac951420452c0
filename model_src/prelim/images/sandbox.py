"""bubblewrap around the process that decodes images, where the machine has it and lets an ordinary user use it.

Decoders are C libraries that read what anybody sends. In the sandbox there is no network, no other process and no file
but Python, its packages and the package: no key, no archive, no log, and nothing that can be written
(docs/decisions/0035-decoders-in-a-sandbox.md).
"""

from __future__ import annotations

import functools
import os
import shutil
import subprocess
import sys
from collections.abc import Iterable, Sequence
from pathlib import Path

PROGRAM = "bwrap"

SYSTEM = ("/usr", "/lib", "/lib64", "/bin", "/etc/ld.so.cache", "/etc/alternatives")
"""What the libraries of Python and of its packages need of the system."""

PACKAGES = ("imagecodecs", "numpy", "PIL", "pydicom", "tifffile", "prelim")
"""What the process imports, and so must find."""

TRIAL = "import sys, numpy; from importlib.util import find_spec; sys.exit(None in map(find_spec, sys.argv[1:]))"
TRIAL_S = 20


def sandboxed(command: Sequence[str], source: Path) -> list[str]:
    """The command, in a sandbox if there is one.

    source : folder of the package `prelim`
    """
    return [*_options(source), *command]


@functools.cache
def _options(source: Path) -> tuple[str, ...]:
    """Bubblewrap and its options; nothing if it is not installed, or cannot be used here.

    Most containers do not let it make namespaces; and packages can be where nobody looks for them.
    """
    program = shutil.which(PROGRAM)
    if program is None:
        return ()
    path = list(filter(os.path.isabs, os.environ.get("PYTHONPATH", "").split(os.pathsep)))
    packages = [folder for folder in sys.path if Path(folder).name in ("site-packages", "dist-packages")]
    seen = [sys.prefix, sys.base_prefix, str(source), *packages, *path]
    options = (
        *(program, "--unshare-all", "--cap-drop", "ALL", "--dev", "/dev"),
        # That of the host: a new one may not be mounted under a hardened service. Files of processes outside of this
        # user namespace that matter, such as their memory, environment and descriptors, cannot be opened through it.
        *("--ro-bind", "/proc", "/proc"),
        *_bind(SYSTEM),
        *_bind(seen),
        *("--chdir", "/", "--remount-ro", "/", "--"),
    )
    try:
        tried = subprocess.run(
            [*options, sys.executable, "-P", "-c", TRIAL, *PACKAGES],
            env=os.environ | {"PYTHONPATH": os.pathsep.join([str(source), *path])},
            capture_output=True,
            timeout=TRIAL_S,
            check=False,
        )
    except (OSError, subprocess.TimeoutExpired):
        return ()
    return () if tried.returncode else options


def _bind(paths: Iterable[str]) -> list[str]:
    """Options that show these files and folders, read-only, where they are."""
    return [part for path in paths for part in ("--ro-bind-try", path, path)]
