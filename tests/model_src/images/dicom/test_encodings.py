"""How the elements of a data set are encoded, whatever the meta information says of it."""

import struct

import pytest

from prelim.errors import UnreadableInput
from prelim.images.dicom.structure import _bare_encoding, read_data_set
from prelim.images.dicom.transfer_syntax import EXPLICIT_BIG, EXPLICIT_LITTLE, IMPLICIT_LITTLE


def element(group: int, number: int, vr: str, value: bytes, *, implicit: bool = False, order: str = "<") -> bytes:
    """One element (PS3.5 7.1), with the VR or without."""
    tag = struct.pack(f"{order}HH", group, number)
    if implicit:
        return tag + struct.pack(f"{order}I", len(value)) + value
    if vr in ("OW", "OB"):
        return tag + vr.encode() + b"\0\0" + struct.pack(f"{order}I", len(value)) + value
    return tag + vr.encode() + struct.pack(f"{order}H", len(value)) + value


def data_set(*, implicit: bool, order: str = "<") -> bytes:
    """A modality and some pixels."""
    how = {"implicit": implicit, "order": order}
    return element(8, 0x60, "CS", b"CR", **how) + element(0x7FE0, 0x10, "OW", b"pixels", **how)


def file(syntax: str, body: bytes, *, implicit_meta: bool = False) -> bytes:
    """Preamble, transfer syntax, data set."""
    uid = syntax.encode()
    return bytes(128) + b"DICM" + element(2, 0x10, "UI", uid + b"\0" * (len(uid) % 2), implicit=implicit_meta) + body


@pytest.mark.parametrize("said", [EXPLICIT_LITTLE, IMPLICIT_LITTLE])
@pytest.mark.parametrize("implicit", [True, False])
@pytest.mark.parametrize("implicit_meta", [True, False])
def test_elements_tell_whether_they_have_a_vr(said: str, implicit: bool, implicit_meta: bool) -> None:
    """Files exist whose meta information contradicts their data set."""
    found = read_data_set(file(said, data_set(implicit=implicit), implicit_meta=implicit_meta), 10**6)

    assert (found.transfer_syntax, found.implicit, found.little_endian) == (said, implicit, True)


@pytest.mark.parametrize(
    ("implicit", "order", "syntax"),
    [(False, "<", EXPLICIT_LITTLE), (True, "<", IMPLICIT_LITTLE), (False, ">", EXPLICIT_BIG)],
)
def test_a_bare_data_set_tells_its_encoding(implicit: bool, order: str, syntax: str) -> None:
    """Without preamble and meta information its first element does."""
    found = read_data_set(data_set(implicit=implicit, order=order), 10**6)

    assert (found.transfer_syntax, found.implicit, found.little_endian) == (syntax, implicit, order == "<")


@pytest.mark.parametrize("said", [EXPLICIT_LITTLE, IMPLICIT_LITTLE, EXPLICIT_BIG])
@pytest.mark.parametrize("length", [1, 4, 7])
def test_a_beginning_of_an_element_is_damage(said: str, length: int) -> None:
    """Less than tag and length."""
    with pytest.raises(UnreadableInput, match="ends inside of an element"):
        read_data_set(file(said, b"\x08\0\x60\0CS\2\0"[:length]), 10**6)


@pytest.mark.parametrize("length", [8, 9, 11])
def test_a_beginning_of_a_long_element_is_damage(length: int) -> None:
    """Less than tag, VR and the length of four bytes that OB has (PS3.5 7.1.2)."""
    with pytest.raises(UnreadableInput, match="ends inside of an element"):
        read_data_set(file(EXPLICIT_LITTLE, b"\x08\0\x60\0OB\0\0\2\0\0\0"[:length]), 10**6)


@pytest.mark.parametrize(
    ("start", "syntax"),
    [
        # Explicit: group 0002 or 0008 in either order of bytes, and a VR.
        (b"\x08\0\x60\0CS\2\0CR", EXPLICIT_LITTLE),
        (b"\x02\0\0\0UL\4\0", EXPLICIT_LITTLE),
        (b"\0\x08\0\x60CS\0\2CR", EXPLICIT_BIG),
        (b"\0\x02\0\0UL\0\4", None),
        (b"\x08\0\x60\0XX\2\0CR", None),
        (b"\x09\0\x60\0CS\2\0CR", None),
        (b"\x08\0\x60\0CS\2", None),
        # Implicit: group 0008 up to element 0070, an even length up to 1024, and more to come.
        (b"\x08\0\x70\0\2\0\0\0CR\x08", IMPLICIT_LITTLE),
        (b"\x08\0\x70\0\0\0\0\0\x08", IMPLICIT_LITTLE),
        (b"\x08\0\x71\0\2\0\0\0CR\x08", None),
        (b"\x08\0\x60\1\2\0\0\0CR\x08", None),
        (b"\x09\0\x60\0\2\0\0\0CR\x08", None),
        (b"\x08\0\x60\0\3\0\0\0CR \x08", None),
        (b"\x08\0\x60\0\2\0\0\0CR", None),
        (b"\x08\0\x60\0\0\4\0\0" + bytes(1025), IMPLICIT_LITTLE),
        (b"\x08\0\x60\0\0\4\0\0" + bytes(1024), None),
        (b"\x08\0\x60\0\2\4\0\0" + bytes(1027), None),
        (b"\x08\0\x60\0\2\0\1\0" + bytes(70_000), None),
        # Meta information without a VR begins with its own length, of four bytes.
        (b"\2\0\0\0\4\0\0\0????\2\0", IMPLICIT_LITTLE),
        (b"\2\0\0\0\4\0\0\0????\3\0", None),
        (b"\2\0\0\0\5\0\0\0????\2\0", None),
    ],
)
def test_first_element_of_a_bare_data_set(start: bytes, syntax: str | None) -> None:
    """What is not the first element of a data set is another file's beginning."""
    assert _bare_encoding(start) == syntax
