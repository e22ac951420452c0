"""Removes the prefixes that training scripts put before the keys of a checkpoint."""

import re
from collections import defaultdict
from collections.abc import Callable, Iterable, Iterator, Mapping

from export.checkpoints.fit import belongs
from prelim.decoders.weights_file import Weights
from prelim.errors import ArchiveError
from prelim.networks.architectures import ARCHITECTURES
from prelim.networks.architectures.architecture import PARTS, Published

WRAPPERS = ("module.", "model.", "net.", "network.", "_forward_module.")
"""Prefixes of keys by DataParallel, AveragedModel and Lightning Fabric, and by modules of training scripts."""

_DEEPEST = 3
"""Most wrappers around one another."""

_INNER_WRAPPERS = re.compile(r"(?<![^.])(_orig_mod|_fsdp_wrapped_module|_checkpoint_wrapped_module)\.")
"""Parts of keys by torch.compile, FSDP and activation checkpointing, which are the names of no layer."""

_PARALLEL = ".module."

_COPY = 0.5
"""Share of the network's keys that a second set of weights has at least."""


def unwrap(published: Published, label: str, tensors: Weights, assume: Callable[[str], None]) -> Weights:
    """Remove the prefixes of wrappers from keys, where more keys are then those of the system.

    Where the keys are those of several networks under different prefixes, as of a model and its moving average, only
    one is returned.

    label  : of the source
    assume : called with the prefix of the weights that are taken, if there are others

    Raises ArchiveError if there are several, and none has a usual prefix.
    """
    inner = {_INNER_WRAPPERS.sub("", key): value for key, value in tensors.items()}
    tensors = inner if len(inner) == len(tensors) else tensors
    sets = _sets(published, tensors)
    prefix, copies = _choose(label, sets)
    if copies:
        assume(f"the weights under {_named(prefix)} of {label}; it has others under {', '.join(map(_named, copies))}")
        tensors = {key: value for key, value in tensors.items() if not _is_copy(key, prefix, copies, sets)}
    most = 2 * len(sets.get(prefix, ())) >= len(tensors)
    if not _is_usual(prefix) and most and not _is_another(tensors):
        tensors = _strip(tensors, prefix)
    # The first of those that are equal has the fewest wrappers removed.
    best = max(_candidates(tensors, _DEEPEST), key=lambda weights: sum(published.knows(key) for key in weights))
    return _unwrap_parts(best)


def _unwrap_parts(weights: Weights) -> Weights:
    """Remove `module.` from parts that DataParallel has wrapped, `encoder.module.0.weight`.

    Such a part has nothing else: its copy, such as an average, is next to the weights that it was copied from.
    """
    wrapped = {key.partition(_PARALLEL)[0] for key in weights if _PARALLEL in key}
    whole = [part for part in wrapped if all(_PARALLEL in key for key in weights if key.startswith(f"{part}."))]
    stripped = {
        key.replace(_PARALLEL, ".", 1) if key.partition(_PARALLEL)[0] in whole else key: value
        for key, value in weights.items()
    }
    return stripped if len(stripped) == len(weights) else weights


def _candidates(weights: Weights, depth: int) -> Iterator[Weights]:
    yield weights
    for wrapper in WRAPPERS if depth else ():
        if any(key.startswith(wrapper) for key in weights):
            unwrapped = _strip(weights, wrapper)
            if unwrapped is not weights:
                yield from _candidates(unwrapped, depth - 1)


def _strip(weights: Weights, prefix: str) -> Weights:
    """The weights without a prefix; as they are if two keys would become one."""
    stripped = {key.removeprefix(prefix): value for key, value in weights.items()}
    return stripped if len(stripped) == len(weights) else weights


def _sets(published: Published, keys: Iterable[str]) -> dict[str, set[str]]:
    """Prefix of up to _DEEPEST parts -> what the keys of the system's parts that it begins are without it."""
    sets: dict[str, set[str]] = defaultdict(set)
    for key in keys:
        parts = key.split(".")
        for depth in range(min(_DEEPEST, len(parts) - 1) + 1):
            rest = ".".join(parts[depth:])
            if published.our_key(rest).startswith(PARTS):
                sets[key.removesuffix(rest)].add(rest)
    return sets


def _choose(label: str, sets: Mapping[str, set[str]]) -> tuple[str, list[str]]:
    """The prefix of the network's keys, and those of its copies."""
    size = max((len(keys) for keys in sets.values()), default=0)
    most = [prefix for prefix, keys in sets.items() if len(keys) == size]
    if not most:
        return "", []
    usual = [prefix for prefix in most if _is_usual(prefix)]
    prefix = min(usual or most, key=lambda one: (one.count("."), one))
    found = sets[prefix]
    copies = sorted(
        other for other, keys in sets.items() if other != prefix and keys <= found and len(keys) >= _COPY * size
    )
    if copies and not usual:
        raise ArchiveError(
            f"{label} has weights under {', '.join(map(_named, sorted([prefix, *copies])))}, and none of these is a "
            "usual name; save one of them alone"
        )
    return prefix, copies


def _named(prefix: str) -> str:
    return repr(prefix) if prefix else "no prefix"


def _is_usual(prefix: str) -> bool:
    return all(f"{part}." in WRAPPERS for part in prefix.split(".")[:-1])


def _is_copy(key: str, prefix: str, copies: Iterable[str], sets: Mapping[str, set[str]]) -> bool:
    """Whether a key is that of a copy, or of what a wrapper of copies has besides, such as a counter."""
    if not prefix and key in sets[""]:
        return False
    for copy in copies:
        outer = f"{copy.split('.')[0]}."
        start = copy if prefix.startswith(outer) else outer
        if key in sets[""] if not copy else key.startswith(start):
            return not (prefix.startswith(start) and key.startswith(prefix))
    return False


def _is_another(weights: Weights) -> bool:
    """Whether at least half of the keys are, as they are, those of a system."""
    return any(
        2 * sum(belongs(architecture.published, key) for key in weights) >= len(weights)
        for architecture in ARCHITECTURES.values()
    )
