"""Llama's converted tokenizer gives the same ids and texts as the published one."""

import csv
import random
from pathlib import Path

import pytest
from sentencepiece import SentencePieceProcessor
from tokenizers import Tokenizer
from transformers import LlamaTokenizer

from export.tokenizers.read import read_tokenizer
from prelim.errors import ArchiveError

ODD = [
    "",
    " one space before",
    "  two",
    "a  b   c    d",
    "tab\tnew line\nend\r\n",
    "émoji 🫁 Ω 中文 \U0001f9d1\u200d\u2695\ufe0f",
    "</s> is text <s> and <unk> too",
    "▁ x▁y",
    "a\x00b\x7f",
    "~" * 40,
    "x" + " " * 70 + "x",
    "<0x41><PAD>",
]


@pytest.fixture(scope="module")
def folder(shared: Path) -> Path:
    """The published files."""
    return shared / "data" / "tokenizers" / "llama2"


@pytest.fixture(scope="module")
def tokenizer(folder: Path, tmp_path_factory: pytest.TempPathFactory) -> Tokenizer:
    """The converted tokenizer, read back from tokenizer.json."""
    path = tmp_path_factory.mktemp("tokenizer") / "tokenizer.json"
    read_tokenizer("llama2", folder, ("<PAD>",)).save(str(path))
    return Tokenizer.from_file(str(path))


@pytest.fixture(scope="module")
def texts(shared: Path) -> list[str]:
    """Real reports, unusual texts and random ones."""
    draw = random.Random(0)
    signs = "abcdefghij klmnop qrstuvwxyz  ABC.,:;()0123456789\n\té中한🫁-%_▁"
    with (shared / "data" / "iu_xray" / "indiana_reports.csv").open(encoding="utf-8") as file:
        reports = [f"{row['findings']} {row['impression']}" for row in csv.DictReader(file)][:600]
    return ODD + reports + ["".join(draw.choices(signs, k=draw.randint(1, 60))) for _ in range(600)]


def test_ids_are_those_of_shared_sentencepiece_file(tokenizer: Tokenizer, folder: Path, texts: list[str]) -> None:
    """Texts get the ids of SentencePiece; special tokens in a text are encoded as text."""
    original = SentencePieceProcessor(model_file=str(folder / "tokenizer.model"))
    tokenizer.encode_special_tokens = True

    ours = [encoding.ids for encoding in tokenizer.encode_batch(texts, add_special_tokens=False)]

    different = [text for text, ids in zip(texts, ours, strict=True) if ids != original.encode(text)]
    assert different == []


def test_text_is_that_of_transformers_on_the_shared_file(tokenizer: Tokenizer, folder: Path) -> None:
    """Any ids, including parts of characters and special tokens, decode to the text of `transformers`."""
    original = LlamaTokenizer.from_pretrained(folder)
    draw = random.Random(1)
    rows = [[draw.randrange(32000) for _ in range(draw.randint(0, 12))] for _ in range(500)]
    rows += [[draw.randrange(300) for _ in range(8)] for _ in range(200)]

    ours = [tokenizer.decode(row, skip_special_tokens=True) for row in rows]

    assert ours == [original.decode(row, skip_special_tokens=True) for row in rows]


def test_added_token_of_the_shared_vocabulary_is_special(tokenizer: Tokenizer) -> None:
    """The padding token that system 2 adds has the next id and is not part of decoded text."""
    assert tokenizer.token_to_id("<PAD>") == 32000
    assert tokenizer.decode([1, 10987, 886, 32000, 2], skip_special_tokens=True) == "Findings"


def test_folder_without_tokenizer_is_named(tmp_path: Path) -> None:
    """A folder without tokenizer files is an error with the expected file."""
    with pytest.raises(ArchiveError, match=r"has no tokenizer: expected tokenizer\.model"):
        read_tokenizer("llama2", tmp_path)
