"""Every limit on an image holds on both of its sides, and each default is the documented one."""

from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
from tifffile import TiffFile, TiffPage, TiffWriter

from prelim.errors import ArchiveError, InputError, Refused, TooLarge, UnreadableInput
from prelim.images import deep_raster
from prelim.images.deep_raster import DeepSamples, check_segments, check_supported, code, to_gray, turn
from prelim.images.input_config import Accepts, InputConfig, check_size
from prelim.images.png_chunks import MAX_CHUNKS, keep_picture
from tests.hostile_files import png_chunk


def test_defaults_are_the_documented_ones() -> None:
    """What a model.yaml without a section `input` accepts."""
    config = InputConfig()

    assert (config.modalities, config.render, config.burned_in) == (("CR", "DX", "RG"), "voi", "refuse")
    assert (config.max_bytes, config.max_pixels, config.max_cpu_seconds) == (64 * 1024 * 1024, 40_000_000, 1.8)
    assert config.accepts == Accepts(body_parts=None, views=None, sop_classes=None)


@pytest.mark.parametrize(
    ("name", "lowest", "highest", "refused"),
    [
        ("max_bytes", 1, 2**31, (0, -1, 2**31 + 1, 1.5, True, "1", None)),
        ("max_pixels", 1, 178_956_970, (0, 178_956_971, 1.5, True, None)),
        ("max_cpu_seconds", 0.1, 60, (0.09, 60.5, True, "1", None)),
    ],
)
def test_limits_of_the_configuration(name: str, lowest: Any, highest: Any, refused: tuple[Any, ...]) -> None:
    """Lowest and highest value are taken; others and other types are an ArchiveError that names the field."""
    for value in (lowest, highest):
        assert getattr(InputConfig(**{name: value}), name) == value
    for value in refused:
        with pytest.raises(ArchiveError, match=rf"input\.{name} is "):
            InputConfig(**{name: value})


@pytest.mark.parametrize(
    ("accepts", "message"),
    [
        ({"body_parts": []}, r"accepts\.body_parts is \[\]"),
        ({"views": ["PA", "pa"]}, r"accepts\.views has 'pa'"),
        ({"views": ["P" * 17]}, r"accepts\.views has"),
        ({"views": "PA"}, r"accepts\.views is 'PA'"),
        ({"views": [1]}, r"accepts\.views has 1"),
        ({"sop_classes": []}, r"accepts\.sop_classes is \[\]"),
        ({"sop_classes": "CTImageStorage"}, r"accepts\.sop_classes is 'CTImageStorage'"),
        ({"sop_classes": ["CTImageStorage", "NoSuchStorage"]}, "has 'NoSuchStorage'"),
        ({"sop_classes": ["ExplicitVRLittleEndian"]}, "has 'ExplicitVRLittleEndian'"),
        ({"sop_classes": [1]}, "has 1"),
        ({"organs": ["X"]}, "unknown key 'organs'; known: body_parts, views, sop_classes"),
        (["PA"], "allowed: a mapping"),
    ],
)
def test_what_a_model_accepts_is_checked(accepts: Any, message: str) -> None:
    """A list that no file could match is an ArchiveError."""
    with pytest.raises(ArchiveError, match=message):
        InputConfig(accepts=accepts)


def test_lists_of_yaml_become_tuples() -> None:
    """YAML has lists; the frozen settings have tuples."""
    config = InputConfig(
        modalities=["CR"],  # type: ignore[arg-type]
        accepts={"body_parts": ["CHEST"], "views": ["P" * 16], "sop_classes": ["CTImageStorage"]},  # type: ignore[arg-type]
    )

    assert config.modalities == ("CR",)
    assert config.accepts == Accepts(("CHEST",), ("P" * 16,), ("CTImageStorage",))


@pytest.mark.parametrize(
    ("rows", "columns", "error"),
    [
        (0, 40, UnreadableInput),
        (40, 0, UnreadableInput),
        (1, 1, Refused),
        (31, 40, Refused),
        (40, 31, Refused),
        (32, 32, None),
        (32, 160, None),
        (160, 32, None),
        (32, 161, Refused),
        (161, 32, Refused),
        (100, 100, None),
        (100, 101, TooLarge),
    ],
)
def test_sizes_of_images(rows: int, columns: int, error: type[InputError] | None) -> None:
    """At least 32 pixels a side, at most 5 : 1, at most max_pixels in all."""
    config = InputConfig(max_pixels=10_000)
    if error is None:
        check_size(rows, columns, config)
    else:
        with pytest.raises(error):
            check_size(rows, columns, config)


def page_of(tmp_path_factory: pytest.TempPathFactory, **options: Any) -> tuple[TiffPage, int]:
    """The page of a TIFF of 64 x 64 samples, and the size of the file."""
    path = tmp_path_factory.mktemp("tiff") / "image.tif"
    with TiffWriter(path) as writer:
        writer.write(np.arange(4096, dtype=np.uint16).reshape(64, 64), **options)
    with TiffFile(path) as file:
        page = file.pages.first
    assert isinstance(page, TiffPage)
    return page, path.stat().st_size


@pytest.mark.parametrize("options", [{"rowsperstrip": 1}, {"rowsperstrip": 64}, {"tile": (32, 32)}])
def test_segments_lie_within_the_file(
    options: dict[str, Any], tmp_path_factory: pytest.TempPathFactory, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The last byte of the last strip or tile is the last one allowed, and their number has a limit."""
    page, _ = page_of(tmp_path_factory, **options)
    end = max(offset + count for offset, count in zip(page.dataoffsets, page.databytecounts, strict=True))
    number = len(page.dataoffsets)

    check_segments(page, bytes(end))
    with pytest.raises(UnreadableInput, match="ends inside of a strip or tile"):
        check_segments(page, bytes(end - 1))
    monkeypatch.setattr(deep_raster, "MAX_SEGMENTS", number)
    check_segments(page, bytes(end))
    monkeypatch.setattr(deep_raster, "MAX_SEGMENTS", number - 1)
    with pytest.raises(UnreadableInput, match=f"has {number} strips or tiles"):
        check_segments(page, bytes(end))


def test_number_of_segments_has_a_limit() -> None:
    """A picture of max_pixels in tiles of 32 x 32 has 39,063 of them; at most 50,000 are read."""
    assert deep_raster.MAX_SEGMENTS == 50_000


@pytest.mark.parametrize("lacking", ["dataoffsets", "databytecounts"])
@pytest.mark.parametrize("change", [lambda values: (0, *values[1:]), lambda values: values[:-1]])
def test_lacking_segments_are_damage(lacking: str, change: Any, tmp_path_factory: pytest.TempPathFactory) -> None:
    """A strip without an offset or without bytes is damage."""
    page, size = page_of(tmp_path_factory, rowsperstrip=8)
    setattr(page, lacking, change(getattr(page, lacking)))

    with pytest.raises(UnreadableInput, match="lacks strips or tiles"):
        check_segments(page, bytes(size))


def test_luma_is_that_of_pillow() -> None:
    """Deep colors become 0.299 R + 0.587 G + 0.114 B, rounded; equal ones stay as they are (ITU-R 601-2)."""
    colors = np.array(
        [[[1000, 20000, 65535], [65535, 0, 0], [0, 65535, 0], [0, 0, 65535], [77, 77, 77]]], dtype=np.uint16
    )

    gray = to_gray(colors, None)[0]

    assert gray.tolist() == [19510, 19595, 38469, 7471, 77]
    floats = to_gray(np.array([[[1.0, 2.0, 3.0]]], dtype=np.float32), None)
    assert floats[0, 0] == pytest.approx(0.299 + 2 * 0.587 + 3 * 0.114)
    assert to_gray(np.array([[[10, 11, 13]]], dtype=np.int16), None)[0, 0] == 11  # 10.93


def test_alpha_lies_on_black() -> None:
    """Gray times alpha over 65535, rounded."""
    gray = np.array([[[60000, 65535], [60000, 32768], [60000, 0], [1, 40000]]], dtype=np.uint16)

    assert to_gray(gray, gray[..., 1])[0].tolist() == [60000, 30000, 0, 1]


@pytest.mark.parametrize(
    ("orientation", "expected"),
    [
        (0, "ab/cd"),
        (1, "ab/cd"),
        (2, "ba/dc"),
        (3, "dc/ba"),
        (4, "cd/ab"),
        (5, "ac/bd"),
        (6, "ca/db"),
        (7, "db/ca"),
        (8, "bd/ac"),
        (9, "ab/cd"),
    ],
)
def test_orientation(orientation: int, expected: str) -> None:
    """Exif 2.32 table 6: 6 and 8 are quarter turns, 2, 4, 5 and 7 are mirrored."""
    turned = turn(np.array([list("ab"), list("cd")]), orientation)

    assert "/".join("".join(row) for row in turned) == expected


def test_chunks_of_png() -> None:
    """Only chunks that decide the picture are kept; Exif is handed over if it is sound, and a cut chunk stays cut."""
    parts = [(b"IHDR", b"abc"), (b"tEXt", b"x"), (b"tRNS", b"t"), (b"eXIf", b"e"), (b"IDAT", b"data"), (b"XXXX", b"")]
    chunks = [png_chunk(kind, body) for kind, body in parts]
    signature = b"\x89PNG\r\n\x1a\n"
    data = signature + b"".join(chunks)

    assert keep_picture(data) == (signature + b"".join(chunks[i] for i in (0, 2, 4, 5)), b"e")
    assert keep_picture(data[:-18]) == (signature + (chunks[0] + chunks[2] + chunks[4])[:-6], b"e")
    damaged = chunks[3][:-1] + bytes([chunks[3][-1] ^ 1])
    assert keep_picture(signature + damaged) == (signature, b"")
    with pytest.raises(UnreadableInput, match="chunks"):
        keep_picture(signature + png_chunk(b"tEXt", b"") * (MAX_CHUNKS + 1))


def test_codes_are_named() -> None:
    """A code that tifffile knows has its name."""
    from tifffile import COMPRESSION

    assert (code(COMPRESSION.LERC), code(7)) == ("LERC (34887)", "7")


def test_samples_are_black_at_zero_unless_said() -> None:
    """White is zero only where the file says so."""
    assert not DeepSamples(np.zeros((1, 1))).white_is_zero


COMPRESSIONS = {
    # Baseline TIFF 6.0, Adobe's supplement and Zstandard; JPEG and CCITT have no deep samples.
    "shallow": (1, 2, 3, 4, 5, 7, 8, 32773, 32946, 50000),
    "deep": (1, 5, 8, 32773, 32946, 50000),
}


def kind_of_page(**changes: Any) -> Any:
    """What is read of a page of gray samples of 16 bits."""
    plain = {"compression": 1, "photometric": 1, "samplesperpixel": 1, "extrasamples": (), "dtype": "uint16"}
    return SimpleNamespace(**(plain | {"bitspersample": 16} | changes))


@pytest.mark.parametrize("depth", COMPRESSIONS)
def test_compressions_and_colors_that_are_read(depth: str) -> None:
    """Every one that the decoder has, and no other; of those before and after each too."""
    shallow = depth == "shallow"
    for number in {n + step for n in (*COMPRESSIONS["shallow"], 6, 34712, 34887) for step in (-1, 0, 1)}:
        if number in COMPRESSIONS[depth]:
            check_supported(kind_of_page(compression=number), shallow)
        else:
            with pytest.raises(Refused, match=f"has Compression {number}; allowed"):
                check_supported(kind_of_page(compression=number), shallow)
    for number in range(-1, 12):
        if number in ((0, 1, 2, 3, 5, 6) if shallow else (0, 1, 2)):
            check_supported(kind_of_page(photometric=number), shallow)
        else:
            with pytest.raises(Refused, match=f"has PhotometricInterpretation {number}; allowed"):
                check_supported(kind_of_page(photometric=number), shallow)


@pytest.mark.parametrize(
    ("changes", "refused"),
    [
        ({"samplesperpixel": 1}, None),
        ({"samplesperpixel": 2}, "2 samples a pixel"),
        ({"samplesperpixel": 3}, None),
        ({"samplesperpixel": 4}, "4 samples a pixel"),
        ({"samplesperpixel": 2, "extrasamples": (1,)}, None),
        ({"samplesperpixel": 4, "extrasamples": (2,)}, None),
        ({"samplesperpixel": 3, "extrasamples": (0, 0)}, "3 samples a pixel"),
        ({"samplesperpixel": 2, "extrasamples": (2,), "dtype": "float32"}, "an alpha channel of type float32"),
        ({"samplesperpixel": 2, "extrasamples": (1,), "dtype": "float32"}, None),
        ({"dtype": "float64"}, "samples of type float64"),
        ({"dtype": "uint64"}, "samples of type uint64"),
        ({"dtype": None, "bitspersample": 12}, "samples of type 12-bit"),
        *(({"dtype": name}, None) for name in ("uint16", "uint32", "int8", "int16", "int32", "float16", "float32")),
    ],
)
def test_samples_that_are_read(changes: dict[str, Any], refused: str | None) -> None:
    """One or three of a known type, and one alpha; Pillow decides on those of eight bits."""
    check_supported(kind_of_page(**changes), shallow=True)
    if refused is None:
        check_supported(kind_of_page(**changes), shallow=False)
    else:
        with pytest.raises(Refused, match=f"not supported: the TIFF image has {refused}; allowed"):
            check_supported(kind_of_page(**changes), shallow=False)
