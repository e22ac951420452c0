"""Attention, cache and layers of every precision, by PyTorch's operations: values of PyTorch and of a hand."""

from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.nn.functional import linear, scaled_dot_product_attention

from prelim.decoders.attention import EVERYWHERE, Attending, Attention
from prelim.decoders.cross_attention import CrossAttentionConfig, CrossAttentionDecoder
from prelim.decoders.kv_cache import KVCache
from prelim.decoders.linear import AdaptedLinear, Linear
from prelim.decoders.packed import STEP_ROWS, PackedAdapted, PackedLinear, PackedTokenEmbedding
from prelim.decoders.quantized import (
    Int8Embedding,
    Int8Linear,
    NF4Linear,
    _int8_rows,
    _int8_scale,
)
from prelim.decoders.step_attention import StepAttention
from prelim.decoders.token_embedding import TokenEmbedding, draw_weights
from prelim.decoders.weights_file import LazyTensor, materialize
from prelim.kernels import GROUP


def random(*shape: int, seed: int = 0) -> Tensor:
    """Normal random numbers."""
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


@pytest.mark.parametrize("queries", [1, 3, 5, 16, 17])
@pytest.mark.parametrize(("heads", "kv_heads"), [(4, 4), (6, 2), (1, 1)])
@pytest.mark.parametrize("masked", [True, False])
def test_attention_is_that_of_pytorch(queries: int, heads: int, kv_heads: int, masked: bool) -> None:
    """For few queries, which take a way of their own, and for many; keys may be shared by heads, columns masked."""
    query, key, value = (
        random(2, heads, queries, 8),
        random(2, kv_heads, 7, 8, seed=1),
        random(2, kv_heads, 7, 8, seed=2),
    )
    mask = (random(2, 1, queries, 7, seed=3) > 0) if masked else None
    if mask is not None:
        mask[..., 0] = True
    attending = Attending(mask)

    # A second call reuses what was worked out for the mask.
    for _ in range(2):
        torch.testing.assert_close(
            attending(query, key, value),
            scaled_dot_product_attention(query, key, value, attn_mask=mask, enable_gqa=True),
            atol=1e-6,
            rtol=1e-5,
        )
    torch.testing.assert_close(
        attending.everywhere(query, key, value), scaled_dot_product_attention(query, key, value, enable_gqa=True)
    )
    assert attending.everywhere is EVERYWHERE


def test_causal_attention_and_dropout() -> None:
    """Every query looks at itself and at what is before it; dropout zeroes weights in training only."""
    query, key, value = (random(1, 2, 3, 4, seed=i) for i in range(3))

    causal = Attending(causal=True)(query, key, value)

    torch.testing.assert_close(causal, scaled_dot_product_attention(query, key, value, is_causal=True))
    torch.testing.assert_close(causal[:, :, 0], value[:, :, 0])
    assert Attending()(query, key, value, 1.0).abs().max() == 0
    with pytest.raises(ValueError, match=r"dropout is 0\.1; a decoding step has none"):
        StepAttention(None)(query, key, value, 0.1)


@pytest.mark.parametrize("head_width", [None, 3])
def test_projections_of_attention(head_width: int | None) -> None:
    """Queries, keys and values are thirds of one projection, alone or together; heads are neighbors in it."""
    torch.manual_seed(0)
    attention = Attention(8, 2, head_width)
    inner = 2 * (head_width or 4)
    x = random(2, 5, 8)
    whole = linear(x, attention.in_proj.weight, attention.in_proj.bias)

    query, key, value = attention.query_key_value(x)

    for i, part in enumerate((query, key, value)):
        assert part.shape == (2, 2, 5, inner // 2)
        torch.testing.assert_close(part.transpose(1, 2).flatten(2), whole[..., i * inner : (i + 1) * inner])
    torch.testing.assert_close(attention.query(x), query)
    for found, expected in zip(attention.key_value(x), (key, value), strict=True):
        torch.testing.assert_close(found, expected)
    gathered = scaled_dot_product_attention(query, key, value).transpose(1, 2).flatten(2)
    torch.testing.assert_close(
        attention.attend(query, key, value, EVERYWHERE),
        linear(gathered, attention.out_proj.weight, attention.out_proj.bias),
    )


def test_attention_weights_are_dropped_in_training_only() -> None:
    """At a rate of one nothing is gathered."""
    attention = Attention(8, 2, dropout=1.0)
    parts = attention.query_key_value(random(1, 3, 8))

    assert torch.equal(attention.attend(*parts, EVERYWHERE), attention.out_proj.bias.expand(1, 3, 8))
    attention.eval()
    assert not torch.equal(attention.attend(*parts, EVERYWHERE), attention.out_proj.bias.expand(1, 3, 8))


def cache(layers: int = 2, heads: int = 3) -> KVCache:
    """An empty cache of heads of width 4."""
    return KVCache(layers=layers, heads=heads, head_width=4, dtype=torch.float32, device=torch.device("cpu"))


def test_cache_writes_where_it_is_told() -> None:
    """Keys and values of each layer go to their slot and column; everything else stays zero."""
    kept = cache()
    kept.reserve(4, 6)
    columns = torch.tensor([[5, 0], [2, 3]])
    places = kept.places(slice(1, 3), columns, 6)
    written = [random(2, 2, 3, 2, 4, seed=layer) for layer in range(2)]

    for layer, key_value in enumerate(written):
        keys, values = places.store(key_value, layer)
        assert keys.shape == values.shape == (2, 3, 6, 4)
        expected = torch.zeros(2, 4, 3, 6, 4)
        for slot in range(2):
            for query in range(2):
                expected[:, slot + 1, :, columns[slot, query]] = key_value[:, slot, :, query]
        assert torch.equal(kept.layers[layer], expected)
        assert torch.equal(torch.stack([keys, values]), expected[:, 1:3])
    places = kept.places(slice(0, 4), torch.ones(4, 1, dtype=torch.int64), 2)
    keys, _ = places.store(torch.ones(2, 4, 3, 1, 4), 0)
    assert keys.shape == (4, 3, 2, 4)
    assert torch.equal(kept.layers[0][0, 1, :, 5], written[0][0, 0, :, 0]), "columns beyond the length stay"


def test_cache_grows_and_shrinks() -> None:
    """What is in it stays; bytes are those of keys and values of all layers."""
    kept = cache()
    assert (kept.columns, kept.column_bytes) == (0, 2 * 2 * 3 * 4 * 4)
    kept.reserve(2, 5)
    for layer in kept.layers:
        layer.copy_(random(2, 2, 3, 5, 4))
    before = [layer.clone() for layer in kept.layers]

    kept.reserve(1, 3)
    assert all(torch.equal(a, b) for a, b in zip(kept.layers, before, strict=True))
    kept.reserve(3, 5)
    kept.reserve(2, 8)
    for layer, old in zip(kept.layers, before, strict=True):
        assert layer.shape == (2, 3, 3, 8, 4)
        assert torch.equal(layer[:, :2, :, :5], old)
        assert layer.sum() == pytest.approx(old.sum().item(), abs=1e-4)
    kept.narrow(4)
    assert kept.columns == 4
    assert torch.equal(kept.layers[1][:, :2], before[1][:, :, :, :4])
    assert kept.layers[0].is_contiguous()


def test_slots_move_and_are_cleared() -> None:
    """Only so many columns as are in use, of keys and values in every layer."""
    kept = cache()
    kept.reserve(2, 4)
    for layer in kept.layers:
        layer.copy_(random(*layer.shape))
    before = [layer.clone() for layer in kept.layers]

    kept.move(1, 0, 3)
    for layer, old in zip(kept.layers, before, strict=True):
        assert torch.equal(layer[:, 0, :, :3], old[:, 1, :, :3])
        assert torch.equal(layer[:, 0, :, 3], old[:, 0, :, 3])
        assert torch.equal(layer[:, 1], old[:, 1])
    kept.clear(1, 2)
    for layer, old in zip(kept.layers, before, strict=True):
        assert layer[:, 1, :, :2].abs().sum() == 0
        assert torch.equal(layer[:, 1, :, 2:], old[:, 1, :, 2:])
        assert layer[:, 0].abs().sum() > 0


def test_parts_and_adapters_of_linear_layers() -> None:
    """A part has its own rows of weight and bias; an adapter adds up(down(x))."""
    torch.manual_seed(0)
    x = random(2, 6)
    for bias in (True, False):
        layer = Linear(6, 5, bias=bias)
        torch.testing.assert_close(layer.part(x, 1, 4), layer(x)[:, 1:4])
    adapted = AdaptedLinear(nn.Linear(6, 5), 2)
    assert (adapted.down.shape, adapted.up.shape) == ((2, 6), (5, 2))
    assert torch.equal(adapted(x), adapted.base(x))
    nn.init.normal_(adapted.down)
    nn.init.normal_(adapted.up)
    torch.testing.assert_close(adapted(x), adapted.base(x) + x @ (adapted.up @ adapted.down).T)


def test_token_embeddings() -> None:
    """Scores are products with the embeddings; weights are drawn with the standard deviation that is asked for."""
    torch.manual_seed(0)
    words = TokenEmbedding(50, 40)
    assert words.weight.std().item() == pytest.approx(1, rel=0.1)
    assert draw_weights(50, 40, std=0.1).std().item() == pytest.approx(0.1, rel=0.1)
    hidden = random(3, 40)
    torch.testing.assert_close(words.scores(hidden), hidden @ words.weight.T)
    with torch.device("meta"):
        assert draw_weights(2, 3).is_meta


def test_units_of_int8_by_hand() -> None:
    """The largest weight of a group becomes 127 or a little less; a group of zeros has the scale 1."""
    weight = torch.tensor([[127.0, -63.5, 1.0], [0.0, 0.0, 0.0], [-254.0, 2.0, 3.0], [1.0, 0.3, -0.7]])

    numbers, scale = _int8_rows(weight)

    assert scale[:3].tolist() == [[1], [1], [2]]
    assert numbers[:3].tolist() == [[127, -64, 1], [0, 0, 0], [-127, 1, 2]]
    # 1 / 127 is rounded down in bfloat16: the next larger number is taken, so that 1 still fits.
    assert 1 / 127 <= scale[3].item() <= 1 / 127 * (1 + 2**-7)
    assert numbers[3, 0] in (126, 127)
    for peak in torch.logspace(-3, 3, 200).tolist():
        unit = _int8_scale(torch.tensor([[peak]])).item()
        assert unit * 127 >= peak * (1 - 1e-6)
        assert unit * 127 <= peak * (1 + 2**-6)


@pytest.mark.parametrize("prefix", [False, True])
def test_prefixes_are_read_by_the_layer_itself(prefix: bool) -> None:
    """A packed product is made for the few rows of a step, whatever the width of the layer."""
    layer, made = nn.Linear(64, 8), []

    def make(_: nn.Linear, start: int, stop: int) -> nn.Linear:
        made.append((start, stop))
        return layer

    packed = PackedLinear(layer, make, prefix=prefix)
    many = packed(random(2, STEP_ROWS + 1, 64))
    assert bool(made) != prefix
    few = packed(random(2, STEP_ROWS, 64))
    assert made == [(0, 8)]
    assert (many.shape, few.shape) == ((2, STEP_ROWS + 1, 8), (2, STEP_ROWS, 8))


def test_layers_of_few_bits() -> None:
    """Embeddings, scores, biases and parts are those of the numbers that are stored."""
    weight, bias = random(32, 64), random(32, seed=1)
    layer, words = Int8Linear(64, 32, bias=True), Int8Embedding(32, 64)
    stored = {name: materialize(tensor) for name, tensor in Int8Linear.stored(weight).items()}
    layer.load_state_dict({**stored, "bias": bias.bfloat16()}, assign=True)
    words.load_state_dict(stored, assign=True)
    restored = stored["weight"].float() * stored["scale"].float()
    x = random(3, 64, seed=2).bfloat16()

    torch.testing.assert_close(layer(x).float(), x.float() @ restored.T + bias, atol=0.1, rtol=0.05)
    torch.testing.assert_close(layer.part(x, 3, 9), layer(x)[:, 3:9])
    assert (words(torch.tensor([5, 31])).float() - restored[[5, 31]]).abs().max() < 0.02
    torch.testing.assert_close(words.scores(x).float(), x.float() @ restored.T, atol=0.1, rtol=0.05)
    assert Int8Linear(64, 32, bias=False).bias is None
    lazy = Int8Linear.stored(LazyTensor((32, 64), torch.float32, lambda: weight))
    assert {name: (tensor.shape, tensor.dtype) for name, tensor in lazy.items()} == {
        "weight": ((32, 64), torch.int8),
        "scale": ((32, 1), torch.bfloat16),
    }


@pytest.mark.parametrize("inputs", [40, 64, 100, 192])
def test_integers_are_widened_with_one_rounding(inputs: int) -> None:
    """In bfloat16 too, where a prefix is read: the numbers are those of float32, rounded once."""
    layer = Int8Linear(inputs, 9, bias=False)
    stored = {name: materialize(tensor) for name, tensor in Int8Linear.stored(random(9, inputs)).items()}
    layer.load_state_dict(stored, assign=True)
    scale = stored["scale"].float().repeat_interleave(GROUP, dim=1)[:, :inputs]

    assert torch.equal(layer.matrix(2, 9), (stored["weight"] * scale)[2:])
    assert torch.equal(layer.matrix(2, 9, torch.bfloat16), (stored["weight"] * scale)[2:].bfloat16())


@pytest.mark.parametrize("inputs", [40, 64, 100, 192])
def test_each_group_of_integers_has_its_own_unit(inputs: int) -> None:
    """A large weight coarsens the GROUP neighbors that share its scale, and no others; the last group may be short."""
    weight = random(3, inputs)
    weight[:, 5] = 100
    stored = {name: materialize(tensor) for name, tensor in Int8Linear.stored(weight).items()}
    layer = Int8Linear(inputs, 3, bias=False)
    layer.load_state_dict(stored, assign=True)

    error = (layer(torch.eye(inputs)).T - weight).abs()

    assert stored["weight"].shape == weight.shape
    assert stored["scale"].shape == (3, -(-inputs // GROUP))
    assert error[:, :GROUP].max() > 0.3
    assert inputs <= GROUP or error[:, GROUP:].max() < 0.02


@pytest.mark.parametrize("inputs", [32, 64, 80, 96, 160, 576, 608, 1056])
@pytest.mark.parametrize("rows", [1, 5, 40])
def test_four_bits_of_any_width(inputs: int, rows: int) -> None:
    """The layer is the product with its weights, also where blocks of 64 weights cross the ends of rows."""
    layer = NF4Linear(inputs, 64, bias=True)
    weights = {name: materialize(tensor) for name, tensor in NF4Linear.stored(random(64, inputs)).items()}
    layer.load_state_dict({**weights, "bias": random(64, seed=2)}, assign=True)
    x = random(rows, inputs, seed=1)

    expected = (x @ layer.dequantized().T + layer.bias).detach()
    torch.testing.assert_close(layer(x), expected, rtol=1e-3, atol=1e-3 * float(expected.abs().max()))


def test_four_bits() -> None:
    """Parts of the packed numbers are those of their outputs, and dequantized they are bitsandbytes'."""
    from bitsandbytes.functional import dequantize_4bit, quantize_4bit

    weight = random(6, 64)
    layer = NF4Linear(64, 6, bias=False)
    layer.load_state_dict({name: materialize(tensor) for name, tensor in NF4Linear.stored(weight).items()}, assign=True)

    torch.testing.assert_close(layer.dequantized(), dequantize_4bit(*quantize_4bit(weight, quant_type="nf4")))
    packed, absmax, code = layer.parts(2, 5)
    assert (packed.shape, absmax.shape, code.shape) == ((3 * 32,), (3,), (16,))
    assert torch.equal(packed, layer.weight.flatten()[64:160])
    assert torch.equal(absmax, weight.abs().amax(1)[2:5])
    x = random(2, 64, seed=1).bfloat16()
    torch.testing.assert_close(layer.part(x, 2, 5), layer(x)[:, 2:5])
    for inputs, outputs in ((64, 1), (32, 2)):
        NF4Linear(inputs, outputs, bias=True)
    with pytest.raises(ValueError, match="64 weights together; 3 x 32"):
        NF4Linear(32, 3, bias=False)


@pytest.mark.parametrize("shape", [(2, 4, 2, 4), (4, 4, 3, 5)], ids=str)
def test_heads_share_keys_whatever_else_is_equal(shape: tuple[int, int, int, int]) -> None:
    """Sequences, queries and positions may be as many as the heads of queries or of keys."""
    sequences, heads, queries, positions = shape
    query, key, value = (
        random(sequences, count, length, 8, seed=i).double()
        for i, (count, length) in enumerate([(heads, queries), (2, positions), (2, positions)])
    )
    repeated = (t.repeat_interleave(heads // 2, dim=1) for t in (key, value))
    torch.testing.assert_close(
        Attending()(query, key, value), torch.nn.functional.scaled_dot_product_attention(query, *repeated)
    )


def test_positions_begin_small() -> None:
    """As those of BERT and GPT-2: with a standard deviation of 0.02."""
    torch.manual_seed(0)
    config = CrossAttentionConfig(8, 64, 1, 2, 8, 64)
    assert float(CrossAttentionDecoder(config).position_embedding.detach().std()) == pytest.approx(0.02, rel=0.1)


def test_products_are_of_all_outputs() -> None:
    """Of a layer, of both halves of its adapter and of words, made once; a part has its own outputs alone."""
    torch.manual_seed(0)
    made: list[tuple[int, int]] = []

    def make(layer: Any, start: int, stop: int) -> Callable[[Tensor], Tensor]:
        made.append((start, stop))
        bias = getattr(layer, "bias", None)
        return lambda x: linear(x, layer.weight[start:stop], None if bias is None else bias[start:stop])

    plain, words, x = nn.Linear(16, 8), TokenEmbedding(5, 16), random(3, 2, 16)
    adapted = AdaptedLinear(plain, 4)
    nn.init.normal_(adapted.down)
    nn.init.normal_(adapted.up)
    packed, packed_words = PackedLinear(plain, make, prefix=False), PackedTokenEmbedding(words, make)
    with torch.no_grad():
        torch.testing.assert_close(PackedAdapted(adapted, make)(x), adapted(x))
        for _ in range(2):
            torch.testing.assert_close(packed(x), plain(x))
            torch.testing.assert_close(packed.part(x, 2, 5), plain(x)[..., 2:5])
            torch.testing.assert_close(packed_words.scores(x), words.scores(x))
    assert made == [(0, 4), (0, 8), (0, 8), (2, 5), (0, 5)]
