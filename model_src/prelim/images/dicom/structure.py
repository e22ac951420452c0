"""Is a DICOM file safe to parse: its skeleton of tags and lengths, walked without reading a value.

pydicom recurses once per nested sequence, inflates without a limit and keeps every element: 20 000 nested sequences,
0.9 MB that inflate to 900 MB, or 64 MB of empty elements stop a server. What passes here is parsed by pydicom.
"""

from __future__ import annotations

import zlib
from dataclasses import dataclass
from struct import Struct

from prelim.errors import TooLarge, UnreadableInput
from prelim.images.dicom.transfer_syntax import (
    EXPLICIT_BIG,
    EXPLICIT_LITTLE,
    IMPLICIT_BIG_PIXELS,
    IMPLICIT_LITTLE,
    INFLATED,
)

PREAMBLE = 128
UNDEFINED = 0xFFFFFFFF
ITEM, ITEM_END, SEQUENCE_END = 0xFFFEE000, 0xFFFEE00D, 0xFFFEE0DD
PIXEL_DATA = 0x7FE00010
# SEQUENCE_END with its length, as it follows the last fragment.
DELIMITER = b"\xfe\xff\xdd\xe0\0\0\0\0"
TRANSFER_SYNTAX = 0x00020010

# The only sequences that are read; pydicom leaves every other one of defined length unparsed.
LUT_SEQUENCES = (0x00283000, 0x00283010)

# A radiograph of the largest vendors' stations has a few hundred elements and sequences four deep.
MAX_ELEMENTS = 50_000
MAX_DEPTH = 32

# PS3.5 table 7.1-1: after these a reserved field and a length of four bytes.
LONG_VRS = frozenset(b"OB OD OF OL OV OW SQ SV UC UN UR UT UV".split())
# Replaces a damaged VR; the value is read by the VR of the dictionary.
UNKNOWN_VR = b"ZZ"
SHORT_VRS = frozenset(b"AE AS AT CS DA DS DT FD FL IS LO LT PN SH SL SS ST TM UI UL US".split())


@dataclass(frozen=True)
class DataSet:
    """The data set of a DICOM file, inflated and truncated after Pixel Data, so that nothing in it is unchecked."""

    transfer_syntax: str
    implicit: bool
    little_endian: bool
    body: bytes

    @property
    def little_endian_pixels(self) -> bool:
        """Whether the words of native Pixel Data are little endian."""
        return self.little_endian and self.transfer_syntax != IMPLICIT_BIG_PIXELS


@dataclass
class _Element:
    tag: int
    vr: bytes
    length: int
    start: int


def looks_like_dicom(data: bytes) -> bool:
    """Whether the bytes are a DICOM file, or a DICOM data set without preamble and meta information."""
    return data[PREAMBLE : PREAMBLE + 4] == b"DICM" or _bare_encoding(data) is not None


def _bare_encoding(data: bytes) -> str | None:
    """The transfer syntax of a data set that starts with group 0002 or 0008, or None if it does not."""
    if len(data) < 8:
        return None
    is_explicit = data[4:6] in LONG_VRS or data[4:6] in SHORT_VRS
    if data[:2] in (b"\x02\x00", b"\x08\x00") and is_explicit:
        return EXPLICIT_LITTLE
    if data[:2] == b"\x00\x08" and is_explicit:
        return EXPLICIT_BIG
    # Meta information without a VR, which the standard does not allow: it begins with its own length (PS3.10 7.1).
    if data[:8] == b"\x02\0\0\0\x04\0\0\0" and data[12:14] == b"\x02\0":
        return IMPLICIT_LITTLE
    # Without a VR only the first elements of group 0008 and a short even length tell a data set from chance.
    element, length = int.from_bytes(data[2:4], "little"), int.from_bytes(data[4:8], "little")
    if data[:2] == b"\x08\x00" and element <= 0x70 and length <= 1024 and length % 2 == 0 and len(data) > 8 + length:
        return IMPLICIT_LITTLE
    return None


def read_data_set(data: bytes, max_bytes: int) -> DataSet:
    """Check the skeleton of a DICOM file and return its data set.

    Raises UnreadableInput (400) for lengths beyond the end and for sequences nested too deep, TooLarge (413) for
    too many elements and for a deflated data set of more than `max_bytes`.
    """
    start = PREAMBLE + 4 if data[PREAMBLE : PREAMBLE + 4] == b"DICM" else 0
    syntax, start = _read_meta(data, start)
    body = _inflate(data, start, max_bytes) if syntax in INFLATED else data[start:]
    if not syntax:
        syntax = _bare_encoding(body) or IMPLICIT_LITTLE
    little = syntax != EXPLICIT_BIG
    # Files exist whose data set is implicit although their meta information says otherwise.
    implicit = syntax == IMPLICIT_LITTLE if len(body) < 8 else not _has_vr(body, 0)
    walk = _Walk(body, implicit, little)
    end = walk.to_end_of_pixel_data()
    # pydicom looks for the delimiter. Whether a picture without one is whole, its codestream tells.
    return DataSet(syntax, implicit, little, walk.repaired(end) + (b"" if walk.is_delimited else DELIMITER))


def _read_meta(data: bytes, position: int) -> tuple[str, int]:
    """The transfer syntax ("" if there is none) and where the data set starts (PS3.10 7.1)."""
    syntax = ""
    walk = _Walk(data, implicit=False, little=True)
    for _ in range(MAX_ELEMENTS):
        if data[position : position + 2] != b"\x02\x00":
            break
        element = walk.read_element(position, implicit=not _has_vr(data, position))
        position = element.start + element.length
        if element.tag == TRANSFER_SYNTAX:
            syntax = data[element.start : position].decode("ascii", "replace").strip("\x00 ")
    return syntax, position


def _has_vr(data: bytes, position: int) -> bool:
    """Whether two capitals follow the tag."""
    return all(0x41 <= byte <= 0x5A for byte in data[position + 4 : position + 6])


def _is_lower(data: bytes, position: int) -> bool:
    """Whether two small letters follow the tag."""
    return all(0x61 <= byte <= 0x7A for byte in data[position + 4 : position + 6])


def _inflate(data: bytes, start: int, max_bytes: int) -> bytes:
    """Inflate at most `max_bytes` (PS3.5 A.5: RFC 1951 without a header)."""
    inflater = zlib.decompressobj(-zlib.MAX_WBITS)
    try:
        body = inflater.decompress(data[start:], max_bytes + 1)
    except zlib.error:
        raise UnreadableInput("the deflated data set cannot be inflated: it is damaged; send it again") from None
    if len(body) > max_bytes:
        raise TooLarge(
            f"the deflated data set inflates to more than {max_bytes} bytes; "
            "send it as Explicit VR Little Endian, or set input.max_bytes in model.yaml"
        )
    if not inflater.eof:
        raise UnreadableInput("the deflated data set ends early: it is truncated; send it again")
    return body


class _Walk:
    """One pass over tags and lengths; recursion is a list, so depth costs nothing and is counted."""

    def __init__(self, data: bytes, implicit: bool, little: bool) -> None:
        self.data = data
        self.implicit = implicit
        self.is_delimited = True
        # Where a VR is damaged -> what to put there.
        self.vrs: dict[int, bytes] = {}
        order = "<" if little else ">"
        self.pair = Struct(order + "HH").unpack_from
        self.long = Struct(order + "L").unpack_from
        self.short = Struct(order + "H").unpack_from

    def read_element(self, position: int, implicit: bool) -> _Element:
        """Read tag, VR and length at `position` and check that the value lies within the data."""
        data = self.data
        if position + 8 > len(data):
            raise UnreadableInput("the DICOM file ends inside of an element: it is truncated; send it again")
        group, number = self.pair(data, position)
        tag, vr, start = group << 16 | number, data[position + 4 : position + 6], position + 8
        if not implicit and group != 0xFFFE and not _has_vr(data, position):
            vr = self._damaged_vr(position, tag)
            implicit = not vr
        if implicit or group == 0xFFFE:
            vr, length = b"", self.long(data, position + 4)[0]
        elif vr in LONG_VRS:
            if position + 12 > len(data):
                raise UnreadableInput("the DICOM file ends inside of an element: it is truncated; send it again")
            length, start = self.long(data, position + 8)[0], position + 12
        else:
            length = self.short(data, position + 6)[0]
        if length != UNDEFINED and start + length > len(data):
            raise UnreadableInput(
                f"({group:04X},{number:04X}) has a length of {length} bytes; {len(data) - start} remain in the file: "
                "it is truncated or damaged; send it again"
            )
        return _Element(tag, vr, length, start)

    def _damaged_vr(self, position: int, tag: int) -> bytes:
        """What to take for a VR that is not two capitals, or b"" if the element is one without a VR.

        Some writers switch to implicit VR inside of a data set, others leave the VR blank or write small letters.
        Which it is, the next element tells.
        """
        found = self.data[position + 4 : position + 6]
        vr = found.upper()
        if vr not in LONG_VRS and vr not in SHORT_VRS:
            vr = UNKNOWN_VR
        start = position + (12 if vr in LONG_VRS else 8)
        if start > len(self.data):
            return b""
        length = self.long(self.data, start - 4)[0] if vr in LONG_VRS else self.short(self.data, start - 2)[0]
        if not (vr in LONG_VRS and length == UNDEFINED) and not self._has_element(start + length, tag, found):
            return b""
        self.vrs[position + 4] = vr
        return vr

    def _has_element(self, position: int, tag: int, vr: bytes) -> bool:
        """Whether the data end here, or an element with a higher tag (PS3.5 7.1) and a VR follows.

        vr : damaged, as other elements of the file may have it
        """
        if position + 8 > len(self.data):
            return position == len(self.data)
        group, number = self.pair(self.data, position)
        explicit = _has_vr(self.data, position) or self.data[position + 4 : position + 6].lower() in (vr.lower(), b"  ")
        return group == 0xFFFE or (group << 16 | number > tag and (explicit or _is_lower(self.data, position)))

    def repaired(self, end: int) -> bytes:
        """The data up to here, with VRs that pydicom can read."""
        if not self.vrs:
            return self.data[:end]
        data = bytearray(self.data[:end])
        for position, vr in self.vrs.items():
            data[position : position + 2] = vr
        return bytes(data)

    def to_end_of_pixel_data(self) -> int:
        """Where Pixel Data of the top level ends, or the end of the data set if it has none."""
        # Every open sequence or item: where it ends (None: at its delimiter) and whether its elements have no VR.
        levels: list[tuple[int | None, bool]] = []
        position, number = 0, 0
        while True:
            while levels and levels[-1][0] is not None and position >= levels[-1][0]:
                levels.pop()
            if not levels and position >= len(self.data):
                return position
            number += 1
            if number > MAX_ELEMENTS or len(levels) > MAX_DEPTH:
                raise self._excess(number)
            element = self.read_element(position, levels[-1][1] if levels else self.implicit)
            if element.tag == PIXEL_DATA and element.length == UNDEFINED:
                position = self._skip_fragments(element.start)
            elif element.tag in (ITEM_END, SEQUENCE_END):
                position = element.start
                if levels:
                    levels.pop()
            elif self._opens_level(element):
                position = element.start
                end = None if element.length == UNDEFINED else position + element.length
                levels.append((end, self._level_is_implicit(position, levels)))
            else:
                position = element.start + element.length
            if element.tag == PIXEL_DATA and not levels:
                return position

    def _opens_level(self, element: _Element) -> bool:
        return element.length == UNDEFINED or element.tag in (ITEM, *LUT_SEQUENCES)

    def _level_is_implicit(self, position: int, levels: list[tuple[int | None, bool]]) -> bool:
        """Whether the elements that follow have no VR; some writers switch to implicit inside of sequences."""
        outer = levels[-1][1] if levels else self.implicit
        if outer or position + 8 > len(self.data) or self.pair(self.data, position)[0] == 0xFFFE:
            return outer
        return not _has_vr(self.data, position)

    def _skip_fragments(self, position: int) -> int:
        """Where encapsulated pixel data end (PS3.5 A.4)."""
        for _ in range(MAX_ELEMENTS):
            if not self.data[position : position + 8].strip(b"\0"):
                # The end of the file, or zeros that fill it up.
                self.is_delimited = False
                return position
            element = self.read_element(position, implicit=True)
            if element.tag == SEQUENCE_END:
                return element.start
            if element.tag != ITEM or element.length == UNDEFINED:
                raise UnreadableInput("(7FE0,0010) Pixel Data has fragments that are not items: it is damaged")
            position = element.start + element.length
        raise self._excess(MAX_ELEMENTS + 1)

    def _excess(self, number: int) -> TooLarge | UnreadableInput:
        if number > MAX_ELEMENTS:
            return TooLarge(f"the DICOM file has more than {MAX_ELEMENTS} elements; send the radiograph alone")
        return UnreadableInput(f"the DICOM file nests sequences more than {MAX_DEPTH} deep: it is damaged")
