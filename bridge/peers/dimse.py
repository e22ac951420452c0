"""DICOM over the network (PS3.7, PS3.8): a Store SCP for images, a Store SCU for drafts."""

import contextlib
import shutil
import socket
import ssl
from collections.abc import Iterator
from typing import Any

from pydicom.dataset import Dataset
from pydicom.errors import InvalidDicomError
from pydicom.uid import ExplicitVRLittleEndian, ImplicitVRLittleEndian
from pynetdicom import AE, ALL_TRANSFER_SYNTAXES, evt
from pynetdicom.association import Association
from pynetdicom.sop_class import Verification

from bridge.configuration.section import ConfigError
from bridge.configuration.settings import Settings, StoreScuSettings, TlsSettings
from bridge.dicom.study_state import RADIOGRAPHS
from bridge.failures import Outage, StudyFailure
from bridge.journal import describe_failure, log
from bridge.store.queue import Queue
from bridge.store.schema import NotRecorded
from bridge.store.spool import Spool

SUCCESS, OUT_OF_RESOURCES, CANNOT_UNDERSTAND = 0x0000, 0xA700, 0xC000
"""PS3.4 B.2.3: status of a C-STORE."""
DUPLICATE, WARNINGS = 0x0111, (0x0107, 0x0116)
"""PS3.7 annex C: the PACS has the instance already; it is stored, but an element is not as it was."""
NOT_AUTHORIZED, RESOURCE_LIMITATION = 0x0124, 0x0213
"""PS3.7 annex C: not about one draft."""


MAX_SILENT = 50
"""Connections that have not asked for an association, such as a load balancer's checks."""


class _Provider(AE):
    """An application entity whose limit counts associations, not connections that have not asked for one."""

    @property
    def active_associations(self) -> list[Association]:
        """Return the associations that were asked for and have not ended."""
        return [one for one in super().active_associations if one.requestor.primitive is not None]


class _LateHandshake(ssl.SSLContext):
    """TLS whose handshake is done by the thread of a connection: a silent peer must not stop the others."""

    def wrap_socket(self, sock: socket.socket, **options: Any) -> ssl.SSLSocket:  # type: ignore[override]
        """Return the socket with TLS on it."""
        return super().wrap_socket(sock, do_handshake_on_connect=False, **options)


@contextlib.contextmanager
def receive_images(settings: Settings, queue: Queue, spool: Spool) -> Iterator[int]:
    """Run the Store SCP in threads; yields the port.

    Success is answered when the image and the event are on the disk. Until then the sender has it, and sends it again.
    """
    scp = settings.store_scp
    assert scp is not None  # noqa: S101 - its caller has looked
    entity = _Provider(ae_title=scp.ae_title)
    entity.require_called_aet = True
    entity.require_calling_aet = list(scp.peers)
    entity.maximum_associations = scp.max_associations
    entity.maximum_pdu_size = scp.max_pdu
    entity.acse_timeout = entity.dimse_timeout = entity.network_timeout = scp.timeout_s
    entity.add_supported_context(Verification)
    for radiograph in RADIOGRAPHS:
        entity.add_supported_context(radiograph, ALL_TRANSFER_SYNTAXES)

    def store(event: evt.Event) -> int:
        return _store(settings, queue, spool, event)

    context = _context("store_scp.tls", scp.tls, ssl.PROTOCOL_TLS_SERVER)
    try:
        server = entity.start_server(
            (scp.host, scp.port),
            block=False,
            evt_handlers=[(evt.EVT_C_STORE, store), (evt.EVT_ACCEPTED, _log_refused)],
            ssl_context=context,
        )
    except OSError as error:
        raise ConfigError(f"store_scp.port {scp.port} on {scp.host} cannot be used: {error.strerror}") from None
    most = scp.max_associations + MAX_SILENT
    # Above it a connection is closed at once: each one that is open is a thread.
    server.verify_request = lambda *_: len(server.active_associations) < most
    port = server.server_address[1]
    log("listening", port=port)
    try:
        yield port
    finally:
        server.shutdown()


def _log_refused(event: evt.Event) -> None:
    """Write a line for an association that offers what is not taken, such as videos: nothing else shows it."""
    refused = len(event.assoc.rejected_contexts)
    if refused:
        log("objects_refused", reason="only_radiographs", count=refused)


def _store(settings: Settings, queue: Queue, spool: Spool, event: evt.Event) -> int:
    """Keep one image; the status of the answer."""
    scp = settings.store_scp
    assert scp is not None  # noqa: S101 - the SCP runs
    try:
        file = event.encoded_dataset()
        if len(file) > scp.max_image_mb * 2**20:
            log("image_refused", reason="too_large", bytes=len(file))
            return CANNOT_UNDERSTAND
        free = shutil.disk_usage(settings.state).free
        if free < settings.queue.min_free_mb * 2**20 or spool.size() + len(file) > scp.max_spool_mb * 2**20:
            log("not_recorded", reason="disk_full")
            return OUT_OF_RESOURCES
        queue.notify(spool.add(file), settings.queue.stable_s)
    except (NotRecorded, OSError) as error:
        log("not_recorded", reason=error.reason if isinstance(error, NotRecorded) else "disk_full")
        return OUT_OF_RESOURCES
    except (StudyFailure, InvalidDicomError):
        log("image_refused", reason="unreadable")
        return CANNOT_UNDERSTAND
    except Exception as error:  # noqa: BLE001 - the sender must get an answer, without the text of the exception
        log("unexpected", **describe_failure(error))
        return CANNOT_UNDERSTAND
    return SUCCESS


class StoreClient:
    """Sends drafts by C-STORE."""

    def __init__(self, settings: StoreScuSettings) -> None:
        self._settings = settings
        self._context = _context("store_scu.tls", settings.tls, ssl.PROTOCOL_TLS_CLIENT)

    def store(self, document: Dataset) -> None:
        """Store a draft.

        Raises Outage, StudyFailure.
        """
        settings = self._settings
        entity = AE(ae_title=settings.calling_ae_title)
        entity.acse_timeout = entity.dimse_timeout = entity.network_timeout = settings.timeout_s
        entity.connection_timeout = settings.timeout_s
        entity.add_requested_context(document.SOPClassUID, [ExplicitVRLittleEndian, ImplicitVRLittleEndian])
        association = entity.associate(
            settings.host,
            settings.port,
            ae_title=settings.ae_title,
            tls_args=None if self._context is None else (self._context, settings.host),
        )
        if association.rejected_contexts:
            raise StudyFailure("pacs_takes_no_such_document")
        if not association.is_established:
            raise Outage("pacs_rejected_association" if association.is_rejected else "pacs_no_association")
        try:
            status = association.send_c_store(document).get("Status")
        except RuntimeError:
            # The association ended after it was accepted.
            status = None
        finally:
            association.release()
        _check_status(status)


def _check_status(status: int | None) -> None:
    """Look at the status of a C-STORE, None if there was no answer.

    Raises Outage, StudyFailure.
    """
    if status is None or 0xA700 <= status <= 0xA7FF:
        raise Outage("pacs_no_answer" if status is None else "pacs_out_of_resources")
    if status in (NOT_AUTHORIZED, RESOURCE_LIMITATION):
        raise Outage(f"pacs_status_{status:04x}")
    # Bxxx are warnings: stored, perhaps with changed elements.
    if status not in (SUCCESS, DUPLICATE, *WARNINGS) and not 0xB000 <= status <= 0xBFFF:
        raise StudyFailure(f"pacs_status_{status:04x}")


def _context(where: str, tls: TlsSettings | None, protocol: "ssl._SSLMethod") -> ssl.SSLContext | None:
    """Return TLS 1.2 or newer with certificates on both sides, or None without a section `tls`.

    Raises ConfigError for files that cannot be used.
    """
    if tls is None:
        return None
    context = (_LateHandshake if protocol == ssl.PROTOCOL_TLS_SERVER else ssl.SSLContext)(protocol)
    context.minimum_version = ssl.TLSVersion.TLSv1_2
    context.verify_mode = ssl.CERT_REQUIRED
    try:
        # Without a password of its own OpenSSL would ask for one on the terminal, and a service would hang.
        context.load_cert_chain(tls.certificate, tls.key, password=lambda: "")
        context.load_verify_locations(tls.ca)
    except OSError:
        raise ConfigError(
            f"{where}: certificate, key and ca must be PEM files; the key must be that of the certificate, without a "
            "password"
        ) from None
    return context
