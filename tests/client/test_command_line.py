import json
import sys
from pathlib import Path
from typing import Any, ClassVar

import pytest

from prelim_client import command_line

ANSWER = {
    "status": "UNVERIFIED",
    "model": {"name": "tiny", "version": "1.0", "architecture": "none"},
    "alternatives": [],
    "warnings": [],
    "timing_ms": {},
    "num_tokens": 1,
    "finish_reason": "eos",
}


class FakeClient:
    """Answers with the contents of the image."""

    addresses: ClassVar[list[str]] = []

    def __init__(self, address: str, key: str, model: str) -> None:
        self.addresses.append(address)

    def report(self, image: bytes, **fields: Any) -> dict[str, Any]:
        """The image's bytes as its report."""
        return {**ANSWER, "report": image.decode()}

    def __enter__(self) -> "FakeClient":
        return self

    def __exit__(self, *_: object) -> None:
        """Nothing to close."""


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The current folder, with a server's keys and a client that needs no server."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("PRELIM_URL", raising=False)
    monkeypatch.setattr(command_line, "HttpClient", FakeClient)
    monkeypatch.setattr(command_line, "GrpcClient", FakeClient)
    monkeypatch.setattr(FakeClient, "addresses", [])
    key = {"key": "k", "expiration time": "2999-01-01T00:00:00Z"}
    (tmp_path / "key_file.json").write_text(json.dumps({"inference": key}), encoding="utf-8")
    for name in ("p1/IM0001", "p2/IM0001", "p2/deep/IM0002", "p2/.hidden/IM0003", "p2/.IM0004"):
        path = tmp_path / "in" / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(name, encoding="utf-8")
    return tmp_path


def run(monkeypatch: pytest.MonkeyPatch, *arguments: str) -> int:
    """The command with these arguments."""
    monkeypatch.setattr(sys, "argv", ["prelim-report", *arguments])
    return command_line.main()


@pytest.mark.parametrize(
    ("images", "written"),
    [
        (["in/p1/IM0001", "in/p2/IM0001"], {"p1/IM0001": "p1/IM0001", "p2/IM0001": "p2/IM0001"}),
        (["in"], {"p1/IM0001": "p1/IM0001", "p2/IM0001": "p2/IM0001", "p2/deep/IM0002": "p2/deep/IM0002"}),
        (["in/p2"], {"IM0001": "p2/IM0001", "deep/IM0002": "p2/deep/IM0002"}),
        (["in/p1"], {"IM0001": "p1/IM0001"}),
        (["in/p1", "in/p1/IM0001"], {"IM0001": "p1/IM0001"}),
        (["in/p1/IM0001"], {"IM0001": "p1/IM0001"}),
    ],
)
def test_every_image_has_its_own_report(
    images: list[str], written: dict[str, str], folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Files of one name are usual on a DICOM medium: none replaces another's report, and folders are read whole."""
    assert run(monkeypatch, *images, "--out", "out") == 0

    found = {str(path.relative_to("out")): path for path in Path("out").rglob("*") if path.is_file()}
    assert found.keys() == {f"{name}.{ending}" for name in written for ending in ("json", "txt")}
    for name, report in written.items():
        assert json.loads(found[f"{name}.json"].read_text(encoding="utf-8"))["report"] == report
        assert found[f"{name}.txt"].read_text(encoding="utf-8") == f"UNVERIFIED\n{report}\n"


def test_file_instead_of_a_folder_is_one_line(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """It is not replaced."""
    (folder / "out").write_text("mine", encoding="utf-8")
    with pytest.raises(SystemExit, match=r"out cannot be written: .*; give another folder"):
        run(monkeypatch, "in", "--out", "out")

    assert (folder / "out").read_text(encoding="utf-8") == "mine"


@pytest.mark.parametrize(
    ("config", "arguments", "address"),
    [
        (None, [], "http://127.0.0.1:8080"),
        (None, ["--grpc"], "127.0.0.1:7070"),
        ("#inference_address=no\ninference_address = http://127.0.0.1:9080\n", [], "http://127.0.0.1:9080"),
        ("grpc_inference_port=9070\n", ["--grpc"], "127.0.0.1:9070"),
        ("inference_address=http://127.0.0.1:9080\n", ["--url", "http://there"], "http://there"),
    ],
)
def test_the_server_is_that_of_its_settings(
    config: str | None, arguments: list[str], address: str, folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A server whose ports were changed gets the radiograph, and not whatever listens on the usual one."""
    if config is not None:
        (folder / "config.properties").write_text(config, encoding="utf-8")
    run(monkeypatch, "in/p1/IM0001", *arguments)

    assert FakeClient.addresses == [address]


def test_sentences_to_confirm_are_printed(
    folder: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """With their confidence; others, and those of models that are not calibrated, are not."""
    run(monkeypatch, "in/p1/IM0001")
    assert "confirm" not in capsys.readouterr().out
    sentences = [
        {"text": "Clear.", "confidence": 0.95, "confirm": False},
        {"text": "Large heart.", "confidence": 0.254, "confirm": True},
    ]
    monkeypatch.setitem(ANSWER, "sentences", sentences)
    run(monkeypatch, "in/p1/IM0001")
    assert "to confirm, confidence 25%: Large heart.\n" in (printed := capsys.readouterr().out)
    assert "Clear." not in printed
