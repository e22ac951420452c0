import os
from pathlib import Path
from uuid import uuid4

import pytest
from pyarrow.fs import FileSelector

from bulk.errors import JobError
from bulk.storage import Location


@pytest.fixture(params=["path", "file", "memory"])
def folder(request: pytest.FixtureRequest, tmp_path: Path) -> Location:
    """A folder on this machine, the same as a URL, and one of fsspec's file systems."""
    url = {"path": str(tmp_path), "file": f"file://{tmp_path}", "memory": f"memory://{uuid4()}"}[request.param]
    return Location.of(url)


def test_written_files_are_read_and_listed(folder: Location) -> None:
    """Also below folders, in the order of their names; hidden ones are left out."""
    for name in ("b/2", "a", "b/1", ".hidden", "b/.3"):
        file = folder / name
        file.parent.make_folder()
        file.write(name.encode())

    assert [file.name_in(folder) for file in folder.files(recursive=True)] == ["a", "b/1", "b/2"]
    assert [file.read() for file in folder.files()] == [b"a"]
    assert (folder / "b").is_folder()
    assert not (folder / "b").is_file()


def test_links_back_are_not_followed(tmp_path: Path) -> None:
    """Two in one folder would have no end; other links are followed, also to a folder without a readable name."""
    other = tmp_path / "other"
    inner = tmp_path / "images" / "inner"
    for made in (other, inner):
        made.mkdir(parents=True)
    for link, target in (("up", inner.parent), ("self", inner), ("out", other), ("none", other / "gone")):
        (inner / link).symlink_to(target)
    images = Location.of(str(inner.parent))
    assert not images.has_files()
    assert list((images / "nothing").files(recursive=True)) == []

    (other / os.fsdecode(b"\xff")).mkdir()
    (other / os.fsdecode(b"\xff") / "a.png").touch()
    assert images.has_files()
    assert [file.name_in(images) for file in images.files(recursive=True)] == ["inner/out/\udcff/a.png"]


def test_location_contains_what_is_below_it(folder: Location) -> None:
    """Itself too; not a folder whose name begins alike."""
    assert folder.contains(folder)
    assert folder.contains(folder / "a" / "b")
    assert not (folder / "a").contains(folder / "ab")
    assert not (folder / "a").contains(folder)


def test_location_is_the_same_however_it_is_written(tmp_path: Path) -> None:
    """As a path, as a URL, and through a link."""
    (tmp_path / "link").symlink_to(tmp_path)
    for written in (f"file://{tmp_path}/a", f"{tmp_path}/link/a", f"{tmp_path}/b/../a"):
        assert Location.of(str(tmp_path)).contains(Location.of(written))
        assert Location.of(written).contains(Location.of(f"{tmp_path}/a"))
    assert not Location.of(str(tmp_path)).contains(Location.of(f"memory:/{tmp_path}/a"))


def test_removed_files_are_gone(folder: Location) -> None:
    """To remove what is not there is no error."""
    file = folder / "a"
    folder.make_folder()
    file.write(b"1")
    file.write(b"22")
    assert file.info().size == 2
    file.remove()
    file.remove()

    assert not file.is_file()
    assert list((folder / "nothing").files()) == []


def test_failed_write_leaves_the_file_as_it_was(folder: Location) -> None:
    """Neither a part of the new contents nor a temporary file; what a killed process has left can be removed."""
    folder.make_folder()
    (folder / "a").write(b"1")
    with pytest.raises(TypeError):
        (folder / "a").write("text")  # type: ignore[arg-type]
    assert (folder / "a").read() == b"1"
    system, path = folder._resolve()
    names = [info.base_name for info in system.get_file_info(FileSelector(path))]
    assert names == ["a"]
    with (folder / ".b.0123.tmp").create() as file:
        file.write(b"half")
    folder.remove_unfinished()
    assert not (folder / ".b.0123.tmp").is_file()
    assert (folder / "a").is_file()


def test_local_copy_has_the_name_and_the_contents(folder: Location) -> None:
    """A library that wants a path gets one."""
    folder.make_folder()
    (folder / "a.mar").write(b"contents")

    with (folder / "a.mar").local() as path:
        assert (path.name, path.read_bytes()) == ("a.mar", b"contents")


def test_unknown_kind_of_url_is_said() -> None:
    """In one line."""
    with pytest.raises(JobError, match="nope://bucket/a cannot be opened"):
        Location.of("nope://bucket/a")
