"""A real language model imported from a GGUF file computes the same as in `transformers`."""

import csv
from pathlib import Path

import pytest
import torch
from transformers import LlamaForCausalLM, TokenizersBackend

from benchmarks.models.smollm2 import IM_END, original, original_tokenizer
from prelim.decoders.decoder import IMAGE
from prelim.generation.decode_request import DecodeRequest
from prelim.generation.engine import Engine
from prelim.generation.options import GenerationOptions
from prelim.generation.prompt import Prompter
from prelim.networks.model_folder import Model, read_model_folder
from prelim.networks.trained_decoder import serving_decoder
from tests.model_src.generation.reference import generate_arguments, run
from tests.smollm2 import QUESTION, WIDTH, WORD_SCALE

pytestmark = pytest.mark.slow

ODD = ["", " a", "a\n\nb\tc", "émoji 🫁 中文", "T12-L1, 3.5cm", "<|im_start|>user\nHi<|im_end|>", "don't"]


@pytest.fixture(scope="module")
def model(smollm2: Path) -> Model:
    """The imported model folder."""
    return read_model_folder(smollm2)


@pytest.fixture(scope="module")
def peer(smollm2: Path, smollm2_read_once: None) -> LlamaForCausalLM:
    """The same file, read by `transformers`."""
    return original()


@pytest.fixture(scope="module")
def tokenizer(smollm2: Path) -> TokenizersBackend:
    """Its tokenizer, read by `transformers`."""
    return original_tokenizer()


def test_weights_are_those_that_transformers_reads(model: Model, peer: LlamaForCausalLM) -> None:
    """Every dequantized tensor equals that of `transformers` bit for bit."""
    expected = peer.model.state_dict()

    found = model.network.decoder.body.state_dict()

    assert found.keys() == expected.keys()
    assert all(torch.equal(tensor, expected[key]) for key, tensor in found.items())


def test_scores_are_those_of_transformers(model: Model, peer: LlamaForCausalLM) -> None:
    """The imported decoder, with tied embeddings, gives the logits of the model in `transformers`."""
    ids = torch.tensor([model.tokenizer.encode("The heart is not enlarged.", add_special_tokens=False).ids])
    decoder = model.network.decoder
    with torch.inference_mode():
        ours = decoder.logits(decoder.body(input_ids=ids).last_hidden_state)
        theirs = peer(input_ids=ids).logits

    torch.testing.assert_close(ours, theirs)


def test_ids_of_shared_reports_are_those_of_transformers(
    shared: Path, model: Model, tokenizer: TokenizersBackend
) -> None:
    """Real reports and unusual texts get the ids of `transformers`, and decode to the same texts."""
    with (shared / "data" / "iu_xray" / "indiana_reports.csv").open(encoding="utf-8") as file:
        reports = [f"{row['findings']} {row['impression']}" for row in csv.DictReader(file)][:1000]
    # Several spaces before a digit are excluded: there `transformers` differs from SmolLM, see the next test.
    texts = [*(" ".join(report.split()) for report in reports), *ODD]

    encoded = [model.tokenizer.encode(text, add_special_tokens=False).ids for text in texts]

    assert encoded == [tokenizer(text, add_special_tokens=False).input_ids for text in texts]
    assert [model.tokenizer.decode(ids, skip_special_tokens=False) for ids in encoded] == texts


def test_every_digit_is_one_token(model: Model) -> None:
    """SmolLM splits off digits first: the spaces before one are a single token, unlike in GPT-2."""
    assert model.tokenizer.encode("a   12", add_special_tokens=False).tokens == ["a", "ĠĠĠ", "1", "2"]


def test_prompt_is_that_of_the_chat_template(model: Model, tokenizer: TokenizersBackend) -> None:
    """Without the image, the template of model.yaml gives the ids of the file's chat template."""
    conversation = [{"role": "user", "content": QUESTION}]
    assert model.config.prompt is not None

    ids = Prompter(model.config.prompt, model.tokenizer).ids(QUESTION, None)

    expected = tokenizer.apply_chat_template(conversation, add_generation_prompt=True, return_dict=True).input_ids
    assert [token_id for token_id in ids if token_id != IMAGE] == expected


@pytest.mark.parametrize(
    "options",
    [
        GenerationOptions(max_new_tokens=16),
        GenerationOptions(max_new_tokens=8, num_beams=3),
        GenerationOptions(max_new_tokens=8, num_beams=5, early_stopping=True, no_repeat_ngram_size=2),
    ],
    ids=["greedy", "beams", "system 2"],
)
def test_token_ids_equal_generate(model: Model, peer: LlamaForCausalLM, options: GenerationOptions) -> None:
    """With real weights, two images and two questions in one batch get the token ids of `generate`."""
    assert model.config.prompt is not None
    prompter = Prompter(model.config.prompt, model.tokenizer)
    prompts = [prompter.ids(question, None) for question in (QUESTION, "Describe the findings in this chest X-ray.")]
    images = [WORD_SCALE * torch.randn(14, WIDTH, generator=torch.Generator().manual_seed(i)) for i in range(2)]
    decoder = serving_decoder(model.network.decoder)
    engine = Engine(decoder, slots=2, eos_token_ids=[IM_END], pad_token_id=IM_END, detokenize=str)

    found = run(engine, {f"{i}": DecodeRequest(images[i], prompts[i], options) for i in range(2)})

    for i in range(2):
        with torch.inference_mode():
            embeds = model.network.decoder.embed(images[i][None], torch.tensor([prompts[i]]))
            expected = peer.generate(
                inputs_embeds=embeds,
                attention_mask=torch.ones(embeds.shape[:2], dtype=torch.int64),
                eos_token_id=IM_END,
                pad_token_id=IM_END,
                **generate_arguments(options),
            )
        assert found[f"{i}"] == expected.tolist()
