"""Weights of four bits: how they are rounded and stored, and what a large decoder takes."""

from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from benchmarks.agreement.llama_cpp import q4_0
from prelim.decoders import empty_decoder
from prelim.decoders.four_bits import Int4DynamicEmbedding, Int4DynamicLinear
from prelim.decoders.weights_file import let_go, materialize, read_weights, write_weights
from prelim.kernels import FOUR_BITS, GROUP


def restored(weight: Tensor) -> Tensor:
    """What is computed with in place of a matrix."""
    layer: Any = Int4DynamicLinear(weight.shape[1], len(weight), bias=False)
    stored = {name: materialize(tensor) for name, tensor in Int4DynamicLinear.stored(weight).items()}
    layer.load_state_dict(stored, assign=True)
    return layer.matrix(0, len(weight))


def test_the_sixteen_numbers() -> None:
    """They ascend, fit into eight bits, and 128 more is a byte without sign."""
    assert len(FOUR_BITS) == 16
    assert list(FOUR_BITS) == sorted(set(FOUR_BITS))
    assert -128 <= FOUR_BITS[0] < FOUR_BITS[-1] <= 127


@pytest.mark.parametrize("outlier", [0.0, 30.0])
def test_the_error_is_smaller_than_that_of_llama_cpp(outlier: float) -> None:
    """With fewer bits a weight, also where one input's weights are large."""
    weight = torch.randn(200, 4 * GROUP, generator=torch.Generator().manual_seed(0))
    weight[:, 5] += outlier
    ours, theirs = ((found - weight).square().mean() for found in (restored(weight), q4_0(weight)))
    assert ours < 0.95 * theirs


def test_what_is_zero_stays_zero() -> None:
    """Whole groups, and inputs that fill the last one; other rows do not matter."""
    weight = torch.randn(3, GROUP + 6, generator=torch.Generator().manual_seed(0))
    weight[1] = 0
    found = restored(weight)
    assert found.shape == weight.shape
    assert not found[1].any()
    assert torch.equal(found[2:], restored(weight[2:]))


@pytest.mark.parametrize("size", [1e-15, 1e15])
def test_weights_of_any_size(size: float) -> None:
    """The unit follows them."""
    weight = torch.randn(4, GROUP, generator=torch.Generator().manual_seed(0)) * size
    assert (restored(weight) - weight).norm() < 0.15 * weight.norm()


def test_embeddings_are_those_of_the_matrix() -> None:
    """Rows that are looked up, and scores."""
    weight = torch.randn(7, 40, generator=torch.Generator().manual_seed(0))
    table: Any = Int4DynamicEmbedding(7, 40)
    table.load_state_dict({name: materialize(tensor) for name, tensor in table.stored(weight).items()}, assign=True)
    wanted = restored(weight)
    torch.testing.assert_close(table(torch.tensor([3, 0])), wanted[[3, 0]])
    torch.testing.assert_close(table.scores(torch.eye(40)), wanted.T)


def test_seven_billion_parameters_take_four_gigabytes() -> None:
    """By shapes: all weights of a Llama of that size, its table of embeddings in 32 bits among them."""
    section = {"kind": "causal_lm", "vocab_size": 32000, "width": 4096, "layers": 32, "heads": 32}
    section |= {"feedforward": 11008, "max_positions": 4096, "norm": "rms_norm", "activation": "silu", "gated": True}
    with torch.device("meta"):
        decoder = empty_decoder(section, "int4_dynamic")
    sizes = [tensor.numel() * tensor.element_size() for tensor in decoder.state_dict().values()]
    assert 3.5e9 < sum(sizes) < 4.1e9


def test_a_file_that_was_let_go_is_read_again(tmp_path: Path) -> None:
    """Whole pages leave memory; what they hold stays, in the file and in memory that is of no file."""
    values = torch.arange(50_000)
    write_weights(tmp_path / "weights.safetensors", {"a": values})
    mapped = read_weights(tmp_path / "weights.safetensors")["a"]
    own = values.clone()
    for tensor in (mapped, own, mapped[3:5], mapped[::2]):
        let_go(tensor)
    assert torch.equal(mapped, values)
    assert torch.equal(own, values)
