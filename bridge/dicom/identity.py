"""Identifiers that the bridge derives: pseudonyms for its log, UIDs of its drafts, UIDs of de-identified files.

Everything is derived from the input by a hash, so that the same work always has the same name: a retry after a crash
stores the same SOP Instance UID again, which a PACS takes as the object it already has.
"""

import contextlib
import hashlib
import hmac
import os
import secrets
import uuid
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

from pydicom.dataset import Dataset

from bridge.configuration.section import ConfigError

KEY_BYTES = 32

SERIES = uuid.UUID("8d4a5c2e-3c0f-5b57-9f0e-2b7a1f6f0d11")
"""Name space of the series of drafts: one for each study and kind of document, derivable without the site key."""

DRAFT, MEASUREMENTS, PDF = KINDS = ("sr", "tid1500", "pdf")
"""The documents of a draft: the Basic Text SR, which is the draft itself, and those that a switch adds to it."""


@dataclass(frozen=True)
class Identifiers:
    """What a study is known by; "" for what is not known.

    study     : Study Instance UID
    accession : Accession Number, of the RIS
    placer    : number of the order, of whoever ordered the study
    """

    study: str = ""
    accession: str = ""
    placer: str = ""

    @classmethod
    def of(cls, header: Dataset) -> "Identifiers":
        """Read them in the header of an image."""
        accession, placer = (
            next(filter(None, (str(order.get(keyword) or "").strip() for order in orders_of(header))), "")
            for keyword in ("AccessionNumber", "PlacerOrderNumberImagingServiceRequest")
        )
        return cls(str(header.StudyInstanceUID), accession, placer)


def orders_of(header: Dataset) -> list[Dataset]:
    """Return where a header can say what was ordered: itself, and the items of its Request Attributes Sequence."""
    return [header, *(header.get("RequestAttributesSequence") or ())]


@dataclass(frozen=True)
class SiteKey:
    """A secret of this installation. Without it nobody can confirm a guess of a name or a UID by its hash."""

    secret: bytes

    @classmethod
    def load(cls, path: Path) -> "SiteKey":
        """Read the key, or make it if the file is absent.

        Raises ConfigError for a file without a key: a short or empty one would make every pseudonym guessable.
        """
        try:
            if not path.exists():
                path.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
                _write_key(path)
            secret = bytes.fromhex(path.read_text(encoding="ascii"))
        except OSError as error:
            raise ConfigError(f"{path} cannot be used: {error.strerror}") from None
        except ValueError:
            secret = b""
        if len(secret) < KEY_BYTES:
            raise ConfigError(
                f"{path} is not a site key; it must have {2 * KEY_BYTES} hexadecimal digits. Restore it from a backup; "
                "or delete it, and studies that come again get new drafts"
            )
        return cls(secret)

    def digest(self, purpose: str, *parts: str) -> bytes:
        """Return 32 bytes for these texts; where one ends and the next begins counts."""
        # Halves of surrogate pairs come from an archive that garbles text in its metadata.
        coded = [part.encode(errors="surrogatepass") for part in (purpose, *parts)]
        message = b"".join(len(part).to_bytes(8, "big") + part for part in coded)
        return hmac.new(self.secret, message, hashlib.sha256).digest()

    def pseudonym(self, uid: str) -> str:
        """Return the name of a study in the log, 12 hexadecimal digits."""
        return self.digest("pseudonym", uid).hex()[:12]

    def replace_uid(self, uid: str) -> str:
        """Return the UID that stands for another in a de-identified file (PS3.15 E.3.9: consistent within the site)."""
        return _as_uid(self.digest("uid", uid))

    def fingerprint(self, parts: Iterable[str]) -> str:
        """Return 64 hexadecimal digits that tell one state of a study from another."""
        return self.digest("fingerprint", *parts).hex()

    def draft_uid(self, fingerprint: str, images: Iterable[str], options: str, weights: str, replaced: str) -> str:
        """Return the SOP Instance UID of a draft.

        fingerprint : the state of the study, of `fingerprint`
        images      : SOP Instance UIDs of the images read
        options     : generation options, as JSON with sorted keys
        weights     : sha256 of the model
        replaced    : SOP Instance UIDs of the drafts that this one replaces, separated by backslashes; so that a study
                      that changes and changes back gets three drafts, the last of which is current
        """
        return _as_uid(self.digest("draft", fingerprint, options, weights, replaced, *sorted(images)))


def _write_key(path: Path) -> None:
    """Write a new key, completely or not at all. If another process is first, its key stays."""
    unfinished = path.with_name(f"{path.name}.{secrets.token_hex(8)}")
    descriptor = os.open(unfinished, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
    try:
        with os.fdopen(descriptor, "w", encoding="ascii") as file:
            file.write(secrets.token_hex(KEY_BYTES))
            file.flush()
            os.fsync(file.fileno())
        with contextlib.suppress(FileExistsError):
            path.hardlink_to(unfinished)
    finally:
        unfinished.unlink()


def series_uid(study_uid: str, kind: str = DRAFT) -> str:
    """Return the UID of the series in which a study's documents of one kind are."""
    name = study_uid if kind == DRAFT else f"{study_uid}/{kind}"
    return f"2.25.{uuid.uuid5(SERIES, name).int}"


def document_uid(draft_uid: str, kind: str) -> str:
    """Return the SOP Instance UID of a draft's document; that of the SR is the draft's own."""
    return draft_uid if kind == DRAFT else f"2.25.{uuid.uuid5(SERIES, f'{draft_uid}/{kind}').int}"


def device_uid(sha256: str) -> str:
    """Return the UID of a model as a device: of its weights, so that two sites name the same model equally."""
    return f"2.25.{int(sha256[:32], 16)}"


def _as_uid(digest: bytes) -> str:
    """Return a UID of a digest, in the form of a UUID (PS3.5 B.2)."""
    return f"2.25.{uuid.UUID(bytes=digest[:16], version=4).int}"
