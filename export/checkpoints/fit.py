"""Reports in the checkpoint's own names how it does not fit a system."""

import re
from collections.abc import Iterable

import torch
from torch import Tensor

from prelim.decoders.weights_file import Weights
from prelim.errors import ArchiveError
from prelim.networks.architectures import ARCHITECTURES
from prelim.networks.architectures.architecture import PARTS, Network, Published

COUNTER = ".num_batches_tracked"
_MOSTLY = 0.5
"""Share of a checkpoint's keys that must be those of another system to say that it is from that one."""


def check_system(system: str, published_keys: Iterable[str]) -> None:
    """Raise ArchiveError if more keys are those of another system."""
    keys = list(published_keys)
    counts = {name: sum(belongs(other.published, key) for key in keys) for name, other in ARCHITECTURES.items()}
    best = max(counts, key=lambda name: counts[name])
    if counts[best] > max(counts[system], _MOSTLY * len(keys)):
        raise ArchiveError(
            f"this is a checkpoint of {best}, not of {system}: {counts[best]} of its {len(keys)} keys are those of the "
            f"former, {counts[system]} those of the latter"
        )
    if keys and not counts[system]:
        raise ArchiveError(
            f"none of the {len(keys)} keys is that of {system} or of another system here; the first is {keys[0]}"
        )


def belongs(published: Published, key: str) -> bool:
    """Whether a published key is that of a part of this system, without the ones that systems share."""
    return published.our_key(key) != key and published.our_key(key).startswith(PARTS)


def missing_part(system: str, weights: Iterable[str], needed: str) -> ArchiveError:
    """The error for a checkpoint that lacks weights from which dimensions are inferred.

    needed : the first key of ours that is missing
    """
    published, names = ARCHITECTURES[system].published, _published_weights(system)
    there = {_general(name) for name in weights}
    parts = {
        needed.partition(".")[0],
        *(part[:-1] for part in PARTS if not any(name.startswith(part) for name in there)),
    }
    missing = [name for name in names if _general(name) not in there and name.partition(".")[0] in parts]
    missing = [name for name in missing if not name.endswith(COUNTER)] or [needed]
    return ArchiveError(
        f"the checkpoint lacks a part of {system}; missing, in the published size: "
        f"{', '.join(_collapse(published.published_key(name) for name in missing))}"
    )


def wrong_rank(system: str, weights: Weights, error: Exception) -> ArchiveError:
    """The error for weights from whose shapes dimensions cannot be inferred, which `error` says.

    The first one that has another number of dimensions than in the published size is named.
    """
    expected = _published_weights(system)
    for name, weight in weights.items():
        if name in expected and expected[name].ndim != len(weight.shape):
            published = ARCHITECTURES[system].published.published_key(name)
            return ArchiveError(
                f"{published} has shape {tuple(weight.shape)}, expected {expected[name].ndim} dimensions"
            )
    return ArchiveError(f"the shapes of the checkpoint's weights are not those of {system}: {error}")


def _published_weights(system: str) -> dict[str, Tensor]:
    """Names and shapes of a system's weights in its published size; the meta device allocates nothing."""
    architecture = ARCHITECTURES[system]
    with torch.device("meta"):
        return architecture.build(architecture.published.size).state_dict()


def check_fit(published: Published, network: Network, weights: Weights) -> None:
    """Raise ArchiveError that lists missing, unknown and mis-shaped keys."""
    expected = {name: tuple(tensor.shape) for name, tensor in network.state_dict().items()}
    found = {name: tuple(tensor.shape) for name, tensor in weights.items()}

    def theirs(names: Iterable[str]) -> str:
        return ", ".join(_collapse(published.published_key(name) for name in names))

    faults = []
    missing = [name for name in expected if name not in found]
    if missing:
        # Counters of batch norms are in no message: some formats have none, and they go with the other four.
        faults.append(f"missing: {theirs(name for name in missing if not name.endswith(COUNTER)) or theirs(missing)}")
    if unknown := [name for name in found if name not in expected]:
        faults.append(f"unknown: {theirs(unknown)}")
    faults += [
        f"{published.published_key(name)} has shape {found[name]}, expected {shape}"
        for name, shape in expected.items()
        if found.get(name, shape) != shape
    ]
    floats = {name for name, tensor in network.state_dict().items() if tensor.is_floating_point()}
    faults += [
        f"{published.published_key(name)} has the dtype {str(tensor.dtype).removeprefix('torch.')}, which needs scales "
        "that are not in the checkpoint; give the weights in 16 or 32 bits"
        for name, tensor in weights.items()
        if name in floats and not tensor.dtype.is_floating_point
    ]
    if faults:
        raise ArchiveError("the checkpoint does not fit the system. " + "; ".join(faults))


def _general(name: str) -> str:
    """A key without the numbers of its layers."""
    return re.sub(r"(?<=\.)\d+(?=\.)", "0", name)


def _collapse(names: Iterable[str]) -> list[str]:
    """Keys, those that differ in one number of a layer on one line: `layers.{0..31}.norm.weight`."""
    groups: dict[tuple[str, ...], list[list[int]]] = {}
    for name in names:
        parts = re.split(r"(?<=\.)(\d+)(?=\.)", name)
        groups.setdefault(tuple(parts[::2]), []).append([int(number) for number in parts[1::2]])
    return [_line(texts, numbers) for texts, numbers in groups.items()]


def _line(texts: tuple[str, ...], numbers: list[list[int]]) -> str:
    line = texts[0]
    for place, text in enumerate(texts[1:]):
        column = sorted({row[place] for row in numbers})
        whole = len(column) > 1 and column == list(range(column[0], column[-1] + 1))
        shown = f"{{{column[0]}..{column[-1]}}}" if whole else "{" + ",".join(map(str, column)) + "}"
        line += (str(column[0]) if len(column) == 1 else shown) + text
    return line
