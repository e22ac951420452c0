"""The environment of the server: what env.sh gives, checked."""

import os
import re
import subprocess
from collections.abc import Mapping
from pathlib import Path

from launcher.errors import LaunchError

ROOT = Path(__file__).resolve().parent.parent
JAVA = 17
"""The oldest Java that TorchServe 0.12.0 runs with."""

FOLDER = "PRELIM_FOLDER"
"""Variable with the folder of the server, where this installation cannot be written, as in a container."""


def server_folder() -> Path:
    """The folder that the server is started in and writes keys and logs to: PRELIM_FOLDER, or this installation.

    Raises LaunchError if it cannot be made, or belongs to another user, who could replace what the server reads there.
    """
    if not os.environ.get(FOLDER):
        return ROOT
    folder = Path(os.environ[FOLDER]).absolute()
    try:
        folder.mkdir(mode=0o700, parents=True, exist_ok=True)
        if folder.stat().st_uid != os.geteuid():
            raise LaunchError(f"{FOLDER} is {folder}, which belongs to another user; set it to a folder of yours")
        link_installation(folder, ROOT / "model_store")
    except OSError as error:
        raise LaunchError(f"{FOLDER} is {folder}, which cannot be used ({error.strerror})") from None
    return folder


def link_installation(folder: Path, store: Path) -> None:
    """Link what config.properties names relative to the server's folder.

    These paths are relative so that none has a space: TorchServe splits vmargs there.
    """
    for name, target in (("handlers", ROOT / "handlers"), ("model_store", store.resolve())):
        link = folder / name
        # A server that runs may be reading through it.
        if not link.is_symlink() or link.readlink() != target:
            link.unlink(missing_ok=True)
            link.symlink_to(target)


def read_environment() -> dict[str, str]:
    """All variables after `source env.sh`, whose remarks go to the console.

    Raises LaunchError if env.sh fails, or has no temporary folder for this clone alone.
    """
    command = ["bash", "-c", 'source "$1" && exec env -0', "bash", str(ROOT / "env.sh")]
    done = subprocess.run(command, stdout=subprocess.PIPE, text=True, check=False)
    if done.returncode:
        raise LaunchError(f"{ROOT / 'env.sh'} cannot be sourced (exit code {done.returncode})")
    environment = dict(line.split("=", 1) for line in done.stdout.split("\0") if "=" in line)
    if not Path(environment.get("TMPDIR", "")).name.startswith("prelim-"):
        raise LaunchError("there is no temporary folder for this server alone; set TMPDIR to a folder of yours")
    return environment


def check_java(environment: Mapping[str, str]) -> None:
    """Raise LaunchError unless the Java that TorchServe is going to take is new enough.

    Without this TorchServe prints an error of the Java machine, or nothing, and exits with 0.
    """
    home = environment.get("JAVA_HOME")
    java = f"{home}/bin/java" if home else "java"
    way_out = "unset JAVA_HOME and run `make install`, which brings one"
    try:
        done = subprocess.run([java, "-version"], env=dict(environment), capture_output=True, text=True, check=False)
    except OSError as error:
        raise LaunchError(f"{java} cannot be run ({error.strerror}); {way_out}") from None
    found = re.search(r'version "(\d+)(?:\.(\d+))?', done.stderr + done.stdout)
    # Before 9, versions began with 1: 1.8 is Java 8.
    version = int(found[2] if found[1] == "1" and found[2] else found[1]) if found else None
    if version is None or version < JAVA:
        shown = "does not say its version" if version is None else f"is Java {version}"
        raise LaunchError(f"{java} {shown}; TorchServe needs {JAVA} or later: {way_out}")
