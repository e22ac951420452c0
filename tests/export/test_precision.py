"""The archive's decoder has the precision of model.yaml."""

import dataclasses
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from bitsandbytes.functional import dequantize_4bit, quantize_4bit
from torch import Tensor, nn

from export.package import write_decoder
from prelim.archive.archive import DECODER, load_decoder, read_archive
from prelim.archive.manifest import write_manifest
from prelim.decoders.cross_attention import CrossAttentionConfig, CrossAttentionDecoder
from prelim.decoders.decoder import IMAGE
from prelim.decoders.four_bits import Int4DynamicLinear
from prelim.decoders.packed import pack
from prelim.decoders.precision import PRECISIONS, quantize
from prelim.decoders.quantized import Int8DynamicLinear, Int8Linear, NF4Linear
from prelim.decoders.weights_file import materialize
from prelim.errors import ArchiveError
from prelim.generation.decode_request import DecodeRequest
from prelim.generation.engine import Engine
from prelim.generation.options import GenerationOptions
from prelim.kernels import rotated
from prelim.networks.model_folder import read_model_folder
from prelim.networks.trained_decoder import for_serving, serving_decoder
from prelim.networks.transformers_lm import TransformersLM
from prelim.report import Report
from prelim.report_generator import ReportGenerator, ReportRequest
from tests.tiny_model import CONFIG, png

QUANTIZED = {"int8": Int8Linear, "int8_dynamic": Int8DynamicLinear, "int4_dynamic": Int4DynamicLinear, "nf4": NF4Linear}
BITS = {"fp32": 32, "bf16": 16, "int8": 8, "int8_dynamic": 8, "int4_dynamic": 4, "nf4": 4}


def tiny_lm(model_type: str, **more: Any) -> TransformersLM:
    """A random causal language model whose outputs depend on its input."""
    torch.manual_seed(0)
    section = {"model_type": model_type, "vocab_size": 512, "hidden_size": 64, "num_hidden_layers": 2}
    section |= {"num_attention_heads": 4, "intermediate_size": 128, "max_position_embeddings": 80, **more}
    lm = TransformersLM(section)
    for parameter in lm.parameters():
        if parameter.ndim > 1:
            nn.init.normal_(parameter, std=1.5 / parameter.shape[-1] ** 0.5)
    for name, parameter in lm.named_parameters():
        if name.endswith("bias"):
            nn.init.normal_(parameter, std=0.5)
    return lm.eval()


def biogpt() -> TransformersLM:
    """Layer norm, biases, tied embeddings."""
    return tiny_lm("biogpt")


def llama() -> TransformersLM:
    """RMS norm, grouped heads, gated feed-forward, separate output layer."""
    return tiny_lm("llama", num_key_value_heads=2, tie_word_embeddings=False)


def qwen2() -> TransformersLM:
    """The weights of `llama`, with a bias in queries, keys and values."""
    lm = tiny_lm("qwen2", num_key_value_heads=2, tie_word_embeddings=False)
    lm.load_state_dict(llama().state_dict(), strict=False)
    return lm


def cross_attention() -> CrossAttentionDecoder:
    """A decoder that uses a part of a joined projection separately."""
    torch.manual_seed(0)
    config = CrossAttentionConfig(vocab_size=512, width=64, layers=2, heads=4, feedforward=128, max_positions=80)
    return CrossAttentionDecoder(config).eval()


DECODERS: list[Callable[[], Any]] = [biogpt, llama, qwen2, cross_attention]


def first_logits(decoder: Any, images: int = 3) -> Tensor:
    """Logits of the first token for a few random images."""
    prompt = 2 if isinstance(decoder, CrossAttentionDecoder) else IMAGE
    state = decoder.new_state(images)
    state.cache.reserve(images, 8)
    places = state.cache.prefix_places(slice(0, images), 6 if prompt == IMAGE else 1)
    embeds = torch.randn(images, 6, 64, generator=torch.Generator().manual_seed(1))
    with torch.inference_mode():
        return decoder.prefill(state, places, embeds, torch.full((images, 1), prompt)).float()


@pytest.mark.parametrize("build", DECODERS)
@pytest.mark.parametrize("precision", PRECISIONS)
def test_logits_are_close_in_every_precision(build: Callable[[], Any], precision: str) -> None:
    """The logits equal those of fp32 up to the rounding error of the precision."""
    expected = first_logits(serving_decoder(build()))
    actual = first_logits(serving_decoder(build(), precision))

    error = (actual - expected).norm() / expected.norm()
    most = {"fp32": 1e-6, "bf16": 0.02, "int8": 0.03, "int8_dynamic": 0.06, "int4_dynamic": 0.35, "nf4": 0.25}
    assert error < most[precision]
    assert (error > 0) == (precision != "fp32")


@pytest.mark.parametrize("build", DECODERS)
@pytest.mark.parametrize("precision", PRECISIONS)
def test_packed_weights_are_equivalent(build: Callable[[], Any], precision: str) -> None:
    """Packed and mapped weights give the same outputs, up to the order of summation."""
    packed, shared = (first_logits(serving_decoder(build(), precision, packed=way)) for way in (True, False))

    tolerance = 0.02 if PRECISIONS[precision].dtype == torch.bfloat16 else 1e-5
    assert (packed - shared).norm() <= tolerance * shared.norm()


@pytest.mark.parametrize("build", DECODERS)
@pytest.mark.parametrize("precision", PRECISIONS)
def test_stored_bits_per_weight(build: Callable[[], Any], precision: str) -> None:
    """Matrices have the bits per weight of the precision; only lookup tables may have 16 or 32."""
    decoder = build()
    _, served, stored = for_serving(decoder, precision)
    layers = {name for name, layer in served.named_modules() if isinstance(layer, (nn.Linear, *QUANTIZED.values()))}
    weights, whole = {}, decoder.served()[1]
    for name in layers:
        if precision == "nf4" and name == "lm_head":
            continue
        weights[name] = materialize(stored[f"{name}.weight"]).nbytes * 8 / materialize(whole[f"{name}.weight"]).numel()

    assert set(weights.values()) == {BITS[precision]}


@pytest.mark.parametrize("build", DECODERS)
@pytest.mark.parametrize("precision", ["fp32", "int8_dynamic"])
def test_batch_does_not_change_reports(build: Callable[[], Any], precision: str) -> None:
    """A report is the same alone and in a batch, also with activations rounded to 8 bits."""
    decoder = serving_decoder(build(), precision)
    prompt = (2,) if isinstance(decoder, CrossAttentionDecoder) else (IMAGE,)
    options = GenerationOptions(max_new_tokens=12, num_beams=2)
    images = (
        torch.randn(4, 6, 64, generator=torch.Generator().manual_seed(2))
        * torch.tensor([1.0, 9, 0.1, 3])[:, None, None]
    )
    requests = {f"{i}": DecodeRequest(image, prompt, options) for i, image in enumerate(images)}

    def decode(some: dict[str, DecodeRequest]) -> dict[str, tuple[int, ...]]:
        engine = Engine(decoder, slots=4, eos_token_ids=[3], pad_token_id=0, detokenize=str)
        return {key: found[0].token_ids for key, found in engine.decode(some).items()}

    together = decode(requests)
    assert together == {key: decode({key: request})[key] for key, request in requests.items()}
    assert len(set(together.values())) > 1


@pytest.mark.parametrize("rows", [1, 3, 40])
@pytest.mark.parametrize("precision", ["int8", "int8_dynamic"])
def test_int8_is_within_half_a_unit(precision: str, rows: int) -> None:
    """Stored weights have an error of at most half a unit, and all kernels use exactly these, whole or in part."""
    torch.manual_seed(0)
    weight, bias = torch.randn(96, 128) * torch.logspace(-6, 3, 96)[:, None], torch.randn(96)
    weight[5] = 0
    decoder: Any = quantize(nn.ModuleDict({"layer": nn.Linear(128, 96)}), precision)
    stored = {name: materialize(tensor) for name, tensor in decoder["layer"].stored(weight).items()}
    decoder["layer"].load_state_dict({**stored, "bias": bias}, assign=True)
    scale = stored["scale"].float().repeat_interleave(64, dim=1)
    restored = stored["weight"].float() * scale

    turn = rotated if precision == "int8_dynamic" else lambda tensor: tensor
    assert ((restored - turn(weight)).abs() <= scale * 0.501).all()
    restored = turn(restored)
    x = torch.randn(rows, 128)
    expected = nn.functional.linear(x, restored, bias)
    with torch.inference_mode():
        dtype = PRECISIONS[precision].dtype
        layer: Any = pack(decoder.to(dtype))["layer"]
        actual = layer(x.to(dtype)).float()
        part = layer.part(x.to(dtype), 10, 30).float()
    size = weight.norm(dim=1) + bias.abs()
    assert ((actual - expected).abs() / size).max() < 0.1
    torch.testing.assert_close(part, actual[:, 10:30])


def test_nf4_equals_bitsandbytes() -> None:
    """The layer uses the weights that bitsandbytes dequantizes."""
    torch.manual_seed(0)
    weight, x = torch.randn(96, 128), torch.randn(5, 128, dtype=torch.bfloat16)
    restored = dequantize_4bit(*quantize_4bit(weight, quant_type="nf4"))
    layer = NF4Linear(128, 96, bias=False)
    layer.load_state_dict({name: materialize(tensor) for name, tensor in NF4Linear.stored(weight).items()}, assign=True)

    with torch.inference_mode():
        torch.testing.assert_close(layer(x), nn.functional.linear(x, restored.to(x.dtype)))


def test_nf4_needs_blocks() -> None:
    """A layer that cannot be divided into blocks is an error with its size."""
    decoder = CrossAttentionDecoder(CrossAttentionConfig(30, 12, 1, 2, 20, 16))

    with pytest.raises(ValueError, match=r"64 weights together; .* x 12 cannot be divided"):
        for_serving(decoder, "nf4")


@pytest.mark.parametrize("precision", PRECISIONS)
def test_archive_answers_in_every_precision(
    tiny_model: Path, tiny_archive: Path, tmp_path: Path, precision: str
) -> None:
    """An archive in any precision works with its stored decoder, and loads it without a copy."""
    folder = shutil.copytree(tiny_archive, tmp_path / "archive")
    model = read_model_folder(tiny_model, decoder_as_stored=True)
    config = dataclasses.replace(model.config, precision=precision)
    write_decoder(dataclasses.replace(model, config=config), folder).write(folder / "model.yaml")
    write_manifest(folder)

    reports = ReportGenerator.load(folder).generate([ReportRequest(image=png(seed)) for seed in range(3)])
    loaded, kept = load_decoder(read_archive(folder)), serving_decoder(model.network.decoder, precision)

    assert all(isinstance(report, Report) and report.token_ids for report in reports)
    assert all(torch.equal(a, b) for a, b in zip(loaded.parameters(), kept.parameters(), strict=True))
    assert ((folder / DECODER).stat().st_size < (tiny_archive / DECODER).stat().st_size) == (precision != "fp32")


def test_unknown_precision_is_refused() -> None:
    """An unknown precision is an error with the allowed ones."""
    with pytest.raises(
        ArchiveError, match=r"precision is 'fp8'; allowed: fp32, bf16, int8, int8_dynamic, int4_dynamic, nf4"
    ):
        dataclasses.replace(CONFIG, precision="fp8")
