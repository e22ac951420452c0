"""Stored weights and forced texts at their edges, each with the value that a hand computes."""

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn

from prelim.decoders.attention import Attending
from prelim.decoders.decoder import IMAGE, PADDING, expand_images
from prelim.decoders.linear import AdaptedLinear
from prelim.decoders.packed import PackedAdapted, PackedLinear, PackedTokenEmbedding, _reorder, _replace
from prelim.decoders.precision import PRECISIONS, Precision
from prelim.decoders.quantized import (
    Int8DynamicLinear,
    Int8Linear,
    NF4Linear,
    _int8_rows,
    _int8_scale,
)
from prelim.decoders.step_attention import StepAttention
from prelim.decoders.teacher_forcing import TooManyPositions, check_positions, insert_images, join
from prelim.decoders.token_embedding import TokenEmbedding
from prelim.decoders.weights_file import (
    ALIGNMENT,
    LazyTensor,
    check_weights,
    is_storable,
    read_weights,
    write_weights,
)
from prelim.errors import ArchiveError


def test_a_unit_of_int8_is_as_small_as_it_can_be() -> None:
    """The largest weight of a group fits into 127 units of the nearest bfloat16, or the next; zeros have units of 1."""
    draw = torch.Generator().manual_seed(0)
    weight = torch.randn(4000, 3, generator=draw) * torch.logspace(-8, 8, 4000)[:, None]
    weight[7] = 0
    peak, scale = weight.abs().amax(dim=1), _int8_scale(weight)[:, 0].float()
    some = peak > 0
    assert (scale[some] * 127 >= peak[some]).all()
    nearest = (peak / 127).bfloat16().float()
    enough = some & (nearest * 127 >= peak)
    assert torch.equal(scale[enough], nearest[enough])
    assert (scale[some] <= nearest[some] * (1 + 2**-6)).all()
    assert scale[7] == 1
    stored, _ = _int8_rows(weight)
    assert (stored.int().abs().amax(dim=1)[some] >= 126).all()
    error = (stored.float() * scale[:, None] - weight).abs().amax(dim=1)
    assert (error <= 0.5001 * scale).all()
    assert _int8_rows(torch.tensor([[127.0, -127, 1.5, 0.5, -0.6]]))[0].tolist() == [[127, -127, 2, 0, -1]]


@pytest.mark.parametrize(
    ("inputs", "outputs", "fits"), [(64, 1, True), (32, 2, True), (96, 2, True), (65, 1, False), (96, 3, False)]
)
def test_nf4_stores_whole_blocks(inputs: int, outputs: int, fits: bool) -> None:
    """64 weights together, wherever a row ends; half a byte each, and four bytes for a block."""
    if not fits:
        with pytest.raises(ValueError, match=f"{outputs} x {inputs} cannot be divided"):
            NF4Linear(inputs, outputs, bias=False)
        return
    layer, weight = NF4Linear(inputs, outputs, bias=True), torch.randn(outputs, inputs)
    stored = {
        name: tensor.make() for name, tensor in NF4Linear.stored(weight).items() if isinstance(tensor, LazyTensor)
    }
    for name, tensor in stored.items():
        assert getattr(layer, name).shape == tensor.shape == NF4Linear.stored(weight)[name].shape
        assert getattr(layer, name).dtype == tensor.dtype == NF4Linear.stored(weight)[name].dtype
        assert not getattr(layer, name).requires_grad
    layer.load_state_dict(stored | {"bias": torch.ones(outputs)}, assign=True)
    assert (layer.dequantized() - weight).abs().max() < 0.2 * weight.abs().max()
    x = torch.randn(3, inputs)
    torch.testing.assert_close(layer(x), x @ layer.dequantized().T + 1, atol=1e-4, rtol=1e-4)
    torch.testing.assert_close(layer.part(x, 0, 1), layer(x)[:, :1])


def test_a_layer_of_int8_by_hand() -> None:
    """Integers times their group's unit, and the bias; of a part, the part's."""
    layer = Int8Linear(32, 3, bias=True)
    assert not layer.weight.requires_grad
    assert not layer.scale.requires_grad
    layer.weight.copy_(torch.arange(96).view(3, 32).to(torch.int8))
    layer.scale.copy_(torch.tensor([[1.0], [0.5], [2.0]]))
    with torch.no_grad():
        layer.bias.copy_(torch.tensor([10.0, 20, 30]))  # type: ignore[union-attr]
        x = torch.ones(2, 1, 32, dtype=torch.bfloat16)
        sums = torch.arange(96.0).view(3, 32).sum(1) * torch.tensor([1, 0.5, 2]) + torch.tensor([10.0, 20, 30])
        torch.testing.assert_close(layer(x).float(), sums.expand(2, 1, 3), atol=1, rtol=1e-2)
        torch.testing.assert_close(layer.part(x, 1, 3).float(), sums[1:].expand(2, 1, 2), atol=1, rtol=1e-2)
    assert Int8Linear(32, 3, bias=False).bias is None


def test_precisions() -> None:
    """What flows between layers, and whether tokens are scored with few bits."""
    found = {
        name: (precision.dtype, precision.linear is not None, precision.scores)
        for name, precision in PRECISIONS.items()
    }
    half, whole = torch.bfloat16, torch.float32
    assert found == {
        "fp32": (whole, False, True), "bf16": (half, False, True), "int8": (half, True, True),
        "int8_dynamic": (whole, True, True), "int4_dynamic": (whole, True, True), "nf4": (half, True, False),
    }  # fmt: skip
    assert Precision(whole).embedding is None


def test_a_file_lies_on_whole_cache_lines(tmp_path: Path) -> None:
    """Tensors of whole lines come first, then those of wide elements, each where its bytes can be read in place."""
    weights = {
        "odd bytes": torch.zeros(3, dtype=torch.int8), "halves": torch.zeros(5, dtype=torch.bfloat16),
        "floats": torch.zeros(3), "line": torch.zeros(64, dtype=torch.int8), "lines": torch.zeros(48),
    }  # fmt: skip
    write_weights(tmp_path / "w.safetensors", weights)
    data = (tmp_path / "w.safetensors").read_bytes()
    length = int.from_bytes(data[:8], "little")
    assert ALIGNMENT == 64
    assert (length + 8) % 64 == 0
    assert len(data) == 8 + length + 3 + 10 + 12 + 64 + 192
    header = json.loads(data[8 : 8 + length])
    assert sorted(header, key=lambda name: header[name]["data_offsets"][0]) == [
        "lines",
        "line",
        "floats",
        "halves",
        "odd bytes",
    ]
    assert header["halves"] == {"dtype": "BF16", "shape": [5], "data_offsets": [268, 278]}
    assert not list(tmp_path.glob("*.part"))


@pytest.mark.parametrize(("size", "order"), [(63, "ba"), (64, "ab"), (65, "ba"), (128, "ab")])
def test_whole_lines_come_first(tmp_path: Path, size: int, order: str) -> None:
    """Any remainder comes after them, then the order of names counts."""
    write_weights(tmp_path / "w", {"a": torch.zeros(size, dtype=torch.int8), "b": torch.zeros(64, dtype=torch.int8)})
    data = (tmp_path / "w").read_bytes()
    header = json.loads(data[8 : 8 + int.from_bytes(data[:8], "little")])
    assert "".join(sorted(header, key=lambda name: header[name]["data_offsets"][0])) == order


@pytest.mark.parametrize("number", [float("nan"), float("inf"), -float("inf")])
def test_weights_that_are_not_finite_are_not_written(tmp_path: Path, number: float) -> None:
    """With the name of the tensor; a file that is there already stays."""
    path = tmp_path / "w.safetensors"
    write_weights(path, {"a": torch.ones(2)})
    with pytest.raises(ArchiveError, match="b has NaN or infinite values"):
        write_weights(path, {"b": torch.tensor([0, number])})
    for wrong in (torch.zeros(3), torch.zeros(2, dtype=torch.int8)):
        with pytest.raises(ArchiveError, match=r"b was materialized as .*, declared otherwise"):
            write_weights(path, {"b": LazyTensor((2,), torch.float32, lambda wrong=wrong: wrong)})
    assert read_weights(path)["a"].tolist() == [1, 1]
    for damage in (b"", b"\xff" * 100):
        path.write_bytes(damage)
        with pytest.raises(ArchiveError, match="cannot be read"):
            read_weights(path)
    with pytest.raises(ArchiveError, match="cannot be read"):
        read_weights(tmp_path / "missing")
    assert is_storable(torch.bool)
    assert not is_storable(torch.complex64)


def test_all_that_does_not_fit_is_listed() -> None:
    """Missing, unknown and of another shape, in alphabetical order."""
    layer = torch.nn.Linear(2, 3)
    check_weights(layer, dict(layer.state_dict()), Path("x"))
    with pytest.raises(ArchiveError) as raised:
        check_weights(layer, {"weight": torch.zeros(3, 3), "other": torch.zeros(1)}, Path("x"))
    assert str(raised.value) == (
        "x does not fit model.yaml: bias is missing; other is unknown; weight has shape (3, 3), expected (3, 2)"
    )


def test_prompts_and_reports_are_joined_by_hand() -> None:
    """Row by row without padding between them; the last token of each report is scored and not read."""
    none = PADDING
    prompts = torch.tensor([[1, 2, none], [1, 2, 3]])
    reports = torch.tensor([[7, 8, 9], [5, 6, none]])
    text = join(prompts, reports, pad_token_id=0)
    assert text.token_ids.tolist() == [[1, 2, 7, 8], [1, 2, 3, 5]]
    assert (text.prompt_lengths.tolist(), text.report_length) == ([[2], [3]], 3)
    short = join(torch.tensor([[1], [1]]), torch.tensor([[7, none, none], [5, 6, 4]]), pad_token_id=0)
    assert short.token_ids.tolist() == [[1, 0, 0], [1, 5, 6]]
    # An image of three tokens has replaced one: all places are two further on, and none is beyond the end.
    hidden = torch.arange(6.0)[None, :, None].expand(2, 6, 1)
    assert text.scoring(hidden)[..., 0].tolist() == [[3, 4, 5], [4, 5, 5]]


def test_images_stand_where_the_prompt_has_them() -> None:
    """One after the other, between the tokens around them."""

    def embed(token_ids: torch.Tensor) -> torch.Tensor:
        return token_ids[..., None].float()

    tokens, images = (
        torch.tensor([[1, IMAGE, 2, 3, IMAGE], [4, IMAGE, 5, 6, IMAGE]]),
        torch.arange(-8.0, 0).view(2, 4, 1),
    )
    assert insert_images(embed, images, tokens)[..., 0].tolist() == [
        [1, -8, -7, 2, 3, -6, -5], [4, -4, -3, 5, 6, -2, -1],
    ]  # fmt: skip
    one_each = torch.tensor([[IMAGE, 1, IMAGE, IMAGE, 2, IMAGE]] * 2)
    assert insert_images(embed, images, one_each)[1, :, 0].tolist() == [-4, 1, -3, -2, 2, -1]
    with pytest.raises(ValueError, match="no place for the images' 4 tokens"):
        insert_images(embed, images, torch.tensor([[1, 2]]))
    with pytest.raises(ValueError, match="3 places for the images' 4 tokens"):
        insert_images(embed, images, torch.tensor([[IMAGE] * 3]))


def test_images_of_a_prompt_are_as_long_as_each_of_them_is() -> None:
    """A prompt without a place stays as it is, of decoders that look at the image by cross-attention."""
    assert expand_images((1, IMAGE, 2, IMAGE, 3), (2, 3)) == (1, IMAGE, IMAGE, 2, IMAGE, IMAGE, IMAGE, 3)
    assert expand_images((IMAGE, 1), (0,)) == (1,)
    assert expand_images((1, 2), (7,)) == (1, 2)
    with pytest.raises(ValueError, match="2 places for 1 images"):
        expand_images((IMAGE, IMAGE), (7,))


def test_as_many_positions_as_the_decoder_has() -> None:
    """The last is used."""
    check_positions(64, 64)
    with pytest.raises(TooManyPositions, match="take 65 positions; this decoder has 64"):
        check_positions(65, 64)


def test_attention_to_everywhere() -> None:
    """What needs no mask gets none, in a step too, which drops nothing."""
    query, key, value = (torch.randn(1, 2, 3, 8, generator=torch.Generator().manual_seed(i)) for i in range(3))
    wanted = torch.nn.functional.scaled_dot_product_attention(query, key, value)
    hidden = torch.eye(3, dtype=torch.bool)[None, None]
    for attending in (Attending(), Attending(hidden).everywhere, Attending(causal=True).everywhere):
        torch.testing.assert_close(attending(query, key, value), wanted)
    for step in (StepAttention(None), StepAttention(hidden).everywhere):
        torch.testing.assert_close(step(query, key, value), wanted, atol=1e-5, rtol=1e-5)
    torch.testing.assert_close(Attending(hidden)(query, key, value), value)
    with pytest.raises(ValueError, match=r"dropout is 0\.1"):
        StepAttention(None)(query, key, value, 0.1)


def test_which_layers_are_replaced() -> None:
    """Those that a product can be made of; others are as they were, and their neighbors are looked at too."""
    layers = {
        "dynamic": Int8DynamicLinear(64, 8, bias=False),
        "wide": nn.Linear(64, 8).double(),
        "bits": Int8Linear(64, 8, bias=False),
        "words": TokenEmbedding(5, 64),
        "wide words": TokenEmbedding(5, 64).double(),
        "plain": nn.Linear(64, 8),
        "norm": nn.LayerNorm(64),
        "adapted": AdaptedLinear(nn.Linear(64, 8), 2),
    }
    kinds = (PackedLinear, PackedTokenEmbedding, PackedAdapted)

    def replaced(make: Any, order: list[str]) -> set[str]:
        decoder = nn.ModuleDict({name: layers[name] for name in order})
        _replace(decoder, make, prefix=False)
        return {name for name, layer in decoder.items() if isinstance(layer, kinds)}

    for order in ([*layers], [*layers][::-1]):
        assert replaced(_reorder, order) == {"words", "plain"}
        assert replaced(lambda *_: None, order) == {*layers} - {"norm"}
