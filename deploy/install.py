"""Install a bundle on a machine that reaches no network, upgrade it, and roll back.

./install.sh /opt/prelim                       # in the bundle: check it, install it, switch to it
./install.sh --rollback /opt/prelim            # switch back to the release before, and again to return
./install.sh --check                           # only check the files of the bundle

A release has code, environment and archives together, because an archive must have the code of its installation. Under
the folder, releases/ has the last two, and `current` and `previous` are links to them. Nothing is changed until the new
release is complete and its archives are accepted. Restart the service afterwards: a server that runs keeps its release.
"""

import fcntl
import hashlib
import json
import os
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from deploy.fill_environment import InstallError, fill, run
from launcher.install import compile_bytecode
from terminal.arguments import CommandLine

BUNDLE = Path(__file__).resolve().parents[2]
"""The folder of a bundle, where this file is in its tree/deploy/."""

SUMS = "SHA256SUMS"
COMPLETE = ".complete"


def main() -> None:
    """Command line."""
    parser = CommandLine(__doc__, prog="./install.sh")
    parser.add_argument("folder", type=Path, nargs="?", help="where it is installed, such as /opt/prelim")
    parser.add_argument("--rollback", action="store_true", help="switch back to the release before")
    parser.add_argument("--check", action="store_true", help="check the files of the bundle")
    arguments = parser.parse_args()
    os.umask(0o022)
    if arguments.check:
        print(f"complete and undamaged; sha256 of {SUMS}: {check(BUNDLE)}")
        return
    if arguments.folder is None or not arguments.folder.is_absolute():
        raise InstallError(f"the folder is {arguments.folder}; allowed: an absolute path, such as /opt/prelim")
    release = roll_back(arguments.folder) if arguments.rollback else install(BUNDLE, arguments.folder)
    print(f"current release: {release}. Restart the service to use it")


def check(bundle: Path) -> str:
    """Check every file of a bundle against its sums; returns the sha256 of the sums, which names the release.

    Raises InstallError with the files that are damaged, missing or not listed.
    """
    sums = bundle / SUMS
    try:
        lines = sums.read_text(encoding="utf-8").splitlines()
        listed = {name: digest for digest, name in (line.split("  ", 1) for line in lines)}
    except (OSError, ValueError) as error:
        raise InstallError(f"{sums} cannot be read ({type(error).__name__}): copy the bundle again") from None
    present = {str(path.relative_to(bundle)) for path in bundle.rglob("*") if path.is_symlink() or not path.is_dir()}
    faults = [f"{name} is missing" for name in sorted(listed.keys() - present)]
    faults += [f"{name} is not listed in {SUMS}" for name in sorted(present - listed.keys() - {SUMS})]
    for name in sorted(listed.keys() & present):
        path = bundle / name
        if path.is_symlink():
            faults.append(f"{name} is a link")
        elif sha256_of(path) != listed[name]:
            faults.append(f"{name} is damaged")
    if faults:
        more = f"\nand {len(faults) - 5} more" if len(faults) > 5 else ""
        raise InstallError("\n".join(["the bundle is not what was built; copy it again:", *faults[:5]]) + more)
    return sha256_of(sums)


def install(bundle: Path, folder: Path) -> str:
    """Install a bundle next to what is there, then switch to it; the name of its release.

    Raises InstallError; then the release that was current still is.
    """
    digest = check(bundle)
    described = json.loads((bundle / "bundle.json").read_text(encoding="utf-8"))
    name = f"{described['version']}-{described['target']}-{digest[:12]}"
    with exclusive(folder):
        release = folder / "releases" / name
        if not (release / COMPLETE).exists():
            shutil.rmtree(release, ignore_errors=True)
            try:
                build(bundle, release, cut=described["target"] == "cpu")
            except BaseException:
                shutil.rmtree(release, ignore_errors=True)
                raise
        if linked(folder, "current") != name:
            previous = linked(folder, "current")
            if previous is not None:
                link(folder, "previous", previous)
            link(folder, "current", name)
        kept = {linked(folder, "current"), linked(folder, "previous")}
        for other in release.parent.iterdir():
            if other.name not in kept:
                shutil.rmtree(other)
    return name


def build(bundle: Path, release: Path, *, cut: bool) -> None:
    """Fill the folder of a release. Raises InstallError, also if its archives may not be served."""
    print(f"installing {release.name} ...", flush=True)
    release.parent.mkdir(parents=True, exist_ok=True)
    shutil.copytree(bundle / "tree", release)
    shutil.copytree(bundle / "archives", release / "model_store", dirs_exist_ok=True)
    # A bundle may come from a medium that loses or adds permissions.
    for path in (release, *release.rglob("*")):
        path.chmod(0o755 if path.is_dir() else 0o644)
    fill(release / ".venv", [], wheels=bundle / "wheels", cut=cut)
    python = release / ".venv" / "bin" / "python"
    compile_bytecode(python, release)
    environment = {name: value for name, value in os.environ.items() if name != "PRELIM_FOLDER"}
    command = [str(python), "-m", "launcher", "check"]
    print(run(command, "the archives of the bundle are refused", environment, at=release), end="", flush=True)
    (release / COMPLETE).touch()


def roll_back(folder: Path) -> str:
    """Make the previous release the current one, and the current one the previous; the name of the new current one.

    Raises InstallError if there is none.
    """
    with exclusive(folder):
        current, previous = linked(folder, "current"), linked(folder, "previous")
        if current is None or previous is None:
            raise InstallError(f"{folder} has no previous release to go back to")
        link(folder, "current", previous)
        link(folder, "previous", current)
    return previous


def linked(folder: Path, name: str) -> str | None:
    """The release that a link names, if it is complete."""
    release = (folder / name).resolve()
    return release.name if (release / COMPLETE).exists() else None


def link(folder: Path, name: str, release: str) -> None:
    """Let a link name a release, at once: a program never finds no release there."""
    new = folder / f".{name}"
    new.unlink(missing_ok=True)
    new.symlink_to(Path("releases", release))
    new.replace(folder / name)


@contextmanager
def exclusive(folder: Path) -> Iterator[None]:
    """Only one installation at a time. Raises InstallError for the other, and if the folder cannot be written."""
    try:
        folder.mkdir(parents=True, exist_ok=True)
        with (folder / ".lock").open("w") as lock:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
            yield
    except BlockingIOError:
        raise InstallError(f"another installation into {folder} is at work; wait for it") from None
    except OSError as error:
        raise InstallError(f"{error.filename or folder}: {error.strerror}") from None


def sha256_of(path: Path) -> str:
    """The sha256 of a file, as hexadecimal digits; the one of `prelim` needs packages, which are not installed yet."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


if __name__ == "__main__":
    main()
