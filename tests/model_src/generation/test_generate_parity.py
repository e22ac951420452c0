"""The engine writes the token ids of `transformers` `generate`, for every option."""

import random

import pytest

from prelim.generation.options import GenerationOptions
from tests.model_src.generation.reference import engine, generate, request, run, tiny_decoder, tiny_image

OPTIONS = {
    "greedy": {},
    "beams": {"num_beams": 3},
    "many beams": {"num_beams": 7},
    "beams returned": {"num_beams": 4, "num_return_sequences": 4},
    "length penalty": {"num_beams": 3, "length_penalty": 2.0},
    "negative length penalty": {"num_beams": 3, "length_penalty": -1.0, "num_return_sequences": 3},
    "early stopping": {"num_beams": 3, "early_stopping": True, "num_return_sequences": 2},
    "early stopping never": {"num_beams": 3, "early_stopping": "never"},
    "never, no length penalty": {"num_beams": 3, "early_stopping": "never", "length_penalty": 0.0},
    "repetition penalty": {"repetition_penalty": 1.5},
    "repetition penalty, beams": {"repetition_penalty": 1.5, "num_beams": 3},
    "repetition reward": {"repetition_penalty": 0.7, "num_beams": 2},
    "no repeated 2-gram": {"no_repeat_ngram_size": 2},
    "no repeated 1-gram, beams": {"no_repeat_ngram_size": 1, "num_beams": 3},
    "no repeated 3-gram, beams": {"no_repeat_ngram_size": 3, "num_beams": 3},
    "min new tokens": {"min_new_tokens": 12},
    "min new tokens, beams": {"min_new_tokens": 12, "num_beams": 3},
    "one token": {"max_new_tokens": 1},
    "one token, beams": {"max_new_tokens": 1, "num_beams": 3},
    "sampling": {"do_sample": True, "seed": 1},
    "sampling, temperature": {"do_sample": True, "seed": 2, "temperature": 0.5},
    "sampling, no top-k": {"do_sample": True, "seed": 3, "top_k": 0},
    "sampling, top-k": {"do_sample": True, "seed": 4, "top_k": 3},
    "sampling, top-p": {"do_sample": True, "seed": 5, "top_p": 0.6, "temperature": 1.7},
    "sampling, tiny top-p": {"do_sample": True, "seed": 5, "top_p": 0.001},
    "sampling, all": {
        "do_sample": True,
        "seed": 6,
        "temperature": 0.8,
        "top_k": 10,
        "top_p": 0.9,
        "repetition_penalty": 1.2,
        "no_repeat_ngram_size": 2,
        "min_new_tokens": 5,
    },
    "sampling, several": {"do_sample": True, "seed": 7, "num_return_sequences": 4},
    "beam sampling": {"do_sample": True, "seed": 8, "num_beams": 3},
    "beam sampling, filters": {"do_sample": True, "seed": 9, "num_beams": 3, "top_k": 5, "top_p": 0.8},
    "beam sampling, top-k 1": {"do_sample": True, "seed": 10, "num_beams": 2, "top_k": 1},
    "stop texts": {"stop": ("K", "OO", "Y")},
    "stop texts, beams": {"stop": ("OO", "YO"), "num_beams": 3, "num_return_sequences": 3},
    "stop texts, sampling": {"stop": ("K", "H"), "do_sample": True, "seed": 11, "num_return_sequences": 3},
    "system 0": {
        "num_beams": 5,
        "repetition_penalty": 1.5,
        "length_penalty": 2.0,
        "no_repeat_ngram_size": 3,
        "min_new_tokens": 8,
    },
    "system 2": {"num_beams": 5, "early_stopping": True, "no_repeat_ngram_size": 2},
}


@pytest.mark.parametrize("name", OPTIONS)
def test_token_ids_equal_generate(name: str) -> None:
    """For each option, and for several images, the token ids are those of `generate`."""
    decoder = tiny_decoder()
    options = GenerationOptions(**{"max_new_tokens": 24, **OPTIONS[name]})
    for seed in range(6):
        image = tiny_image(seed)

        actual = run(engine(decoder), {"a": request(image, options)})["a"]

        assert actual == generate(decoder, image, options), f"image {seed}"


def test_random_options_equal_generate() -> None:
    """Random mixtures of all options give the token ids of `generate`."""
    decoder, rng = tiny_decoder(seed=1), random.Random(0)
    for trial in range(60):
        beams = rng.choice([1, 2, 3, 5])
        sample = rng.random() < 0.4
        options = GenerationOptions(
            num_beams=beams,
            do_sample=sample,
            temperature=rng.choice([0.7, 1.0, 1.5]),
            top_k=rng.choice([0, 4, 50]),
            top_p=rng.choice([0.5, 0.9, 1.0]),
            seed=trial,
            repetition_penalty=rng.choice([1.0, 1.3]),
            no_repeat_ngram_size=rng.choice([0, 2, 3]),
            length_penalty=rng.choice([-0.5, 0.0, 1.0, 2.0]),
            early_stopping=rng.choice([False, True, "never"]),
            min_new_tokens=rng.choice([0, 6]),
            max_new_tokens=rng.choice([6, 20]),
            num_return_sequences=rng.randint(1, beams) if beams > 1 else rng.choice([1, 3]) if sample else 1,
            stop=rng.choice([(), ("K",), ("OO", "H")]),
        )
        image = tiny_image(trial)

        actual = run(engine(decoder), {"a": request(image, options)})["a"]

        assert actual == generate(decoder, image, options), options
