"""The site's key of the audit log: digests and seals that nobody can make, or guess the contents of, without it."""

import hashlib
import hmac
import stat
from pathlib import Path

from prelim.errors import AuditError

VARIABLE = "PRELIM_AUDIT_KEY"
"""Of the environment: the file of the site's key."""

MIN_BYTES = 32


class AuditKey:
    """A secret of the site.

    secret : at least 32 bytes

    Raises AuditError for a shorter one.
    """

    def __init__(self, secret: bytes) -> None:
        if len(secret) < MIN_BYTES:
            raise AuditError(f"the key of the audit log has {len(secret)} bytes; it needs {MIN_BYTES}")
        self._secret = secret

    @classmethod
    def read(cls, file: Path) -> "AuditKey":
        """The key in a file. Raises AuditError if it cannot be read, is too short, or others may read it."""
        way_out = f"`(umask 077; openssl rand -hex 32 > {file})` makes one"
        try:
            mode, secret = file.stat().st_mode, file.read_bytes().strip()
        except OSError as error:
            raise AuditError(
                f"{file}, the key of the audit log, cannot be read ({error.strerror}); {way_out}"
            ) from None
        # The group may read it: Kubernetes mounts a secret so.
        if mode & (stat.S_IRWXO | stat.S_IWGRP):
            raise AuditError(f"{file}, the key of the audit log, is open to other users: chmod 600 {file}")
        try:
            return cls(secret)
        except AuditError as error:
            raise AuditError(f"{file}: {error}; {way_out}") from None

    def digest(self, purpose: str, contents: bytes) -> str:
        """HMAC-SHA256 (RFC 2104), 64 hexadecimal digits.

        purpose : a word, so that equal contents of two kinds have different digests
        """
        return hmac.new(self._secret, purpose.encode() + b"\0" + contents, hashlib.sha256).hexdigest()

    def is_same(self, other: "AuditKey") -> bool:
        """Whether both make the same digests."""
        return hmac.compare_digest(self.digest("same", b""), other.digest("same", b""))
