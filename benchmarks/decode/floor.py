"""The minimum times of a decoding step and of first tokens on a machine; as a program, what this machine is capable of.

python -m benchmarks.decode.floor
"""

import dataclasses
import json
from collections.abc import Mapping
from dataclasses import dataclass

from benchmarks.models.shapes import Shape, Work
from prelim.networks.machine import Machine, family, measure_machine


@dataclass(frozen=True)
class Cost:
    """Cost of one number in a precision.

    weight    : bytes of a weight; scales are counted only for 4 bits, where they are not negligible
    scores    : the same for the output layer
    key_value : bytes of an element of the KV cache
    """

    weight: float
    scores: float
    key_value: float


COSTS: Mapping[str, Cost] = {
    "fp32": Cost(4, 4, 4),
    "bf16": Cost(2, 2, 2),
    "int8": Cost(1, 1, 2),
    # Groups of 32 to 128 weights with a scale of 16 bits: that of 64 of `int4_dynamic`.
    "int4": Cost(0.5 + 1 / 32, 0.5 + 1 / 32, 2),
    # Blocks of 64 weights with one 8-bit scale; the output layer has 16 bits (Dettmers et al., QLoRA, 2023).
    "nf4": Cost(0.5 + 1 / 64, 2, 2),
}


@dataclass(frozen=True)
class Floor:
    """Minimum seconds, and the bound that applies: "bandwidth" or "arithmetic"."""

    seconds: float
    bound: str


def floor(shape: Shape, work: Work, machine: Machine, precision: str, *, images: int, beams: int, steps: int) -> Floor:
    """The floor of one step, averaged over `steps` steps after the prefix.

    Weights are read once for all rows, the prefix once for all beams of an image, later columns once per beam.
    """
    cost = COSTS[family(precision)]
    rows = images * beams
    prefix, image = _read_first(shape)
    # Each beam has one column before the first of these steps, and `steps` columns before the last.
    own = (steps + 1) / 2
    cache = images * (prefix * work.key_value + image * work.image_column) + rows * own * work.key_value
    moved = (work.matrix - work.scores) * cost.weight + work.scores * cost.scores + cache * cost.key_value
    # Each row: one multiplication and one addition for each weight and for each element of the cache that it reads.
    attended = (prefix + own) * work.key_value + image * work.image_column
    operations = 2 * rows * (work.matrix + attended)
    return _slower(machine, precision, moved, operations)


def first_token_floor(shape: Shape, work: Work, machine: Machine, precision: str, *, images: int) -> Floor:
    """The floor of the first tokens of images that enter together: their prefixes, of which the last rows are scored.

    Weights are read once for all of them.
    """
    cost = COSTS[family(precision)]
    prefix, image = _read_first(shape)
    moved = (work.matrix - work.scores + work.image_matrix) * cost.weight + work.scores * cost.scores
    # Every row looks at itself and those before it.
    attended = prefix * ((prefix + 1) / 2 * work.key_value + image * work.image_column)
    multiplied = prefix * (work.matrix - work.scores) + work.scores + image * work.image_matrix
    return _slower(machine, precision, moved, 2 * images * (multiplied + attended))


def _read_first(shape: Shape) -> tuple[int, int]:
    """Positions of the decoder before the first new token, and of the image that it looks at by cross-attention."""
    return (shape.image_tokens + shape.prompt, 0) if shape.is_prefix else (1, shape.image_tokens)


def _slower(machine: Machine, precision: str, moved: float, operations: float) -> Floor:
    """The time of so many bytes or of so many operations, whichever takes longer."""
    read, computed = moved / machine.bandwidth, operations / machine.rate(precision)
    return Floor(max(read, computed), "bandwidth" if read >= computed else "arithmetic")


if __name__ == "__main__":
    print(json.dumps(dataclasses.asdict(measure_machine())))
