"""Section `preprocess` of model.yaml from the image processor of Qwen2-VL, which keeps a picture's aspect."""

from collections.abc import Mapping
from typing import Any

from prelim.networks.architectures.architecture import Section
from prelim.networks.architectures.facts import Facts
from prelim.networks.architectures.image_processor import check_class, check_read, read_levels, unsupported

CLASSES = ("Qwen2VLImageProcessor", "Qwen2_5_VLImageProcessor")
"""Of processors, also with the ending `Fast` or `Pil`; the second name was that of a version before it was released."""

_EDGES = {"min_pixels": "shortest_edge", "max_pixels": "longest_edge"}
"""What they are called in the setting `size`, although they are areas."""

_SIDES = ("patch_size", "merge_size", "temporal_patch_size")
_READ = {
    *("size", *_EDGES, *_SIDES, "resample", "image_mean", "image_std", "rescale_factor"),
    *("do_resize", "do_rescale", "do_normalize"),
}


def read_grid_processor(published: Section, facts: Facts, sides: Mapping[str, int]) -> Section:
    """Section `preprocess`, exactly as the settings say; what they lack is recorded as assumed.

    published : what transformers takes for settings that a file lacks
    sides     : patch_size, merge_size and temporal_patch_size of the weights

    Raises ArchiveError naming the setting that is not supported.
    """
    stored = facts.preprocessor
    unit = {"size": sides["patch_size"] * sides["merge_size"]}
    if not stored:
        areas = {name: facts.value(f"preprocess.{name}", published[name]) for name in _EDGES}
        return {**published, **unit, **areas}
    check_class(stored, CLASSES)
    check_read(stored, _READ)
    for name in _SIDES:
        if stored.get(name, sides[name]) != sides[name]:
            raise unsupported(name, stored[name], f"{sides[name]}, which the weights have")
    return {**published, **unit, **_areas(stored, published, facts), **read_levels(published, facts)}


def _areas(stored: Mapping[str, Any], published: Section, facts: Facts) -> dict[str, Any]:
    """`min_pixels` and `max_pixels`: their own settings come before those in `size`."""
    size = stored.get("size")
    if size is not None and not isinstance(size, Mapping):
        raise unsupported("size", size, "shortest_edge and longest_edge")
    found = {}
    for name, edge in _EDGES.items():
        own = stored.get(name)
        if size is not None:
            # Older versions repeat them in `size` under their own names.
            unknown = sorted(
                {*size} - {*_EDGES.values(), *(other for other in _EDGES if stored.get(other) is not None)}
            )
            if unknown or (own is None and size.get(edge) is None) or size.get(name, own) != own:
                raise unsupported("size", dict(size), "shortest_edge and longest_edge")
            own = size[edge] if own is None else own
        if own is not None and (isinstance(own, bool) or not isinstance(own, int) or own < 1):
            raise unsupported(name, own, "a number of pixels")
        found[name] = facts.value(f"preprocess.{name}", published[name], stored=own)
    return found
