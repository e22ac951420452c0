"""What is learned: the tokens of the report and its end, each once, at the right place."""

from collections.abc import Callable
from dataclasses import replace

import pytest
import torch

from prelim.decoders.decoder import IMAGE, PADDING
from tests.model_src.networks.architectures.small_xraygpt import small_model
from tests.training.conftest import CAPTIONS
from tests.training.small_systems import MODELS
from training.data.report_tokens import ReportTokens
from training.network.wordpiece import BOS, EOS
from training.run.preparation import prepare
from training.settings import Settings, SettingsError

Small = Callable[..., Settings]


@pytest.mark.parametrize("system", MODELS)
def test_the_targets_are_the_report_and_its_end(small: Small, system: str) -> None:
    """Decoded, the targets of every example are its text and what ends it while serving; nothing else is learned."""
    prepared = prepare(small(system), 1, main=False)
    model, batch = prepared.model, prepared.train[0]
    for prompt, row in zip(batch["prompt_ids"], batch["report_ids"], strict=True):
        learned = row[row != PADDING]
        text = model.tokenizer.decode(learned.tolist(), skip_special_tokens=True)
        assert text in (CAPTIONS[0][0], CAPTIONS[1][0])
        assert learned[-1] == EOS
        assert (prompt == IMAGE).sum() == (
            0 if system in ("mobilenet_graph", "xreport", "encoder_decoder", "blip") else 1
        )


def test_a_report_ends_with_the_text_that_the_server_stops_at(small: Small) -> None:
    """Published XrayGPT ends with "###" and no end-of-text token; a tokenizer that cannot write it is refused."""
    model = small_model()
    tokens = ReportTokens(model.config, model.tokenizer)
    assert model.tokenizer.decode(list(tokens.report("Clear lungs."))) == "Clear lungs.###"
    settings = small("xraygpt")
    generation = {**settings.model["generation"], "stop": ["END"]}
    with pytest.raises(SettingsError, match="where the server would never find it"):
        prepare(replace(settings, model={**settings.model, "generation": generation}), 1, main=False)


@pytest.mark.parametrize("system", MODELS)
def test_padding_changes_no_loss(small: Small, system: str) -> None:
    """The loss of two reports of different lengths is the sum of their losses alone."""
    prepared = prepare(small(system), 1, main=False)
    teacher = prepared.objective.eval()
    tokens = ReportTokens(prepared.model.config, prepared.model.tokenizer)
    reports = [tokens.report(text) for text in ("chest", "frontal chest radiograph with viral pneumonia, frontal")]
    images = prepared.train[0]["pixel_values"][:2]
    labels = torch.zeros(2, dtype=torch.int64)

    def loss(rows: list[int]) -> torch.Tensor:
        prompt_ids, report_ids = tokens.batch([(tokens.prompt(), reports[i]) for i in rows])
        batch = {"prompt_ids": prompt_ids, "report_ids": report_ids, "labels": labels[rows]}
        return teacher({"pixel_values": images[rows], **batch})[0]

    torch.testing.assert_close(loss([0, 1]), loss([0]) + loss([1]), rtol=1e-5, atol=1e-4)


@pytest.mark.parametrize("system", ["biomedclip_qformer_biogpt", "densenet_disease_llama", "xraygpt"])
def test_every_place_predicts_the_next_token(small: Small, system: str) -> None:
    """The loss is that of `transformers` for the same embeddings and labels: one shift, not two."""
    from transformers import AutoConfig, AutoModelForCausalLM

    prepared = prepare(small(system), 1, main=False)
    decoder = prepared.objective.eval().network.decoder
    batch = prepared.train[0]
    prompt_ids, report_ids = batch["prompt_ids"], batch["report_ids"]
    embeds = torch.randn(len(report_ids), 4, 64)
    logits = decoder.teacher_forcing(embeds, prompt_ids, report_ids)
    ours = torch.nn.functional.cross_entropy(logits.flatten(0, 1), report_ids.flatten(), ignore_index=PADDING)
    config = AutoConfig.for_model(**decoder.config.to_dict())
    reference = AutoModelForCausalLM.from_config(config).eval()
    getattr(reference, reference.base_model_prefix).load_state_dict(decoder.body.state_dict())
    if decoder.lm_head is not None:
        reference.lm_head.load_state_dict(decoder.lm_head.state_dict())
    full = decoder.embed(embeds, torch.cat([prompt_ids, report_ids.clamp(min=0)], dim=1))
    labels = torch.nn.functional.pad(report_ids, (full.shape[1] - report_ids.shape[1], 0), value=PADDING)
    torch.testing.assert_close(ours, reference(inputs_embeds=full, labels=labels).loss)


def test_a_report_that_is_too_long_has_no_end(small: Small) -> None:
    """A report that is cut does not teach that it ended there."""
    prepared = prepare(small(), 1, main=False)
    tokens = ReportTokens(prepared.model.config, prepared.model.tokenizer, 3)
    assert tokens.is_cut("frontal chest x-ray")
    assert not tokens.is_cut("frontal chest")
    assert EOS not in tokens.report("frontal chest x-ray")
    assert tokens.report("frontal chest")[-1] == EOS
    assert tokens.prompt() == (BOS,)


def test_prompts_are_drawn_and_refused(small: Small) -> None:
    """Several prompts are all used; a system without prompts refuses them."""
    prepared = prepare(small("xraygpt", dataset={"prompts": ["Describe.", "What is seen in it?"]}), 1, main=False)
    prompts = [row for n in range(8) for row in prepared.train[n]["prompt_ids"]]
    assert len({(row == IMAGE).nonzero()[0, 0].item() for row in prompts}) == 1
    assert len({int((row != PADDING).sum()) for row in prompts}) == 2
    with pytest.raises(SettingsError, match="mobilenet_graph takes none"):
        prepare(small(dataset={"prompts": ["Describe."]}), 1, main=False)


def test_more_tokens_than_positions_name_the_way_out(small: Small) -> None:
    """A report that does not fit the decoder is an error that says which setting to lower."""
    settings = small("xreport", dataset={"max_tokens": 500})
    prepared = prepare(settings, 1, main=False)
    tokens = ReportTokens(prepared.model.config, prepared.model.tokenizer, 500)
    batch = prepared.train[0]
    prompt_ids, report_ids = tokens.batch([(tokens.prompt(), tokens.report("chest " * 200))])
    with pytest.raises(SettingsError, match=r"take 201 positions.* has 64.*lower dataset\.max_tokens"):
        prepared.objective({**batch, "prompt_ids": prompt_ids, "report_ids": report_ids})
