"""Pictures that are not radiographs, drawn or from installed packages, to measure what an input gate lets through.

Every picture follows from the seed: the figures of a model card can be measured again.
"""

from collections.abc import Callable, Iterator, Mapping
from pathlib import Path

import matplotlib as mpl
import numpy as np
import pywt.data
from PIL import Image, ImageDraw, ImageFont
from PIL.Image import Transpose

from prelim.images.input_config import MIN_SIDE

SIDE = 256
SEED = 20261128

_PROSE = """
the of and to in is that for it as was with be by on not he his but at are this have from or had an they which one you
were all her she there would their we him been has when who will more no if out so said what up its about into than
them can only other time new some could these two may then do first any my now such like our over man
"""
WORDS = _PROSE.split()

Random = np.random.Generator
Draw = Callable[[Random], Image.Image]


def _gray(values: np.ndarray) -> Image.Image:
    """A picture of any numbers, shape (rows, columns), from the smallest as black to the largest as white."""
    low, high = float(values.min()), float(values.max())
    return Image.fromarray(np.rint(255 * (values - low) / (high - low)).astype(np.uint8))


def _font(random: Random, smallest: int = 8, largest: int = 28) -> ImageFont.FreeTypeFont:
    names = ("DejaVuSans.ttf", "DejaVuSerif.ttf", "DejaVuSansMono.ttf", "DejaVuSans-Bold.ttf", "STIXGeneral.ttf")
    path = Path(mpl.get_data_path(), "fonts", "ttf", str(random.choice(names)))
    return ImageFont.truetype(str(path), int(random.integers(smallest, largest)))


def _shades(random: Random) -> tuple[int, int]:
    """Background and ink: dark on light or light on dark."""
    light, dark = int(random.integers(190, 256)), int(random.integers(0, 70))
    return (light, dark) if random.random() < 0.75 else (dark, light)


def draw_text(random: Random) -> Image.Image:
    """A page of text."""
    paper, ink = _shades(random)
    page = Image.new("L", (SIDE, int(SIDE * random.uniform(0.8, 1.4))), paper)
    pen, font = ImageDraw.Draw(page), _font(random)
    left, top = random.integers(2, 30, 2).tolist()
    height = int(font.size * random.uniform(1.1, 1.6))
    for y in range(top, page.height - height, height):
        words = random.choice(WORDS, int(random.integers(1, 14)))
        pen.text((left, y), " ".join(words.tolist()), fill=ink, font=font)
    return page


def draw_noise(random: Random) -> Image.Image:
    """Noise: of single pixels, of blocks, of lines, or with a spectrum that falls like that of clouds."""
    kind = int(random.integers(4))
    if kind == 0:
        return _gray(random.normal(size=(SIDE, SIDE)))
    if kind == 1:
        side = int(random.integers(4, 40))
        return _gray(random.random((side, side))).resize((SIDE, SIDE), Image.Resampling.NEAREST)
    if kind == 2:
        return _gray(np.repeat(random.random((SIDE, 1)), SIDE, axis=1) + 0.3 * random.random((SIDE, SIDE)))
    across = np.hypot(np.fft.fftfreq(SIDE)[:, None], np.fft.fftfreq(SIDE)[None])
    across[0, 0] = np.inf
    waves = np.fft.fft2(random.normal(size=(SIDE, SIDE))) / across ** random.uniform(0.8, 2.0)
    return _gray(np.fft.ifft2(waves).real)


def draw_pattern(random: Random) -> Image.Image:
    """A regular pattern: chessboard, stripes, rings, gradient."""
    y, x = np.mgrid[:SIDE, :SIDE] / SIDE
    periods, phase, angle = random.uniform(1, 24), random.uniform(0, 6), random.uniform(0, np.pi)
    along = x * np.cos(angle) + y * np.sin(angle)
    kind = int(random.integers(4))
    if kind == 0:
        squares = int(random.integers(2, 20))
        return _gray((np.floor(squares * x) + np.floor(squares * y)) % 2)
    if kind == 1:
        return _gray(np.sin(2 * np.pi * periods * along + phase))
    if kind == 2:
        return _gray(np.sin(2 * np.pi * periods * np.hypot(x - random.random(), y - random.random()) + phase))
    return _gray((along - along.min()) ** random.uniform(0.5, 2))


def draw_chart(random: Random) -> Image.Image:
    """A chart: axes with lines, bars, dots or a pie."""
    paper, ink = _shades(random)
    page = Image.new("L", (SIDE, SIDE), paper)
    pen, font = ImageDraw.Draw(page), _font(random, 8, 13)
    kind, count = int(random.integers(4)), int(random.integers(3, 12))
    if kind == 3:
        ends = np.cumsum(random.dirichlet(np.ones(count))) * 360
        for start, end in zip([0, *ends[:-1]], ends, strict=True):
            pen.pieslice((48, 48, 208, 208), start, end, fill=int(random.integers(256)), outline=ink)
        return page
    pen.line((30, 20, 30, 226, 240, 226), fill=ink)
    for i in range(5):
        pen.text((6, 220 - 45 * i), str(i * count), fill=ink, font=font)
        pen.line((27, 226 - 45 * i, 30, 226 - 45 * i), fill=ink)
    places = np.linspace(40, 230, count)
    values = 226 - random.uniform(5, 190, (int(random.integers(1, 4)), count))
    for row in values:
        shade, points = int(random.integers(256)), list(zip(places.tolist(), row.tolist(), strict=True))
        if kind == 0:
            pen.line(points, fill=ink, width=int(random.integers(1, 4)))
        for x, y in points:
            if kind == 1:
                pen.rectangle((x - 6, min(y, 225), x + 6, 226), fill=shade, outline=ink)
            elif kind == 2:
                pen.ellipse((x - 3, y - 3, x + 3, y + 3), fill=shade, outline=ink)
    return page


def draw_shapes(random: Random) -> Image.Image:
    """A drawing: filled shapes of several shades over each other."""
    page = Image.new("L", (SIDE, SIDE), int(random.integers(256)))
    pen = ImageDraw.Draw(page)
    for _ in range(int(random.integers(2, 25))):
        shade, (left, top) = int(random.integers(256)), random.integers(-40, SIDE, 2).tolist()
        width, height = random.integers(8, 140, 2).tolist()
        box = (left, top, left + width, top + height)
        kind = int(random.integers(4))
        if kind == 0:
            pen.ellipse(box, fill=shade)
        elif kind == 1:
            pen.rectangle(box, fill=shade)
        elif kind == 2:
            pen.polygon([(int(x), int(y)) for x, y in random.integers(0, SIDE, (3, 2))], fill=shade)
        else:
            pen.line([(int(x), int(y)) for x, y in random.integers(0, SIDE, (4, 2))], fill=shade, width=width // 8 + 1)
    return page


def draw_window(random: Random, inside: Image.Image | None = None) -> Image.Image:
    """A screenshot of a program: title, menu, buttons and a panel with a picture or with text.

    inside : the picture; None for text
    """
    paper, ink = _shades(random)
    page = Image.new("L", (SIDE * 4 // 3, SIDE), paper)
    pen, font = ImageDraw.Draw(page), _font(random, 8, 12)
    pen.rectangle((0, 0, page.width, 16), fill=int(random.integers(256)))
    pen.text((6, 2), " ".join(random.choice(WORDS, 4).tolist()), fill=ink, font=font)
    for i in range(int(random.integers(3, 8))):
        pen.text((6 + 44 * i, 19), str(random.choice(WORDS)), fill=ink, font=font)
    side = int(random.integers(40, 90))
    for y in range(40, page.height - 20, 22):
        pen.rectangle((4, y, side - 6, y + 17), fill=int(random.integers(256)), outline=ink)
        pen.text((8, y + 2), str(random.choice(WORDS)), fill=ink, font=font)
    box = (side, 36, page.width - 6, page.height - 16)
    if inside is None:
        pen.rectangle(box, outline=ink)
        for y in range(box[1] + 4, box[3] - 12, 14):
            pen.text((side + 5, y), " ".join(random.choice(WORDS, 9).tolist()), fill=ink, font=font)
        return page
    pen.rectangle(box, fill=0)
    shown = inside.convert("L")
    shown.thumbnail((box[2] - box[0], box[3] - box[1]))
    page.paste(shown, ((box[0] + box[2] - shown.width) // 2, box[1]))
    for corner in ((side + 3, 38), (side + 3, page.height - 32)):
        pen.text(corner, " ".join(random.choice(WORDS, 2).tolist()), fill=255, font=font)
    return page


def read_photographs() -> list[Image.Image]:
    """The photographs that installed packages have: three of PyWavelets, one of Matplotlib."""
    photographs = [
        Image.fromarray(np.asarray(read(), dtype=np.uint8))
        for read in (
            pywt.data.aero,
            pywt.data.ascent,
            pywt.data.camera,
        )
    ]
    hopper = Path(mpl.get_data_path(), "sample_data", "grace_hopper.jpg")
    return [*photographs, Image.open(hopper).convert("L")]


def draw_photograph(random: Random) -> Image.Image:
    """A part of a photograph, at least a quarter of it, perhaps mirrored, with its own brightness."""
    photographs = read_photographs()
    photograph = photographs[int(random.integers(len(photographs)))]
    width, height = (int(side * random.uniform(0.5, 1)) for side in photograph.size)
    left, top = int(random.integers(photograph.width - width + 1)), int(random.integers(photograph.height - height + 1))
    part = photograph.crop((left, top, left + width, top + height))
    if random.random() < 0.5:
        part = part.transpose(Transpose.FLIP_LEFT_RIGHT)
    part.thumbnail((SIDE, SIDE))
    gamma = random.uniform(0.6, 1.6)
    return part.point([round(255 * (i / 255) ** gamma) for i in range(256)])


FOREIGN: Mapping[str, tuple[Draw, int]] = {
    "page of text": (draw_text, 50),
    "noise": (draw_noise, 50),
    "pattern": (draw_pattern, 40),
    "chart": (draw_chart, 40),
    "drawing": (draw_shapes, 40),
    "screenshot without a radiograph": (draw_window, 30),
    "photograph": (draw_photograph, 50),
}
"""Kind of picture -> how one is drawn, and how many are: 300."""


def write_foreign_images(folder: Path) -> dict[str, list[Path]]:
    """Draw the pictures of FOREIGN as PNG files."""
    return {
        kind: _write(folder, kind, (draw(random) for random in _randoms(kind, count)))
        for kind, (draw, count) in FOREIGN.items()
    }


def _invert(picture: Image.Image, _: Random) -> Image.Image:
    return picture.point([255 - i for i in range(256)])


def _crop(picture: Image.Image, random: Random) -> Image.Image:
    """A quarter of the picture's area, as far as that is large enough to be read."""
    width, height = (min(side, max(side // 2, MIN_SIDE)) for side in picture.size)
    left, top = int(random.integers(picture.width - width + 1)), int(random.integers(picture.height - height + 1))
    return picture.crop((left, top, left + width, top + height))


def _add_noise(picture: Image.Image, random: Random) -> Image.Image:
    """Noise of a third of the range of gray levels."""
    values = np.asarray(picture, dtype=np.float64)
    return Image.fromarray((values + random.normal(0, 85, values.shape)).clip(0, 255).astype(np.uint8))


def _photograph_screen(picture: Image.Image, random: Random) -> Image.Image:
    """As a telephone sees a screen: tilted, with the screen's grid, a reflection, a dark border, uneven light."""
    width, height = picture.size
    border = int(max(picture.size) * random.uniform(0.05, 0.2))
    desk = Image.new("L", (width + 2 * border, height + 2 * border), int(random.integers(20, 200)))
    frame = ImageDraw.Draw(desk)
    frame.rectangle((border // 2, border // 2, desk.width - border // 2, desk.height - border // 2), fill=10)
    desk.paste(picture, (border, border))
    corners = np.array([(0, 0), (0, desk.height), (desk.width, desk.height), (desk.width, 0)], dtype=np.float64)
    corners += random.uniform(-0.06, 0.06, (4, 2)) * max(desk.size)
    tilted = desk.transform(desk.size, Image.Transform.QUAD, corners.ravel().tolist(), Image.Resampling.BILINEAR)
    y, x = np.mgrid[: desk.height, : desk.width] / max(desk.size)
    grid = 1 + 0.08 * np.sin(2 * np.pi * random.uniform(40, 90) * x) * np.sin(2 * np.pi * random.uniform(40, 90) * y)
    light = random.uniform(0.5, 0.9) + 0.4 * (x * random.uniform(-1, 1) + y * random.uniform(-1, 1))
    glare = 90 * random.random() * np.exp(-40 * ((x - random.random()) ** 2 + (y - random.random()) ** 2))
    values = np.asarray(tilted, dtype=np.float64) * grid * light + glare
    return Image.fromarray((values + random.normal(0, 4, values.shape)).clip(0, 255).astype(np.uint8))


ALTERED: Mapping[str, Callable[[Image.Image, Random], Image.Image]] = {
    "mirrored": lambda picture, _: picture.transpose(Transpose.FLIP_LEFT_RIGHT),
    "rotated by 90 degrees": lambda picture, _: picture.transpose(Transpose.ROTATE_90),
    "rotated by 180 degrees": lambda picture, _: picture.transpose(Transpose.ROTATE_180),
    "inverted": _invert,
    "a quarter cut out": _crop,
    "screenshot of a viewer": lambda picture, random: draw_window(random, picture),
    "telephone photograph of a screen": _photograph_screen,
    "heavy noise": _add_noise,
}
"""What can be wrong with a radiograph of the right kind -> picture of it."""


def write_altered_images(folder: Path, originals: Mapping[Path, Image.Image]) -> dict[str, list[Path]]:
    """Alter radiographs in every way of ALTERED: PNG files, by kind in the order of the originals."""
    return {
        kind: _write(
            folder,
            kind,
            (
                alter(picture, random)
                for picture, random in zip(originals.values(), _randoms(kind, len(originals)), strict=True)
            ),
        )
        for kind, alter in ALTERED.items()
    }


def _randoms(kind: str, count: int) -> Iterator[Random]:
    """A generator for each picture, so that more kinds or pictures do not change the others."""
    return (np.random.default_rng([SEED, *kind.encode(), i]) for i in range(count))


def _write(folder: Path, kind: str, pictures: Iterator[Image.Image]) -> list[Path]:
    paths = []
    for i, picture in enumerate(pictures):
        paths.append(folder / f"{kind.replace(' ', '_')}_{i:03}.png")
        picture.save(paths[-1])
    return paths
