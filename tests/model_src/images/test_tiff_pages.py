"""What a TIFF page must say and have, tag by tag; and samples of 16 bits on black, rounded."""

from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest

from prelim.errors import Refused, UnreadableInput
from prelim.images import deep_raster
from prelim.images.deep_raster import check_segments, check_supported, is_beyond_pillow, to_gray, turn

PAGE = {
    "compression": 1, "photometric": 1, "bitspersample": 16, "samplesperpixel": 1, "extrasamples": (),
    "dtype": np.uint16, "predictor": 1,
}  # fmt: skip


def page(**changes: Any) -> Any:
    """A gray page of 16 bits."""
    return SimpleNamespace(**(PAGE | changes))


@pytest.mark.parametrize(
    ("changes", "shallow", "found"),
    [
        ({}, False, None),
        ({"compression": 50000}, False, None),
        ({"compression": 7}, False, "Compression 7"),
        ({"compression": 7, "bitspersample": 8}, True, None),
        ({"compression": 34887}, True, "Compression 34887; allowed: none, LZW"),
        ({"photometric": 0}, False, None),
        ({"photometric": 2, "samplesperpixel": 3}, False, None),
        ({"photometric": 3}, False, "PhotometricInterpretation 3; allowed: gray, RGB"),
        ({"photometric": 3, "bitspersample": 8}, True, None),
        ({"photometric": 4}, True, "PhotometricInterpretation 4"),
        *(
            ({"bitspersample": bits}, True, f"samples of {bits} bits; allowed: 1, 2, 4, 8, 16, 32")
            for bits in (3, 5, 6, 7)
        ),
        *(({"bitspersample": bits}, True, None) for bits in (1, 2, 4, 8)),
        ({"bitspersample": 17}, False, "samples of 17 bits; allowed: 16, 32"),
        ({"bitspersample": 31}, False, "samples of 31 bits; allowed: 16, 32"),
        ({"bitspersample": 32, "dtype": np.uint32}, False, None),
        ({"bitspersample": 64, "dtype": np.float64}, False, "samples of type float64"),
        ({"bitspersample": 12, "dtype": None}, False, "samples of type 12-bit"),
        ({"samplesperpixel": 2, "extrasamples": (2,)}, False, None),
        ({"samplesperpixel": 4, "extrasamples": (2,)}, False, None),
        ({"samplesperpixel": 2}, False, "2 samples a pixel; allowed: 1 or 3, and alpha"),
        ({"samplesperpixel": 4}, False, "4 samples a pixel"),
        ({"samplesperpixel": 3, "extrasamples": (2, 0)}, False, "3 samples a pixel"),
        ({"samplesperpixel": 5, "extrasamples": (2,), "bitspersample": 8}, True, None),
        ({"samplesperpixel": 2, "extrasamples": (2,), "dtype": np.int16}, False, "an alpha channel of type int16"),
        ({"samplesperpixel": 2, "extrasamples": (1,), "dtype": np.int16}, False, None),
    ],
)
def test_what_a_page_says(changes: dict[str, Any], shallow: bool, found: str | None) -> None:
    """The first thing that is not read is named, with what is allowed."""
    if found is None:
        check_supported(page(**changes), shallow)
    else:
        with pytest.raises(Refused, match=f"^not supported: the TIFF image has {found}"):
            check_supported(page(**changes), shallow)


@pytest.mark.parametrize(
    ("changes", "big", "order", "beyond"),
    [
        ({"bitspersample": 8}, False, "<", False),
        ({"bitspersample": 8, "predictor": 2}, False, "<", True),
        ({"bitspersample": 8, "predictor": 2, "compression": 32773}, False, "<", True),
        ({"bitspersample": 8, "predictor": 2, "compression": 5}, False, "<", False),
        ({"bitspersample": 8}, True, ">", True),
        ({"bitspersample": 8}, True, "<", False),
        ({"bitspersample": 8}, False, ">", False),
        ({"bitspersample": 16, "predictor": 2}, True, ">", False),
    ],
)
def test_pages_that_pillow_does_not_read(changes: dict[str, Any], big: bool, order: str, beyond: bool) -> None:
    """Of 8 bits: a predictor without LZW or Deflate, and BigTIFF of big endian."""
    assert is_beyond_pillow(SimpleNamespace(is_bigtiff=big, byteorder=order), page(**changes)) is beyond  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("offsets", "counts", "chunked", "message"),
    [
        ((8, 12), (4, 8), (2, 1), None),
        ((8, 12, 0), (4, 8, 0), (2, 1), "lacks strips"),
        ((8, 12, 9), (4, 8, 1), (2, 1), None),
        ((8, 12), (4, 9), (2, 1), "ends inside of a strip"),
        ((8, 12), (4, 8), (3, 1), "lacks strips"),
        ((8, 12), (4,), (2, 1), "lacks strips"),
        ((0, 12), (4, 8), (2, 1), "lacks strips"),
        ((1, 12), (1, 8), (2, 1), None),
        ((8, 12), (4, 0), (2, 1), "lacks strips"),
        ((8, 12, 13, 14), (1,) * 4, (2, 1), "has 4 strips or tiles; allowed: 3"),
    ],
)
def test_strips_lie_within_the_file(
    monkeypatch: pytest.MonkeyPatch,
    offsets: tuple[int, ...],
    counts: tuple[int, ...],
    chunked: Any,
    message: str | None,
) -> None:
    """Up to its last byte, each with some, as many as the picture needs, and at most so many."""
    assert deep_raster.MAX_SEGMENTS == 50_000
    monkeypatch.setattr(deep_raster, "MAX_SEGMENTS", 3)
    strips = page(dataoffsets=offsets, databytecounts=counts, chunked=chunked)
    if message is None:
        check_segments(strips, bytes(20))
    else:
        with pytest.raises(UnreadableInput, match=message):
            check_segments(strips, bytes(20))


@pytest.mark.parametrize(
    ("value", "alpha", "gray"),
    [
        (1, 32768, 1),
        (1, 32767, 0),
        (65535, 32767, 32767),
        (60000, 65535, 60000),
        (65535, 0, 0),
        (3, 10922, 0),
        (3, 10923, 1),
    ],
)
def test_alpha_is_rounded_to_the_nearest(value: int, alpha: int, gray: int) -> None:
    """Of the product by 65535, with or without color."""
    opacity = np.full((1, 2), alpha, dtype=np.uint16)
    for number in (1, 3):
        channels = np.full((1, 2, number), value, dtype=np.uint16)
        assert to_gray(channels, opacity).tolist() == [[gray, gray]]
        assert to_gray(channels, None).tolist() == [[value, value]]


@pytest.mark.parametrize(
    ("orientation", "first"),
    [(1, 0), (2, 2), (3, 5), (4, 3), (5, 0), (6, 3), (7, 5), (8, 2), (0, 0), (9, 0), ("6", 0), (None, 0)],
)
def test_orientations_by_hand(orientation: object, first: int) -> None:
    """Exif 2.32 4.6.4: which sample comes first; a value that is not defined changes nothing."""
    turned = turn(np.array([[0, 1, 2], [3, 4, 5]]), orientation)
    assert turned[0, 0] == first
    assert turned.shape == ((3, 2) if orientation in (5, 6, 7, 8) else (2, 3))
    assert turned.flags.c_contiguous
