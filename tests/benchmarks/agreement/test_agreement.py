"""The agreement benchmark: its arithmetic, and that it distinguishes good weights from bad ones."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn

from benchmarks.agreement import __main__ as agreement
from benchmarks.agreement.__main__ import SLOW, Agreement, Text, compare, main, markdown, measure, worst
from benchmarks.agreement.llama_cpp import FORMATS, q4_0, q8_0, rounded_decoder
from prelim.decoders.cross_attention import CrossAttentionConfig, CrossAttentionDecoder
from prelim.decoders.decoder import IMAGE
from prelim.decoders.precision import PRECISIONS
from prelim.networks.agreement import LIMIT, Prefix, Reading, RealModel, read, write
from prelim.networks.trained_decoder import serving_decoder
from prelim.networks.transformers_lm import TransformersLM

EOS, PAD, TOKENS = 3, 0, 12


def randomize(decoder: Any) -> Any:
    """Set random weights with which the output depends on the input."""
    torch.manual_seed(0)
    for parameter in decoder.parameters():
        if parameter.ndim > 1:
            nn.init.normal_(parameter, std=1.5 / parameter.shape[-1] ** 0.5)
    return decoder.eval().requires_grad_(False)


def language_model() -> TransformersLM:
    """A decoder with the image as prefix."""
    section = {"model_type": "llama", "vocab_size": 256, "hidden_size": 64, "num_hidden_layers": 2}
    section |= {"num_attention_heads": 4, "intermediate_size": 128, "max_position_embeddings": 80}
    return randomize(TransformersLM({**section, "num_key_value_heads": 2, "tie_word_embeddings": True}))


def cross_attention() -> CrossAttentionDecoder:
    """A decoder that attends to the image in every layer and masks padding."""
    return randomize(
        CrossAttentionDecoder(CrossAttentionConfig(256, 64, layers=2, heads=4, feedforward=128, max_positions=80))
    )


def tiny(decoder: Any, prefixes: int = 5) -> RealModel:
    """A model with random images, and prompts of several lengths."""
    generator = torch.Generator().manual_seed(1)
    images = [torch.randn(6, 64, generator=generator) for _ in range(prefixes)]
    prompts = [
        (2,) if isinstance(decoder, CrossAttentionDecoder) else (*range(5, 6 + i), IMAGE) for i in range(prefixes)
    ]
    return RealModel("tiny", "random", decoder, list(map(Prefix, images, prompts)), EOS, PAD, TOKENS)


DECODERS = [language_model, cross_attention]


@pytest.mark.parametrize("build", DECODERS)
def test_reading_of_own_text_repeats_its_choices(build: Callable[[], Any]) -> None:
    """In a reading of the decoder's own greedy text each token is its choice, with the same log-probability."""
    model = tiny(build())
    decoder = serving_decoder(model.decoder)
    written = write(decoder, model, model.prefixes, beams=1)

    readings = read(decoder, model, model.prefixes, written)

    assert [tuple(reading.choices.tolist()) for reading in readings] == written
    assert all((reading.margins > 0).all() and (reading.logprobs < 0).all() for reading in readings)
    assert len(set(written)) > 1
    assert max(map(len, written)) > TOKENS // 2


@pytest.mark.parametrize("build", DECODERS)
def test_fp32_agrees_with_itself(build: Callable[[], Any]) -> None:
    """Fp32 compared with itself changes nothing, greedy and with beams."""
    for row in measure(tiny(build()), ["fp32"]):
        assert (row.changed, row.identical, row.until_unlike) == (0, row.texts, row.tokens)
        assert row.logprob_max == 0


@pytest.mark.parametrize("build", DECODERS)
def test_garbage_agrees_little(build: Callable[[], Any], monkeypatch: pytest.MonkeyPatch) -> None:
    """A precision with the weights of another decoder changes most tokens and all texts; bf16 changes few."""

    def garbled(decoder: nn.Module, precision: str) -> Any:
        served = serving_decoder(decoder, precision)
        if precision == "int8":
            for parameter in served.parameters():
                parameter.copy_(parameter.flatten()[torch.randperm(parameter.numel())].view_as(parameter))
        return served

    monkeypatch.setattr(agreement, "serving_decoder", garbled)
    rows = measure(tiny(build()), ["bf16", "int8"])

    assert all(row.share > 0.9 for row in rows if row.precision == "int8")
    assert all(row.identical == 0 and row.logprob_mean < -1 for row in rows if row.precision == "int8")
    assert all(row.share < 0.1 for row in rows if row.precision == "bf16")


def test_every_precision_is_compared() -> None:
    """Each precision has a row for greedy search and one for beams; a slow one reads fewer texts."""
    rows = measure(tiny(language_model()), list(PRECISIONS))

    assert [(row.precision, row.beams) for row in rows] == [(p, beams) for p in PRECISIONS for beams in (1, 3)]
    assert all(row.texts == -(-5 // SLOW.get(row.precision, 1)) for row in rows)


def reading(choices: list[int], margins: list[float], logprobs: list[float]) -> Reading:
    """A Reading from plain lists."""
    return Reading(torch.tensor(choices), torch.tensor(margins), torch.tensor(logprobs))


def test_counts() -> None:
    """Changed tokens are counted after the same text, until-unlike and identical in free texts, even shorter ones."""
    prefix = Prefix(torch.empty(0, 1), (IMAGE,))
    texts = [
        Text(prefix, (5, 6, 7, EOS), reading([5, 6, 7, EOS], [1.0, 0.5, 2.0, 4.0], [-1.0, -1.0, -1.0, -1.0])),
        Text(prefix, (8, 9), reading([8, 4], [3.0, 0.25], [-2.0, -2.0])),
    ]
    # With beams a text can differ from the greedy choices of fp32, so choices are compared with choices.
    readings = [reading([5, 1, 7, EOS], [9.0] * 4, [-1.0, -2.5, -1.0, -1.0]), reading([8, 4], [9.0] * 2, [-1.5, -2.0])]

    row = compare("int8", 3, texts, readings, [(5, 6, EOS), (8, 9)])

    assert (row.texts, row.tokens, row.changed, row.share) == (2, 6, 1, 1 / 6)
    assert (row.identical, row.until_unlike) == (1, 4)
    assert (row.margin, row.margins) == (0.5, 1.5)
    assert (row.logprob_mean, row.logprob_max, row.logprob_token) == pytest.approx((-0.5, -1.5, -1 / 6))


def test_the_worst_model_decides() -> None:
    """The model with the most changes under greedy decoding decides about a precision; beams do not count."""

    def row(precision: str, beams: int, changed: int) -> Agreement:
        return Agreement(precision, beams, 10, 100, changed, None, 1.0, 10, 100, 0.0, 0.0, 0.0)

    tables = {
        "one": [row("bf16", 1, 1), row("bf16", 3, 50), row("int8", 1, 2)],
        "other": [row("bf16", 1, 2), row("int8", 1, 3)],
    }
    record = {"date": None, "commit": None, "versions": {"torch": "2"}, "machine": {"cpu": "?"}, "left_out": []}

    page = markdown({**record, "models": {name: {"about": ""} for name in tables}}, tables)

    assert worst(tables) == {"bf16": 0.02, "int8": 0.03}
    assert LIMIT == 0.02
    assert "| bf16 | 2.00% | yes |" in page
    assert "| int8 | 3.00% | no |" in page


def test_command_writes_its_output(
    tiny_model: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """The command measures a model folder on images, says what it does, and writes page and figures to files."""
    monkeypatch.setattr("benchmarks.models.real_models.DATA", tmp_path)

    code = main([str(tiny_model), "--precisions", "fp32", "bf16", "--images", "3", "--out", str(tmp_path)])

    assert code == 0
    shown = capsys.readouterr()
    assert "tiny, bf16, beams 3" in shown.err
    assert shown.out.strip() == (tmp_path / "agreement.md").read_text(encoding="utf-8").strip()
    record = json.loads((tmp_path / "agreement.json").read_text(encoding="utf-8"))
    assert record["may_be_default"]["fp32"] is True
    assert record["models"]["tiny"]["rows"][0]["texts"] == 3


def test_missing_model(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Without SmolLM2 the message has the command that fetches it; for an invalid folder it names the file."""
    monkeypatch.setattr("benchmarks.models.smollm2.GGUF", tmp_path / "no" / "such.gguf")

    with pytest.raises(SystemExit, match=r"such.gguf is not here; `make build/smollm2/installed`"):
        main(["smollm2", "--out", str(tmp_path)])
    with pytest.raises(SystemExit, match=r"model\.yaml"):
        main([str(tmp_path), "--out", str(tmp_path)])


def test_rows_do_not_see_later_tokens() -> None:
    """A decoder's choice at a position does not depend on later tokens."""
    model = tiny(language_model(), prefixes=1)
    decoder, text = serving_decoder(model.decoder), list(range(10, 10 + TOKENS))
    (same,), (other,) = (read(decoder, model, model.prefixes, [ids]) for ids in (text, [*text[:-2], 99, 98]))

    assert torch.equal(same.choices[:-1], other.choices[:-1])


def test_four_bits_of_llama_cpp() -> None:
    """By hand: the largest weight of 32 becomes -8 times the scale, halves go up, and what is above 7 becomes 7."""
    weight = torch.zeros(2, 64)
    weight[0, :5] = torch.tensor([-16.0, 15.8, 3.0, 2.9, -3.0])
    weight[1, 32:34] = torch.tensor([8.0, -7.4])

    got = q4_0(weight)

    assert got[0, :5].tolist() == [-16, 14, 4, 2, -2]
    assert got[1, 32:34].tolist() == [8, -7]
    assert not got[0, 5:].any()
    assert not got[1, :32].any()


def test_eight_bits_of_llama_cpp() -> None:
    """By hand: the largest weight of 32 becomes 127 times the scale, and halves go away from zero."""
    weight = torch.zeros(2, 64)
    weight[0, :5] = torch.tensor([-254.0, 3.0, -3.0, 2.9, 5.1])
    weight[1, 32:34] = torch.tensor([127.0, -0.4])

    got = q8_0(weight)

    assert got[0, :5].tolist() == [-254, 4, -4, 2, 6]
    assert got[1, 32:34].tolist() == [127, 0]
    assert not got[0, 5:].any()
    assert not got[1, :32].any()


@pytest.mark.parametrize("name", FORMATS)
def test_a_decoder_rounded_as_by_llama_cpp(name: str) -> None:
    """All its matrices are, and it is compared like a precision."""
    (row, _) = measure(tiny(language_model()), [name])

    decoder: Any = rounded_decoder(language_model(), name)
    assert row.precision == name
    for matrix in (decoder.words.table.weight, *(layer.up.weight for layer in decoder.layers)):
        assert torch.equal(matrix, FORMATS[name](matrix).to(matrix.dtype))
