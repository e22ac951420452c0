"""Manifest and .mar of a small folder: the bytes that the formats prescribe, and every departure from them refused."""

import hashlib
import json
import struct
import zipfile
import zlib
from collections.abc import Callable
from pathlib import Path

import pytest

from prelim.archive import mar
from prelim.archive.manifest import (
    FORMAT,
    MANIFEST,
    Manifest,
    check_portable,
    other_format,
    parse_manifest,
    read_manifest,
    sha256_of,
    write_manifest,
)
from prelim.archive.mar import check_mar, read_file, unpack_mar, write_mar
from prelim.errors import ArchiveError

FILES = {"a.txt": b"alpha", "code/b.py": b"print()\n" * 40, "code/deep/down/empty": b""}
SERVING = {
    "model.yaml": b"name: tiny\n",
    "model-config.yaml": b"continuousBatching: true\nbatchSize: 8\nmaxWorkers: 1\n",
}


def write(folder: Path, files: dict[str, bytes]) -> Path:
    """Write a folder with these files."""
    for name, contents in files.items():
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_bytes(contents)
    return folder


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """A folder with its manifest."""
    write_manifest(write(tmp_path / "folder", FILES))
    return tmp_path / "folder"


@pytest.fixture
def path(folder: Path) -> Path:
    """Its .mar."""
    return write_mar(folder, folder.parent / "tiny.mar")


def test_manifest_has_the_sha256_of_every_file(folder: Path) -> None:
    """As sha256sum prints them, and its own sha256 is that of its bytes."""
    contents = (folder / MANIFEST).read_bytes()

    assert json.loads(contents) == {
        "format": 2,
        "files": {name: hashlib.sha256(file).hexdigest() for name, file in FILES.items()},
    }
    manifest = read_manifest(folder)
    assert manifest.sha256 == hashlib.sha256(contents).hexdigest()
    assert manifest.contents == contents
    assert contents.endswith(b"}\n")
    assert list(json.loads(contents)) == ["files", "format"]
    reversed_files = dict(reversed(manifest.files.items()))
    assert Manifest(reversed_files).contents == contents, "the order in which files are found does not matter"
    assert sha256_of(folder / "a.txt") == hashlib.sha256(b"alpha").hexdigest()
    assert write_manifest(folder) == manifest, "the manifest does not name itself"


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda f: (f / "a.txt").write_bytes(b"alphb"), r"a\.txt has sha256 [0-9a-f]{64}, manifest\.json says"),
        (lambda f: (f / "a.txt").unlink(), r"a\.txt is missing"),
        (lambda f: (f / "c.txt").write_bytes(b""), r"c\.txt is not in manifest"),
        (lambda f: (f / "code/b.pyc").write_bytes(b""), r"code/b\.pyc is not in manifest"),
        (lambda f: (f / "A.txt").write_bytes(b""), "is there twice"),
        (lambda f: (f / "ä").write_bytes(b""), "not allowed"),
        (lambda f: (f / MANIFEST).unlink(), "has no manifest"),
        (lambda f: (f / MANIFEST).write_bytes(b"{"), "damaged"),
        (lambda f: (f / "link").symlink_to(f / "a.txt"), "link is a symbolic link"),
    ],
)
def test_a_changed_folder_is_refused(folder: Path, change: Callable[[Path], object], message: str) -> None:
    """Whatever was added, removed or changed is named."""
    change(folder)

    with pytest.raises(ArchiveError, match=message):
        read_manifest(folder)


def test_bytecode_of_an_unpacked_folder_does_not_count(folder: Path) -> None:
    """Python writes it while serving; no manifest and no .mar has it."""
    before = read_manifest(folder)
    write(folder, {"code/__pycache__/b.cpython-311.pyc": b"bytecode"})

    assert read_manifest(folder) == write_manifest(folder) == before
    assert check_mar(write_mar(folder, folder.parent / "with.mar")) == before


@pytest.mark.parametrize(
    "name",
    ["../a", "a/../b", "/a", "a//b", "a/", "", ".a", "a/.b", "a\\b", "C:a", "a b", "ä", "a\n", "-/\0"],
)
def test_names_that_are_not_allowed(name: str) -> None:
    """Relative names of letters, digits, dots, dashes and underscores; none begins with a dot."""
    with pytest.raises(ArchiveError, match="not allowed"):
        check_portable([name], Path("x.mar"))


@pytest.mark.parametrize(
    ("names", "message"),
    [(["a", "A"], "A is there twice"), (["a", "b/c", "B"], "b is both a file and a folder")],
)
def test_names_that_are_one_file_elsewhere(names: list[str], message: str) -> None:
    """Names that differ in capitals only, and a file that is a folder too."""
    check_portable(["a", "b/c", "b/d", "_x-1.y/Z.9"], Path("x.mar"))
    with pytest.raises(ArchiveError, match=message):
        check_portable(names, Path("x.mar"))


@pytest.mark.parametrize(
    ("contents", "message"),
    [
        (b"", "damaged"),
        (b"[]", "damaged"),
        (b'{"files": {}}', "damaged"),
        (b'{"format": 2}', "damaged"),
        (b'{"format": true, "files": {}}', "damaged"),
        (b'{"format": "2", "files": {}}', "damaged"),
        (b'{"format": 2, "files": ["a"]}', "damaged"),
        (b'{"format": 2, "files": {"a": 1}}', "damaged"),
        (b'{"format": 2, "files": {}}', "damaged"),  # not as it is written
        (b'{"format": 3, "files": {}}', "format 3, and 2 is the newest"),
        (b'{"format": 1, "files": {}}', "format 1; 2 is read here"),
        (Manifest({"../a": "0"}).contents, "not allowed"),
        (Manifest({MANIFEST: "0"}).contents, "there twice"),
    ],
)
def test_manifests_that_are_refused(contents: bytes, message: str) -> None:
    """Only the bytes that are written are read; other formats are named."""
    with pytest.raises(ArchiveError, match=message):
        parse_manifest(contents, Path("x.mar"), SERVING.__getitem__)


@pytest.mark.parametrize(
    ("change", "expected"),
    [
        ({}, "models/tiny --batching in-flight --slots 8 --workers 1`"),
        (
            {"model-config.yaml": b"continuousBatching: false\nbatchSize: 4\nmaxWorkers: 2\n"},
            "models/tiny --batching dynamic --slots 4 --workers 2`",
        ),
        ({"model.yaml": b"name: a b\n"}, "is damaged, or not an archive"),
        ({"model.yaml": b"[1"}, "is damaged, or not an archive"),
        ({"model.yaml": b"5\n"}, "is damaged, or not an archive"),
        ({"model-config.yaml": b"batchSize: 4\n"}, "is damaged, or not an archive"),
        ({"model-config.yaml": b"continuousBatching: true\nbatchSize: many\nmaxWorkers: 1"}, "is damaged, or not"),
    ],
)
def test_an_older_format_has_the_command_that_rebuilds_it(change: dict[str, bytes], expected: str) -> None:
    """With the settings of the archive; without them it is taken for another thing."""
    message = other_format(Path("x.mar"), FORMAT - 1, (SERVING | change).__getitem__)

    assert expected in message
    assert ("format 1" in message) == ("models/" in expected)


def test_what_cannot_be_read_is_no_older_format() -> None:
    """A file that is missing or unreadable."""
    for error in (OSError, KeyError):

        def read(_: str, error: type[Exception] = error) -> bytes:
            raise error

        assert "is damaged, or not an archive" in other_format(Path("x.mar"), 1, read)


def test_mar_is_a_zip_of_one_layout(path: Path, folder: Path) -> None:
    """Sorted names, deflated, of 1 January 1980, read and write for the owner (0644), by Unix."""
    with zipfile.ZipFile(path) as archive:
        entries = archive.infolist()
        assert archive.testzip() is None
        assert {name: archive.read(name) for name in FILES} == FILES
    assert [entry.filename for entry in entries] == sorted([*FILES, MANIFEST])
    for entry in entries:
        assert (entry.date_time, entry.compress_type) == ((1980, 1, 1, 0, 0, 0), zipfile.ZIP_DEFLATED)
        assert (entry.create_system, entry.external_attr) == (3, 0o644 << 16)
    assert write_mar(folder, folder.parent / "again.mar").read_bytes() == path.read_bytes()
    assert sorted(file.name for file in folder.parent.iterdir()) == ["again.mar", "folder", "tiny.mar"]


@pytest.mark.parametrize(("size", "method"), [(1000, zipfile.ZIP_STORED), (999, zipfile.ZIP_DEFLATED)])
def test_large_archives_are_stored(size: int, method: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """From STORED_FROM bytes on, which is 10 ** 8 outside of tests."""
    assert mar.STORED_FROM == 10**8
    monkeypatch.setattr(mar, "STORED_FROM", 1000)
    path = write_mar(write(tmp_path / "folder", {"a": bytes(size - 1), "b": b"b"}), tmp_path / "x.mar")

    with zipfile.ZipFile(path) as archive:
        assert {entry.compress_type for entry in archive.infolist()} == {method}


def test_unpacking_gives_the_folder(path: Path, folder: Path, tmp_path: Path) -> None:
    """All files, and the manifest that `check_mar` finds without unpacking."""
    target = tmp_path / "unpacked"
    target.mkdir()

    manifest = unpack_mar(path, target)

    assert manifest == check_mar(path) == read_manifest(target) == read_manifest(folder)
    assert {name: (target / name).read_bytes() for name in FILES} == FILES
    assert read_file(path, "code/b.py") == FILES["code/b.py"]
    with pytest.raises(KeyError):
        read_file(path, "c")


def test_files_of_several_chunks(folder: Path, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """Copied in pieces of any size, stored or deflated."""
    for size in (1, 7, 1 << 20):
        monkeypatch.setattr(mar, "_CHUNK", size)
        for stored_from in (1, 10**9):
            monkeypatch.setattr(mar, "STORED_FROM", stored_from)
            path = write_mar(folder, tmp_path / "x.mar")
            target = tmp_path / f"{size}-{stored_from}"
            target.mkdir()

            assert unpack_mar(path, target) == read_manifest(folder)


def test_small_files_have_a_limit(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A file that is read into memory has at most 16 MB."""
    assert mar._SMALL == 16 * 2**20
    monkeypatch.setattr(mar, "_SMALL", len(FILES["code/b.py"]))
    assert read_file(path, "code/b.py")
    monkeypatch.setattr(mar, "_SMALL", len(FILES["code/b.py"]) - 1)
    with pytest.raises(ArchiveError, match=r"code/b\.py has 320 bytes; at most 319"):
        read_file(path, "code/b.py")


def test_every_byte_counts(path: Path, folder: Path) -> None:
    """A flipped bit anywhere is refused, except padding after the last bit of deflated data."""
    contents, changed, accepted = path.read_bytes(), folder.parent / "changed.mar", []
    for at in range(len(contents)):
        changed.write_bytes(contents[:at] + bytes([contents[at] ^ 1 << at % 8]) + contents[at + 1 :])
        try:
            check_mar(changed)
        except ArchiveError:
            continue
        accepted.append(at)
    assert len(accepted) <= len(FILES)


@pytest.mark.parametrize("cut", [0, 1, 29, 30, 34, 60, -1, -22])
def test_a_cut_mar_is_refused(path: Path, cut: int) -> None:
    """Wherever it ends."""
    path.write_bytes(path.read_bytes()[:cut])

    with pytest.raises(ArchiveError):
        check_mar(path)


def test_missing_mar_is_named(tmp_path: Path) -> None:
    """A path that cannot be read is an ArchiveError with the system's reason."""
    with pytest.raises(ArchiveError, match=r"no\.mar cannot be read: No such file"):
        check_mar(tmp_path / "no.mar")


def test_directory_of_many_and_of_large_files_is_that_of_zipfile(
    folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Beyond 2 GiB or 65,535 files the directory has other fields (APPNOTE 4.3.14, 4.5.3); the limits are lowered."""
    for limits in ({"ZIP64_LIMIT": 100}, {"ZIP64_LIMIT": 400}, {"ZIP_FILECOUNT_LIMIT": 3}, {"ZIP_FILECOUNT_LIMIT": 4}):
        with monkeypatch.context() as patch:
            for name, value in limits.items():
                patch.setattr(zipfile, name, value)
            patch.setattr(mar, "STORED_FROM", 1)
            path = write_mar(folder, tmp_path / "x.mar")

            assert check_mar(path) == read_manifest(folder), limits


def deflated_as(data: bytes, name: str = MANIFEST) -> bytes:
    """A .mar with one entry whose deflated data are these, under a header that says so."""
    entry = zipfile.ZipInfo(name, (1980, 1, 1, 0, 0, 0))
    entry.compress_type, entry.create_system, entry.external_attr = zipfile.ZIP_DEFLATED, 3, 0o644 << 16
    entry.CRC, entry.compress_size, entry.file_size, entry.header_offset = 0, len(data), 100, 0
    head = entry.FileHeader(zip64=False)
    return head + data + mar._directory([entry], len(head) + len(data))


@pytest.mark.parametrize(
    "data",
    [
        b"\xff\xff\xff",
        zlib.compress(bytes(100))[2:-4][:-1],
        zlib.compress(bytes(99))[2:-4],
        zlib.compress(bytes(101))[2:-4],
        zlib.compress(bytes(100))[2:-4] + b"more",
        b"",
    ],
)
def test_deflated_data_that_are_not_as_long_as_they_say(data: bytes, tmp_path: Path) -> None:
    """Damaged, cut, shorter, longer, or followed by more: nothing of it is taken for the file."""
    (tmp_path / "x.mar").write_bytes(deflated_as(data))

    with pytest.raises(ArchiveError, match=r"manifest\.json is damaged; build"):
        check_mar(tmp_path / "x.mar")


def test_bombs_are_not_inflated(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Data that inflate to more than their header says are given up at the first piece beyond it."""
    monkeypatch.setattr(mar, "_CHUNK", 1000)
    path = tmp_path / "x.mar"
    path.write_bytes(deflated_as(zlib.compress(bytes(10**6))[2:-4]))

    with path.open("rb") as file:
        entry = mar._entries(file, path)[MANIFEST]
        with pytest.raises(ArchiveError, match="is damaged"):
            next(mar._chunks(file, entry, path))


@pytest.mark.parametrize("chunk", [1, 10, 59, 60, 61, 100])
def test_streams_that_end_early_are_refused_at_once(
    chunk: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Zlib gives the bytes after a stream's end back as unread, call after call; they must not be read in a loop.

    A flipped bit in the data of a large file can end its stream anywhere.
    """
    monkeypatch.setattr(mar, "_CHUNK", chunk)
    (tmp_path / "x.mar").write_bytes(deflated_as(zlib.compress(bytes(60))[2:-4] + bytes(2000)))

    with pytest.raises(ArchiveError, match="is damaged"):
        check_mar(tmp_path / "x.mar")


def test_other_methods_and_names_are_refused(path: Path) -> None:
    """A header whose name is not ASCII, or whose method is neither stored nor deflated."""
    contents = path.read_bytes()
    for at, value in ((8, struct.pack("<H", 12)), (30, b"\xff")):
        path.write_bytes(contents[:at] + value + contents[at + len(value) :])
        with pytest.raises(ArchiveError, match="damaged at byte 0"):
            check_mar(path)


LIMIT = zipfile.ZIP64_LIMIT


@pytest.mark.parametrize(
    ("count", "position", "size"),
    [
        (3, 100, 10),
        (3, LIMIT, LIMIT),
        (3, LIMIT + 1, 10),
        (3, 100, LIMIT + 1),
        (3, 2**32 - 2, 2**32 - 2),
        (3, 2**32 + 5, 2**33),
        (2**16 - 1, 100, 0),
        (2**16, 100, 0),
        (2**16 + 7, 2**32 + 5, 0),
    ],
)
def test_directory_of_any_size_is_that_of_zipfile(tmp_path: Path, count: int, position: int, size: int) -> None:
    """Numbers that do not fit into 16 or 32 bits have other fields; the file of gigabytes is sparse."""
    entries = [mar._entry(f"{i}", zipfile.ZIP_STORED) for i in range(count)]
    for i, entry in enumerate(entries):
        entry.CRC, entry.header_offset = i, max(position - i, 0)
        entry.compress_size, entry.file_size = (size, size // 2) if i % 2 else (size // 2, size)
    expected = mar._directory(entries, position)

    with zipfile.ZipFile(tmp_path / "large.zip", "w") as archive:
        archive.filelist, archive.start_dir, archive._didModify = entries, position, True  # type: ignore[attr-defined]
    with (tmp_path / "large.zip").open("rb") as file:
        file.seek(position)
        assert file.read() == expected
