"""Images of different lengths in one prompt."""

import torch
from torch import Tensor

from prelim.decoders.decoder import IMAGE
from prelim.generation.decode_request import DecodeRequest
from prelim.generation.engine import Engine
from prelim.generation.options import GenerationOptions
from prelim.networks.trained_decoder import serving_decoder
from tests.model_src.generation.reference import run
from tests.model_src.generation.test_causal_lm_parity import EOS, PAD, generate, tiny_decoder

LENGTHS = (2, 5, 1)
PROMPT = (3, IMAGE, 7, 8, IMAGE, IMAGE, 9)


class ThreeImages(DecodeRequest):
    """A request with an image of each length."""

    @property
    def image_tokens(self) -> tuple[int, ...]:
        """Number of tokens of each image."""
        return LENGTHS


def test_each_image_stands_whole_in_its_place() -> None:
    """Token ids equal those of `generate` for the same embeddings."""
    lm = tiny_decoder("llama")
    images = torch.randn(sum(LENGTHS), 32, generator=torch.Generator().manual_seed(4))
    words = lm.body.get_input_embeddings()
    left = iter(images.split(LENGTHS))
    with torch.inference_mode():
        parts: list[Tensor] = [
            next(left) if token_id == IMAGE else words(torch.tensor([token_id])) for token_id in PROMPT
        ]
    for options in (
        GenerationOptions(max_new_tokens=20, min_new_tokens=15),
        GenerationOptions(max_new_tokens=20, num_beams=3, no_repeat_ngram_size=2),
    ):
        engine: Engine[DecodeRequest] = Engine(
            serving_decoder(lm), slots=2, eos_token_ids=[EOS], pad_token_id=PAD, detokenize=str
        )
        with torch.inference_mode():
            expected = generate(lm, torch.cat(parts)[None], options)
        assert run(engine, {"a": ThreeImages(images, PROMPT, options)})["a"] == expected
