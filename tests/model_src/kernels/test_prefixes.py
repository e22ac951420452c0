"""Many rows at once: products in tiles, and prefixes that the compiled step reads."""

from typing import Any

import pytest
import torch
from torch import Tensor
from torch.nn.functional import scaled_dot_product_attention

from prelim.decoders.decoder import IMAGE
from prelim.decoders.packed import pack
from prelim.kernels import GROUP, ROWS_TOGETHER, unavailable
from tests.model_src.kernels.test_kernels import DECODERS, GEMMA3, LLAMA, PHI, decoder, random_rows

pytestmark = pytest.mark.skipif(unavailable() is not None, reason=f"nothing can be compiled here: {unavailable()}")

LONG = 20 * GROUP
"""Inputs of a matrix of several parts of each kind of numbers."""


def random_weight(kind: str, outputs: int, inputs: int) -> Tensor:
    """Weights of each kind of numbers, two of four bits in one."""
    if kind == "int4":
        return torch.randint(0, 256, (outputs, inputs // 2), dtype=torch.uint8)
    if kind == "int8":
        return torch.randint(-127, 128, (outputs, inputs), dtype=torch.int8)
    return torch.randn(outputs, inputs).to({"bf16": torch.bfloat16, "fp32": torch.float32}[kind])


@pytest.mark.parametrize("kind", ["int4", "int8", "bf16", "fp32"])
@pytest.mark.parametrize(("outputs", "inputs"), [(150, LONG), (64, GROUP)])
def test_many_rows_are_each_as_alone(kind: str, outputs: int, inputs: int) -> None:
    """Whole tiles, rows that fill none, and more than share a reading: the same bits as in a product of one row."""
    from prelim.kernels.product import STEP_ROWS, packed_product

    torch.manual_seed(0)
    weight = random_weight(kind, outputs, inputs)
    scale = torch.rand(outputs, inputs // GROUP).bfloat16() if kind.startswith("int") else None
    product = packed_product(weight, scale, torch.randn(outputs))
    x = random_rows(ROWS_TOGETHER + STEP_ROWS + 7, inputs)
    one_by_one = torch.cat([product(row) for row in x.split(1)])
    for rows in (STEP_ROWS, STEP_ROWS + 1, 30, 31, 36, ROWS_TOGETHER, ROWS_TOGETHER + 1, len(x)):
        assert torch.equal(product(x[-rows:]), one_by_one[-rows:])


def read(network: Any, images: Tensor, ids: list[int], slots: int, first: int = 0) -> tuple[Tensor, list[Tensor]]:
    """Logits after prefixes that are read into the slots from `first` on, and the cache."""
    state = network.new_state(slots)
    length = len(ids) - 1 + images.shape[1]
    state.cache.reserve(slots, length + 3)
    expanded = [token for id_ in ids for token in ([IMAGE] * images.shape[1] if id_ == IMAGE else [id_])]
    places = state.cache.prefix_places(slice(first, first + len(images)), length)
    with torch.inference_mode():
        logits = network.prefill(state, places, images, torch.tensor([expanded] * len(images)))
    return logits, state.cache.layers


@pytest.mark.parametrize("mutual", [False, True], ids=["causal", "mutual"])
@pytest.mark.parametrize("dimensions", DECODERS.values(), ids=DECODERS)
@pytest.mark.parametrize("precision", ["fp32", "bf16", "int8_dynamic"])
def test_compiled_prefix_equals_layers(dimensions: dict[str, Any], precision: str, mutual: bool) -> None:
    """For every shape of decoder: logits after the last position, keys and values of all."""
    dimensions = dimensions | {"mutual_images": mutual}
    layered, compiled = decoder(dimensions, precision), decoder(dimensions, precision)
    pack(compiled)
    if precision == "int8_dynamic":
        pack(layered)
        layered.compiled = None
    assert compiled.reads_together
    assert not layered.reads_together
    torch.manual_seed(5)
    images = torch.randn(2, 26, layered.config.width)
    results = [read(network, images, [1, IMAGE, 5], 4, first=1) for network in (layered, compiled)]
    (wanted, wanted_cache), (got, got_cache) = results
    tolerance = {"fp32": 1e-5, "bf16": 3e-2, "int8_dynamic": 1e-2}[precision]
    assert got.shape == wanted.shape
    assert (got - wanted).norm() / wanted.norm() < tolerance
    for a, b in zip(wanted_cache, got_cache, strict=True):
        assert (a - b).norm() / a.norm() < tolerance
        assert torch.equal(a[:, ::3], b[:, ::3]), "slots that take no part are as they were"


@pytest.mark.parametrize("dimensions", DECODERS.values(), ids=DECODERS)
@pytest.mark.parametrize("precision", ["fp32", "bf16", "int8_dynamic", "int4_dynamic"])
def test_prefixes_are_independent(dimensions: dict[str, Any], precision: str) -> None:
    """A prefix gives the same logits and cache, bit for bit, alone and with others."""
    network = decoder(dimensions, precision)
    pack(network)
    torch.manual_seed(6)
    images = torch.randn(3, 11, network.config.width)
    together, cache = read(network, images, [1, IMAGE, 5], 3)
    for slot in range(3):
        alone, own = read(network, images[slot : slot + 1], [1, IMAGE, 5], 1)
        assert torch.equal(alone[0], together[slot])
        assert all(torch.equal(a[:, 0], b[:, slot]) for a, b in zip(own, cache, strict=True))


@pytest.mark.parametrize("dimensions", [LLAMA, PHI, GEMMA3], ids=["llama", "phi", "gemma3"])
def test_prefixes_on_several_threads(same_on_all_threads: Any, dimensions: dict[str, Any]) -> None:
    """Each phase begins when all threads have ended the one before."""
    network = decoder(dimensions)
    pack(network)

    def compute(seed: int) -> Tensor:
        torch.manual_seed(seed)
        logits, cache = read(network, torch.randn(2, 14, network.config.width), [1, IMAGE, 5], 2)
        return torch.cat([tensor.flatten() for tensor in (logits, *cache)])

    same_on_all_threads(compute)


@pytest.mark.parametrize(("heads", "width"), [(1, 64), (2, 18)])
def test_attention_of_a_prefix_is_that_of_pytorch(heads: int, width: int) -> None:
    """With holes in what a row may look at; what follows the last of it may hold anything."""
    from prelim.kernels.attention import cached_numbers, gather_prefix

    torch.manual_seed(7)
    query, key, value = torch.randn(37, heads, width), torch.randn(39, width), torch.randn(39, width)
    mask = (torch.rand(37, 37) < 0.6).tril() | torch.eye(37, dtype=torch.bool)
    wanted = scaled_dot_product_attention(query.transpose(0, 1), key[:37], value[:37], attn_mask=mask).transpose(0, 1)
    key[37:], value[37:] = torch.nan, torch.nan
    out = torch.empty_like(query)
    gather = gather_prefix(cached_numbers(torch.float32))
    arrays = [tensor.numpy() for tensor in (key, value, mask, out)]
    gather(query.numpy(), 0, heads, *arrays)
    torch.testing.assert_close(out, wanted, atol=1e-5, rtol=1e-5)
    query[20, 0, 3] = torch.nan
    gather(query.numpy(), 0, heads, *arrays)
    assert out[20, 0].isnan().all()
    assert out[20, 0].isnan().sum() == out.isnan().sum()
