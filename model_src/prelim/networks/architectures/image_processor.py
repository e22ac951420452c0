"""Section `preprocess` of model.yaml from the preprocessor_config.json of an image processor in `transformers`."""

import math
from collections.abc import Collection, Mapping, Sequence
from typing import Any

from prelim.errors import ArchiveError
from prelim.networks.architectures.architecture import Section
from prelim.networks.architectures.facts import Facts
from prelim.networks.architectures.settings_check import is_count

CLIP = ("CLIPImageProcessor", "CLIPFeatureExtractor", "LlavaImageProcessor")
OF_TOWERS = (*CLIP, "SiglipImageProcessor", "BitImageProcessor")
GEMMA3 = ("Gemma3ImageProcessor",)
VIT = ("ViTImageProcessor", "ViTFeatureExtractor", "DeiTImageProcessor", "DeiTFeatureExtractor")
BIT = ("BitImageProcessor",)
BLIP = ("BlipImageProcessor",)
"""Classes of processors, also with the ending `Fast` or `Pil`."""

_INTERPOLATIONS = {2: "bilinear", 3: "bicubic"}
"""Numbers of Pillow's filters."""

_CROPPING = ("CLIP", "Llava", "Bit", "DeiT")
"""Beginnings of the classes that crop unless the settings say otherwise."""

_PADDING = "Llava"
"""Beginning of the class that can pad to a square in the color of the mean."""

_EDGE = ("CLIP", "Llava", "Bit", "Siglip")
"""Beginnings of the classes for which a size of one number is that of the shorter edge; for others it is a square."""

_SIZES, _SIZE = {"DeiT": 256, "Blip": 384}, 224
"""Beginnings of classes -> the size that transformers takes for a file without one, and that of other classes."""

_HALF = {"mean": [0.5, 0.5, 0.5], "std": [0.5, 0.5, 0.5]}
_OF_CLIP = {
    "mean": [0.48145466, 0.4578275, 0.40821073],
    "std": [0.26862954, 0.26130258, 0.27577711],
    "interpolation": "bicubic",
}
_DEFAULTS: Mapping[str, Section] = {
    **dict.fromkeys(("CLIP", "Llava", "Bit", "Blip"), _OF_CLIP),
    **{start: {**_HALF, "interpolation": "bicubic"} for start in ("Siglip", "DeiT")},
    **{start: {**_HALF, "interpolation": "bilinear"} for start in ("ViT", "Gemma3")},
}
"""Beginnings of classes -> what transformers takes for settings that a file lacks."""

_CLASS = ("image_processor_type", "feature_extractor_type")
_READ = {
    *("size", "crop_size", "resample", "image_mean", "image_std", "rescale_factor"),
    *("do_resize", "do_center_crop", "do_rescale", "do_normalize", "do_pad"),
}
_NEUTRAL = {
    *(*_CLASS, "processor_class", "do_convert_rgb", "_valid_processor_keys", "data_format", "input_data_format"),
    *("device", "return_tensors", "disable_grouping", "default_to_square", "image_seq_length", "_commit_hash"),
    "transformers_version",
}
"""Settings that do not change the pixel values of an RGB image."""


def read_processor(
    side: int, published: Section, facts: Facts, *, classes: Sequence[str] = CLIP, crop: bool = True
) -> Section:
    """Section `preprocess`, exactly as the settings say; what they lack is recorded as assumed.

    side      : pixels of the square that the vision tower takes
    published : the section of the published model
    classes   : of processors that are allowed
    crop      : whether the processor crops if the settings name neither that nor a class

    Raises ArchiveError naming the setting that is not supported.
    """
    stored = facts.preprocessor
    if not stored:
        return {**published, "size": side}
    name = check_class(stored, classes)
    published = {**published, **next((own for start, own in _DEFAULTS.items() if name.startswith(start)), {})}
    cropping = {} if crop and not name else {"do_center_crop": name.startswith(_CROPPING)}
    square = _flag("default_to_square", stored.get("default_to_square", not (name.startswith(_EDGE) if name else crop)))
    check_read(stored, _READ)
    padding = _flag("do_pad", stored.get("do_pad") or False)
    if padding and not name.startswith(_PADDING):
        raise unsupported("do_pad", True, "false")
    cropped = _stored_flag("do_center_crop", {**cropping, **stored})
    cropped = _flag("do_center_crop", facts.value("preprocess.do_center_crop", True, stored=cropped))
    levels = read_levels(published, facts, padding=padding)
    return {
        **published,
        "size": side,
        **_geometry(side, stored, facts, crop=cropped, square=square, name=name),
        **({"resize": "pad_mean"} if padding else {}),
        **levels,
    }


def check_read(stored: Mapping[str, Any], known: Collection[str]) -> None:
    """Raise ArchiveError for a setting that neither is known nor changes nothing."""
    for setting, value in stored.items():
        if setting not in known and setting not in _NEUTRAL and value not in (None, False):
            raise unsupported(setting, value, "leave it out")


def read_levels(published: Section, facts: Facts, *, padding: bool = False) -> Section:
    """`interpolation`, `mean` and `std`, for pixels that are scaled to [0, 1]; the processor must resize.

    padding : it pads in a color

    Raises ArchiveError naming the setting that is not supported.
    """
    stored = facts.preprocessor
    flags = {
        flag: _flag(flag, facts.value(f"preprocess.{flag}", True, stored=_stored_flag(flag, stored)))
        for flag in ("do_resize", "do_rescale", "do_normalize")
    }
    if not flags["do_resize"]:
        raise unsupported("do_resize", False, "true")
    resample = stored.get("resample")
    interpolation = facts.value(
        "preprocess.interpolation",
        published["interpolation"],
        stored=None if resample is None else _choice("resample", resample, _INTERPOLATIONS),
    )
    mean, std = (_channels(values, published[values], facts) for values in ("mean", "std"))
    if min(std) <= 0:
        raise unsupported("image_std", std, "numbers above 0")
    if padding and not flags["do_normalize"]:
        raise unsupported("do_normalize", False, "true with do_pad")
    if not flags["do_normalize"]:
        mean, std = [0.0] * 3, [1.0] * 3
    # Pixels are scaled to [0, 1] here, by the published factor.
    factor = facts.value("preprocess.rescale_factor", 1 / 255, stored=stored.get("rescale_factor"))
    if isinstance(factor, bool) or not isinstance(factor, int | float) or not 0 < factor < math.inf:
        raise unsupported("rescale_factor", factor, "a number above 0")
    scale = 255 * factor if flags["do_rescale"] else 255.0
    if not math.isclose(scale, 1, rel_tol=1e-6):
        if padding:
            raise unsupported("do_pad", True, "false with another scale")
        mean, std = [value / scale for value in mean], [value / scale for value in std]
    return {"interpolation": interpolation, "mean": mean, "std": std}


def processed_side(facts: Facts, classes: Sequence[str], default: Any) -> int:
    """Pixels of the square that a processor makes, for an encoder that takes any; `default` without a processor.

    Raises ArchiveError naming the setting that is not a square.
    """
    stored = facts.preprocessor
    cropped = stored.get("do_center_crop", check_class(stored, classes).startswith(_CROPPING))
    name = "crop_size" if cropped else "size"
    size = stored.get(name, default)
    sides = set(size.values()) if isinstance(size, Mapping) else {size}
    if len(sides) != 1 or not all(map(is_count, sides)):
        raise unsupported(name, size, "one number, or height and width that are equal")
    side: int = sides.pop()
    return side


def _geometry(side: int, stored: Mapping[str, Any], facts: Facts, *, crop: bool, square: bool, name: str) -> Section:
    """`resize` and `resize_to`; `square` says what a size of one number is."""
    default = next((edge for start, edge in _SIZES.items() if name.startswith(start)), _SIZE)
    size = facts.value("preprocess.resize_to", default, stored=stored.get("size"))
    if is_count(size):
        size = {"height": size, "width": size} if square else {"shortest_edge": size}
    if not isinstance(size, Mapping):
        raise unsupported("size", size, "shortest_edge, or height and width")
    size = {name: edge for name, edge in size.items() if edge is not None}
    edges = set(size.values())
    square = size.keys() == {"height", "width"}
    if not (square or size.keys() == {"shortest_edge"}) or len(edges) != 1 or not all(map(is_count, edges)):
        raise unsupported("size", size, "shortest_edge, or height and width that are equal")
    edge = edges.pop()
    if crop:
        cropped = facts.value("preprocess.crop_size", side, stored=stored.get("crop_size"))
        if isinstance(cropped, Mapping):
            there = {name: value for name, value in cropped.items() if value is not None}
            sides = set(there.values()) if there.keys() == {"height", "width"} else set()
        else:
            sides = {cropped} if is_count(cropped) else set()
        if sides != {side}:
            raise unsupported("crop_size", cropped, f"height and width of {side}, which the vision tower takes")
    elif not square:
        raise unsupported("do_center_crop", False, "true, or a size with height and width")
    if edge < side or (not crop and edge != side):
        raise unsupported("size", size, f"{'at least ' if crop else ''}{side}, which the vision tower takes")
    return {"resize": "stretch" if square else "shortest_edge", **({"resize_to": edge} if edge != side else {})}


def check_class(stored: Mapping[str, Any], classes: Sequence[str]) -> str:
    """The class that the settings name; empty if they name none. Raises ArchiveError if it is not allowed."""
    names = {key: str(stored[key]).removesuffix("Fast").removesuffix("Pil") for key in _CLASS if stored.get(key)}
    for key, name in names.items():
        if name not in classes:
            raise unsupported(key, stored[key], ", ".join(classes))
    return next(iter(names.values()), "")


def _stored_flag(name: str, stored: Mapping[str, Any]) -> Any:
    """A switch of the settings; None if they lack it."""
    if name in stored and stored[name] is None:
        # Versions of transformers differ in what this means.
        raise unsupported(name, None, "true, false")
    return stored.get(name)


def _flag(name: str, value: Any) -> bool:
    if not isinstance(value, bool):
        raise unsupported(name, value, "true, false")
    return value


def _choice(name: str, value: Any, allowed: Mapping[int, str]) -> str:
    if isinstance(value, bool) or not isinstance(value, int) or value not in allowed:
        raise unsupported(name, value, ", ".join(map(str, allowed)))
    return allowed[value]


def _channels(name: str, published: Any, facts: Facts) -> list[float]:
    """One number for each channel; a single one is that of all three."""
    value = facts.value(f"preprocess.{name}", published, stored=facts.preprocessor.get(f"image_{name}"))
    values = [value] * 3 if isinstance(value, int | float) else value
    if (
        not isinstance(values, list)
        or len(values) != 3
        or any(isinstance(one, bool) or not isinstance(one, int | float) or not math.isfinite(one) for one in values)
    ):
        raise unsupported(f"image_{name}", value, "3 numbers")
    return values


def unsupported(name: str, value: Any, allowed: str) -> ArchiveError:
    """The error for a setting."""
    return ArchiveError(f"preprocessor_config.json has {name} = {value!r}; supported: {allowed}")
