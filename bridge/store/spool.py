"""Images that arrived by C-STORE, on disk until they are past their use.

One folder a study, one file an image, both named by keyed hashes: a listing of the folder identifies nobody.
"""

import os
import secrets
import shutil
import time
from collections.abc import Iterable
from io import BytesIO
from pathlib import Path

from pydicom import dcmread
from pydicom.dataset import Dataset

from bridge.dicom.identity import SiteKey
from bridge.dicom.study_state import StudyState
from bridge.failures import StudyFailure

UIDS = ("StudyInstanceUID", "SOPInstanceUID", "SeriesInstanceUID", "SOPClassUID")
"""What a draft refers to."""


class Spool:
    """The folder of the images."""

    def __init__(self, folder: Path, key: SiteKey) -> None:
        self._folder = folder
        self._key = key
        folder.mkdir(parents=True, exist_ok=True, mode=0o700)

    def add(self, file: bytes) -> str:
        """Write a DICOM file; its Study Instance UID. It is on the disk when this returns.

        Raises StudyFailure for a file without UIDs or with a damaged header, OSError if the disk is full.
        """
        try:
            header = _read_header(BytesIO(file))
        except Exception:  # noqa: BLE001 - whatever a damaged file raises; here it would cost the whole study its draft
            raise StudyFailure("header_unreadable") from None
        uids = [str(header.get(keyword) or "") for keyword in UIDS]
        if not all(uids):
            raise StudyFailure("uids_missing")
        study, instance = uids[:2]
        path = self._path(study, instance)
        path.parent.mkdir(exist_ok=True, mode=0o700)
        # Of its own: the same image can arrive over two associations at once.
        unfinished = path.with_suffix(f".{secrets.token_hex(8)}.part")
        try:
            descriptor = os.open(unfinished, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
            with os.fdopen(descriptor, "wb") as target:
                target.write(file)
                target.flush()
                os.fsync(target.fileno())
            unfinished.replace(path)
        except OSError:
            unfinished.unlink(missing_ok=True)
            raise
        for folder in (path.parent, self._folder):
            _flush(folder)
        return study

    def has(self, uid: str) -> bool:
        """Whether images of a study are here."""
        return self._path(uid, "").parent.is_dir()

    def study(self, uid: str) -> StudyState:
        """Return the study as far as it has arrived."""
        headers = [_read_header(path) for path in sorted(self._path(uid, "").parent.glob("*.dcm"))]
        return StudyState.of(uid, headers)

    def image(self, header: Dataset) -> Dataset:
        """Return an image with its pixels.

        Raises StudyFailure if it was removed.
        """
        try:
            return dcmread(self._path(str(header.StudyInstanceUID), str(header.SOPInstanceUID)))
        except FileNotFoundError:
            raise StudyFailure("image_removed") from None

    def size(self) -> int:
        """Return the bytes of all images."""
        return sum(path.stat().st_size for path in self._folder.glob("*/*"))

    def purge(self, hours: float, waiting: Iterable[str]) -> int:
        """Remove studies to which nothing was added for some hours, but not those that wait; their number."""
        kept = {self._path(uid, "").parent.name for uid in waiting}
        old = [
            folder
            for folder in self._folder.iterdir()
            if folder.name not in kept and folder.stat().st_mtime < time.time() - hours * 3600
        ]
        for folder in old:
            shutil.rmtree(folder, ignore_errors=True)
        return len(old)

    def _path(self, study: str, instance: str) -> Path:
        names = (self._key.digest("spool", name).hex()[:32] for name in (study, instance))
        return self._folder.joinpath(*names).with_suffix(".dcm")


def _read_header(file: BytesIO | Path) -> Dataset:
    """Return all elements before the pixels, each of them read."""
    header = dcmread(file, stop_before_pixels=True)
    header.decode()
    for _ in header.iterall():
        pass
    return header


def _flush(folder: Path) -> None:
    """Write a folder's entries to the disk."""
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
