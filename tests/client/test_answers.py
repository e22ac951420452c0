"""Properties of the client that need no server."""

import json
import re
import subprocess
import zipfile
from importlib.util import find_spec
from pathlib import Path

import pytest

from prelim_client.answers import ReportError, read_answer, read_key
from prelim_client.grpc_messages import MESSAGES, message_classes

ROOT = Path(__file__).resolve().parent.parent.parent
ERROR = {"error": {"code": 415, "type": "NotAnImage", "message": "no image"}}


@pytest.mark.parametrize("code", [200, 415])
def test_error_is_found_whatever_the_status(code: int) -> None:
    """Over gRPC and in streams an error comes under status 200; it is an error all the same."""
    with pytest.raises(ReportError) as caught:
        read_answer(json.dumps(ERROR).encode(), code)

    assert (caught.value.code, caught.value.type, caught.value.message) == (415, "NotAnImage", "no image")


@pytest.mark.parametrize(
    ("body", "code", "message"),
    [
        (b'{"code": 404, "type": "ModelNotFoundException", "message": "Model not found"}', 404, "404 ModelNotFound"),
        (b"", 413, "413 NoAnswer"),
        (b"<html>", 502, "502 NoAnswer"),
        (b"[1]", 200, "200 NoAnswer"),
    ],
)
def test_what_is_no_report_is_an_error(body: bytes, code: int, message: str) -> None:
    """The frontend's own errors, empty bodies and those of proxies never pass for a report."""
    with pytest.raises(ReportError, match=message):
        read_answer(body, code)


def test_heartbeats_do_not_disturb_an_answer() -> None:
    """White space before a report is not part of it."""
    assert read_answer(b'\n\n{"report": "clear"}\n') == {"report": "clear"}


def test_keys_are_told_apart(tmp_path: Path) -> None:
    """key_file.json holds three keys, and each is read by its own name."""
    file = tmp_path / "key_file.json"
    file.write_text('{"management": {"key": "m"}, "inference": {"key": "i"}, "API": {"key": "a"}}', encoding="utf-8")

    assert [read_key(file, kind) for kind in ("inference", "management", "API")] == ["i", "m", "a"]


def test_grpc_messages_are_those_of_the_server() -> None:
    """Every field has the type and the number that it has in the .proto file of the server's jar."""
    (package,) = find_spec("ts").submodule_search_locations  # type: ignore[union-attr]
    with zipfile.ZipFile(Path(package, "frontend", "model-server.jar")) as jar:
        proto = jar.read("inference.proto").decode()

    for message, fields in MESSAGES.items():
        (body,) = re.findall(rf"message {message} {{(.*?)^}}", proto, re.MULTILINE | re.DOTALL)
        for field, (kind, number) in fields.items():
            written = "map<string, bytes>" if kind == "map" else kind
            assert re.search(rf"^\s+{written} {field} = {number};", body, re.MULTILINE), (message, field)


def test_grpc_messages_survive_the_way() -> None:
    """A request that is written and read back is unchanged."""
    request = message_classes()["PredictionsRequest"]
    written = request(model_name="demo", input={"image": b"\x00\xff"})

    read = request.FromString(written.SerializeToString())

    assert (read.model_name, dict(read.input)) == ("demo", {"image": b"\x00\xff"})


@pytest.mark.parametrize("shell", ["bash", "sh"])
def test_environment_is_set_without_a_word(shell: str, tmp_path: Path) -> None:
    """env.sh prints nothing, names the committed config.properties, and takes a PYTHONPATH away."""
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
