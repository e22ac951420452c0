"""What a running server answers."""

import re
import struct
import subprocess
import sys
import threading
import zlib
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import grpc
import numpy as np
import pytest
import requests

from launcher.local_server import LocalServer
from prelim.report import Report
from prelim.report_generator import ReportGenerator, ReportRequest
from prelim_client.answers import Answer, ReportError, read_answer
from prelim_client.grpc_client import GrpcClient
from prelim_client.http_client import HttpClient
from tests.dicom_files import make_dicom
from tests.server.conftest import MODEL
from tests.tiny_model import png

pytestmark = pytest.mark.server

KEYS = {
    "report",
    "sections",
    "status",
    "finish_reason",
    "num_tokens",
    "avg_logprob",
    "alternatives",
    "model",
    "warnings",
    "timing_ms",
    "request_id",
}


def at_once(calls: list[Callable[[], Any]]) -> list[Any]:
    """The results of calls that are made at the same moment, each in a thread; an error is a result too."""
    start = threading.Barrier(len(calls))

    def run(call: Callable[[], Any]) -> Any:
        start.wait()
        try:
            return call()
        except ReportError as error:
            return error

    with ThreadPoolExecutor(len(calls)) as pool:
        return list(pool.map(run, calls))


def test_http_and_grpc_answer_on_defaults(http: HttpClient, grpc_client: GrpcClient) -> None:
    """One registration answers raw bodies, multipart, JSON and gRPC with the whole contract."""
    over_http = [http.report(png()), http.report(png(), num_beams=1), http.report_json(png())]
    answers = [*over_http, grpc_client.report(png()), grpc_client.report(png(), num_beams="1")]

    assert all(set(answer) == KEYS for answer in answers)
    assert {answer["status"] for answer in answers} == {"UNVERIFIED"}
    assert len({answer["report"] for answer in answers}) == 1
    assert set(answers[0]["timing_ms"]) == {"preprocess", "vision", "decode", "queue"}
    assert set(answers[0]["model"]) == {"name", "version", "architecture", "sha256", "licence", "use"}


def test_dicom_is_answered(http: HttpClient, grpc_client: GrpcClient) -> None:
    """A DICOM file gets a report over HTTP and over gRPC."""
    radiograph = make_dicom()

    assert http.report(radiograph)["report"] == grpc_client.report(radiograph)["report"]


def test_broken_files_do_not_disturb_their_neighbors(http: HttpClient) -> None:
    """Of 40 concurrent requests the four broken ones get 4xx, all others their own reports, none a 5xx."""
    broken = {5: b"%PDF-1.7", 14: png()[:200], 23: b"\x00" * 100, 32: b"\xff\xd8\xff\xe0 no JPEG"}
    images = [broken.get(i, png(i)) for i in range(40)]

    answers = at_once([lambda image=image: http.report(image) for image in images])  # type: ignore[misc]

    errors = {i: answer.code for i, answer in enumerate(answers) if isinstance(answer, ReportError)}
    assert set(errors) == set(broken)
    assert all(400 <= code < 500 for code in errors.values())
    for i in (0, 13, 39):
        assert answers[i]["report"] == http.report(images[i])["report"]


def test_concurrent_grpc_calls_all_answer(grpc_client: GrpcClient, http: HttpClient) -> None:
    """Twenty gRPC calls at once are all answered, each with its own report."""
    answers = at_once([lambda i=i: grpc_client.report(png(i)) for i in range(20)])  # type: ignore[misc]

    assert [answer["report"] for answer in answers[:5]] == [http.report(png(i))["report"] for i in range(5)]
    assert all(set(answer) == KEYS for answer in answers)


def test_http_and_grpc_mix(grpc_client: GrpcClient, http: HttpClient) -> None:
    """HTTP, streamed HTTP and gRPC requests at once are all answered, and alike."""
    ways: list[Callable[[int], Answer]] = [
        lambda i: http.report(png(i)),
        lambda i: grpc_client.report(png(i)),
        lambda i: list(http.stream(png(i)))[-1],
    ]

    answers = at_once([lambda i=i: ways[i % 3](i // 3) for i in range(24)])  # type: ignore[misc]

    for i in range(8):
        assert len({answer["report"] for answer in answers[3 * i : 3 * i + 3]}) == 1


def test_same_image_same_tokens(grpc_client: GrpcClient, http: HttpClient, in_process: ReportGenerator) -> None:
    """An image gets the same token ids alone, with seven others, over HTTP, over gRPC and in this process."""
    options = {"num_beams": 3, "max_new_tokens": 16, "return_token_ids": True}
    alone = http.report(png(1), **options)["token_ids"]
    batched = at_once([lambda i=i: http.report(png(i), **options) for i in range(8)])  # type: ignore[misc]
    (report,) = in_process.generate(
        [ReportRequest(image=png(1), options=_options(in_process, num_beams=3, max_new_tokens=16))]
    )

    assert isinstance(report, Report)
    assert alone == batched[1]["token_ids"] == list(report.token_ids)
    assert alone == grpc_client.report(png(1), **options)["token_ids"]
    assert len({tuple(answer["token_ids"]) for answer in batched}) > 1


def _options(generator: ReportGenerator, **options: int) -> Any:
    return generator.config.generation.from_mapping(options, generator.config.generation)


def test_features_can_stand_for_an_image(http: HttpClient, in_process: ReportGenerator) -> None:
    """A client that has image_features needs to send no image."""
    features = np.random.default_rng(0).normal(size=(4, 576)).astype(np.float32)
    answer = http.report_json(image_features=features.tolist(), return_token_ids=True)
    (report,) = in_process.generate([ReportRequest(image_features=features, options=in_process.config.generation)])

    assert isinstance(report, Report)
    assert answer["token_ids"] == list(report.token_ids)


@pytest.mark.parametrize(
    "options", [{}, {"do_sample": True, "seed": 3}, {"num_beams": 3}], ids=["greedy", "sampling", "beams"]
)
def test_stream_is_the_report(http: HttpClient, options: dict[str, Any]) -> None:
    """A streamed report comes in pieces that make its text, also before a stop text; then comes the whole answer."""
    options = {"max_new_tokens": 40, "min_new_tokens": 40, "no_repeat_ngram_size": 2, **options}
    text = http.report(png(2), **options)["report"]
    ends = (text[place : place + 16] for place in range(len(text) // 2, len(text)))
    stop = next(end for end in ends if text.index(end) > len(text) // 2)

    for more in ({}, {"stop": stop}):
        *pieces, answer = http.stream(png(2), **options, **more)

        assert len(pieces) > 1
        assert "".join(piece["text"] for piece in pieces) == answer["report"]
        assert answer["report"] == http.report(png(2), **options, **more)["report"]
    assert answer["report"] == text[: text.index(stop)].rstrip()


def test_stream_predictions_gets_one_message(grpc_client: GrpcClient, http: HttpClient) -> None:
    """The streaming call of gRPC is answered whole, and leaves the worker alive."""
    assert len(grpc_client.stream_predictions(png())) == 1
    assert http.report(png())["report"]


def _png_header(side: int) -> bytes:
    """A PNG that claims to be side x side, with no pixels after it."""

    def chunk(kind: bytes, contents: bytes) -> bytes:
        return struct.pack(">I", len(contents)) + kind + contents + struct.pack(">I", zlib.crc32(kind + contents))

    header = chunk(b"IHDR", struct.pack(">IIBBBBB", side, side, 8, 0, 0, 0, 0))
    return b"\x89PNG\r\n\x1a\n" + header + chunk(b"IDAT", zlib.compress(b"\x00" * 1000)) + chunk(b"IEND", b"")


def _zip_bomb() -> bytes:
    """A deflated DICOM data set that inflates to more than the limit."""
    syntax = "1.2.840.10008.1.2.1.99"
    small = make_dicom(syntax=syntax)
    packer = zlib.compressobj(9, zlib.DEFLATED, -zlib.MAX_WBITS)
    start = small.index(syntax.encode()) + len(syntax)
    start += start % 2
    return small[:start] + b"".join(packer.compress(b"\x00" * 2**20) for _ in range(100)) + packer.flush()


HOSTILE = {
    "an empty body": (lambda: b"", 400, "no image"),
    "a 1 x 1 PNG": (lambda: _png_header(1), 422, "at least 32"),
    "a 20000 x 20000 PNG": (lambda: _png_header(20000), 413, "pixels"),
    "half a PNG": (lambda: png(side=200)[:3000], 400, ""),
    "a PDF": (lambda: b"%PDF-1.7\n" + b"x" * 5000, 415, "PDF"),
    "a ZIP file": (lambda: b"PK\x03\x04" + b"\x00" * 5000, 415, "allowed: PNG"),
    "a deflated DICOM bomb": (_zip_bomb, None, ""),
    "a DICOM file without pixels": (lambda: make_dicom(drop=("PixelData",)), None, "7FE0,0010"),
    "a CT": (lambda: make_dicom(Modality="CT"), 422, "CT"),
}


@pytest.mark.parametrize(("make", "status", "message"), HOSTILE.values(), ids=HOSTILE)
def test_hostile_file_gets_a_4xx(
    http: HttpClient, grpc_client: GrpcClient, make: Callable[[], bytes], status: int | None, message: str
) -> None:
    """A file that is not a radiograph gets a 4xx whose JSON says what is wrong, over HTTP and over gRPC alike."""
    file = make()
    response = http.post(file)
    error = response.json()["error"]

    assert response.headers["content-type"] == "application/json"
    assert response.status_code == error["code"]
    assert 400 <= error["code"] < 500
    assert error["code"] == (status or error["code"])
    assert re.search(message, error["message"]), error["message"]
    with pytest.raises(ReportError) as over_grpc:
        grpc_client.report(file)
    assert (over_grpc.value.code, over_grpc.value.message) == (error["code"], error["message"])


def test_oversize_body_is_refused(http: HttpClient) -> None:
    """A body over max_request_size gets 413 from the frontend, before any worker sees it."""
    assert http.post(b"\x00" * (64 * 2**20 + 1)).status_code == 413


def send(server: LocalServer, path: str, **body: Any) -> requests.Response:
    """POST to any path of the inference API."""
    return requests.post(f"{server.url}{path}", headers={"Authorization": f"Bearer {server.key()}"}, timeout=60, **body)


@pytest.mark.parametrize(
    ("path", "body", "message"),
    [
        (f"/predictions/{MODEL}/1.0/nonsense/x", {"data": png()}, "path continues"),
        (f"/predictions/{MODEL}", {"files": [("image", png()), ("image", png(3))]}, "given twice"),
        (f"/invocations?model_name={MODEL}&num_beams=0", {"data": png()}, "num_beams is 0"),
        (f"/invocations?model_name={MODEL}&nonsense=1", {"data": png()}, "unknown field 'nonsense'"),
    ],
    ids=["path", "two images", "query", "unknown query"],
)
def test_nothing_of_a_request_is_ignored(server: LocalServer, path: str, body: dict[str, Any], message: str) -> None:
    """What the frontend drops or keeps to itself is refused, as far as a trace of it reaches the handler."""
    response = send(server, path, **body)

    assert response.status_code == 400
    assert message in response.json()["error"]["message"]


def test_frontend_passes_no_query_of_predictions(server: LocalServer, http: HttpClient) -> None:
    """A query string on /predictions reaches no handler, so it cannot be refused: docs/serve.md says so."""
    assert (
        send(server, f"/predictions/{MODEL}?num_beams=0", data=png()).json()["report"] == http.report(png())["report"]
    )


def test_lists_of_texts_arrive(http: HttpClient, grpc_client: GrpcClient) -> None:
    """A list of stop texts means the same in a form, in JSON and over gRPC."""
    word = http.report(png())["report"].split()[1]
    answers = [call(png(), stop=[word]) for call in (http.report, http.report_json, grpc_client.report)]

    assert [answer["finish_reason"] for answer in answers] == ["stop"] * 3


ERRORS_OF_THE_FRONTEND = {
    "an unknown model": ("/predictions/nobody", {}, 404, "ModelNotFoundException"),
    "an unknown version": (f"/predictions/{MODEL}/9", {}, 404, "ModelVersionNotFoundException"),
    "an unknown path": ("/nowhere", {}, 404, "ResourceNotFoundException"),
    "a wrong key": (f"/predictions/{MODEL}", {"Authorization": "Bearer x"}, 400, "InvalidKeyException"),
    "a part without a name": (
        f"/predictions/{MODEL}",
        {"Content-Type": "multipart/form-data; boundary=x"},
        500,
        "ErrorDataDecoderException",
    ),
    "a bad escape": (
        f"/predictions/{MODEL}",
        {"Content-Type": "application/x-www-form-urlencoded"},
        500,
        "ErrorDataDecoderException",
    ),
    "a body over the limit": (f"/predictions/{MODEL}", {}, 413, "TooLarge"),
}


@pytest.mark.parametrize(
    ("path", "headers", "code", "kind"), ERRORS_OF_THE_FRONTEND.values(), ids=ERRORS_OF_THE_FRONTEND
)
def test_errors_of_the_frontend_are_read_by_the_client(
    server: LocalServer, path: str, headers: dict[str, str], code: int, kind: str
) -> None:
    """What TorchServe itself refuses, in another shape or without a body, is a ReportError like all others."""
    bodies = {
        "multipart": b'--x\r\nContent-Disposition: form-data; name=""\r\n\r\n1\r\n--x--\r\n',
        "form": b"prompt=100%",
    }
    kind_of_body = headers.get("Content-Type", "")
    body = next((body for name, body in bodies.items() if name in kind_of_body), b"")
    if code == 413:
        body = b"\x00" * (64 * 2**20 + 1)
    response = requests.post(
        server.url + path,
        data=body,
        headers={"Authorization": f"Bearer {server.key()}"} | headers,
        timeout=60,
    )

    assert response.status_code == code
    with pytest.raises(ReportError) as caught:
        read_answer(response.content, response.status_code)
    assert (caught.value.code, caught.value.type) == (code, kind)


def test_wrong_key_is_refused(server: LocalServer) -> None:
    """Without the right key there is no report, over HTTP and over gRPC."""
    with pytest.raises(ReportError, match="InvalidKeyException"):
        HttpClient(server.url, "wrong", MODEL).report(png())
    with (
        GrpcClient(server.grpc_target, "wrong", MODEL) as client,
        pytest.raises(grpc.RpcError, match="PERMISSION_DENIED"),
    ):
        client.report(png())


def test_models_cannot_be_registered(server: LocalServer) -> None:
    """An archive is code: nobody adds one, or a workflow, to a running server."""
    assert server.manage("POST", "/models?url=tiny.mar").status_code == 405
    assert server.manage("DELETE", "/models/tiny").status_code == 405
    assert server.manage("POST", "/workflows?url=tiny.war").status_code >= 400
    assert server.manage("POST", "/workflows?url=http://127.0.0.1:9/evil.war").status_code >= 400


def test_metrics_page_has_the_declared_metrics(server: LocalServer, http: HttpClient) -> None:
    """After a report and a rejection, Prometheus finds histograms in seconds and counters."""
    http.report(png())
    assert http.post(b"no image").status_code == 415
    page = server.metrics()

    for part in ("queue", "preprocess", "vision", "decode"):
        assert f'prelim_{part}_seconds_bucket{{ModelName="tiny",Level="Model"' in page
    assert "prelim_tokens_generated_total{" in page
    assert 'prelim_rejected_total{Status="415",Reason="NotAnImage",' in page
    assert "prelim_batch_occupancy_ratio_sum{" in page
    assert "prelim_active_requests{" in page


def test_server_listens_on_loopback_only(server: LocalServer) -> None:
    """The committed config.properties binds no other interface."""
    config = (server.folder / "config.properties").read_text(encoding="utf-8")
    addresses = [line.partition("=")[2] for line in config.splitlines() if "_address=" in line]

    assert len(addresses) == 5
    assert all(address.removeprefix("http://").startswith("127.0.0.1") for address in addresses)


def test_logs_hold_no_query_string(server: LocalServer) -> None:
    """What a client writes behind a question mark does not reach a log."""
    headers = {"Authorization": f"Bearer {server.key()}"}
    requests.post(f"{server.url}/predictions/tiny?name=Mueller", data=png(), headers=headers, timeout=60)

    logs = "".join(path.read_text(encoding="utf-8") for path in (server.folder / "logs").glob("*.log"))
    assert '"route":"POST /predictions/tiny"' in logs
    assert "Mueller" not in logs


@pytest.mark.parametrize("way", [[], ["--grpc"], ["--stream"]], ids=["HTTP", "gRPC", "stream"])
def test_command_line_prints_an_unverified_report(server: LocalServer, tmp_path: Path, way: list[str]) -> None:
    """`python -m prelim_client` prints the report, that nobody has verified it, and where the time went."""
    image = tmp_path / "chest.png"
    image.write_bytes(png())
    address = server.grpc_target if "--grpc" in way else server.url
    where = ["--url", address, "--key-file", str(server.key_file), "--model", "tiny"]
    command = [sys.executable, "-m", "prelim_client", str(image), *where, *way, "--option", "max_new_tokens=12"]

    done = subprocess.run(command, capture_output=True, text=True, check=True, timeout=120)

    assert "UNVERIFIED: preliminary report by tiny 1.0" in done.stdout
    assert "12 tokens" in done.stdout or "eos" in done.stdout
    assert "decode" in done.stdout


def test_command_line_writes_the_reports_of_a_folder(server: LocalServer, tmp_path: Path) -> None:
    """Every file of a folder gets a report or one line that says why not, and nothing stops the rest."""
    images = tmp_path / "images"
    images.mkdir()
    for name, contents in (("a.png", png(1)), ("b.txt", b"no radiograph"), ("c.png", png(2))):
        (images / name).write_bytes(contents)
    where = ["--url", server.url, "--key-file", str(server.key_file), "--model", "tiny", "--out", str(tmp_path / "out")]

    command = [sys.executable, "-m", "prelim_client", str(images), *where]
    done = subprocess.run(command, capture_output=True, text=True, check=False, timeout=120)

    assert done.returncode == 1
    assert "[2/3] b.txt: 415 NotAnImage" in done.stdout
    assert done.stderr == "1 of 3 images have no report\n"
    written = sorted(path.name for path in (tmp_path / "out").iterdir())
    assert written == ["a.png.json", "a.png.txt", "c.png.json", "c.png.txt"]
    assert (tmp_path / "out" / "a.png.txt").read_text(encoding="utf-8").startswith("UNVERIFIED\n")


@pytest.mark.parametrize("arguments", [["nope.dcm"], ["nope.dcm", "--key-file", "nope.json"], ["--option", "x"]])
def test_command_line_mistakes_get_one_line(server: LocalServer, tmp_path: Path, arguments: list[str]) -> None:
    """A missing file, a missing key or a malformed option is explained without a traceback."""
    where = [] if "--key-file" in arguments else ["--key-file", str(server.key_file)]
    command = [sys.executable, "-m", "prelim_client", *arguments, *where, "--url", server.url]

    done = subprocess.run(command, capture_output=True, text=True, check=False, timeout=120, cwd=tmp_path)

    assert done.returncode in (1, 2)
    assert "Traceback" not in done.stderr
    assert len(done.stderr.strip().splitlines()[-1]) > 10


def test_command_line_explains_an_error(server: LocalServer, tmp_path: Path) -> None:
    """An error of the server is printed in its own words, and the exit status says that there is no report."""
    image = tmp_path / "chest.png"
    image.write_bytes(b"%PDF-1.7")
    where = ["--url", server.url, "--key-file", str(server.key_file), "--model", "tiny"]

    done = subprocess.run(
        [sys.executable, "-m", "prelim_client", str(image), *where],
        capture_output=True,
        text=True,
        check=False,
        timeout=120,
    )

    assert done.returncode == 1
    assert done.stderr.startswith("415 NotAnImage")
