"""Properties of the client that need no server."""

import json
import re
import subprocess
import zipfile
from importlib.util import find_spec
from pathlib import Path

import pytest

from prelim_client.answers import KeyFileError, ReportError, read_answer, read_key
from prelim_client.grpc_messages import MESSAGES, message_classes

ROOT = Path(__file__).resolve().parent.parent.parent
ERROR = {"error": {"code": 415, "type": "NotAnImage", "message": "no image"}}


@pytest.mark.parametrize("code", [200, 415])
def test_error_is_found_whatever_the_status(code: int) -> None:
    """An error under status 200, as in gRPC and streams, raises ReportError too."""
    with pytest.raises(ReportError) as caught:
        read_answer(json.dumps(ERROR).encode(), code)

    assert (caught.value.code, caught.value.type, caught.value.message) == (415, "NotAnImage", "no image")


@pytest.mark.parametrize(
    ("body", "code", "message"),
    [
        (b'{"code": 404, "type": "ModelNotFoundException", "message": "Model not found"}', 404, "404 ModelNotFound"),
        (b"", 413, "413 TooLarge.*max_request_size"),
        (b"<html>", 502, "502 NoAnswer"),
        (b"[1]", 200, "200 NoAnswer"),
        (b'{"error": {"code": 503, "status": "UNAVAILABLE"}}', 503, "503"),
        (b'{"error": {}}', 502, "502"),
        (b'{"error": "maintenance"}', 503, "503"),
    ],
)
def test_a_body_that_is_not_a_report_is_an_error(body: bytes, code: int, message: str) -> None:
    """Errors of the frontend, empty bodies and bodies from proxies are never taken for a report."""
    with pytest.raises(ReportError, match=message):
        read_answer(body, code)


def test_heartbeats_do_not_disturb_an_answer() -> None:
    """Whitespace before a report is ignored."""
    assert read_answer(b'\n\n{"report": "clear"}\n') == {"report": "clear"}


def test_keys_are_told_apart(tmp_path: Path) -> None:
    """key_file.json has three keys; each is read by its name."""
    file = tmp_path / "key_file.json"
    file.write_text('{"management": {"key": "m"}, "inference": {"key": "i"}, "API": {"key": "a"}}', encoding="utf-8")

    assert [read_key(file, kind) for kind in ("inference", "management", "API")] == ["i", "m", "a"]


@pytest.mark.parametrize("contents", ["", "{", "[]", "{}", '{"inference": 3}', '{"inference": {}}', "# Prelim", None])
def test_unreadable_keys_are_named(contents: str | None, tmp_path: Path) -> None:
    """Another file, one that is half written, or none."""
    file = tmp_path / "key_file.json"
    if contents is not None:
        file.write_text(contents, encoding="utf-8")

    with pytest.raises(KeyFileError, match=r"key_file\.json has no key for inference"):
        read_key(file)


def test_grpc_messages_are_those_of_the_server() -> None:
    """Every field has the type and number given in the .proto file of the server's jar."""
    (package,) = find_spec("ts").submodule_search_locations  # type: ignore[union-attr]
    with zipfile.ZipFile(Path(package, "frontend", "model-server.jar")) as jar:
        proto = jar.read("inference.proto").decode()

    for message, fields in MESSAGES.items():
        (body,) = re.findall(rf"message {message} {{(.*?)^}}", proto, re.MULTILINE | re.DOTALL)
        for field, (kind, number) in fields.items():
            written = "map<string, bytes>" if kind == "map" else kind
            assert re.search(rf"^\s+{written} {field} = {number};", body, re.MULTILINE), (message, field)


def test_grpc_messages_survive_a_round_trip() -> None:
    """A request is unchanged after serializing and parsing."""
    request = message_classes()["PredictionsRequest"]
    written = request(model_name="demo", input={"image": b"\x00\xff"})

    read = request.FromString(written.SerializeToString())

    assert (read.model_name, dict(read.input)) == ("demo", {"image": b"\x00\xff"})


@pytest.mark.parametrize("shell", ["bash", "sh"])
def test_environment_is_set_silently(shell: str, tmp_path: Path) -> None:
    """env.sh prints nothing, points to the committed config.properties, and unsets PYTHONPATH."""
    here = ROOT if shell == "sh" else tmp_path
    script = f'. {ROOT}/env.sh && echo "$TS_CONFIG_FILE|${{PYTHONPATH:-}}|$(command -v torchserve)"'

    done = subprocess.run(
        [shell, "-euc", script],
        cwd=here,
        env={"PATH": "/usr/bin:/bin", "PYTHONPATH": "elsewhere"},
        capture_output=True,
        text=True,
        check=True,
    )

    config, python_path, torchserve = done.stdout.strip().split("|")
    assert done.stderr == ""
    assert Path(config).samefile(ROOT / "config.properties")
    assert python_path == ""
    assert Path(torchserve).parent == Path(config).parent / ".venv" / "bin"
