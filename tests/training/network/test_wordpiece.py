"""Word pieces write what was said: numbers, accents and Chinese characters."""

import pytest

from training.network.wordpiece import make_tokenizer

TEXTS = (
    "nódulo de 3.5 cm. paciente de 40 años",
    "1,000 ml at 10:30, 3/4 of it; x-ray no. 2. 3 nodules",
    "心影不大。两肺清晰",
    "herz größe normal, kein erguß",
)


@pytest.mark.parametrize("text", TEXTS)
def test_a_text_comes_back_as_it_was(text: str) -> None:
    """A number is one word, "año" is not "ano", Chinese characters have no spaces; upper case alone is lost."""
    tokenizer = make_tokenizer(TEXTS, 400)
    assert tokenizer.decode(tokenizer.encode(text).ids) == text
    assert tokenizer.decode(tokenizer.encode(text.upper().replace("ß".upper(), "ß")).ids) == text
