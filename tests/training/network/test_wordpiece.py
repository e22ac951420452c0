"""Word pieces give back the text that went in, in lower case and with single spaces."""

import random
from pathlib import Path

import pytest
from tokenizers import Tokenizer

from training.datasets.formats.open_radiology import read_templates
from training.evaluation.metrics.labeler_check import read_reports
from training.network.wordpiece import make_tokenizer

TEXTS = (
    "nódulo de 3.5 cm. paciente de 40 años",
    "1,000 ml at 10:30, 3/4 of it; x-ray no. 2. 3 nodules",
    "心影不大。两肺清晰，无 积液 ct心",
    "herz größe normal, kein erguß",
    "and/or it's the patient's, l'épanchement d'une",
    "¿donde? ¡ya! a.m. p.m. i.e. t12/l1 1.5t mri 5% 5 % <2 cm >3 ~1",
    "(a) [b] { c } a - b a-b a -b a- b 3 / 4 \"q\" ' q ' — it’s 5–7",
    "##x # # ___ a__b ...wait?! no.. a . b ;c ; d:e : f",
    "½ °c 10³ 2×3 e\u0301 😀 ok אבג عربي ไทย 한국어 ひらがなカタカナ",
)


def plain(text: str) -> str:
    """What a text is to these tokenizers."""
    return " ".join(text.lower().split())


def back(tokenizer: Tokenizer, text: str) -> str:
    """Encoded and decoded."""
    decoded: str = tokenizer.decode(tokenizer.encode(text).ids)
    return decoded


@pytest.mark.parametrize("vocab_size", [400, 4000], ids=["characters", "words"])
@pytest.mark.parametrize("text", TEXTS)
def test_a_text_comes_back_as_it_was(text: str, vocab_size: int) -> None:
    """Spaces are where they were, accents stay; upper case alone is lost. Also where no word is in the vocabulary."""
    tokenizer = make_tokenizer(TEXTS, vocab_size)
    assert back(tokenizer, text) == text
    assert back(tokenizer, text.upper().replace("SS", "ß")) == text


def test_any_text_of_known_characters_comes_back() -> None:
    """Random strings of letters, digits, signs, spaces and line ends."""
    characters = "ab1 2.,:;/-'\"()[]{}%#_¿?！。心影é\n\t  "
    tokenizer = make_tokenizer([characters], 400)
    draw = random.Random(0)
    for _ in range(2000):
        text = "".join(draw.choices(characters, k=draw.randint(0, 30)))
        assert back(tokenizer, text) == plain(text)


def test_shared_every_report_of_the_data_comes_back(shared: Path) -> None:
    """The reports of IU X-Ray and the templates that the demo model is trained on."""
    texts = [*read_reports(shared / "data" / "iu_xray" / "NLMCXR_reports.tgz").values()]
    texts += [text for captions in read_templates(shared / "data" / "open_radiology").values() for text in captions]
    tokenizer = make_tokenizer(texts, 2000)
    assert len(texts) > 3900
    assert [text for text in texts if back(tokenizer, text) != plain(text)] == []
