"""The configuration file: YAML, one section per dataclass, an unknown key is an error that lists the known ones."""

import re
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import yaml

from bridge.configuration.section import (
    ConfigError,
    ConfigSection,
    check_address,
    check_range,
    check_text,
    check_title,
    check_url,
)
from bridge.configuration.server import COMPARISON, LONGEST_WAIT_S, PRIOR, ServerSettings
from bridge.configuration.signed import SignedSettings

CODE = re.compile(r"[A-Z0-9_ ]{1,16}")
"""PS3.5 6.2, CS."""

MOST_HOURS = 24 * 365
MOST_MB = 2**30


@dataclass(frozen=True)
class DicomWebSettings(ConfigSection):
    """A PACS by DICOMweb. `password_file` has the password of `user`; `token_file` a bearer token instead."""

    url: str
    user: str | None = None
    password_file: Path | None = None
    token_file: Path | None = None
    ca_file: Path | None = None
    timeout_s: float = 20.0

    def __post_init__(self) -> None:
        check_url("dicomweb.url", self.url)
        check_range("dicomweb.timeout_s", self.timeout_s, 0.1, LONGEST_WAIT_S)
        if self.user is not None and self.token_file is not None:
            raise ConfigError("dicomweb has user and token_file; give one of them")
        if (self.user is None) != (self.password_file is None):
            raise ConfigError("dicomweb has one of user and password_file; give both, or none")


@dataclass(frozen=True)
class PollSettings(ConfigSection):
    """QIDO polling for studies that no hook has announced.

    days    : studies of the last days are looked at, by their Study Date
    orthanc : address of Orthanc's REST API, whose change feed has every study that arrives, whatever its date
    """

    every_s: float = 60.0
    days: int = 2
    modalities: tuple[str, ...] = ("CR", "DX")
    orthanc: str | None = None

    def __post_init__(self) -> None:
        if self.orthanc is not None:
            check_url("poll.orthanc", self.orthanc)
        check_range("poll.every_s", self.every_s, 0.2, 86400)
        check_range("poll.days", self.days, 1, 365)
        if not self.modalities or not all(CODE.fullmatch(one) for one in self.modalities):
            raise ConfigError("poll.modalities must have one or more modalities, such as CR and DX")


@dataclass(frozen=True)
class HookSettings(ConfigSection):
    """The address that the PACS's hook calls: POST /studies/{StudyInstanceUID}."""

    host: str = "127.0.0.1"
    port: int = 8190
    token_file: Path | None = None

    def __post_init__(self) -> None:
        check_range("hook.port", self.port, 0, 65535)
        check_address("hook.host", self.host, self.token_file)


@dataclass(frozen=True)
class TlsSettings(ConfigSection):
    """Certificate and key of the bridge, and the authority that must have signed the other side's certificate."""

    certificate: Path
    key: Path
    ca: Path


@dataclass(frozen=True)
class StoreScpSettings(ConfigSection):
    """The Store SCP that modalities and routers send images to.

    peers        : calling AE titles that are accepted
    max_spool_mb : of all images that are kept; above it, senders are told to wait
    keep_hours   : after the last image of a study, for late images of it
    """

    peers: tuple[str, ...]
    ae_title: str = "PRELIM"
    host: str = "127.0.0.1"
    port: int = 11112
    tls: TlsSettings | None = None
    max_associations: int = 4
    max_pdu: int = 65536
    max_image_mb: int = 256
    max_spool_mb: int = 10_000
    keep_hours: float = 24.0
    timeout_s: float = 30.0

    def __post_init__(self) -> None:
        check_title("store_scp.ae_title", self.ae_title)
        if not self.peers:
            raise ConfigError("store_scp.peers is empty; name the AE titles that may send")
        for peer in self.peers:
            check_title("store_scp.peers", peer)
        check_range("store_scp.port", self.port, 0, 65535)
        check_range("store_scp.max_associations", self.max_associations, 1, 100)
        check_range("store_scp.max_pdu", self.max_pdu, 4096, 16_777_216)
        check_range("store_scp.max_image_mb", self.max_image_mb, 1, MOST_MB)
        check_range("store_scp.max_spool_mb", self.max_spool_mb, 1, MOST_MB)
        check_range("store_scp.keep_hours", self.keep_hours, 0, MOST_HOURS)
        check_range("store_scp.timeout_s", self.timeout_s, 0.1, LONGEST_WAIT_S)


@dataclass(frozen=True)
class StoreScuSettings(ConfigSection):
    """The application entity that drafts are sent to by C-STORE, instead of STOW-RS."""

    host: str
    port: int
    ae_title: str
    calling_ae_title: str = "PRELIM"
    tls: TlsSettings | None = None
    timeout_s: float = 30.0

    def __post_init__(self) -> None:
        check_title("store_scu.ae_title", self.ae_title)
        check_title("store_scu.calling_ae_title", self.calling_ae_title)
        check_range("store_scu.port", self.port, 1, 65535)
        check_range("store_scu.timeout_s", self.timeout_s, 0.1, LONGEST_WAIT_S)


@dataclass(frozen=True)
class DraftsSettings(ConfigSection):
    """The address of POST /drafts/FORMAT, for the gateway: documents of a draft for somebody who has the image.

    token_file   : of a bearer token that the gateway sends
    max_requests : answered at a time
    """

    host: str = "127.0.0.1"
    port: int = 8191
    token_file: Path | None = None
    max_body_mb: int = 64
    max_requests: int = 4

    def __post_init__(self) -> None:
        check_range("drafts.port", self.port, 0, 65535)
        check_address("drafts.host", self.host, self.token_file)
        check_range("drafts.max_body_mb", self.max_body_mb, 1, 2048)
        check_range("drafts.max_requests", self.max_requests, 1, 100)


@dataclass(frozen=True)
class Hl7Settings(ConfigSection):
    """The RIS that gets every draft as an HL7 v2 message over MLLP too."""

    host: str
    port: int
    receiving_application: str = ""
    receiving_facility: str = ""
    sending_application: str = "PRELIM"
    sending_facility: str = ""
    timeout_s: float = 30.0

    def __post_init__(self) -> None:
        check_range("hl7.port", self.port, 1, 65535)
        check_range("hl7.timeout_s", self.timeout_s, 0.1, LONGEST_WAIT_S)


@dataclass(frozen=True)
class FhirSettings(ConfigSection):
    """The FHIR R4 server that gets every draft as a transaction too; `url` is its base."""

    url: str
    token_file: Path | None = None
    ca_file: Path | None = None
    timeout_s: float = 20.0

    def __post_init__(self) -> None:
        check_url("fhir.url", self.url)
        check_range("fhir.timeout_s", self.timeout_s, 0.1, LONGEST_WAIT_S)


@dataclass(frozen=True)
class QueueSettings(ConfigSection):
    """How work is done and kept.

    stable_s       : seconds without a further event after which a study is worked on
    max_attempts   : failures of one study after which it is put aside as dead
    give_up_hours  : hours without PACS or server after which a study is put aside as dead
    retention_days : days after which finished studies are removed from the queue
    min_free_mb    : free disk below which nothing is accepted
    """

    workers: int = 1
    stable_s: float = 2.0
    max_attempts: int = 6
    give_up_hours: float = 72.0
    first_retry_s: float = 2.0
    longest_retry_s: float = 300.0
    retention_days: int = 30
    min_free_mb: int = 200

    def __post_init__(self) -> None:
        check_range("queue.workers", self.workers, 1, 32)
        check_range("queue.max_attempts", self.max_attempts, 1, 100)
        check_range("queue.retention_days", self.retention_days, 1, 3650)
        check_range("queue.stable_s", self.stable_s, 0, 86400)
        check_range("queue.give_up_hours", self.give_up_hours, 0, MOST_HOURS)
        check_range("queue.first_retry_s", self.first_retry_s, 0.05, 86400)
        check_range("queue.longest_retry_s", self.longest_retry_s, self.first_retry_s, 86400)
        check_range("queue.min_free_mb", self.min_free_mb, 0, MOST_MB)


@dataclass(frozen=True)
class ReportSettings(ConfigSection):
    """The series of the drafts in the PACS, and which documents a draft has besides the Basic Text SR.

    pdf     : an encapsulated PDF too
    tid1500 : a measurement report (TID 1500) too
    fonts   : TrueType files of the PDF for scripts that the bundled fonts lack (Hangul, simplified Chinese, ...)
    """

    pdf: bool = False
    tid1500: bool = False
    fonts: tuple[Path, ...] = ()
    series_number: int = 9000
    series_description: str = "AI DRAFT REPORT (UNVERIFIED)"
    manufacturer: str = "Prelim"

    def __post_init__(self) -> None:
        # The series of the other documents have the numbers after it.
        check_range("report.series_number", self.series_number, 1, 2**31 - 3)
        for name in ("series_description", "manufacturer"):
            check_text(f"report.{name}", getattr(self, name))


@dataclass(frozen=True)
class Settings(ConfigSection):
    """The whole file.

    state   : folder of the queue, the spool and the site key; private to the bridge
    enabled : the off switch; false records what arrives and works on nothing
    """

    state: Path
    enabled: bool = True
    server: ServerSettings = field(default_factory=ServerSettings)
    dicomweb: DicomWebSettings | None = None
    poll: PollSettings | None = None
    hook: HookSettings | None = None
    store_scp: StoreScpSettings | None = None
    store_scu: StoreScuSettings | None = None
    drafts: DraftsSettings | None = None
    hl7: Hl7Settings | None = None
    fhir: FhirSettings | None = None
    signed: SignedSettings | None = None
    queue: QueueSettings = field(default_factory=QueueSettings)
    report: ReportSettings = field(default_factory=ReportSettings)

    def __post_init__(self) -> None:
        if self.dicomweb is None and (self.poll is not None or self.hook is not None):
            raise ConfigError("poll and hook need dicomweb, which images are fetched from")
        if not self.has_archive and self.drafts is None:
            raise ConfigError("there is no way in: give dicomweb (with poll or hook), store_scp, both, or only drafts")
        if self.has_archive and self.dicomweb is None and self.store_scu is None:
            raise ConfigError("there is no way out: give dicomweb or store_scu")
        if self.dicomweb is None and (missing := {COMPARISON, PRIOR} & set(self.server.context)):
            raise ConfigError(
                f"server.context has {min(missing)}, for which the PACS is asked by QIDO-RS: give dicomweb, "
                "or leave it out"
            )
        if self.signed is not None and not self.has_archive:
            raise ConfigError("signed needs drafts to compare with: give dicomweb or store_scp too")
        if self.poll is not None and self.queue.retention_days <= self.poll.days:
            raise ConfigError(
                f"queue.retention_days is {self.queue.retention_days}; it must be more than poll.days, "
                f"{self.poll.days}, or polling reports forgotten studies again"
            )

    @property
    def has_archive(self) -> bool:
        """Whether studies come in; otherwise the bridge only answers POST /drafts."""
        return self.dicomweb is not None or self.store_scp is not None


class _Loader(yaml.SafeLoader):
    """A loader that refuses a key given twice, of which YAML takes the last."""

    def construct_mapping(self, node: yaml.MappingNode, deep: bool = False) -> dict[Any, Any]:
        """Return a mapping."""
        names = [key.value for key, _ in node.value]
        doubled = next((name for name in names if isinstance(name, str) and names.count(name) > 1), None)
        if doubled is not None:
            raise ConfigError(f"line {node.start_mark.line + 1} begins a mapping that has the key {doubled!r} twice")
        return super().construct_mapping(node, deep)


def read_settings(path: Path) -> Settings:
    """Read the configuration file.

    Raises ConfigError.
    """
    try:
        contents = yaml.load(path.read_text(encoding="utf-8"), _Loader)  # noqa: S506 - a kind of SafeLoader
    except OSError as error:
        raise ConfigError(f"{path} cannot be read: {error.strerror}") from None
    except (yaml.YAMLError, ValueError, RecursionError):
        raise ConfigError(f"{path} is not YAML") from None
    return Settings.read(contents, path.name, path.resolve().parent)
