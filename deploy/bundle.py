"""Write a bundle: one folder with everything that an installation needs, for machines that reach no network.

python -m deploy.bundle out/bundle --target cpu --archives model_store/demo.mar

wheels/     : all packages, Java among them, with a lock that has the sha256 of each
tree/       : the code of this project
archives/   : the models
SHA256SUMS  : of every other file; its own is printed, to be compared on the other side
install.sh  : checks the bundle and installs it, without any download
"""

import json
import re
import shutil
import tempfile
from collections.abc import Iterable, Sequence
from pathlib import Path

import prelim
from deploy.fill_environment import (
    TARGETS,
    WHEELS_LOCK,
    InstallError,
    add_torch_options,
    locked_packages,
    make_pip,
    run,
)
from deploy.install import SUMS, sha256_of
from launcher.archives import check_archive
from prelim.archive.signature import signature_of
from prelim.errors import ArchiveError
from terminal.arguments import CommandLine

ROOT = Path(__file__).resolve().parent.parent

TREE = (
    *("LICENSE", "config.properties", "env.sh", "docs/images/chest.jpg", "deploy/nginx", "deploy/systemd"),
    *("bridge", "client", "handlers", "launcher", "model_src", "terminal", "web"),
)
"""What serving needs of this repository. The image has the same (deploy/image/Containerfile)."""

INSTALLER = ("deploy/__init__.py", "deploy/fill_environment.py", "deploy/install.py")

SCRIPT = """#!/bin/sh
# Installs this bundle: ./install.sh /opt/prelim (docs/container.md). Needs Python 3.11 with its modules venv and pip.
set -eu
cd "$(dirname "$0")/tree"
exec "${PYTHON:-python3.11}" -B -m deploy.install "$@"
"""


def main() -> None:
    """Command line."""
    parser = CommandLine(__doc__)
    parser.add_argument("folder", type=Path, help="of the bundle; must not exist")
    parser.add_argument("--target", choices=TARGETS, default="cpu")
    parser.add_argument("--archives", type=Path, nargs="+", required=True, help="to be served")
    add_torch_options(parser)
    arguments = parser.parse_args()
    if arguments.folder.exists():
        raise InstallError(f"{arguments.folder} exists; remove it, or name another folder")
    with tempfile.TemporaryDirectory() as temporary:
        folder = Path(temporary)
        locked = locked_packages(arguments.target, folder, arguments.torch_index, arguments.torch_sha256)
        write_bundle(arguments.folder, arguments.target, locked, arguments.archives)
    size = sum(path.stat().st_size for path in arguments.folder.rglob("*") if path.is_file())
    print(f"{arguments.folder}: {size / 1e9:.1f} GB, sha256 of {SUMS}: {sha256_of(arguments.folder / SUMS)}")


def write_bundle(folder: Path, target: str, locked: Sequence[Sequence[str]], archives: Iterable[Path]) -> None:
    """Write a bundle; if that fails, nothing of it stays.

    locked : arguments for pip, as from `locked_packages`

    Raises InstallError for a package or an archive that cannot be used.
    """
    try:
        folder.mkdir(parents=True)
        copy_archives(archives, folder / "archives")
        copy_files((*TREE, *INSTALLER), folder / "tree")
        fetch_wheels(locked, folder / "wheels")
        (folder / "install.sh").write_text(SCRIPT, encoding="utf-8")
        (folder / "install.sh").chmod(0o755)
        described = {"version": prelim.__version__, "target": target}
        (folder / "bundle.json").write_text(json.dumps(described) + "\n", encoding="utf-8")
        write_sums(folder)
    except BaseException:
        shutil.rmtree(folder, ignore_errors=True)
        raise


def copy_archives(archives: Iterable[Path], folder: Path) -> None:
    """Copy archives that this code accepts, with their signatures. Raises InstallError for another."""
    folder.mkdir()
    for archive in archives:
        try:
            check_archive(archive)
        except ArchiveError as error:
            raise InstallError(f"{error}") from None
        shutil.copy(archive, folder)
        if signature_of(archive).is_file():
            shutil.copy(signature_of(archive), folder)


def copy_files(names: Iterable[str], folder: Path) -> None:
    """Copy files and folders of this repository; what git does not know stays out."""
    command = ["git", "ls-files", "-z", "--", *names]
    for name in filter(None, run(command, "the files of the repository are unknown", at=ROOT).split("\0")):
        target = folder / name
        target.parent.mkdir(parents=True, exist_ok=True)
        shutil.copyfile(ROOT / name, target)


def fetch_wheels(locked: Sequence[Sequence[str]], folder: Path) -> None:
    """Fetch all packages as wheels, and write their lock. Raises InstallError, with pip's reason."""
    folder.mkdir()
    with tempfile.TemporaryDirectory() as tools:
        pip = [*make_pip(Path(tools)), "wheel", "--no-deps", "--require-hashes", "--quiet", "-w", str(folder)]
        for packages in locked:
            run([*pip, *packages], "the packages could not be fetched")
    lines = []
    for wheel in sorted(folder.glob("*.whl")):
        # PEP 427: the fields of a wheel's name have no hyphen.
        name, version = wheel.name.split("-")[:2]
        lines.append(f"{re.sub('[-_.]+', '-', name).lower()}=={version} --hash=sha256:{sha256_of(wheel)}\n")
    (folder / WHEELS_LOCK).write_text("".join(lines), encoding="utf-8")


def write_sums(folder: Path) -> None:
    """Write the sha256 of every file, in the format of `sha256sum`."""
    files = sorted(path for path in folder.rglob("*") if path.is_file() and path.name != SUMS)
    sums = (f"{sha256_of(path)}  {path.relative_to(folder)}\n" for path in files)
    (folder / SUMS).write_text("".join(sums), encoding="utf-8")


if __name__ == "__main__":
    main()
