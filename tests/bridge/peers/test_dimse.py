"""The Store SCP takes what it may, keeps it before it says so, and refuses the rest; the Store SCU sends drafts."""

import contextlib
import shutil
import socket
import ssl
import subprocess
from collections.abc import Iterator
from io import BytesIO
from pathlib import Path
from typing import Any

import pytest
from pydicom import dcmread
from pydicom.uid import BasicTextSRStorage, ExplicitVRLittleEndian
from pynetdicom import AE, evt

from bridge.configuration import settings as config
from bridge.dicom.identity import SiteKey
from bridge.documents.basic_text import write_basic_text
from bridge.documents.pdf import write_pdf
from bridge.drafting import Drafter
from bridge.failures import Outage, StudyFailure
from bridge.peers.dimse import CANNOT_UNDERSTAND, OUT_OF_RESOURCES, SUCCESS, StoreClient, receive_images
from bridge.peers.interfaces import StudySources
from bridge.store.queue import Queue
from bridge.store.spool import Spool
from bridge.study_worker import StudyWorker
from tests.bridge.drafts import make_draft
from tests.bridge.fake_server import FakeServer
from tests.bridge.studies import STUDY, radiograph


class Receiver:
    """A running Store SCP with its spool and its queue."""

    def __init__(self, folder: Path, **scp: Any) -> None:
        given = {
            "state": "state",
            "store_scp": {"peers": ["XRAY1"], "port": 0, **scp},
            "store_scu": {"host": "127.0.0.1", "port": 1, "ae_title": "PACS"},
            "queue": {"stable_s": 0.0},
        }
        self.settings = config.Settings.read(given, "test", folder)
        self.queue = Queue(self.settings.state / "queue.sqlite")
        self.key = SiteKey.load(self.settings.state / "site.key")
        self.spool = Spool(self.settings.state / "spool", self.key)


@contextlib.contextmanager
def receiving(folder: Path, **scp: Any) -> Iterator[tuple[Receiver, int]]:
    """Yield the receiver and its port."""
    receiver = Receiver(folder, **scp)
    with contextlib.closing(receiver.queue), receive_images(receiver.settings, receiver.queue, receiver.spool) as port:
        yield receiver, port


def send(port: int, file: bytes, calling: str = "XRAY1", called: str = "PRELIM", **tls: Any) -> int | None:
    """C-STORE a file; the status, or None without an association."""
    entity = AE(ae_title=calling)
    image = dcmread(BytesIO(file))
    entity.add_requested_context(image.SOPClassUID, ExplicitVRLittleEndian)
    association = entity.associate("127.0.0.1", port, ae_title=called, **tls)
    if not association.is_established:
        return None
    status: int | None = association.send_c_store(image).get("Status")
    association.release()
    return status


def test_an_image_is_kept_and_queued_before_success_is_answered(tmp_path: Path) -> None:
    """After the answer, the file is in the spool as it was sent, and its study waits."""
    with receiving(tmp_path) as (receiver, port):
        assert send(port, radiograph()) == SUCCESS
        assert receiver.queue.counts()["waiting"] == 1
        (header,) = receiver.spool.study(STUDY).images
        assert receiver.spool.image(header).PixelData == dcmread(BytesIO(radiograph())).PixelData


def test_names_in_the_spool_identify_nobody(tmp_path: Path) -> None:
    """Folders and files are named by keyed hashes, and only the bridge's user may read them."""
    with receiving(tmp_path) as (receiver, port):
        send(port, radiograph())
        names = [path.relative_to(receiver.settings.state) for path in receiver.settings.state.rglob("*")]
    assert not any(STUDY in str(name) or "MUELLER" in str(name) for name in names)
    assert all(path.stat().st_mode & 0o077 == 0 for path in (tmp_path / "state" / "spool").rglob("*"))


def test_strangers_and_other_objects_are_refused(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """An unknown calling title, a wrong called title and a CT get no association; the log has a line for the CT."""
    with receiving(tmp_path) as (receiver, port):
        assert send(port, radiograph(), calling="STRANGER") is None
        assert send(port, radiograph(), called="OTHER") is None
        assert "objects_refused" not in capsys.readouterr().err
        assert send(port, radiograph(SOPClassUID="1.2.840.10008.5.1.4.1.1.2")) is None
        assert receiver.queue.counts()["waiting"] == 0
        # The line is written after the answer.
        logged = ""
        while "objects_refused" not in logged:
            logged += capsys.readouterr().err
    assert '"event": "objects_refused", "reason": "only_radiographs", "count": 1' in logged


def test_limits_of_size_and_spool(tmp_path: Path) -> None:
    """An image over max_image_mb is refused for good; a full spool asks the sender to try later."""
    large = radiograph(PixelData=bytes(2**21))
    with receiving(tmp_path, max_image_mb=1) as (receiver, port):
        assert send(port, large) == CANNOT_UNDERSTAND
        assert receiver.queue.counts()["waiting"] == 0
    shutil.rmtree(tmp_path / "state")
    with receiving(tmp_path, max_spool_mb=1) as (receiver, port):
        assert send(port, large) == OUT_OF_RESOURCES
        assert receiver.spool.size() == 0


def test_a_full_disk_asks_the_sender_to_try_later(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """No space for the file, or for the event: the answer is A700, and nothing half-written stays."""

    def full(*_: object) -> None:
        raise OSError(28, "No space left on device")

    with receiving(tmp_path) as (receiver, port):
        with monkeypatch.context() as patch:
            patch.setattr("bridge.store.spool.os.fsync", full)
            assert send(port, radiograph()) == OUT_OF_RESOURCES
        assert list(receiver.spool.study(STUDY).images) == []
        assert receiver.spool.size() == 0
        assert send(port, radiograph()) == SUCCESS


def test_a_study_by_c_store_gets_its_draft_by_c_store(tmp_path: Path) -> None:
    """Without DICOMweb: images in, the draft out to the PACS, with a name that was in another character set."""
    received = []

    def keep(event: evt.Event) -> int:
        received.append(event.dataset)
        return SUCCESS

    pacs = AE(ae_title="PACS")
    pacs.add_supported_context(BasicTextSRStorage, ExplicitVRLittleEndian)
    destination = pacs.start_server(("127.0.0.1", 0), block=False, evt_handlers=[(evt.EVT_C_STORE, keep)])
    file = radiograph(PatientName="Yamada^Tarou=山田^太郎=やまだ^たろう", SpecificCharacterSet=["", "ISO 2022 IR 87"])
    with FakeServer(tmp_path) as server, receiving(tmp_path) as (receiver, port):
        given = {
            "state": "state",
            "server": {"url": server.url, "key_file": str(server.key_file)},
            "store_scp": {"peers": ["XRAY1"]},
            "store_scu": {"host": "127.0.0.1", "port": destination.server_address[1], "ae_title": "PACS"},
        }
        settings = config.Settings.read(given, "test", tmp_path)
        assert settings.store_scu is not None
        client = StoreClient(settings.store_scu)
        drafter = Drafter(settings, receiver.queue, receiver.key, StudySources(receiver.spool, None), client)
        worker = StudyWorker(settings, receiver.queue, receiver.key, drafter)
        assert send(port, file) == SUCCESS
        while worker.step():
            pass
    destination.shutdown()

    (report,) = received
    assert str(report.PatientName) == "Yamada^Tarou=山田^太郎=やまだ^たろう"
    assert report.SpecificCharacterSet == "ISO_IR 192"


def test_answers_of_the_pacs_are_outages_or_failures(tmp_path: Path) -> None:
    """No PACS and A700 are waited for; another status is a failure of the draft; a warning is success.

    So is "duplicate SOP instance": the PACS has the draft already.
    """
    statuses = iter([0xA700, 0x0124, 0x0213, 0xC001, 0x0122, 0xB000, 0x0111, 0x0107])
    pacs = AE(ae_title="PACS")
    pacs.add_supported_context(BasicTextSRStorage, ExplicitVRLittleEndian)
    server = pacs.start_server(
        ("127.0.0.1", 0), block=False, evt_handlers=[(evt.EVT_C_STORE, lambda _: next(statuses))]
    )
    port = server.server_address[1]
    document = write_basic_text(make_draft(), config.ReportSettings())
    client = StoreClient(config.StoreScuSettings("127.0.0.1", port, "PACS", timeout_s=5.0))

    for reason in ("out_of_resources", "0124", "0213"):
        with pytest.raises(Outage, match=reason):
            client.store(document)
    for reason in ("c001", "0122"):
        with pytest.raises(StudyFailure, match=reason):
            client.store(document)
    for _ in range(3):
        client.store(document)
    server.shutdown()
    with pytest.raises(Outage):
        client.store(document)


def test_an_image_that_arrives_twice_at_once_is_whole(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Over two associations: the second begins before the first is on the disk, and breaks off there."""
    spool = Spool(tmp_path / "spool", SiteKey(b"k" * 32))
    file = radiograph()

    def full(*_: object) -> None:
        raise OSError(28, "No space left on device")

    def flush_during_second(*_: object) -> None:
        monkeypatch.setattr("bridge.store.spool.os.fsync", full)
        with pytest.raises(OSError, match="space"):
            spool.add(file)
        monkeypatch.setattr("bridge.store.spool.os.fsync", lambda _: None)

    monkeypatch.setattr("bridge.store.spool.os.fsync", flush_during_second)
    spool.add(file)

    (header,) = spool.study(STUDY).images
    assert spool.size() == len(file)
    assert spool.image(header).PixelData == dcmread(BytesIO(file)).PixelData


def test_the_spool_is_purged_except_for_what_waits(tmp_path: Path) -> None:
    """After keep_hours a study's images go, unless it is still in the queue."""
    spool = Spool(tmp_path / "spool", SiteKey(b"k" * 32))
    spool.add(radiograph())
    spool.add(radiograph(study=f"{STUDY}.9"))

    assert spool.purge(24, []) == 0
    assert spool.purge(-1, [STUDY]) == 1
    assert spool.has(STUDY)
    assert not spool.has(f"{STUDY}.9")


@pytest.fixture(scope="module")
def certificates(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """An authority, and a certificate of it for both sides."""
    if shutil.which("openssl") is None:
        pytest.skip("openssl is not installed")
    folder = tmp_path_factory.mktemp("tls")
    subject, out = ["-nodes", "-newkey", "rsa:2048", "-subj"], ["-days", "2", "-out"]
    for name in ("ca", "stranger"):
        _openssl(folder, "req", "-x509", *subject, f"/CN={name}", "-keyout", f"{name}.key", *out, f"{name}.pem")
    _openssl(folder, "req", *subject, "/CN=node", "-keyout", "node.key", "-out", "node.csr")
    (folder / "names").write_text("subjectAltName=IP:127.0.0.1\n")
    signer = ["-CA", "ca.pem", "-CAkey", "ca.key"]
    _openssl(folder, "x509", "-req", "-in", "node.csr", *signer, "-extfile", "names", *out, "node.pem")
    return folder


WRONG_FILES = {
    "a key with a password": {"key": "locked.key"},
    "the key of another certificate": {"key": "stranger.key"},
    "a certificate instead of a key": {"key": "node.pem"},
    "an authority that is a key": {"ca": "ca.key"},
    "an empty authority": {"ca": "empty.pem"},
    "a missing certificate": {"certificate": "none.pem"},
    "a folder": {"ca": "."},
}


@pytest.mark.parametrize("case", WRONG_FILES)
def test_files_of_tls_that_cannot_be_used_are_named(tmp_path: Path, certificates: Path, case: str) -> None:
    """When the bridge starts; for a key with a password OpenSSL would wait at a terminal that a service lacks."""
    (certificates / "empty.pem").touch()
    lock = ["-aes128", "-passout", "pass:secret", "-in", "node.key", "-out", "locked.key"]
    _openssl(certificates, "rsa", *lock)
    files = {"certificate": "node.pem", "key": "node.key", "ca": "ca.pem"} | WRONG_FILES[case]
    tls = {name: str(certificates / file) for name, file in files.items()}
    with (
        pytest.raises(config.ConfigError, match=r"store_scp\.tls: .* a password"),
        receiving(tmp_path, tls=tls),
    ):
        pass


def _openssl(folder: Path, *arguments: str) -> None:
    subprocess.run(["openssl", *arguments], cwd=folder, check=True, capture_output=True)


def test_drafts_are_sent_with_mutual_tls(tmp_path: Path, certificates: Path) -> None:
    """A PACS with a certificate of the authority gets the draft; one of another authority, and one without TLS, not."""
    document = write_basic_text(make_draft(), config.ReportSettings())
    tls = config.TlsSettings(certificates / "node.pem", certificates / "node.key", certificates / "ca.pem")
    received = []

    def keep(event: evt.Event) -> int:
        received.append(event.dataset.SOPInstanceUID)
        return SUCCESS

    for name in ("node", "stranger", None):
        context = None
        if name is not None:
            context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
            context.load_cert_chain(certificates / f"{name}.pem", certificates / f"{name}.key")
            context.load_verify_locations(certificates / "ca.pem")
            context.verify_mode = ssl.CERT_REQUIRED
        pacs = AE(ae_title="PACS")
        pacs.add_supported_context(BasicTextSRStorage, ExplicitVRLittleEndian)
        handlers = [(evt.EVT_C_STORE, keep)]
        server = pacs.start_server(("127.0.0.1", 0), block=False, evt_handlers=handlers, ssl_context=context)
        settings = config.StoreScuSettings("127.0.0.1", server.server_address[1], "PACS", tls=tls, timeout_s=3.0)
        if name == "node":
            StoreClient(settings).store(document)
        else:
            with pytest.raises(Outage):
                StoreClient(settings).store(document)
        server.shutdown()
    assert received == [document.SOPInstanceUID]


def test_a_pacs_that_does_not_take_a_document_is_a_failure() -> None:
    """No waiting for days: the PACS must be configured for the document, or its switch turned off."""
    pacs = AE(ae_title="PACS")
    pacs.add_supported_context(BasicTextSRStorage, ExplicitVRLittleEndian)
    server = pacs.start_server(("127.0.0.1", 0), block=False)
    client = StoreClient(config.StoreScuSettings("127.0.0.1", server.server_address[1], "PACS", timeout_s=5.0))
    with pytest.raises(StudyFailure, match="pacs_takes_no_such_document"):
        client.store(write_pdf(make_draft(), config.ReportSettings()))
    server.shutdown()


def test_mutual_tls(tmp_path: Path, certificates: Path) -> None:
    """A peer with a certificate of the authority is served; one without, and one of another authority, is not.

    A peer that begins no handshake keeps nobody waiting.
    """
    tls = {"certificate": f"{certificates}/node.pem", "key": f"{certificates}/node.key", "ca": f"{certificates}/ca.pem"}

    def client(name: str | None) -> dict[str, Any]:
        context = ssl.create_default_context(cafile=certificates / "ca.pem")
        context.check_hostname = False
        if name:
            context.load_cert_chain(certificates / f"{name}.pem", certificates / f"{name}.key")
        return {"tls_args": (context, "node")}

    with receiving(tmp_path, tls=tls) as (_, port), socket.create_connection(("127.0.0.1", port)):
        assert send(port, radiograph(), **client("node")) == SUCCESS
        assert send(port, radiograph(), **client(None)) is None
        assert send(port, radiograph(), **client("stranger")) is None
        assert send(port, radiograph()) is None


@pytest.mark.parametrize("sent", [b"", b"GET / HTTP/1.1\r\n\r\n", b"\x01\x00\x00\x00\x00\x10garbagegarbage!!"])
@pytest.mark.parametrize("stays", [False, True])
def test_connections_that_ask_for_no_association_block_nobody(tmp_path: Path, sent: bytes, stays: bool) -> None:
    """Checks of a load balancer, browsers and idle sockets do not count against max_associations."""
    with receiving(tmp_path, max_associations=1) as (_, port), contextlib.ExitStack() as stack:
        for _ in range(4):
            connection = stack.enter_context(socket.create_connection(("127.0.0.1", port)))
            connection.sendall(sent)
            if not stays:
                connection.close()
        assert send(port, radiograph()) == SUCCESS


def test_a_damaged_image_does_not_cost_its_study_the_others(tmp_path: Path) -> None:
    """It is refused when it arrives, or read with whatever its elements are now; one byte is another in each file."""
    spool = Spool(tmp_path / "spool", SiteKey(b"k" * 32))
    good = radiograph(1)
    spool.add(good)
    damaged, refused = radiograph(2), 0
    first, last = damaged.index(b"DICM") + 4, len(damaged) - len(dcmread(BytesIO(damaged)).PixelData)
    for place in range(first, last, 23):
        file = bytearray(damaged)
        file[place] ^= 0x5A
        try:
            spool.add(bytes(file))
        except StudyFailure:
            refused += 1
        state = spool.study(STUDY)
        assert f"{STUDY}.1.1" in {str(image.SOPInstanceUID) for image in state.images}
        assert state.candidates()
        assert state.fingerprint(SiteKey(b"k" * 32))
    assert refused > 3


@pytest.mark.parametrize("keyword", ["SeriesInstanceUID", "StudyInstanceUID"])
def test_an_image_that_a_draft_cannot_refer_to_is_not_kept(tmp_path: Path, keyword: str) -> None:
    """The sender learns it at once; a draft would fail on it later."""
    with receiving(tmp_path) as (receiver, port):
        assert send(port, radiograph(drop=(keyword,))) == CANNOT_UNDERSTAND
        assert receiver.queue.counts()["waiting"] == 0
