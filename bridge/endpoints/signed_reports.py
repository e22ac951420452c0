"""Signed reports come in: HL7 v2 over MLLP, or as files in a folder."""

import asyncio
import contextlib
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path

from hl7.mllp import HL7StreamReader, HL7StreamWriter, InvalidBlockError, start_hl7_server

from bridge.configuration.section import ConfigError
from bridge.configuration.signed import SignedSettings
from bridge.journal import describe_failure, log
from bridge.peers.signed_report import BadMessage, acknowledge, parse, read_reports
from bridge.store.agreement import SignedStore
from bridge.store.schema import NotRecorded

IDLE_S = 3600.0
"""A connection that says nothing for so long is closed: its place may be wanted."""
END_S = 10.0
"""How long a sender whose message is too long may take to end."""
SETTLED_S = 2.0
"""A file that was changed more recently may be one that is being written."""
REFUSED = "refused"
"""Folder in the folder of files, for those that cannot be read."""


class SignedReports:
    """Records the signed reports of messages."""

    def __init__(self, settings: SignedSettings, agreement: SignedStore, *, enabled: bool = True) -> None:
        self._settings = settings
        self._agreement = agreement
        self._enabled = enabled

    def take(self, message: bytes) -> tuple[str, str]:
        """Record what a message says; MSA-1 and a reason. All of it is read before anything is recorded."""
        try:
            outcomes = self._record(message)
        except BadMessage as error:
            self._count("messages_refused")
            log("signed_report_refused", reason=error.reason)
            return error.code, error.reason
        except NotRecorded as error:
            # A rejection for a reason that is not in the message: it may be sent again (2.5.1 chapter 2.9.2.2).
            log("not_recorded", reason=error.reason)
            return "AR", error.reason
        except Exception as error:  # noqa: BLE001 - whatever a message can bring up, the next one may be fine
            log("unexpected", **describe_failure(error))
            return "AE", "internal_error"
        log("signed_report", outcome=",".join(outcomes)[:80], count=len(outcomes))
        return "AA", ""

    def _record(self, message: bytes) -> list[str]:
        if not self._enabled:
            raise BadMessage("AR", "switched_off")
        outcomes = []
        for report in read_reports(parse(message), self._settings.accession_fields):
            outcome = report.status
            if outcome in ("signed", "withdrawn"):
                text = report.text if outcome == "signed" else None
                later = self._agreement.add_report(report.known, report.reported, text)
                outcome = outcome if later else "older"
            self._agreement.count(f"reports_{outcome}")
            outcomes.append(outcome)
        return outcomes

    def _count(self, name: str) -> None:
        with contextlib.suppress(NotRecorded):
            self._agreement.count(name)

    def read_folder(self) -> bool:
        """Record one file of the folder; whether there was one."""
        folder = self._settings.folder
        assert folder is not None  # noqa: S101 - its caller has looked
        try:
            files = sorted(path for path in folder.iterdir() if _is_settled(path))
        except OSError:
            log("folder_unreadable")
            return False
        if not files:
            return False
        try:
            return self._read_file(files[0])
        except OSError:
            log("folder_unreadable")
            return False

    def _read_file(self, path: Path) -> bool:
        if path.stat().st_size > self._settings.max_message_kb * 1024:
            code, reason = "AE", "too_large"
            log("signed_report_refused", reason=reason)
        else:
            data = path.read_bytes().strip(b"\x0b\x1c\r\n ")
            code, reason = self.take(data)
        if code == "AA":
            path.unlink()
        elif reason not in ("disk_full", "queue_locked", "queue_unwritable", "switched_off"):
            (path.parent / REFUSED).mkdir(exist_ok=True)
            path.rename(path.parent / REFUSED / path.name)
        else:
            return False
        return True


def _is_settled(path: Path) -> bool:
    return path.is_file() and not path.name.startswith(".") and path.stat().st_mtime < time.time() - SETTLED_S


@contextlib.contextmanager
def listen_for_reports(settings: SignedSettings, take: Callable[[bytes], tuple[str, str]]) -> Iterator[int]:
    """Answer messages over MLLP in a thread; yields the port.

    Raises ConfigError if the port cannot be used.
    """
    loop = asyncio.new_event_loop()
    listener = _Listener(settings, take)
    thread = threading.Thread(target=loop.run_forever, daemon=True)
    thread.start()
    try:
        port = asyncio.run_coroutine_threadsafe(listener.start(), loop).result()
        log("listening", port=port)
        yield port
        asyncio.run_coroutine_threadsafe(listener.stop(), loop).result()
    finally:
        loop.call_soon_threadsafe(loop.stop)
        thread.join()
        loop.close()


class _Listener:
    """An MLLP server, on the loop of its thread."""

    def __init__(self, settings: SignedSettings, take: Callable[[bytes], tuple[str, str]]) -> None:
        self._settings = settings
        self._take = take
        self._open: set[asyncio.Task[None]] = set()

    async def start(self) -> int:
        host, port = self._settings.host, self._settings.port
        try:
            self._server = await start_hl7_server(
                self._connected, host, port, limit=self._settings.max_message_kb * 1024
            )
        except OSError as error:
            raise ConfigError(f"signed.port {port} on {host} cannot be used: {error.strerror}") from None
        return int(self._server.sockets[0].getsockname()[1])

    async def stop(self) -> None:
        self._server.close()
        for task in self._open:
            task.cancel()
        await asyncio.gather(*self._open, return_exceptions=True)

    async def _connected(self, reader: HL7StreamReader, writer: HL7StreamWriter) -> None:
        peer = writer.get_extra_info("peername")[0]
        if (self._settings.senders and peer not in self._settings.senders) or (
            len(self._open) >= self._settings.max_connections
        ):
            log("connection_refused")
            writer.close()
            return
        task = asyncio.current_task()
        assert task is not None  # noqa: S101 - a coroutine on a loop is one
        self._open.add(task)
        try:
            await self._converse(reader, writer)
        finally:
            self._open.discard(task)
            writer.close()

    async def _converse(self, reader: HL7StreamReader, writer: HL7StreamWriter) -> None:
        """Answer one message after the other, until the sender goes or sends what is not a frame of MLLP."""
        while True:
            try:
                block = await asyncio.wait_for(reader.readblock(), IDLE_S)
            except (asyncio.IncompleteReadError, TimeoutError, OSError):
                return
            except InvalidBlockError:
                log("signed_report_refused", reason="no_frame")
                return
            except ValueError:
                # The rest of the message would be taken for the next one.
                log("signed_report_refused", reason="too_large")
                writer.writeblock(acknowledge(b"", "AE", "too_large"))
                await _end(reader, writer)
                return
            code, reason = await asyncio.to_thread(self._take, block)
            writer.writeblock(acknowledge(block, code, reason))
            with contextlib.suppress(OSError):
                await writer.drain()


async def _end(reader: HL7StreamReader, writer: HL7StreamWriter) -> None:
    """Say that nothing more is read, and wait for the sender's end: closing with unread data would lose the answer."""
    with contextlib.suppress(TimeoutError, OSError):
        writer.write_eof()
        async with asyncio.timeout(END_S):
            while await reader.read(65536):
                pass
