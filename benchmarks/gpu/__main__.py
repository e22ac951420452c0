"""Check decoding on a GPU: token ids, time of a step, share of the memory's bandwidth. See benchmarks/gpu_check.sh.

    benchmarks/gpu_check.sh                                         # everything, in less than 8 minutes
    benchmarks/gpu_check.sh --shapes biogpt --points 1x3 --out out/gpu.json
    DEVICE=cpu benchmarks/gpu_check.sh --shapes tiny-biogpt tiny-llama   # without a GPU: only that it runs
    benchmarks/gpu_check.sh --vision archive/vision.onnx            # an encoder too, where onnxruntime-gpu is installed

Prints a table, and the same as JSON in the last line. The exit code is 1 when ours and `generate` decode different
token ids in fp32, which is checked at the tiny shapes and at that of BioGPT.
"""

import gc
import json
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
import transformers

from benchmarks.decode.point import Point
from benchmarks.gpu.encoder import encoder
from benchmarks.gpu.pair import SHAPES, ModelPair
from benchmarks.gpu.timing import attention, copied_per_second, steps
from terminal.arguments import CommandLine, positive

EXACT = ("tiny-biogpt", "tiny-llama", "biogpt")
"""Shapes whose token ids are compared in fp32."""

TIMED = ("biogpt", "llama2-7b")
POINTS = ("1x1", "1x3", "4x3", "8x5")
TRANSFORMERS = 5
"""The first major version whose models are read."""


def exact(shape: str, device: torch.device, points: Sequence[Point], new_tokens: int) -> dict[str, Any]:
    """Whether ours, captured and not, writes the token ids of `generate`, in fp32."""
    pair = ModelPair(shape, "fp32", device)
    found = {}
    for point in points:
        wanted = pair.generate(point, new_tokens)
        ours = [pair.decode(pair.engine(d, point), point, new_tokens) for d in (pair.captured, pair.plain)]
        found[str(point)] = [one == wanted for one in ours]
    return {"shape": shape, "equal": found}


def timed(pair: ModelPair, point: Point, bandwidth: float, new_tokens: int, rounds: int) -> dict[str, Any]:
    """One row of the table; times are in milliseconds."""
    taken = steps(pair, point, new_tokens, rounds)
    floor = pair.step_bytes(point, new_tokens) / bandwidth
    ids = pair.generate(point, new_tokens), pair.decode(pair.engine(pair.captured, point), point, new_tokens)
    same = [a == b for rows in zip(*ids, strict=True) for a, b in zip(*rows, strict=True)]
    return {
        "shape": pair.shape,
        "point": str(point),
        **{f"{name} ms": round(value * 1e3, 3) for name, value in taken.items()},
        "floor ms": round(floor * 1e3, 3),
        "times as fast as generate": round(taken["generate"] / taken["captured"], 2),
        "share of bandwidth": round(floor / taken["captured"], 3),
        "overhead ms": round((taken["captured"] - taken["step alone"]) * 1e3, 3),
        "same tokens": round(sum(same) / len(same), 3),
        "attention ms": {name: round(value * 1e3, 3) for name, value in attention(pair, point).items()},
    }


_COLUMNS = (
    *("shape", "point", "captured ms", "plain ms", "generate ms", "times as fast as generate", "floor ms"),
    *("share of bandwidth", "step alone ms", "overhead ms", "same tokens"),
)


def table(rows: Sequence[dict[str, Any]]) -> str:
    """The rows in Markdown."""
    lines = [_COLUMNS, ["---"] * len(_COLUMNS), *([row[name] for name in _COLUMNS] for row in rows)]
    return "\n".join(f"| {' | '.join(map(str, line))} |" for line in lines)


def check(given: Any) -> dict[str, Any]:
    """Do all that was asked for, as long as there is time."""
    began, device = time.monotonic(), torch.device(given.device)
    points = [Point.parse(text) for text in given.points]
    on_gpu = device.type == "cuda"
    record: dict[str, Any] = {
        "device": torch.cuda.get_device_name(device) if on_gpu else "cpu",
        "versions": {"torch": torch.__version__, "transformers": transformers.__version__},
        "bandwidth": copied_per_second(device, 2**30 if on_gpu else 2**22),
        "encoder": None if given.vision is None else encoder(given.vision, given.device),
        "exact": [],
        "rows": [],
        "left out": [],
    }
    for shape in [name for name in given.shapes if name in EXACT]:
        record["exact"].append(exact(shape, device, points, given.tokens))
        print(record["exact"][-1], flush=True)
    for shape in [name for name in given.shapes if name in TIMED or given.time_all]:
        pair = ModelPair(shape, "bf16", device)
        for point in points:
            if time.monotonic() - began > given.seconds:
                record["left out"].append(f"{shape} {point}")
                continue
            row = timed(pair, point, record["bandwidth"], given.tokens, given.rounds)
            record["rows"].append(row)
            print(table([row]).splitlines()[-1], flush=True)
        del pair
        gc.collect()
        if on_gpu:
            torch.cuda.empty_cache()
    return record


def main(arguments: Sequence[str] | None = None) -> int:
    """Command line."""
    parser = CommandLine(__doc__)
    parser.add_argument("--device", default="cuda", help="as PyTorch names it (%(default)s)")
    parser.add_argument("--shapes", nargs="+", choices=SHAPES, default=list(SHAPES), help="(all)")
    parser.add_argument("--points", nargs="+", default=POINTS, help="images x beams (%(default)s)")
    parser.add_argument("--tokens", type=positive, default=66, help="of a text, 3 or more (%(default)s)")
    parser.add_argument("--rounds", type=positive, default=3, help="that count (%(default)s)")
    parser.add_argument("--seconds", type=positive, default=400, help="after which no point begins (%(default)s)")
    parser.add_argument("--time-all", action="store_true", help="time the tiny shapes too")
    parser.add_argument("--vision", type=Path, help="vision.onnx of an archive: compare it with a CPU, and time it")
    parser.add_argument("--out", type=Path, help="file for the JSON")
    given = parser.parse_args(arguments)
    if int(transformers.__version__.split(".")[0]) < TRANSFORMERS:
        parser.error(f"transformers is {transformers.__version__}; it must be {TRANSFORMERS} or later")
    if torch.device(given.device).type == "cuda" and not torch.cuda.is_available():
        parser.error(f"PyTorch {torch.__version__} finds no GPU here; DEVICE=cpu runs the check without one")
    record = check(given)
    print(f"\n{record['device']}, memory {record['bandwidth'] / 1e9:.0f} GB/s\n\n{table(record['rows'])}\n")
    text = json.dumps(record)
    if given.out is not None:
        given.out.write_text(text, encoding="utf-8")
    print(text)
    return 0 if all(all(ways) for one in record["exact"] for ways in one["equal"].values()) else 1


if __name__ == "__main__":
    sys.exit(main())
