"""Rebuilds weights and inputs of a parity fixture from the rules that stand in it (../shared/fixtures/README.md)."""

import hashlib
import json
from pathlib import Path
from typing import Any

import torch
from torch import Tensor


class Fixture:
    """One fixture file.

    fan_in : True fills by rule B (`outputs_fanin`), False by rule A (`outputs`)
    """

    def __init__(self, path: Path, *, fan_in: bool) -> None:
        self.contents: dict[str, Any] = json.loads(path.read_text(encoding="utf-8"))
        self.fan_in = fan_in
        self._salt = self.contents.get("seed_salt", "")
        self.outputs = {o["name"]: o for o in self.contents["outputs_fanin" if fan_in else "outputs"]}

    def state_dict(self, module: str) -> dict[str, Tensor]:
        """The published checkpoint of one module."""
        return {entry["key"]: self._fill(entry) for entry in self.contents["modules"][module]["state_dict"]}

    def normal(self, name: str, shape: tuple[int, ...]) -> Tensor:
        """A float input."""
        return torch.randn(shape, generator=self._generator(name))

    def integers(self, name: str) -> Tensor:
        """An integer input, from the recorded values."""
        output = self.outputs[name]
        return torch.tensor(output["values"]).view(output["shape"])

    def assert_close(self, name: str, actual: Tensor) -> None:
        """Compare with what was recorded: the ends, and the statistics of everything between."""
        expected = self.outputs[name]
        flat = actual.flatten()
        ends = torch.cat([flat[:16], flat[-4:]])
        torch.testing.assert_close(ends, torch.tensor(expected["first16"] + expected["last4"]), atol=1e-4, rtol=1e-3)
        statistics = torch.stack([flat.mean(), flat.std(), flat.abs().max()])
        recorded = torch.tensor([expected[key] for key in ("mean", "std", "abs_max")])
        torch.testing.assert_close(statistics, recorded, atol=1e-4, rtol=1e-3)
        assert list(actual.shape) == expected["shape"]

    def _generator(self, name: str) -> torch.Generator:
        digest = hashlib.sha256((self._salt + name).encode()).hexdigest()
        return torch.Generator().manual_seed(int(digest[:8], 16))

    def _fill(self, entry: dict[str, Any]) -> Tensor:
        key, shape = entry["key"], entry["shape"]
        if "int" in entry["dtype"]:
            return torch.zeros(shape, dtype=torch.int64)
        values = torch.randn(shape, generator=self._generator(key))
        if entry["fill"] == "norm_weight":
            return 1 + values * 0.02
        if key.endswith("running_var"):
            return values.abs() * 0.1 + 1
        if self.fan_in and len(shape) >= 2:
            convolution = len(shape) == 4
            fan_in = shape[1] * shape[2] * shape[3] if convolution else shape[-1]
            return values / fan_in**0.5 * (2**0.5 if convolution else 1)
        return values * 0.02
