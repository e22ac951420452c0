"""The whole line with the real TorchServe, and identities planted wherever stations write them."""

import time
from collections.abc import Callable
from io import BytesIO
from pathlib import Path

import pytest
import requests
from pydicom import dcmread

from export.package import write_archive
from launcher.local_server import LocalServer
from tests.bridge.planted import MARKERS, UIDS, plant
from tests.dicom_files import dataset, encode, phantom
from tests.pacs.conftest import HOOK_PORT, Department, check_file, wait_for
from tests.tiny_model import write_tiny_model

pytestmark = [pytest.mark.pacs, pytest.mark.server]

NAME = "tiny"


def test_no_planted_identity_is_in_any_log_metric_error_or_temporary_file(
    make_department: Callable[..., Department], tmp_path: Path
) -> None:
    """storescu, Orthanc, bridge, TorchServe, draft in the PACS; only the draft and the PACS know whose it is."""
    model = write_tiny_model(tmp_path / "models" / NAME)
    store = tmp_path / "store"
    store.mkdir()
    write_archive(model, store, batching="in-flight", slots=2)
    with LocalServer(store) as server:
        archive = next(store.glob("*.mar")).stem
        server.wait_until_ready(archive)
        key_file = server.folder / "key_file.json"
        department = make_department(server.url, key_file, server={"model": archive})
        bodies = [_provoke(path) for path in ("/studies/1.2?name=PLANTQUERY", "/PLANTPATH", "/studies/PLANTUID")]
        started = time.monotonic()
        department.send(planted_file(1))
        (report,) = wait_for(department.pacs.reports)
        print(f"draft after {time.monotonic() - started:.1f} s")
        # A file that the server refuses takes the paths of errors.
        department.send(planted_file(2, Rows=400))
        wait_for(lambda: "refused   1\n" in department.bridge.queue("status").stdout)
        written = {
            "bridge log": department.bridge.output().encode(),
            "list": department.bridge.queue("list").stdout.encode(),
            "metrics": server.metrics().encode(),
            "bodies": b"".join(bodies),
            **{str(path): path.read_bytes() for path in server.folder.rglob("*") if path.is_file()},
        }

    path = tmp_path / "report.dcm"
    path.write_bytes(department.pacs.file(report))
    assert check_file(path) == []
    assert str(dcmread(BytesIO(path.read_bytes())).PatientName) == "PLANTNAME^ERIKA"
    markers = [*MARKERS, "PLANTQUERY", "PLANTPATH", "PLANTUID"]
    found = [(name, marker) for name, text in written.items() for marker in markers if marker.encode() in text]
    assert found == []


def planted_file(number: int, **header: object) -> bytes:
    """Return a file of a study with this number."""
    made = plant(dataset(phantom(), **header))
    made.StudyDate, made.StudyTime = time.strftime("%Y%m%d"), "101500"
    for keyword, uid in UIDS.items():
        setattr(made, keyword, f"{uid}.{number}")
    return encode(made)


def _provoke(path: str) -> bytes:
    """Send the hook something else than a study; the body of the answer."""
    answer = requests.post(f"http://127.0.0.1:{HOOK_PORT}{path}", data=b"PLANTBODY", timeout=10)
    assert answer.status_code == 404
    return answer.content
