"""manifest.json: the sha256 of every file of an archive, code included.

The sha256 of the manifest itself names the archive, in answers too. It finds damage; it cannot tell who wrote the
archive, and code that comes from the archive cannot vouch for it (docs/decisions/0017-who-vouches-for-an-archive.md).
"""

import hashlib
import json
import re
from collections.abc import Callable, Collection, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path, PurePosixPath

import yaml

from prelim.errors import ArchiveError

MANIFEST = "manifest.json"

FORMAT = 2
"""Of the archives that are written and read here. 1 had no manifest: model.yaml listed some of the files."""

_NAME = re.compile(r"[A-Za-z0-9_-][A-Za-z0-9._-]*(/[A-Za-z0-9_-][A-Za-z0-9._-]*)*")
"""Relative, without hidden files, `..`, backslashes, or anything that one system reads differently from another."""


@dataclass(frozen=True)
class Manifest:
    """The files of an archive, all but the manifest.

    files : sha256 in hexadecimal by name, which is relative to the archive, with slashes
    """

    files: Mapping[str, str]

    @property
    def contents(self) -> bytes:
        """The file. One manifest has one sequence of bytes, so that any other is refused."""
        return (json.dumps({"files": self.files, "format": FORMAT}, indent=1, sort_keys=True) + "\n").encode("ascii")

    @property
    def sha256(self) -> str:
        """Of the file, and so of everything in the archive."""
        return hashlib.sha256(self.contents).hexdigest()

    def check_names(self, names: Collection[str], source: Path) -> None:
        """Raise ArchiveError unless these are the names of all files but the manifest."""
        for missing in sorted(self.files.keys() - set(names)):
            raise ArchiveError(f"{source}: {missing} is missing; build the archive again with `make archive`")
        for unknown in sorted(set(names) - self.files.keys()):
            raise ArchiveError(f"{source}: {unknown} is not in {MANIFEST}; build the archive again with `make archive`")

    def check_sha256(self, name: str, found: str, source: Path) -> None:
        """Raise ArchiveError unless this is the sha256 of the file of that name."""
        if found != self.files[name]:
            raise ArchiveError(
                f"{source}: {name} has sha256 {found}, {MANIFEST} says {self.files[name]}; "
                "build the archive again with `make archive`"
            )


def parse_manifest(contents: bytes, source: Path, read: Callable[[str], bytes]) -> Manifest:
    """The manifest with these contents.

    source : the archive, for messages
    read   : gives other files of the archive, for the command that builds an archive of another format again

    Raises ArchiveError for anything that `Manifest.contents` would not have written.
    """
    try:
        fields = json.loads(contents)
        number, files = fields["format"], fields["files"]
    except (ValueError, TypeError, KeyError, RecursionError):
        raise ArchiveError(f"{source}: {MANIFEST} is damaged; build the archive again with `make archive`") from None
    if type(number) is int and number != FORMAT:
        raise ArchiveError(other_format(source, number, read))
    good = isinstance(files, dict) and all(isinstance(value, str) for value in files.values())
    if not good or Manifest(files).contents != contents:
        raise ArchiveError(f"{source}: {MANIFEST} is damaged; build the archive again with `make archive`")
    check_portable([*files, MANIFEST], source)
    return Manifest(files)


def check_portable(names: Collection[str], source: Path) -> None:
    """Raise ArchiveError unless these names are different files below the archive's folder on every system."""
    seen: set[str] = set()
    for name in names:
        if not _NAME.fullmatch(name):
            raise ArchiveError(f"{source} has a file name that is not allowed: {name!a}")
        if name.lower() in seen:
            raise ArchiveError(f"{source}: {name} is there twice")
        seen.add(name.lower())
    for name in names:
        for folder in PurePosixPath(name.lower()).parents:
            if str(folder) in seen:
                raise ArchiveError(f"{source}: {folder} is both a file and a folder")


def write_manifest(folder: Path) -> Manifest:
    """Write the manifest of all files that the folder has."""
    names = sorted(set(_files(folder)) - {MANIFEST})
    check_portable(names, folder)
    manifest = Manifest({name: sha256_of(folder / name) for name in names})
    (folder / MANIFEST).write_bytes(manifest.contents)
    return manifest


def read_manifest(folder: Path) -> Manifest:
    """Read the manifest of an unpacked archive and check all files.

    Bytecode that Python has cached since the archive was unpacked does not count.

    Raises ArchiveError naming the file that is missing, unknown, or not the one that was packed.
    """
    names = set(_files(folder))
    check_portable(names, folder)
    if MANIFEST not in names:
        raise ArchiveError(other_format(folder, 1, lambda name: (folder / name).read_bytes()))
    contents = (folder / MANIFEST).read_bytes()
    manifest = parse_manifest(contents, folder, lambda name: (folder / name).read_bytes())
    manifest.check_names(names - {MANIFEST}, folder)
    for name in manifest.files:
        manifest.check_sha256(name, sha256_of(folder / name), folder)
    return manifest


def other_format(source: Path, number: int, read: Callable[[str], bytes]) -> str:
    """What to say of an archive of another format: with the command that builds it again.

    read : gives a file of the archive by name
    """
    if number > FORMAT:
        return f"{source} is an archive of format {number}, and {FORMAT} is the newest that is read here: update Prelim"
    try:
        name = str(yaml.safe_load(read("model.yaml"))["name"])
        serving = yaml.safe_load(read("model-config.yaml"))
        batching = "in-flight" if serving["continuousBatching"] else "dynamic"
        options = f"--batching {batching} --slots {int(serving['batchSize'])} --workers {int(serving['maxWorkers'])}"
        if not _NAME.fullmatch(name):  # somebody is going to paste it into a shell
            raise ValueError
    except (OSError, ValueError, TypeError, KeyError, RecursionError, yaml.YAMLError):
        return f"{source} has no {MANIFEST}: it is damaged, or not an archive of Prelim; `make archive` builds one"
    command = f".venv/bin/python -m export.package models/{name} {options}"
    return f"{source} is an archive of format {number}; {FORMAT} is read here. Build it again with `{command}`"


def sha256_of(path: Path) -> str:
    """Hexadecimal sha256 of a file."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def _files(folder: Path) -> Iterator[str]:
    """Names of all that is in an unpacked archive and is not a folder."""
    for path in folder.rglob("*"):
        name = path.relative_to(folder)
        if path.is_symlink():
            raise ArchiveError(f"{folder}: {name} is a symbolic link; an archive has none")
        if not path.is_dir() and "__pycache__" not in name.parts:
            yield name.as_posix()
