"""Weights quantized by bitsandbytes are restored with the values that bitsandbytes computes with."""

from pathlib import Path

import pytest
import torch
from bitsandbytes import functional, nn
from safetensors.torch import load_file, save_file
from torch import Tensor

from export.checkpoints.bitsandbytes_weights import dequantize_weights
from export.checkpoints.checkpoint import read_checkpoint
from prelim.decoders.weights_file import LazyTensor
from prelim.errors import ArchiveError

SHAPE = (24, 40)


def layer_4bit(
    dtype: torch.dtype = torch.float16, storage: torch.dtype = torch.uint8, kind: str = "nf4", *, double: bool = True
) -> nn.Linear4bit:
    """A random quantized layer."""
    layer = nn.Linear4bit(SHAPE[1], SHAPE[0], compress_statistics=double, quant_type=kind, quant_storage=storage)
    values = torch.randn(SHAPE, generator=torch.Generator().manual_seed(0)).to(dtype)
    layer.weight = nn.Params4bit(
        values, requires_grad=False, compress_statistics=double, quant_type=kind, quant_storage=storage
    )
    return layer.to("cpu")


def stored(module: torch.nn.Module, file: Path) -> dict[str, Tensor]:
    """The state_dict under `a.`, saved and read again."""
    weights = {f"a.{key}": value for key, value in module.state_dict().items()}
    if file.suffix == ".safetensors":
        save_file(weights, file)
        return load_file(file)
    torch.save(weights, file)
    return read_checkpoint(file)


@pytest.mark.parametrize("file", ["a.pth", "a.safetensors"])
@pytest.mark.parametrize("double", [False, True])
@pytest.mark.parametrize("kind", ["nf4", "fp4"])
def test_four_bits_equal_bitsandbytes(kind: str, double: bool, file: str, tmp_path: Path) -> None:
    """nf4 and fp4, with and without double quantization, lazily give bitsandbytes' values; others are unchanged."""
    layer = layer_4bit(kind=kind, double=double)

    found = dequantize_weights(stored(layer, tmp_path / file))

    weight = found["a.weight"]
    assert isinstance(weight, LazyTensor)
    assert (weight.shape, weight.dtype) == (SHAPE, torch.float16)
    assert torch.equal(weight.make(), functional.dequantize_4bit(layer.weight, layer.weight.quant_state))
    assert found.keys() == {"a.weight", "a.bias"}
    assert torch.equal(found["a.bias"], layer.bias)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float16, torch.bfloat16])
@pytest.mark.parametrize("storage", [torch.uint8, torch.bfloat16])
def test_four_bits_keep_the_recorded_dtype(dtype: torch.dtype, storage: torch.dtype, tmp_path: Path) -> None:
    """The dtype is that before quantization, for any storage dtype of the packed values."""
    layer = layer_4bit(dtype, storage)

    found = dequantize_weights(stored(layer, tmp_path / "a.pth"))

    made = found["a.weight"].make()
    assert made.dtype == dtype
    assert torch.equal(made, functional.dequantize_4bit(layer.weight, layer.weight.quant_state))


def layer_8bit() -> nn.Linear8bitLt:
    """A random layer, quantized by LLM.int8()."""
    layer = nn.Linear8bitLt(SHAPE[1], SHAPE[0], has_fp16_weights=False)
    values = torch.randn(SHAPE, generator=torch.Generator().manual_seed(0)).half()
    layer.weight = nn.Int8Params(values, requires_grad=False, has_fp16_weights=False)
    return layer.to("cpu")


def test_eight_bits_equal_bitsandbytes(tmp_path: Path) -> None:
    """LLM.int8() gives bitsandbytes' values in float16."""
    layer = layer_8bit()

    found = dequantize_weights(stored(layer, tmp_path / "a.pth"))

    expected = functional.int8_vectorwise_dequant(layer.weight, layer.weight.SCB).half()
    assert torch.equal(found["a.weight"].make(), expected)
    assert found.keys() == {"a.weight", "a.bias"}


STATE = "a.weight.quant_state.bitsandbytes__nf4"


@pytest.mark.parametrize(
    ("key", "value"),
    [
        ("a.weight", None),
        ("a.weight", torch.zeros(7, 1, dtype=torch.uint8)),
        ("a.weight.absmax", None),
        ("a.weight.absmax", torch.zeros(3, dtype=torch.uint8)),
        ("a.weight.nested_absmax", torch.zeros(0)),
        (STATE, torch.tensor(list(b"no JSON"), dtype=torch.uint8)),
        (STATE, torch.tensor(list(b'{"quant_type": "nf4"}'), dtype=torch.uint8)),
    ],
)
def test_damaged_four_bits_are_refused(key: str, value: Tensor | None, tmp_path: Path) -> None:
    """Parts that are missing or too small for the recorded shape are an error with the name of the weight."""
    tensors = stored(layer_4bit(), tmp_path / "a.pth") | {key: value}

    with pytest.raises(ArchiveError, match=r"a\.weight (cannot be dequantized|does not fit its quant_state)"):
        dequantize_weights({name: tensor for name, tensor in tensors.items() if tensor is not None})


@pytest.mark.parametrize(
    ("key", "value"),
    [("a.weight", None), ("a.SCB", torch.ones(3)), ("a.weight_format", torch.tensor(2, dtype=torch.uint8))],
)
def test_damaged_eight_bits_are_refused(key: str, value: Tensor | None, tmp_path: Path) -> None:
    """Missing scales and GPU-specific layouts are an error with the name of the weight."""
    tensors = stored(layer_8bit(), tmp_path / "a.pth") | {key: value}

    with pytest.raises(ArchiveError, match=r"a\.weight(_format is 2| is not an int8 matrix)"):
        dequantize_weights({name: tensor for name, tensor in tensors.items() if tensor is not None})
