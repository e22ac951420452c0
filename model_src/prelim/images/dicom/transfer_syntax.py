"""Transfer Syntax UIDs: what they say of the data set and of its pixels, and names for those that are not read here."""

from __future__ import annotations

from pydicom.uid import UID

from prelim.errors import Refused
from prelim.images.decoder_fence import fence

IMPLICIT_LITTLE = "1.2.840.10008.1.2"
EXPLICIT_LITTLE = "1.2.840.10008.1.2.1"
ENCAPSULATED_UNCOMPRESSED = "1.2.840.10008.1.2.1.98"
DEFLATED = "1.2.840.10008.1.2.1.99"
EXPLICIT_BIG = "1.2.840.10008.1.2.2"
RLE = "1.2.840.10008.1.2.5"

# General Electric's: Implicit VR Little Endian, but the words of Pixel Data are big endian.
IMPLICIT_BIG_PIXELS = "1.2.840.113619.5.2"

# PS3.5 A.6 and A.7: the pixels are somewhere else.
JPIP = frozenset(f"1.2.840.10008.1.2.4.{number}" for number in (94, 95, 204, 205))
INFLATED = frozenset((DEFLATED, "1.2.840.10008.1.2.4.95", "1.2.840.10008.1.2.4.205"))

NATIVE = frozenset(
    (IMPLICIT_LITTLE, EXPLICIT_LITTLE, ENCAPSULATED_UNCOMPRESSED, DEFLATED, EXPLICIT_BIG, IMPLICIT_BIG_PIXELS)
)

# Of the standard, but younger than the dictionary of pydicom (PS3.6 table A-1).
YOUNG_NAMES = {
    "1.2.840.10008.1.2.4.110": "JPEG XL Lossless",
    "1.2.840.10008.1.2.4.111": "JPEG XL JPEG Recompression",
    "1.2.840.10008.1.2.4.112": "JPEG XL",
    "1.2.840.10008.1.2.8.1": "Deflated Image Frame Compression",
}
STANDARD_ROOT = "1.2.840.10008."


def is_known(syntax: str) -> bool:
    """Whether this is a transfer syntax of the standard, or a private one that is read here."""
    if syntax in YOUNG_NAMES or syntax in NATIVE:
        return True
    with fence("a UID"):
        return UID(syntax).is_transfer_syntax


def unsupported(syntax: str) -> Refused:
    """The error for a transfer syntax that is not read here, by its name.

    Only the root of a private UID is repeated, which is its vendor's; any more could name a patient's image.
    """
    tag = "(0002,0010) Transfer Syntax UID"
    way_out = "let the PACS decode it and send Explicit VR Little Endian"
    if not is_known(syntax):
        private = not syntax.startswith(STANDARD_ROOT)
        root = ".".join(syntax.split(".")[:4]) + "..." if private and syntax.count(".") >= 4 else ""
        kind = f"private ({root}) and unknown" if root else "private and unknown" if private else "not in the standard"
        return Refused(f"transfer_syntax: not supported: {tag} is {kind}; {way_out}")
    with fence("a UID"):
        name = YOUNG_NAMES.get(syntax) or UID(syntax).name
    return Refused(f"transfer_syntax: not supported: {name} ({syntax}), which {tag} says; {way_out}")
