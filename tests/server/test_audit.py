"""The real server with an audit log: its workers write one chain, and its reports are written again."""

import json
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

import pytest
import requests

from export.audit import Original, replay
from handlers.auditor import FOLDER, KEY
from launcher.local_server import LocalServer
from prelim.audit.check import Line, read_log
from prelim.audit.key import AuditKey
from tests.server.test_private_logs import IDENTITIES, NAME, RADIOGRAPH
from tests.tiny_model import png

pytestmark = pytest.mark.server

MODEL = "tiny_dynamic"


@dataclass(frozen=True)
class AuditedServer:
    """A server of two workers, the folder of its log, and its key."""

    server: LocalServer
    folder: Path
    key: Path

    def ask(self, image: bytes, request: str = "", **options: object) -> requests.Response:
        """A report of one image, with options."""
        headers = {"Authorization": f"Bearer {self.server.key()}"} | ({"X-Request-Id": request} if request else {})
        url = f"{self.server.url}/predictions/{MODEL}"
        texts = {name: json.dumps(value) if isinstance(value, list) else f"{value}" for name, value in options.items()}
        return requests.post(url, files={"image": image}, data=texts, headers=headers, timeout=120)

    @property
    def lines(self) -> list[Line]:
        """The lines of the log, which are checked."""
        return [line for line, _ in read_log(self.folder, AuditKey.read(self.key))]


@pytest.fixture(scope="module")
def audited(tiny_dynamic_mar: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[AuditedServer]:
    """The server, as the environment asks for it."""
    site = tmp_path_factory.mktemp("site")
    (site / "audit.key").write_bytes(b"k" * 32)
    (site / "audit.key").chmod(0o600)
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv(FOLDER, str(site / "audit"))
        patch.setenv(KEY, str(site / "audit.key"))
        server = LocalServer(tiny_dynamic_mar.parent)
    with server:
        server.wait_until_ready(MODEL)
        yield AuditedServer(server, site / "audit", site / "audit.key")


def test_reports_of_two_workers_are_equal_in_all_bits(
    audited: AuditedServer, tiny_dynamic_mar: Path, tmp_path: Path
) -> None:
    """Each has a line in the one chain, under the id of its request, and is the same when it is written again."""
    options = [{"num_beams": 2, "num_return_sequences": 2}, {"do_sample": "true"}, {"max_new_tokens": 9}]
    names = {f"r{i}": (i % 4, options[i % 3]) for i in range(24)}
    for seed in range(4):
        (tmp_path / f"{seed}.png").write_bytes(png(seed))
    with ThreadPoolExecutor(8) as pool:
        answers = list(pool.map(lambda name: audited.ask(png(names[name][0]), name, **names[name][1]), names))

    lines = [line for line in audited.lines if line["request"] in names]
    originals = [Original([tmp_path / f"{names[line['request']][0]}.png"], {}) for line in lines]
    assert {answer.status_code for answer in answers} == {200}
    assert len(lines) == len(names)
    replayed = replay(lines, originals, tiny_dynamic_mar, audited.key)
    assert {f"{one}" for one in replayed} == {"equal in all bits"}


def test_identities_are_not_in_the_audit_log(audited: AuditedServer) -> None:
    """Not those of a DICOM file, nor those in the texts of a request, nor as hexadecimal digits."""
    answer = audited.ask(RADIOGRAPH, "planted", stop=[NAME], banned_phrases=[NAME])

    assert answer.status_code == 200
    assert "planted" in {line["request"] for line in audited.lines}
    written = b"".join(file.read_bytes() for file in audited.folder.iterdir()).lower()
    for name in IDENTITIES:
        assert name.lower().encode() not in written
        assert name.encode().hex()[:12].encode() not in written
    assert answer.json()["report"].lower().encode() not in written
