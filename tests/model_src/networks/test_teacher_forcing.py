"""Teacher forcing of every system agrees with what its engine writes."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import pytest
import torch
from torch import Tensor
from torch.nn.utils.rnn import pad_sequence

from prelim.decoders.cross_attention import CrossAttentionConfig, CrossAttentionDecoder
from prelim.decoders.decoder import IMAGE, PADDING, expand_images
from prelim.decoders.teacher_forcing import TooManyPositions, join
from prelim.generation.decode_request import DecodeRequest
from prelim.generation.engine import Engine
from prelim.generation.hypothesis import Hypothesis
from prelim.generation.options import GenerationOptions
from prelim.networks.architectures import ARCHITECTURES
from prelim.networks.trained_decoder import serving_decoder
from tests.training.small_systems import MODELS, NOT_TRAINED

VOCAB_SIZE, BOS, EOS, PAD = 48, 2, 3, 0
TOKENS = (12, 7, 10)
"""Of each report at most, so that reports of one batch differ in length."""


@dataclass(frozen=True)
class System:
    """A small system with random weights, and what its engine writes for three images.

    decoders : as it is trained, and as it is served
    """

    decoders: dict[str, Any]
    image_embeds: Tensor
    prompts: Sequence[tuple[int, ...]]
    written: Sequence[Hypothesis]
    max_positions: int

    @property
    def reports(self) -> list[tuple[int, ...]]:
        """Token ids of what was written."""
        return [hypothesis.token_ids for hypothesis in self.written]


def randomize(decoder: Any) -> Any:
    """Random weights with which every choice depends on what was read before."""
    torch.manual_seed(0)
    for name, parameter in decoder.named_parameters():
        if parameter.ndim > 1:
            # The image must not outweigh the text, nor tied embeddings the context.
            gain = {"embed_tokens": 0.2, "embedding": 8.0, "cross_attention": 1.0}
            factor = next((value for part, value in gain.items() if part in name), 1.5)
            torch.nn.init.normal_(parameter, std=factor / parameter.shape[-1] ** 0.5)
    return decoder.eval().requires_grad_(False)


def decode(decoder: Any, image_embeds: Tensor, prompts: Sequence[tuple[int, ...]], **how: Any) -> list[Hypothesis]:
    """What the engine writes, all together; greedily unless options say otherwise."""
    engine: Engine[DecodeRequest] = Engine(
        decoder, slots=len(TOKENS), eos_token_ids=[EOS], pad_token_id=PAD, detokenize=str
    )
    options = [GenerationOptions(max_new_tokens=tokens, **how) for tokens in TOKENS]
    rows = zip(image_embeds, prompts, options, strict=True)
    done = engine.decode({f"{i}": DecodeRequest(*row) for i, row in enumerate(rows)})
    return [done[f"{i}"][0] for i in range(len(done))]


def pad(rows: Sequence[Sequence[int]]) -> Tensor:
    """Rows of token ids as one tensor."""
    return pad_sequence([torch.tensor(row) for row in rows], batch_first=True, padding_value=PADDING)


@pytest.fixture(scope="module", params=[name for name in ARCHITECTURES if name not in NOT_TRAINED])
def system(request: pytest.FixtureRequest) -> System:
    """Each system that is trained; a new one needs small dimensions in tests.training.small_systems."""
    sections = MODELS[request.param]
    parts = {**sections, "decoder": {**sections["decoder"], "vocab_size": VOCAB_SIZE}}
    network = ARCHITECTURES[request.param].build(parts).eval()
    size = sections["preprocess"]["size"]
    with torch.inference_mode():
        shape = network.connector(
            network.vision(torch.zeros(len(TOKENS), sections["preprocess"].get("channels", 3), size, size))
        ).shape
    # Untrained encoders are nearly blind.
    image_embeds = torch.randn(shape, generator=torch.Generator().manual_seed(1))
    prompts: Sequence[tuple[int, ...]] = [(BOS,)] * len(TOKENS)
    if "prompt" in ARCHITECTURES[request.param].published.defaults:
        image = () if sections["decoder"].get("add_cross_attention") else (IMAGE,)
        prompts = [(BOS, *image), (BOS, *image, 7, 8, 9), (BOS, *image, 10)]
    served = serving_decoder(randomize(network.decoder))
    written = decode(served, image_embeds, prompts)
    decoders = {"trained": network.decoder, "served": served}
    return System(decoders, image_embeds, prompts, written, served.max_positions)


KINDS = pytest.mark.parametrize("kind", ["trained", "served"])


@KINDS
def test_generation_is_the_argmax_of_teacher_forcing(system: System, kind: str) -> None:
    """Greedy token ids are the likeliest by teacher forcing, and are as likely as the engine says."""
    with torch.inference_mode():
        logits = system.decoders[kind].teacher_forcing(system.image_embeds, pad(system.prompts), pad(system.reports))

    assert logits.shape == (len(TOKENS), max(map(len, system.reports)), VOCAB_SIZE)
    for row, hypothesis in zip(logits, system.written, strict=True):
        logprobs = row[: len(hypothesis.token_ids)].log_softmax(dim=-1).max(dim=-1)
        assert tuple(logprobs.indices.tolist()) == hypothesis.token_ids
        assert float(logprobs.values.mean()) == pytest.approx(hypothesis.avg_logprob, abs=1e-4)
    assert len({ids[:3] for ids in system.reports}) == len(TOKENS)
    assert len({token for ids in system.reports for token in ids}) > len(TOKENS)


@KINDS
def test_a_row_gets_what_it_gets_alone(system: System, kind: str) -> None:
    """Neither longer prompts nor longer reports of the same batch change a row."""
    decoder = system.decoders[kind]
    with torch.inference_mode():
        together = decoder.teacher_forcing(system.image_embeds, pad(system.prompts), pad(system.reports))
        for i, (prompt, report) in enumerate(zip(system.prompts, system.reports, strict=True)):
            alone = decoder.teacher_forcing(system.image_embeds[i : i + 1], pad([prompt]), pad([report]))
            torch.testing.assert_close(together[i, : len(report)], alone[0], rtol=1e-4, atol=1e-4)


@KINDS
def test_texts_differ_from_their_first_different_token(system: System, kind: str) -> None:
    """Logits depend on the tokens before, all of them, and on none after."""
    decoder, image = system.decoders[kind], system.image_embeds[:1]
    with torch.inference_mode():
        one, other = (
            decoder.teacher_forcing(image, pad(system.prompts[:1]), pad([text]))[0]
            for text in ([5, 6, 7, 8, 9], [5, 6, 17, 8, 9])
        )

    torch.testing.assert_close(one[:3], other[:3], rtol=1e-4, atol=1e-4)
    assert all(not torch.allclose(a, b, atol=1e-2) for a, b in zip(one[3:], other[3:], strict=True))


@KINDS
def test_the_last_position_is_used_and_none_after_it(system: System, kind: str) -> None:
    """A text fills all positions, its last token being scored and not read; one more token is an error that says so."""
    decoder, image, prompts = system.decoders[kind], system.image_embeds[:1], pad(system.prompts[:1])
    prefix = len(expand_images(system.prompts[0], (image.shape[1],)))
    fits = [5] * (system.max_positions - prefix + 1)
    with torch.inference_mode():
        assert decoder.teacher_forcing(image, prompts, pad([fits])).isfinite().all()
        with pytest.raises(
            TooManyPositions, match=f"take {system.max_positions + 1} positions.* has {system.max_positions}"
        ):
            decoder.teacher_forcing(image, prompts, pad([[*fits, 5]]))


@pytest.mark.parametrize("blank", [False, True])
@pytest.mark.parametrize("bos", [BOS, PAD])
def test_written_padding_is_hidden_as_in_generation(blank: bool, bos: int) -> None:
    """A decoder that writes padding, or starts with it, gets the same scores by teacher forcing."""
    config = CrossAttentionConfig(VOCAB_SIZE, 32, 2, 4, 64, max_positions=32, pad_token_id=PAD, blank_padding=blank)
    decoder = randomize(CrossAttentionDecoder(config))
    decoder.lm_head.bias[PAD] += 5
    image_embeds = torch.randn(len(TOKENS), 6, 32, generator=torch.Generator().manual_seed(1))
    prompts = [(bos,)] * len(TOKENS)
    served = serving_decoder(decoder)
    written = decode(served, image_embeds, prompts, do_sample=True, seed=1)
    reports = [hypothesis.token_ids for hypothesis in written]

    with torch.inference_mode():
        logits = served.teacher_forcing(image_embeds, pad(prompts), pad(reports))

    assert all(PAD in ids[:-1] and set(ids) != {PAD} for ids in reports)
    for row, hypothesis in zip(logits, written, strict=True):
        ids = torch.tensor(hypothesis.token_ids)
        logprobs = row[: len(ids)].log_softmax(dim=-1).gather(1, ids[:, None])
        assert float(logprobs.mean()) == pytest.approx(hypothesis.avg_logprob, abs=1e-4)


def test_short_rows_take_no_more_positions_than_they_need() -> None:
    """Joined rows have no padding inside, and the last token of each report is left out."""
    text = join(pad([[1, IMAGE, 2, 3], [1, IMAGE]]), pad([[5, 6], [7, 8, 9, 4]]), pad_token_id=PAD)

    assert text.token_ids.tolist() == [[1, IMAGE, 2, 3, 5], [1, IMAGE, 7, 8, 9]]
    assert text.prompt_lengths.tolist() == [[4], [2]]
    # Two tokens in place of IMAGE: each hidden state is its position.
    assert text.scoring(torch.arange(6.0).expand(2, 6)[..., None])[..., 0].tolist() == [[4, 5, 5, 5], [2, 3, 4, 5]]


def test_trained_and_served_read_several_images_alike() -> None:
    """Each IMAGE of a prompt is replaced by its share of the images' tokens; without one there is an error."""
    decoder = randomize(ARCHITECTURES["xraygpt"].build(MODELS["xraygpt"]).decoder)
    width = decoder.config.hidden_size
    images = torch.randn(2, 6, width, generator=torch.Generator().manual_seed(3))
    prompts, reports = torch.tensor([[5, IMAGE, 7, IMAGE, 8]] * 2), torch.tensor([[9, 10, 11]] * 2)
    served = serving_decoder(decoder)
    with torch.inference_mode():
        by_trained, by_served = (d.teacher_forcing(images, prompts, reports) for d in (decoder, served))
        other = served.teacher_forcing(images.flip(1), prompts, reports)

    torch.testing.assert_close(by_trained, by_served, rtol=1e-4, atol=1e-4)
    assert not torch.allclose(other, by_served, atol=1e-2)
    for one in (decoder, served):
        with pytest.raises(ValueError, match="no place for the image"):
            one.teacher_forcing(images, torch.tensor([[5, 7]] * 2), reports)
