"""Whether Pixel Data are compressed, by their bytes and their length."""

import pytest
from pydicom.dataelem import RawDataElement
from pydicom.tag import Tag

from prelim.images.dicom import pixels
from prelim.images.dicom.encapsulated import Samples
from prelim.images.dicom.structure import DELIMITER, UNDEFINED, DataSet
from prelim.images.dicom.transfer_syntax import ENCAPSULATED_UNCOMPRESSED, EXPLICIT_LITTLE
from prelim.images.dicom.values import RawValue
from tests.model_src.images.dicom.test_header_values import header

NEEDED = 48 * 40 * 2
FRAME = b"\xff\xd8\xff\xe0coded"
ITEMS = b"\xfe\xff\0\xe0\0\0\0\0\xfe\xff\0\xe0\x0a\0\0\0" + FRAME + b"\0"


@pytest.mark.parametrize(
    ("value", "undefined", "read"),
    [
        (b"\1" * NEEDED, False, "native"),
        (b"\1" * (NEEDED - 2), False, "native"),
        (b"\1" * (NEEDED + 2), False, "native"),
        # As long as samples are, whatever they begin with.
        (ITEMS.ljust(NEEDED, b"\0"), False, "native"),
        (ITEMS.ljust(NEEDED + 1, b"\0"), False, "native"),
        (FRAME.ljust(NEEDED, b"\0"), False, "native"),
        (FRAME.ljust(NEEDED + 2, b"\0"), False, "native"),
        (ITEMS.ljust(NEEDED - 1, b"\0"), False, "items"),
        (ITEMS.ljust(NEEDED + 2, b"\0"), False, "items"),
        (FRAME.ljust(NEEDED - 1, b"\0"), False, "frame"),
        (ITEMS + DELIMITER, True, "items"),
        (FRAME, True, "items"),
        (ITEMS.ljust(NEEDED, b"\0"), True, "items"),
    ],
)
@pytest.mark.parametrize("syntax", [EXPLICIT_LITTLE, ENCAPSULATED_UNCOMPRESSED])
def test_what_pixel_data_hold(
    monkeypatch: pytest.MonkeyPatch, value: bytes, undefined: bool, read: str, syntax: str
) -> None:
    """A codestream, alone or in items, in fewer or more bytes than its samples have; else the samples."""
    asked: list[tuple[str, bytes]] = []

    def decode(stream: bytes, *_: object) -> Samples:
        asked.append(("coded", stream))
        return None  # type: ignore[return-value]

    def native(raw: RawValue, *_: object) -> Samples:
        asked.append(("native", raw.data))
        return None  # type: ignore[return-value]

    monkeypatch.setattr(pixels, "decode_encapsulated", decode)
    monkeypatch.setattr(pixels, "read_native", native)
    length = UNDEFINED if undefined else len(value)
    element = RawDataElement(Tag(0x7FE00010), "OB", length, value, 0, False, True)

    pixels.read_samples(element, DataSet(syntax, False, True, b""), header())

    joined = pixels.join_fragments(value)
    expected = {
        "native": ("native", value),
        "frame": ("coded", value),
        "items": ("coded" if syntax == EXPLICIT_LITTLE else "native", joined),
    }
    assert asked == [expected[read]]
