"""OpenVINO through optimum-intel: `generate` of `transformers` on a compiled model with an internal cache."""

from importlib.metadata import version
from pathlib import Path
from typing import Any

import torch
from optimum.intel import OVModelForCausalLM, OVWeightQuantizationConfig

from benchmarks.decode.peers.conversion import convert_once
from benchmarks.decode.peers.peer import Unsupported

_STORED: dict[str, dict[str, Any]] = {
    "fp32": {"load_in_8bit": False},
    # The library's default for a model of this size, but symmetric.
    "int8": {"quantization_config": OVWeightQuantizationConfig(bits=8, sym=True)},
    "int4": {"quantization_config": OVWeightQuantizationConfig(bits=4, sym=True, group_size=128, ratio=1.0)},
}
"""Precision -> storage of the weights; bf16 is computed from those of fp32."""

COMPUTED: dict[str, dict[str, str]] = {
    "fp32": {"INFERENCE_PRECISION_HINT": "f32"},
    "bf16": {"INFERENCE_PRECISION_HINT": "bf16"},
    "int8": {"DYNAMIC_QUANTIZATION_GROUP_SIZE": "0"},
    "int8_dynamic": {},
    "int4_dynamic": {},
}
"""Settings besides the latency hint. By default it computes in bf16 if the CPU can, and quantizes activations."""


class Peer:
    """`OVModelForCausalLM.generate`."""

    precisions = tuple(COMPUTED)
    note = "same weights, exported and, for int8, compressed per row; the prefix is given as token ids"

    def __init__(self, folder: Path, threads: int) -> None:
        torch.set_num_threads(threads)
        self.versions = {
            "openvino": version("openvino"),
            "optimum-intel": version("optimum-intel"),
            "transformers under it": version("transformers"),
        }
        self._folder = folder
        self._threads = threads
        self._models: dict[str, Any] = {}

    def load(self, precision: str) -> None:
        """Export and compile, once."""
        if precision not in self._models:
            self._models[precision] = OVModelForCausalLM.from_pretrained(
                str(export_once(self._folder, precision)), device="CPU", ov_config=settings(precision, self._threads)
            )

    def run(self, precision: str, prefixes: list[list[int]], beams: int, new_tokens: int) -> list[list[int]]:
        """Decode all prefixes in one batch."""
        ids = torch.tensor(prefixes)
        tokens = self._models[precision].generate(
            input_ids=ids,
            attention_mask=torch.ones_like(ids),
            num_beams=beams,
            do_sample=False,
            min_new_tokens=new_tokens,
            max_new_tokens=new_tokens,
        )
        return tokens[:, ids.shape[1] :].tolist()


def export_once(checkpoint: Path, precision: str) -> Path:
    """Export the model once; returns its folder."""
    if not (checkpoint / "config.json").is_file():
        raise Unsupported("optimum-intel cannot export a cross-attention decoder without an encoder")
    stored = precision.partition("_")[0]
    stored = stored if stored in _STORED else "fp32"

    def export(target: Path) -> None:
        model = OVModelForCausalLM.from_pretrained(str(checkpoint), export=True, compile=False, **_STORED[stored])
        model.save_pretrained(str(target))

    return convert_once(checkpoint, f"openvino-{stored}", export)


def settings(precision: str, threads: int) -> dict[str, str]:
    """Properties of the CPU device."""
    return {"PERFORMANCE_HINT": "LATENCY", "INFERENCE_NUM_THREADS": f"{threads}", **COMPUTED[precision]}
