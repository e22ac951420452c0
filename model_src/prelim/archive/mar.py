"""The .mar file of an archive: a zip of one exact layout, written and read side by side.

A zip can say different things to different readers: TorchServe reads entries one after the other, most programs go by
the directory at the end. Here an archive has entries without gaps between them, then the directory that follows from
them, and nothing else; every byte of it that is not a file's contents can be computed, and is compared.
"""

import contextlib
import hashlib
import shutil
import struct
import zipfile
import zlib
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import BinaryIO

from prelim.archive.manifest import MANIFEST, Manifest, check_portable, other_format, parse_manifest
from prelim.errors import ArchiveError

STORED_FROM = 100_000_000
"""Bytes from which an archive is stored instead of compressed: deflating a gigabyte of weights takes two minutes."""

_EPOCH = (1980, 1, 1, 0, 0, 0)
_LOCAL = struct.Struct("<4s5H3L2H")
_LOCAL_SIGNATURE = b"PK\3\4"
_CHUNK = 1 << 20
_SMALL = 16 << 20
"""Bytes that a file may have which is read into memory."""


def write_mar(folder: Path, path: Path) -> Path:
    """Pack a folder so that the same contents give the same bytes. Returns `path`."""
    files = sorted(file for file in folder.rglob("*") if file.is_file() and "__pycache__" not in file.parts)
    large = sum(file.stat().st_size for file in files) >= STORED_FROM
    method = zipfile.ZIP_STORED if large else zipfile.ZIP_DEFLATED
    unfinished = path.with_suffix(".part")
    with zipfile.ZipFile(unfinished, "w", compresslevel=6) as archive:
        for file in files:
            entry = _entry(file.relative_to(folder).as_posix(), method)
            with archive.open(entry, "w", force_zip64=large) as target, file.open("rb") as source:
                shutil.copyfileobj(source, target, _CHUNK)
    unfinished.replace(path)
    return path


def check_mar(path: Path) -> Manifest:
    """Check a .mar without unpacking it: its layout, its names, and the sha256 of every file.

    Raises ArchiveError naming the file that is missing, unknown, or not the one that was packed.
    """
    return _read(path, None)


def unpack_mar(path: Path, folder: Path) -> Manifest:
    """Unpack a .mar into an empty folder and check it on the way; what was unpacked before a fault was found remains.

    Raises ArchiveError as `check_mar` does.
    """
    return _read(path, folder)


def read_file(path: Path, name: str) -> bytes:
    """One small file of a .mar that `check_mar` has accepted."""
    with path.open("rb") as file:
        return _contents(file, _entries(file, path), name, path)


def _read(path: Path, folder: Path | None) -> Manifest:
    try:
        with path.open("rb") as file:
            entries = _entries(file, path)

            def read(name: str) -> bytes:
                return _contents(file, entries, name, path)

            if MANIFEST not in entries:
                raise ArchiveError(other_format(path, 1, read))
            manifest = parse_manifest(read(MANIFEST), path, read)
            manifest.check_names(entries.keys() - {MANIFEST}, path)
            if folder is not None:
                (folder / MANIFEST).write_bytes(manifest.contents)
            for name in manifest.files:
                manifest.check_sha256(name, _copy(file, entries[name], path, folder), path)
    except OSError as error:
        raise ArchiveError(f"{path} cannot be read: {error.strerror}") from error
    return manifest


def _entries(file: BinaryIO, path: Path) -> dict[str, zipfile.ZipInfo]:
    """The entries of a .mar by name, once everything around their contents is known to be as `write_mar` writes it."""
    entries: list[zipfile.ZipInfo] = []
    position = 0
    while (entry := _read_header(file, position, path)) is not None:
        entries.append(entry)
        position = file.tell() + entry.compress_size
    check_portable([entry.filename for entry in entries], path)
    expected = _directory(entries, position)
    file.seek(position)
    if file.read(len(expected) + 1) != expected:
        raise ArchiveError(f"{path} is damaged at byte {position}, or was not built by `make archive`")
    return {entry.filename: entry for entry in entries}


def _read_header(file: BinaryIO, position: int, path: Path) -> zipfile.ZipInfo | None:
    """The entry at a position, after which the file is at its contents; None if something else begins there."""
    file.seek(position)
    fixed = file.read(_LOCAL.size)
    if len(fixed) < _LOCAL.size or not fixed.startswith(_LOCAL_SIGNATURE):
        return None
    _, _, _, method, _, _, crc, packed, size, name_length, extra_length = _LOCAL.unpack(fixed)
    name, extra = file.read(name_length), file.read(extra_length)
    if len(extra) == struct.calcsize("<HHQQ"):
        _, _, size, packed = struct.unpack("<HHQQ", extra)
    entry = _entry(name.decode("ascii", errors="replace"), method)
    entry.CRC, entry.compress_size, entry.file_size, entry.header_offset = crc, packed, size, position
    known = name.isascii() and method in (zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED)
    with contextlib.suppress(zipfile.LargeZipFile):
        if known and fixed + name + extra == entry.FileHeader(zip64=bool(extra)):
            return entry
    raise ArchiveError(f"{path} is damaged at byte {position}, or was not built by `make archive`")


def _entry(name: str, method: int) -> zipfile.ZipInfo:
    """An entry without date, owner or anything else that differs between two builds."""
    entry = zipfile.ZipInfo(name, _EPOCH)
    entry.compress_type = method
    entry.create_system = 3
    entry.external_attr = 0o644 << 16
    return entry


def _directory(entries: Sequence[zipfile.ZipInfo], position: int) -> bytes:
    """What follows the last entry, at this position: PKWARE's APPNOTE 4.3.12 to 4.3.16, as `zipfile` writes it."""
    limit = zipfile.ZIP64_LIMIT
    records = b"".join(_record(entry, limit) for entry in entries)
    count, size, end = len(entries), len(records), b""
    if max(size, position) > limit or count > zipfile.ZIP_FILECOUNT_LIMIT:
        end = struct.pack("<4sQ2H2L4Q", b"PK\6\6", 44, 45, 45, 0, 0, count, count, size, position)
        end += struct.pack("<4sLQL", b"PK\6\7", 0, position + size, 1)
        count, size, position = min(count, 0xFFFF), min(size, 0xFFFFFFFF), min(position, 0xFFFFFFFF)
    return records + end + struct.pack("<4s4H2LH", b"PK\5\6", 0, 0, count, count, size, position, 0)


def _record(entry: zipfile.ZipInfo, limit: int) -> bytes:
    """The directory's record of one entry: APPNOTE 4.3.12, with 4.5.3 where a number does not fit."""
    packed, size, offset, large = entry.compress_size, entry.file_size, entry.header_offset, []
    if max(packed, size) > limit:
        large = [size, packed]
        packed = size = 0xFFFFFFFF
    if offset > limit:
        large.append(offset)
        offset = 0xFFFFFFFF
    extra = struct.pack(f"<HH{len(large)}Q", 1, 8 * len(large), *large) if large else b""
    version = 45 if large else entry.extract_version
    name = entry.filename.encode("ascii")
    date = (1 << 5) | 1  # 1 January 1980, APPNOTE 4.4.6
    fields = (b"PK\1\2", version, entry.create_system, version, 0, 0, entry.compress_type, 0, date, entry.CRC)
    sizes = (packed, size, len(name), len(extra), 0, 0, 0, entry.external_attr, offset)
    return struct.pack("<4s4B4HL2L5H2L", *fields, *sizes) + name + extra


def _contents(file: BinaryIO, entries: dict[str, zipfile.ZipInfo], name: str, path: Path) -> bytes:
    """A small file. Raises KeyError if there is none of the name."""
    if entries[name].file_size > _SMALL:
        raise ArchiveError(f"{path}: {name} has {entries[name].file_size} bytes; at most {_SMALL} are read")
    return b"".join(_chunks(file, entries[name], path))


def _copy(file: BinaryIO, entry: zipfile.ZipInfo, path: Path, folder: Path | None) -> str:
    """The sha256 of a file, which is written into the folder if there is one."""
    digest = hashlib.sha256()
    if folder is None:
        for chunk in _chunks(file, entry, path):
            digest.update(chunk)
        return digest.hexdigest()
    target = folder / entry.filename
    target.parent.mkdir(parents=True, exist_ok=True)
    with target.open("xb") as unpacked:
        for chunk in _chunks(file, entry, path):
            digest.update(chunk)
            unpacked.write(chunk)
    return digest.hexdigest()


def _chunks(file: BinaryIO, entry: zipfile.ZipInfo, path: Path) -> Iterator[bytes]:
    """The contents of an entry. They are exactly as long as its header says, packed and unpacked."""
    _read_header(file, entry.header_offset, path)
    damaged = ArchiveError(f"{path}: {entry.filename} is damaged; build the archive again with `make archive`")
    inflater = zlib.decompressobj(-zlib.MAX_WBITS) if entry.compress_type == zipfile.ZIP_DEFLATED else None
    packed, size = entry.compress_size, entry.file_size
    while packed:
        data = file.read(min(packed, _CHUNK))
        packed -= len(data)
        if not data:
            raise damaged
        while data:
            if inflater is not None and inflater.eof:
                raise damaged  # zlib would hand back the bytes after the stream's end for ever
            try:
                chunk = data if inflater is None else inflater.decompress(data, _CHUNK)
            except zlib.error:
                raise damaged from None
            data = b"" if inflater is None else inflater.unconsumed_tail
            size -= len(chunk)
            if size < 0:
                raise damaged
            yield chunk
    # What is left of the output when all the input has been taken: less than one match of 258 bytes.
    rest = b"" if inflater is None else inflater.flush()
    ended = inflater is None or (inflater.eof and not inflater.unused_data)
    if size != len(rest) or not ended:
        raise damaged
    yield rest
