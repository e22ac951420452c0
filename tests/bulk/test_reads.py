"""What counts the decodings of a job counts them, and notices one too many."""

from pathlib import Path

import pytest

from tests.bulk.reads import Kills, Reads


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """A folder of three files and a folder."""
    for name in ("a.png", "b.png", "c.png"):
        (tmp_path / name).write_bytes(b"1")
    (tmp_path / "d").mkdir()
    return tmp_path


def test_every_read_is_counted(folder: Path) -> None:
    """To look at a file, or at the folder, is none."""
    with Reads(folder) as reads:
        (folder / "a.png").read_bytes()
        (folder / "a.png").stat()
        assert len(list(folder.iterdir())) == 4
        assert reads.counts() == {"a.png": 1}
        for name in ("b.png", "a.png"):
            (folder / name).read_bytes()
        assert reads.counts() == {"a.png": 2, "b.png": 1}


def test_study_with_a_row_must_not_be_read_again(folder: Path) -> None:
    """One without may be, so often as studies were in the hands of what was killed."""
    with Reads(folder) as reads:
        kills = Kills(reads)
        for name in ("a.png", "b.png", "c.png"):
            (folder / name).read_bytes()
        kills.note({"a"}, 1)
        (folder / "b.png").read_bytes()
        assert kills.check(1) == "4 decodings of 3 images, 1 of them more than once"
        (folder / "c.png").read_bytes()
        with pytest.raises(AssertionError, match="2 studies were decoded twice"):
            kills.check(1)
        (folder / "a.png").read_bytes()
        with pytest.raises(AssertionError, match="1 studies with a row"):
            kills.check(64)
