"""An archive is accepted only unchanged: any other file, name, byte or layout is refused, packed or unpacked."""

import json
import random
import struct
import warnings
import zipfile
from collections.abc import Callable, Mapping
from pathlib import Path

import pytest

from prelim.archive import manifest, mar
from prelim.archive.archive import read_archive, unpack_archive
from prelim.archive.manifest import MANIFEST, Manifest, write_manifest
from prelim.archive.mar import check_mar, unpack_mar, write_mar
from prelim.errors import ArchiveError

Files = dict[str, bytes]


@pytest.fixture(scope="module")
def path(tiny_dynamic_mar: Path) -> Path:
    """An archive as `make archive` builds it."""
    return tiny_dynamic_mar


@pytest.fixture(scope="module")
def files(path: Path) -> Files:
    """Contents of the archive, by name."""
    with zipfile.ZipFile(path) as archive:
        return {name: archive.read(name) for name in archive.namelist()}


@pytest.fixture(scope="module")
def small(files: Files, tmp_path_factory: pytest.TempPathFactory) -> Files:
    """The same archive with little of the encoder's weights, which are most of its bytes and never looked at here."""
    cut = {name: contents[:1000] if name == "vision.onnx.data" else contents for name, contents in files.items()}
    folder = write_folder(cut, tmp_path_factory.mktemp("small") / "archive")
    cut[MANIFEST] = write_manifest(folder).contents
    assert read_archive(folder).files
    return cut


def flip(contents: bytes, at: int | None = None) -> bytes:
    """Change one bit."""
    at = random.Random(0).randrange(8 * len(contents)) if at is None else at
    changed = bytearray(contents)
    changed[at // 8] ^= 1 << at % 8
    return bytes(changed)


def pack(files: Mapping[str, bytes], path: Path) -> Path:
    """Write a .mar with these files in the layout of our archives."""
    folder = write_folder(files, path.with_suffix(""))
    return write_mar(folder, path)


def write_folder(files: Mapping[str, bytes], folder: Path) -> Path:
    """Write a folder with these files."""
    for name, contents in files.items():
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_bytes(contents)
    return folder


def raw(files: list[tuple[zipfile.ZipInfo | str, bytes]], path: Path) -> Path:
    """Write a .mar with these entries, using only `zipfile`."""
    with zipfile.ZipFile(path, "w") as archive, warnings.catch_warnings():
        warnings.simplefilter("ignore")
        for entry, contents in files:
            archive.writestr(entry, contents)
    return path


def test_sha256_in_answers_covers_every_file(path: Path, files: Files, tmp_path: Path) -> None:
    """The manifest names all files of the .mar; its sha256 is the archive's, packed and unpacked alike."""
    found = check_mar(path)

    assert found.files.keys() == files.keys() - {MANIFEST}
    assert {"report_handler.py", "handlers/response.py", "model-config.yaml", "MAR-INF/MANIFEST.json"} < files.keys()
    assert found.sha256 == unpack_archive(path, tmp_path).sha256 == read_archive(tmp_path).sha256
    assert {file: (tmp_path / file).read_bytes() for file in files} == files


def test_one_bit_in_any_file_is_refused(small: Files, tmp_path: Path) -> None:
    """A flipped bit in any file, including code and manifest, is detected in the .mar and in the unpacked archive."""
    folder = write_folder(small, tmp_path / "archive")
    for name, contents in small.items():
        (folder / name).write_bytes(flip(contents) if contents else b"\0")
        # A bit of the manifest can be one of a file's name, which is then missing.
        with pytest.raises(ArchiveError, match="manifest|is missing" if name == MANIFEST else name.replace(".", r"\.")):
            check_mar(write_mar(folder, tmp_path / "damaged.mar"))
        with pytest.raises(ArchiveError):
            read_archive(folder)
        (folder / name).write_bytes(contents)
    assert read_archive(folder).files


def test_any_bit_of_the_manifest_is_refused(files: Files, tmp_path: Path) -> None:
    """Every flipped bit of a manifest is detected, even in its formatting.

    The manifest is that of the model's files and of one file of code: the others have the same characters.
    """
    model = {name: contents for name, contents in files.items() if "/" not in name and not name.endswith(".py")}
    code = "handlers/response.py"
    folder = write_folder(model | {code: files[code]}, tmp_path / "archive")
    contents = write_manifest(folder).contents
    assert manifest.parse_manifest(contents, folder, files.__getitem__).contents == contents
    assert len(json.loads(contents)["files"]) > 8
    for at in range(8 * len(contents)):
        try:
            changed = manifest.parse_manifest(flip(contents, at), folder, files.__getitem__)
        except ArchiveError:
            continue
        assert changed.files != json.loads(contents)["files"], f"bit {at}"


def test_any_byte_around_the_contents_is_refused(small: Files, tmp_path: Path) -> None:
    """Every change of the zip's headers and directory is detected."""
    path = pack(small, tmp_path / "small.mar")
    contents = path.read_bytes()
    with zipfile.ZipFile(path) as archive:
        entries = archive.infolist()
        structure = list(range(archive.start_dir, len(contents)))
    for entry in entries:
        structure += range(entry.header_offset, entry.header_offset + 30 + len(entry.filename))
    damaged = tmp_path / "damaged.mar"
    for byte in random.Random(0).sample(structure, 600):
        damaged.write_bytes(flip(contents, 8 * byte + byte % 8))
        with pytest.raises(ArchiveError):
            check_mar(damaged)


def test_any_bit_of_packed_contents_is_refused_or_changes_nothing(small: Files, tmp_path: Path) -> None:
    """Every flipped bit of the compressed data is detected, except padding bits, which change nothing."""
    contents, changed = pack(small, tmp_path / "small.mar").read_bytes(), tmp_path / "changed.mar"
    for at in random.Random(0).sample(range(8 * len(contents)), 300):
        changed.write_bytes(flip(contents, at))
        folder = tmp_path / f"{at}"
        folder.mkdir()
        try:
            unpack_mar(changed, folder)
        except ArchiveError:
            continue
        assert {name: (folder / name).read_bytes() for name in small} == small


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda f: f | {"json.py": b"print('VERIFIED')"}, r"json\.py is not in manifest"),
        (lambda f: f | {"prelim/extra.py": b""}, r"prelim/extra\.py is not in manifest"),
        (lambda f: f | {"handlers/__pycache__2/a.pyc": b""}, "is not in manifest"),
        (
            lambda f: {name: f[name] for name in f if name != "handlers/response.py"},
            r"handlers/response\.py is missing",
        ),
        (lambda f: {name: f[name] for name in f if name != "vision.onnx.data"}, r"vision\.onnx\.data is missing"),
        (lambda f: {"v.onnx" if name == "vision.onnx" else name: f[name] for name in f}, r"vision\.onnx is missing"),
        (lambda f: f | {"Model.yaml": f["model.yaml"]}, "there twice"),
        (lambda f: f | {".hidden": b""}, r"not allowed: '\.hidden'"),
    ],
)
def test_other_files_are_refused(files: Files, tmp_path: Path, change: Callable[[Files], Files], message: str) -> None:
    """An added, removed or renamed file is an error with its name, in the .mar and in the unpacked archive."""
    path = pack(change(files), tmp_path / "changed.mar")

    with pytest.raises(ArchiveError, match=message):
        check_mar(path)
    with pytest.raises(ArchiveError, match=message):
        read_archive(path.with_suffix(""))


def test_bytecode_is_refused_in_a_mar_and_ignored_once_unpacked(files: Files, tmp_path: Path) -> None:
    """Python writes bytecode into an unpacked archive while serving; bytecode in a .mar is refused."""
    cached = files | {"handlers/__pycache__/response.cpython-311.pyc": b"bytecode"}

    assert read_archive(write_folder(cached, tmp_path / "folder")).files
    with pytest.raises(ArchiveError, match=r"response\.cpython-311\.pyc is not in manifest"):
        check_mar(raw([(laid_out(name), contents) for name, contents in cached.items()], tmp_path / "a.mar"))


def laid_out(name: str) -> zipfile.ZipInfo:
    """A zip entry in the layout of our archives."""
    entry = zipfile.ZipInfo(name, (1980, 1, 1, 0, 0, 0))
    entry.external_attr = 0o644 << 16
    return entry


def link(name: str) -> zipfile.ZipInfo:
    """A zip entry for a symbolic link."""
    entry = laid_out(name)
    entry.external_attr = 0o120777 << 16
    return entry


@pytest.mark.parametrize(
    "entry",
    ["../json.py", "/json.py", "a//b", "./a", "C:evil", "a\\b", "prelim/", "ünicode.py", "vision.onnx/x"],
)
def test_names_that_lead_elsewhere_are_refused(files: Files, tmp_path: Path, entry: str) -> None:
    """Absolute names, `..`, folders, and names that operating systems interpret differently are refused."""
    entries: list[tuple[zipfile.ZipInfo | str, bytes]] = [(laid_out(name), files[name]) for name in files]

    assert check_mar(raw(entries, tmp_path / "good.mar"))
    with pytest.raises(ArchiveError):
        check_mar(raw([*entries, (laid_out(entry), b"x")], tmp_path / "bad.mar"))


@pytest.mark.parametrize(
    "trick",
    [
        lambda e: [*e, (laid_out("handlers/response.py"), b"VERIFIED")],
        lambda e: [(laid_out("handlers/response.py"), b"VERIFIED"), *e],
        lambda e: [*e[:-1], (link(e[-1][0].filename), e[-1][1])],
        lambda e: [*e[:-1], (e[-1][0].filename, e[-1][1])],
    ],
    ids=["duplicate at the end", "duplicate at the start", "symbolic link", "date and owner"],
)
def test_tricks_with_entries_are_refused(files: Files, tmp_path: Path, trick: Callable[[list], list]) -> None:
    """Duplicate names, of which readers take different ones, and links out of the archive are refused."""
    path = raw(trick([(laid_out(name), files[name]) for name in files]), tmp_path / "bad.mar")

    with pytest.raises(ArchiveError):
        check_mar(path)


def test_bytes_outside_the_entries_are_refused(path: Path, tmp_path: Path) -> None:
    """Extra bytes before, between or after entries, a comment, and an entry missing from the directory are refused."""
    contents = path.read_bytes()
    with zipfile.ZipFile(path) as archive:
        start = archive.start_dir
    hidden = tmp_path / "hidden.mar"
    raw([(laid_out("json.py"), b"print('VERIFIED')")], hidden)
    entry = hidden.read_bytes()[: 30 + len("json.py") + len("print('VERIFIED')")]
    end = struct.pack("<L", start + len(entry))
    listed_elsewhere = contents[:start] + entry + contents[start:-6] + end + contents[-2:]
    with zipfile.ZipFile(hidden, "w") as archive:
        archive.comment = b"comment"
    variants = {
        "before": b"#!/bin/sh\n" + contents,
        "after": contents + b"\0",
        "between": contents[:start] + b"\0" + contents[start:],
        "hidden entry": listed_elsewhere,
        "cut": contents[:-1],
        "half": contents[: len(contents) // 2],
        "empty": b"",
        "not a zip": b"no zip" * 100,
        "comment": hidden.read_bytes(),
    }
    assert len(zipfile.ZipFile(_file(tmp_path / "trick.mar", listed_elsewhere)).namelist()) > 10, "a zip to others"
    for name, changed in variants.items():
        with pytest.raises(ArchiveError):
            check_mar(_file(tmp_path / f"{name}.mar", changed))


def _file(path: Path, contents: bytes) -> Path:
    path.write_bytes(contents)
    return path


def test_symbolic_link_in_an_unpacked_archive_is_refused(files: Files, tmp_path: Path) -> None:
    """A symbolic link is refused, whatever its target."""
    folder = write_folder(files, tmp_path / "archive")
    (folder / "model.yaml").rename(tmp_path / "model.yaml")
    (folder / "model.yaml").symlink_to(tmp_path / "model.yaml")

    with pytest.raises(ArchiveError, match=r"model\.yaml is a symbolic link"):
        read_archive(folder)


def test_archive_of_format_1_is_refused_with_the_command_that_rebuilds_it(files: Files, tmp_path: Path) -> None:
    """The message has the command with the settings of the archive: batching, slots, workers."""
    old = {name: contents for name, contents in files.items() if name != MANIFEST}
    path = pack(old, tmp_path / "old.mar")
    command = r"`\.venv/bin/python -m export\.package models/tiny --batching dynamic --slots 4 --workers 2`"

    with pytest.raises(ArchiveError, match=f"old.mar is an archive of format 1; 2 is read here.*{command}"):
        check_mar(path)
    with pytest.raises(ArchiveError, match=f"format 1; .*{command}"):
        read_archive(tmp_path / "old")


def test_archive_of_a_later_format_says_so(files: Files, tmp_path: Path) -> None:
    """A later format is refused with both format numbers."""
    later = files[MANIFEST].replace(b'"format": 2', b'"format": 3')

    with pytest.raises(ArchiveError, match="archive of format 3, and 2 is the newest"):
        check_mar(pack(files | {MANIFEST: later}, tmp_path / "later.mar"))


def test_command_contains_no_shell_injection(files: Files, tmp_path: Path) -> None:
    """Unchecked names from a file are not inserted into the command."""
    old = {name: contents for name, contents in files.items() if name != MANIFEST}
    old["model.yaml"] = b"name: x; rm -rf /\n"

    with pytest.raises(ArchiveError) as raised:
        check_mar(pack(old, tmp_path / "old.mar"))
    assert "rm" not in str(raised.value)


def test_large_archives_have_the_same_layout(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Above 2 GiB, a zip has other fields; the test lowers that limit of `zipfile`."""
    folder = write_folder({"a.bin": bytes(5000), "b.bin": bytes(range(256)) * 40, "c": b"c"}, tmp_path / "folder")
    expected = write_manifest(folder)
    monkeypatch.setattr(zipfile, "ZIP64_LIMIT", 2000)
    monkeypatch.setattr(mar, "STORED_FROM", 1)
    path = write_mar(folder, tmp_path / "large.mar")

    assert check_mar(path) == expected
    contents = path.read_bytes()
    for at in range(8 * (len(contents) - 400), 8 * len(contents)):
        with pytest.raises(ArchiveError):
            check_mar(_file(tmp_path / "bad.mar", flip(contents, at)))


def test_contents_longer_than_their_header_says_are_refused(tmp_path: Path) -> None:
    """An entry larger than its declared size is refused before it is unpacked."""
    folder = write_folder({"zeros.bin": bytes(50_000_000)}, tmp_path / "folder")
    write_manifest(folder)
    path = write_mar(folder, tmp_path / "bomb.mar")
    contents = bytearray(path.read_bytes())
    small = struct.pack("<L", 1000)
    with zipfile.ZipFile(path) as archive:
        offset, start = archive.getinfo("zeros.bin").header_offset, archive.start_dir
    for at in (offset + 22, contents.index(b"PK\1\2", contents.index(b"PK\1\2", start) + 4) + 24):
        contents[at : at + 4] = small
    unpacked_to = tmp_path / "unpacked"
    unpacked_to.mkdir()

    with pytest.raises(ArchiveError, match=r"zeros\.bin is damaged"):
        unpack_mar(_file(path, bytes(contents)), unpacked_to)
    assert sum(file.stat().st_size for file in unpacked_to.iterdir()) < 10_000


@pytest.mark.parametrize(
    "contents", [b"", b"[]", b"{}", b"null", b'{"format": 2}', b'{"format": 2, "files": []}', b"[" * 100_000, b"\xff"]
)
def test_invalid_manifest_is_refused(files: Files, tmp_path: Path, contents: bytes) -> None:
    """Contents that are not a manifest are an ArchiveError."""
    with pytest.raises(ArchiveError, match=r"manifest\.json is damaged"):
        check_mar(pack(files | {MANIFEST: contents}, tmp_path / "bad.mar"))


def test_manifest_may_not_name_itself_or_leave_the_archive(files: Files, tmp_path: Path) -> None:
    """A manifest with a forbidden name is refused, whatever the archive contains."""
    for name in (MANIFEST, "../x", "MODEL.YAML"):
        named = Manifest(json.loads(files[MANIFEST])["files"] | {name: "0" * 64})
        with pytest.raises(ArchiveError):
            check_mar(pack(files | {MANIFEST: named.contents}, tmp_path / "bad.mar"))
