"""Fonts of the PDF, embedded as far as they are used, so that every viewer shows the same text.

DejaVu Sans has Latin, Greek, Cyrillic and more, IPAex Gothic has Japanese; a site adds fonts for other scripts.
"""

import functools
from collections.abc import Iterable
from importlib.util import find_spec
from itertools import groupby
from pathlib import Path
from xml.sax.saxutils import escape

from reportlab.pdfbase import pdfmetrics
from reportlab.pdfbase.ttfonts import TTFError, TTFont

from bridge.configuration.section import ConfigError

BUNDLED = (("matplotlib", "mpl-data/fonts/ttf/DejaVuSans.ttf"), ("matplotlib_fontja", "fonts/ipaexg.ttf"))
UNKNOWN = "\N{REPLACEMENT CHARACTER}"


@functools.cache
def load_fonts(further: tuple[Path, ...]) -> tuple[TTFont, ...]:
    """Return the fonts, in the order in which they are asked for a character: the bundled ones, then further files.

    Raises ConfigError for a file that is not a TrueType font.
    """
    fonts = []
    for number, path in enumerate((*map(_find, BUNDLED), *further)):
        try:
            font = TTFont(f"draft{number}", path)
        except (TTFError, OSError):
            raise ConfigError(f"report.fonts: {path} is not a TrueType font with outlines in `glyf`") from None
        pdfmetrics.registerFont(font)
        fonts.append(font)
    return tuple(fonts)


def mark_up(text: str, fonts: Iterable[TTFont]) -> str:
    """Return reportlab's markup of a text: every character in the first font that has it.

    A character that no font has is shown as U+FFFD: a reader must see that something is missing.
    """
    fonts = tuple(fonts)
    chosen = [(_font_of(character, fonts), character) for character in text]
    chosen = [(font, character) if font else (fonts[0], UNKNOWN) for font, character in chosen]
    parts = []
    for font, run in groupby(chosen, key=lambda pair: pair[0]):
        words = escape("".join(character for _, character in run)).replace("\n", "<br/>")
        parts.append(f'<font name="{font.fontName}">{words}</font>')
    return "".join(parts)


def _font_of(character: str, fonts: tuple[TTFont, ...]) -> TTFont | None:
    if character.isspace():
        return fonts[0]
    return next((font for font in fonts if ord(character) in font.face.charToGlyph), None)


def _find(place: tuple[str, str]) -> Path:
    """Return a file of a package, without importing it: these import matplotlib and change its settings."""
    package, file = place
    spec = find_spec(package)
    if spec is None or not spec.submodule_search_locations:
        raise ConfigError(f"report.pdf needs the package {package}, which the extra `bridge` has")
    return Path(spec.submodule_search_locations[0]) / file
