"""The section `signed`: how signed reports come in, and how they are paired with drafts."""

import ipaddress
import re
from dataclasses import dataclass
from pathlib import Path

from bridge.configuration.section import ConfigError, ConfigSection, check_range
from prelim_client.loopback import is_loopback

FIELD = re.compile(r"OBR-([1-9][0-9]?)")
"""A field of the segment OBR, by its number in HL7."""


@dataclass(frozen=True)
class SignedSettings(ConfigSection):
    """Signed reports, which are compared with the drafts: HL7 v2 ORU^R01 over MLLP, or as files in a folder.

    port           : of MLLP; None: only the folder is read
    senders        : IP addresses that may connect
    folder         : messages as files, one each; a file is removed once it is recorded
    accession      : fields that can have the accession number; the first that is not empty counts
    max_message_kb : of one message, pictures and PDF in it included
    pair_days      : a report or a draft that has found no partner is forgotten after so many days, and counted
    keep_days      : a correction can replace a report for so many days; then only counts are left of it
    """

    host: str = "127.0.0.1"
    port: int | None = None
    senders: tuple[str, ...] = ()
    folder: Path | None = None
    accession: tuple[str, ...] = ("OBR-18", "OBR-3")
    max_message_kb: int = 4096
    max_connections: int = 8
    pair_days: float = 14.0
    keep_days: float = 90.0

    def __post_init__(self) -> None:
        if self.port is None and self.folder is None:
            raise ConfigError("signed has no way in: give port (MLLP), folder, or both")
        if self.port is not None:
            check_range("signed.port", self.port, 0, 65535)
            if not self.senders and not is_loopback(self.host):
                raise ConfigError(f"signed.host is {self.host}, which is not loopback; list signed.senders")
        for address in self.senders:
            _check_address(address)
        if not self.accession or not all(FIELD.fullmatch(field) for field in self.accession):
            raise ConfigError("signed.accession must have one or more fields of OBR, such as OBR-3")
        check_range("signed.max_message_kb", self.max_message_kb, 1, 65536)
        check_range("signed.max_connections", self.max_connections, 1, 100)
        check_range("signed.pair_days", self.pair_days, 0.01, 365)
        check_range("signed.keep_days", self.keep_days, self.pair_days, 3650)

    @property
    def accession_fields(self) -> tuple[int, ...]:
        """Numbers of the fields of OBR that can have the accession number."""
        return tuple(int(field.removeprefix("OBR-")) for field in self.accession)


def _check_address(address: str) -> None:
    try:
        ipaddress.ip_address(address)
    except ValueError:
        raise ConfigError("signed.senders has an entry that is not an IP address, such as 10.0.0.7") from None
