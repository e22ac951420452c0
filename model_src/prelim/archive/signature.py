"""Signatures of archives: who vouches for one, and that not a bit of it has changed since.

The format is OpenSSF Model Signing's (https://github.com/sigstore/model-transparency): a Sigstore bundle in a file next
to the .mar, over the sha256 of the whole .mar, with an elliptic curve key in PEM. Neither signing nor checking needs a
network (docs/decisions/0034-signed-archives.md). The libraries are imported only where archives are signed or checked.
"""

from pathlib import Path

from prelim.errors import ArchiveError

SUFFIX = ".sig"

_KEYS = "an elliptic curve key in PEM (P-256, P-384 or P-521)"


def signature_of(archive: Path) -> Path:
    """Where the signature of an archive is: demo.mar.sig for demo.mar."""
    return archive.with_name(archive.name + SUFFIX)


class Signer:
    """Signs archives.

    private_key : PEM file, not encrypted

    Raises ArchiveError for a file that is not such a key.
    """

    def __init__(self, private_key: Path) -> None:
        from model_signing import signing

        try:
            self._config = signing.Config().use_elliptic_key_signer(private_key=private_key)
        except OSError as error:
            raise ArchiveError(f"{private_key} cannot be read: {error.strerror}") from None
        # A TypeError is an encrypted key, an AttributeError one of another kind.
        except (ValueError, TypeError, AttributeError):
            raise ArchiveError(
                f"{private_key} is not {_KEYS} without a password; `openssl ecparam -name prime256v1 -genkey -noout` "
                "makes one"
            ) from None

    def sign(self, archive: Path) -> Path:
        """Write the signature of a .mar next to it, and return its path."""
        path = signature_of(archive)
        unfinished = path.with_suffix(".part")
        self._config.sign(archive.resolve(), unfinished)
        unfinished.replace(path)
        return path


class Verifier:
    """Checks the signatures of archives.

    public_key : PEM file

    Raises ArchiveError for a file that is not such a key.
    """

    def __init__(self, public_key: Path) -> None:
        from model_signing import hashing, verifying

        try:
            config = verifying.Config().use_elliptic_key_verifier(public_key=public_key)
        except OSError as error:
            raise ArchiveError(f"{public_key} cannot be read: {error.strerror}") from None
        except (ValueError, TypeError, AttributeError):
            raise ArchiveError(f"{public_key} is not the public part of {_KEYS}") from None
        # Not what the signature asks for: the sha256 of the whole file.
        self._config = config.set_hashing_config(hashing.Config().use_file_serialization())

    def check(self, archive: Path) -> None:
        """Raise ArchiveError unless this key has signed the archive as it is."""
        path = signature_of(archive)
        way_out = "sign it where it is built: `python -m export.package MODEL --sign KEY`"
        if not path.is_file():
            raise ArchiveError(
                f"{archive} has no signature ({path.name}), and only signed archives are served; {way_out}"
            )
        try:
            self._config.verify(archive.resolve(), path)
        # The signature may come from anybody, and the library passes on whatever its parsers raise.
        except Exception:  # noqa: BLE001
            raise ArchiveError(
                f"{archive} has been changed since it was signed, or {path.name} is damaged or by another key: get "
                f"both files again, or {way_out}"
            ) from None
