"""Rebuilds weights and inputs of a parity fixture from its rules, and compares outputs."""

import gzip
import hashlib
import json
import math
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image
from torch import Tensor

ATOL, RTOL = 1e-4, 1e-3
"""From the fixtures' README: float32 on a CPU; other kernels sum in another order."""

Value = Tensor | float | str | list[int]


@dataclass(frozen=True)
class Result:
    """One compared output.

    error : largest absolute difference; for token ids the number of different ones
    """

    name: str
    error: float
    passed: bool


FIXTURES = Path(__file__).parent / "fixtures"


def read_fixture(path: Path) -> dict[str, Any]:
    """Read a fixture file, JSON or compressed JSON."""
    data = path.read_bytes()
    return json.loads(gzip.decompress(data) if path.suffix == ".gz" else data)


def fixture_path(system: int) -> Path:
    """Return the committed fixture file of a system."""
    return FIXTURES / f"system{system}.json.gz"


class Fixture:
    """One fixture file."""

    def __init__(self, path: Path) -> None:
        self.contents = read_fixture(path)
        self.system = int(str(self.contents["system"]).split()[0])
        self._salt = self.contents.get("seed_salt", "")

    def records(self, section: str) -> list[dict[str, Any]] | None:
        """The records of a section, or of a nested one separated by a dot; None if the fixture lacks it.

        Plain entries, as in a section about a prompt, become records with a name and a value or a text.
        """
        found: Any = self.contents
        for part in section.split("."):
            if part not in found:
                return None
            found = found[part]
        if isinstance(found, dict) and "outputs" in found:
            found = found["outputs"]
        if isinstance(found, dict):
            return [{"name": n, "text" if isinstance(v, str) else "value": v} for n, v in found.items()]
        return found

    def weights(self, module: str, *, fan_in: bool, prefix: str = "") -> dict[str, Tensor]:
        """The published checkpoint of one module, by fill rule B if `fan_in`, else by rule A.

        prefix : only keys with this prefix
        """
        entries = self.contents["modules"][module]["state_dict"]
        return {e["key"]: self._fill(e, fan_in) for e in entries if e["key"].startswith(prefix)}

    def generator(self, name: str) -> torch.Generator:
        """The random generator for a name."""
        digest = hashlib.sha256((self._salt + name).encode()).hexdigest()
        return torch.Generator().manual_seed(int(digest[:8], 16))

    def normal(self, name: str, shape: tuple[int, ...]) -> Tensor:
        """A float input, finput(name, shape)."""
        return torch.randn(shape, generator=self.generator(name))

    def integers(self, name: str, shape: tuple[int, ...], low: int, high: int) -> Tensor:
        """An integer input, iinput(name, shape, low, high)."""
        return torch.randint(low, high, shape, generator=self.generator(name))

    def _fill(self, entry: Mapping[str, Any], fan_in: bool) -> Tensor:
        tied = entry["fill"].startswith("tied_to:")
        key, shape = entry["fill"].removeprefix("tied_to:") if tied else entry["key"], entry["shape"]
        if "int" in entry["dtype"]:
            return torch.zeros(shape, dtype=torch.int64)
        values = torch.randn(shape, generator=self.generator(key))
        if entry["fill"] == "norm_weight":
            return 1 + values * 0.02
        if key.endswith("running_var"):
            return values.abs() * 0.1 + 1
        if fan_in and len(shape) >= 2:
            convolution = len(shape) == 4
            inputs = math.prod(shape[1:]) if convolution else shape[-1]
            return values / inputs**0.5 * (2**0.5 if convolution else 1)
        return values * 0.02


def pil_pattern(width: int, height: int) -> Image.Image:
    """The RGB image of the fixtures: value[y, x, c] = (3x + 5y + 7c) mod 256."""
    y, x, c = np.ogrid[:height, :width, :3]
    return Image.fromarray(((3 * x + 5 * y + 7 * c) % 256).astype(np.uint8))


def compare(records: Iterable[Mapping[str, Any]], actual: Iterator[tuple[str, Value]]) -> Iterator[Result]:
    """Compare outputs with the records of the same name; outputs without a record are ignored."""
    by_name = {record["name"]: record for record in records}
    for name, value in actual:
        if name in by_name:
            yield _compare_one(by_name[name], value)


def _compare_one(record: Mapping[str, Any], value: Value) -> Result:
    name = record["name"]
    if "values" in record:
        found = torch.as_tensor(value).flatten().tolist()
        wrong = sum(a != b for a, b in zip(found, record["values"], strict=False)) + abs(
            len(found) - len(record["values"])
        )
        return Result(name, wrong, wrong == 0)
    if "text" in record:
        return Result(name, float(value != record["text"]), value == record["text"])
    if "value" in record:
        error = abs(float(value) - record["value"])  # type: ignore[arg-type]
        return Result(name, error, error <= ATOL + RTOL * abs(record["value"]))
    flat = torch.as_tensor(value).flatten().float()
    numbers = torch.cat([flat[:16], flat[-4:], torch.stack([flat.mean(), flat.std(), flat.abs().max()])])
    recorded = torch.tensor([*record["first16"], *record["last4"], *(record[k] for k in ("mean", "std", "abs_max"))])
    same_shape = list(torch.as_tensor(value).shape) == record["shape"]
    close = same_shape and torch.allclose(numbers, recorded, atol=ATOL, rtol=RTOL)
    return Result(name, float((numbers - recorded).abs().max()), close)
