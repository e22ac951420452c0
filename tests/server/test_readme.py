"""The commands of README.md and docs/serve.md work as written; only addresses and the model's name are replaced."""

import json
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from launcher.environment import ROOT
from launcher.local_server import LocalServer
from launcher.sample_radiograph import as_png, sample_radiograph
from tests.server.conftest import MODEL

README = (ROOT / "README.md").read_text(encoding="utf-8")
GUIDE = (ROOT / "docs" / "serve.md").read_text(encoding="utf-8")
PAGES = [README, *(page.read_text(encoding="utf-8") for page in sorted((ROOT / "docs").glob("*.md")))]

TARGETS = sorted({name for page in PAGES for name in re.findall(r"(?:`|^)make ([a-z-]+)", page, re.MULTILINE)})

pytestmark = pytest.mark.server


def blocks(page: str, language: str, containing: str) -> list[str]:
    """Return the code blocks of a page in a language that contain a text."""
    found = re.findall(r"^```(\w+)\n(.*?)^```$", page, re.MULTILINE | re.DOTALL)
    return [code for kind, code in found if kind == language and containing in code]


@pytest.fixture
def workplace(server: LocalServer, tmp_path: Path) -> Path:
    """A folder as the reader has it: the server's key, the sample image, and a radiograph in two formats."""
    (tmp_path / "key_file.json").write_bytes(server.key_file.read_bytes())
    shutil.copytree(ROOT / "docs" / "images", tmp_path / "docs" / "images")
    (tmp_path / "chest.dcm").write_bytes(sample_radiograph())
    (tmp_path / "chest.png").write_bytes(as_png(sample_radiograph()))
    return tmp_path


def adapted(code: str, server: LocalServer) -> str:
    """A block for the test server."""
    code = code.replace("http://127.0.0.1:8080", server.url).replace("127.0.0.1:7070", server.grpc_target)
    return code.replace("/predictions/demo", f"/predictions/{MODEL}").replace('"demo"', f'"{MODEL}"')


def test_first_curl_answers_with_a_report(server: LocalServer, workplace: Path) -> None:
    """The one curl of the README gives a report on the sample image."""
    (code,) = blocks(README, "bash", "curl")

    command = ["bash", "-euo", "pipefail", "-c", adapted(code, server)]
    done = subprocess.run(command, cwd=workplace, capture_output=True, text=True, check=False)

    assert json.loads(done.stdout)["status"] == "UNVERIFIED", done.stdout + done.stderr


def test_curl_examples_answer_with_reports(server: LocalServer, workplace: Path) -> None:
    """Every curl line gives a report: the file as body, a form, JSON, and a stream."""
    (code,) = blocks(GUIDE, "bash", "curl")

    done = subprocess.run(
        ["bash", "-euo", "pipefail", "-c", adapted(code, server)],
        cwd=workplace,
        capture_output=True,
        text=True,
        check=False,
    )

    assert done.returncode == 0, done.stderr
    decoder, answers, rest = json.JSONDecoder(), [], done.stdout.strip()
    while rest:
        answer, end = decoder.raw_decode(rest)
        answers.append(answer)
        rest = rest[end:].lstrip()
    reports = [answer for answer in answers if "report" in answer]
    assert [report["status"] for report in reports] == ["UNVERIFIED"] * 4, done.stdout
    assert len(reports[1]["alternatives"]) == 1
    assert "".join(answer["text"] for answer in answers if "text" in answer) == reports[3]["report"]


def test_curl_examples_declare_no_wrong_content_type() -> None:
    """No example lets curl call a file a form: TorchServe would fail on it and send the file's beginning back."""
    codes = [code for page in PAGES for code in blocks(page, "bash", "curl")]
    sent = [line for code in codes for line in code.splitlines() if re.match(r"\s*curl", line)]

    assert len(sent) >= 5
    assert all(re.search(r" -T | -F |-H \"Content-Type: ", line) for line in sent), sent


def test_python_example_prints_two_reports(server: LocalServer, workplace: Path) -> None:
    """The Python block prints the same report over HTTP and over gRPC."""
    (code,) = blocks(GUIDE, "python", "HttpClient")
    program = f"import sys; sys.path.insert(0, {str(ROOT)!r})\n{adapted(code, server)}"

    done = subprocess.run([sys.executable, "-c", program], cwd=workplace, capture_output=True, text=True, check=False)

    assert done.returncode == 0, done.stderr
    first, second = done.stdout.strip().splitlines()
    assert first == f"UNVERIFIED {second}"


def test_answer_has_the_fields_that_are_shown(server: LocalServer, workplace: Path) -> None:
    """The example answer has the fields that a real answer has."""
    from prelim_client.http_client import HttpClient

    (shown,) = blocks(README, "json", "report")
    answer = HttpClient(server.url, server.key(), MODEL).report((workplace / "chest.png").read_bytes())

    example = json.loads(shown)
    # The model of these tests is not calibrated.
    assert answer.keys() == example.keys() - {"sentences"}
    assert all(answer[key].keys() == example[key].keys() for key in ("sections", "model", "timing_ms"))


@pytest.mark.parametrize("target", TARGETS)
def test_make_targets_exist(target: str) -> None:
    """Every make target that a page names can be made."""
    done = subprocess.run(
        ["make", "-n", target, "IMAGE=chest.dcm"], cwd=ROOT, capture_output=True, text=True, check=False
    )

    assert done.returncode == 0, done.stderr


def test_options_table_has_every_option() -> None:
    """The table of options names all of them."""
    from dataclasses import fields

    from prelim.generation.options import GenerationOptions

    missing = [option.name for option in fields(GenerationOptions) if f"`{option.name}`" not in GUIDE]

    assert not missing
