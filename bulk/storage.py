"""Paths that may be in a bucket: one class over PyArrow's and fsspec's file systems."""

import os
import shutil
import uuid
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from functools import cache
from pathlib import Path, PurePosixPath
from tempfile import TemporaryDirectory

import pyarrow as pa
from pyarrow import fs

from bulk.errors import JobError

_BUCKETS = ("s3", "gcs", "abfs")
"""File systems of PyArrow that show an object when it is complete; on others a rename does that."""

_TEMPORARY = ".tmp"


@dataclass(frozen=True)
class Location:
    """A file or folder: a path of this machine, or a URL such as s3://bucket/folder.

    url  : as it was given, absolute, so that every process and node finds it
    """

    url: str

    @classmethod
    def of(cls, given: str) -> "Location":
        """The location of what a user typed. Raises JobError for a URL of an unknown kind."""
        location = cls(given.rstrip("/") if "://" in given else str(Path(given).absolute()))
        location._resolve()
        return location

    @property
    def name(self) -> str:
        """The last part of the path."""
        return PurePosixPath(self.url).name

    @property
    def parent(self) -> "Location":
        """The folder that contains it."""
        return Location(self.url.rsplit("/", 1)[0] or "/")

    def __truediv__(self, name: str) -> "Location":
        return Location(f"{self.url}/{name}")

    def join(self, name: str) -> "Location":
        """A file as a manifest names it: relative to this folder, an absolute path, or a URL."""
        return Location(name) if "://" in name or name.startswith("/") else self / name

    def info(self) -> fs.FileInfo:
        """What is there: kind and size."""
        system, path = self._resolve()
        return system.get_file_info(path)

    def is_file(self) -> bool:
        """Whether a file is there."""
        return self.info().type == fs.FileType.File

    def is_folder(self) -> bool:
        """Whether a folder is there."""
        return self.info().type == fs.FileType.Directory

    def contains(self, other: "Location") -> bool:
        """Whether another location is this one or below it, however either is written."""
        (system, path), (other_system, other_path) = self._resolve(), other._resolve()
        if isinstance(system, fs.LocalFileSystem):
            path, other_path = os.path.realpath(path), os.path.realpath(other_path)
        return bool(system.equals(other_system)) and f"{other_path}/".startswith(f"{path.rstrip('/')}/")

    def has_files(self) -> bool:
        """Whether a file is anywhere below the folder, hidden ones left out; looks only as far as the first."""
        return next(self._walk(), None) is not None

    def _walk(self) -> Iterator[str]:
        """Paths of the files below the folder, folder by folder, without hidden ones. Raises OSError."""
        system, path = self._resolve()
        if isinstance(system, fs.LocalFileSystem):
            yield from _walk_disk(path)
            return
        folders = [path]
        while folders:
            for info in system.get_file_info(fs.FileSelector(folders.pop(), allow_not_found=True)):
                if _is_hidden(info.base_name):
                    continue
                if info.type == fs.FileType.File:
                    yield info.path
                elif info.type == fs.FileType.Directory:
                    folders.append(info.path)

    def make_folder(self) -> None:
        """Create the folder and those above it, if they are not there."""
        system, path = self._resolve()
        system.create_dir(path, recursive=True)

    def read(self) -> bytes:
        """All bytes of the file. Raises OSError."""
        with self.open() as file:
            return file.read()

    def open(self) -> pa.NativeFile:
        """Open the file, with random access. Raises OSError."""
        system, path = self._resolve()
        return system.open_input_file(path)

    @contextmanager
    def local(self) -> Iterator[Path]:
        """The file as a path of this machine; a copy if it is elsewhere, removed afterwards. Raises OSError."""
        if "://" not in self.url:
            yield Path(self.url)
            return
        with TemporaryDirectory(prefix="prelim-") as folder:
            path = Path(folder) / self.name
            with self.open() as source, path.open("wb") as target:
                shutil.copyfileobj(source, target, 1 << 24)
            yield path

    def create(self) -> pa.NativeFile:
        """Create the file and open it for writing; others may see a part of it. Raises OSError."""
        system, path = self._resolve()
        return system.open_output_stream(path)

    def write(self, contents: bytes) -> None:
        """Write the file, so that others see all of it or none. Raises OSError."""
        system, path = self._resolve()
        if system.type_name in _BUCKETS:
            with system.open_output_stream(path) as file:
                file.write(contents)
            return
        # Readers of Parquet pass over hidden files in a folder.
        folder, _, name = path.rpartition("/")
        temporary = f"{folder}/.{name}.{uuid.uuid4().hex}{_TEMPORARY}"
        try:
            with system.open_output_stream(temporary) as file:
                file.write(contents)
            system.move(temporary, path)
        except BaseException:
            with suppress(OSError):
                system.delete_file(temporary)
            raise

    def remove(self) -> None:
        """Remove the file, if it is there."""
        system, path = self._resolve()
        if system.get_file_info(path).type == fs.FileType.File:
            system.delete_file(path)

    def files(self, *, recursive: bool = False) -> Iterator["Location"]:
        """The files of the folder in the order of their names, without hidden ones; none if it is not there.

        A name that is not UTF-8 has surrogates in place of its bytes, as in `os.listdir`.
        """
        system, path = self._resolve()
        start = len(path.rstrip("/")) + 1
        if recursive and isinstance(system, fs.LocalFileSystem):
            found = list(_walk_disk(path))
        else:
            # One request lists all that a bucket has below a folder.
            selector = fs.FileSelector(path, allow_not_found=True, recursive=recursive)
            found = [_path(info) for info in system.get_file_info(selector) if info.type == fs.FileType.File]
        for name in sorted(name[start:] for name in found):
            if not any(map(_is_hidden, name.split("/"))):
                yield self / name

    def remove_unfinished(self) -> None:
        """Remove what killed processes have left in the folder while they wrote files."""
        system, path = self._resolve()
        for info in system.get_file_info(fs.FileSelector(path, allow_not_found=True)):
            name = _path(info).rpartition("/")[2]
            if name.startswith(".") and name.endswith(_TEMPORARY):
                system.delete_file(info.path)

    def name_in(self, folder: "Location") -> str:
        """The path from a folder to this file in it."""
        return self.url[len(folder.url.rstrip("/")) + 1 :]

    def _resolve(self) -> tuple[fs.FileSystem, str]:
        """The file system, and the path in it. Raises JobError where nothing knows the kind of URL."""
        if "://" not in self.url:
            return fs.LocalFileSystem(), self.url
        scheme, _, rest = self.url.partition("://")
        host, slash, path = rest.partition("/")
        try:
            system, root = _open_system(f"{scheme}://{host}{slash}")
        except (ValueError, ImportError) as error:
            raise JobError(f"{self.url} cannot be opened: {error}") from error
        return system, f"{root.rstrip('/')}/{path}" if path else root


def _walk_disk(top: str) -> Iterator[str]:
    """As `Location._walk`; a link to a folder that it lies in is not followed: two of them would have no end."""

    def fail(error: OSError) -> None:
        if error.filename != top or not isinstance(error, FileNotFoundError):
            raise error

    def leads_back(folder: str, name: str) -> bool:
        return f"{os.path.realpath(folder)}/".startswith(f"{os.path.realpath(f'{folder}/{name}')}/")

    for folder, folders, names in os.walk(top, onerror=fail, followlinks=True):
        folders[:] = [name for name in folders if not _is_hidden(name) and not leads_back(folder, name)]
        paths = (f"{folder}/{name}" for name in names if not _is_hidden(name))
        yield from filter(os.path.isfile, paths)


def _is_hidden(name: str) -> bool:
    return name.startswith(".")


def _path(info: fs.FileInfo) -> str:
    try:
        return str(info.path)
    except UnicodeDecodeError as error:
        return error.object.decode(errors="surrogateescape")


@cache
def _open_system(url: str) -> tuple[fs.FileSystem, str]:
    """The file system of a bucket or a host, whose connections all its files share, and the path of its root.

    Raises ValueError and ImportError where neither PyArrow nor fsspec knows the kind of URL.
    """
    try:
        return fs.FileSystem.from_uri(url)
    except pa.ArrowInvalid:
        import fsspec

    system, path = fsspec.core.url_to_fs(url)
    return fs.PyFileSystem(fs.FSSpecHandler(system)), path
