"""BioGPT's converted tokenizer encodes and decodes like the original."""

import csv
import json
import random
from pathlib import Path

import pytest
from tokenizers import Tokenizer
from transformers import BioGptTokenizer

from export.tokenizers.biogpt import MERGES, SPECIAL, VOCABULARY, biogpt_tokenizer
from export.tokenizers.read import read_tokenizer, vocabulary_size
from prelim.decoders.decoder import IMAGE
from prelim.generation.prompt import Prompter
from prelim.generation.prompt_config import PromptConfig

ODD = (
    "",
    "  ",
    "Heart size is 5,300 mm, x-ray-guided (AP/PA). No effusion.",
    "Dr. Smith vs. Mr. Jones, e.g. at 3 p.m. Then No. 5 and No. five.",
    "U.S. Army. a.b.c. Next a.b.c. next",
    "The patients' charts, the patient's \"quoted\" and 'other' don't, it''s 1990's. 'tis",
    "a,,1 a,,,b 1,,2 ,x, 1'2'3 a'b'c'd",
    "wait... what.... a.. b .. c ...",
    "ends with quote.'",
    "[1] {2} <3> a|b & c # ; @ a@b.c 100% $5 €6",
    "tab\tnew\nline\x01control\x1cfile\u00a0no-break\u200bzero",
    "DOTMULTI and xDOTDOTMULTI.",
    "résumé e\u0301 naïve µm α-synuclein 心肺 正常 \U0001fa7b",
    "&apos; &amp; @-@ “a” „b“ `c` ``d''",
    "<s> is no token </s>",
)
FRAGMENTS = (
    *"aA b.,'\"`-1%2s;:()[]{}/&|<>$ €xé心",
    *(" ", ". ", "No.", "'s", "..", " ’", "@-@", "\x01", "s'", "Dr.", "p.", " patients' ", ' "'),
)


def small_vocabulary(folder: Path) -> Path:
    """Write the files of a tokenizer with few merges, a piece without an id, and all ASCII characters.

    As in the published one, quotation marks are escaped as by Moses.
    """
    merges = [("t", "h"), ("th", "e</w>"), ("o", "s"), ("a", "p"), ("&", "ap"), ("n", "o</w>"), ("s", "o</w>")]
    letters = [chr(code) for code in range(33, 127) if chr(code) not in "\"'`"]
    pieces = [*SPECIAL, *letters, *(f"{letter}</w>" for letter in letters)]
    pieces += [a + b for a, b in merges if a + b != "so</w>"] + [
        "&apos;",
        "&apos;</w>",
        "&quot;</w>",
        "@-@</w>",
        "é</w>",
    ]
    (folder / VOCABULARY).write_text(json.dumps({piece: i for i, piece in enumerate(pieces)}))
    (folder / MERGES).write_text("".join(f"{a} {b} 1\n" for a, b in merges))
    return folder


def original(folder: Path) -> BioGptTokenizer:
    """The original tokenizer; special tokens in a text are encoded as text, as in a prompt."""
    return BioGptTokenizer(str(folder / VOCABULARY), str(folder / MERGES), split_special_tokens=True)


def encode(tokenizer: Tokenizer, text: str, vocab_size: int) -> list[int]:
    """The ids of a prompt."""
    return [i for i in Prompter(PromptConfig(), tokenizer, vocab_size).ids(text, None) if i != IMAGE]


def strings(count: int) -> list[str]:
    """Random strings of the characters that the rules handle."""
    chosen = random.Random(0)
    return ["".join(chosen.choices(FRAGMENTS, k=chosen.randint(1, 14))) for _ in range(count)]


def reports(shared: Path) -> list[str]:
    """The unique texts of all reports."""
    with (shared / "data" / "iu_xray" / "indiana_reports.csv").open(encoding="utf-8") as file:
        rows = list(csv.DictReader(file))
    texts = {f"{row['findings']} {row['impression']}" for row in rows} | {row["indication"] for row in rows}
    return sorted(texts)


def test_ids_equal_the_original_on_odd_strings(tmp_path: Path) -> None:
    """Quotes, dots, commas, brackets, control characters and other scripts are split as by Moses."""
    folder = small_vocabulary(tmp_path)
    expected = original(folder)
    ours = biogpt_tokenizer(folder)

    for text in (*ODD, *strings(2000)):
        assert encode(ours, text, expected.vocab_size) == expected.encode(text, add_special_tokens=False), text


def test_text_equals_the_original_for_any_ids(tmp_path: Path) -> None:
    """Any ids, including special ones, decode to the text of the original, with paired quotation marks."""
    folder = small_vocabulary(tmp_path)
    expected = original(folder)
    ours = biogpt_tokenizer(folder)
    chosen = random.Random(0)
    marks = [
        expected.convert_tokens_to_ids(f"{mark}</w>") for mark in ("&apos;", "&quot;", "s", ".", "(", "@-@", "$", "x")
    ]

    for _ in range(5000):
        kinds = marks if chosen.random() < 0.5 else range(expected.vocab_size)
        ids = chosen.choices(kinds, k=chosen.randint(1, 20))
        assert ours.decode(ids) == expected.decode(ids, skip_special_tokens=True), ids


def test_stored_tokenizer_is_the_same(tmp_path: Path) -> None:
    """Read back from tokenizer.json, the tokenizer gives the same ids and the same text."""
    ours = read_tokenizer("biogpt", small_vocabulary(tmp_path))

    read = Tokenizer.from_str(ours.to_str())

    for text in ODD:
        ids = ours.encode(text).ids
        assert read.encode(text).ids == ids
        assert read.decode(ids) == ours.decode(ids)


@pytest.mark.parametrize(
    "every", [pytest.param(20, id="some reports"), pytest.param(1, id="all reports", marks=pytest.mark.exhaustive)]
)
def test_shared_report_texts_equal_the_original(shared: Path, every: int) -> None:
    """With the published vocabulary, ids and decoded text of real reports equal the original's."""
    folder = shared / "data" / "tokenizers" / "biogpt"
    expected = original(folder)
    ours = read_tokenizer("biogpt", folder)

    for text in (*ODD, "nevertheless Nevertheless xevertheless", *reports(shared)[::every]):
        ids = expected.encode(text, add_special_tokens=False)
        assert encode(ours, text, expected.vocab_size) == ids, text
        assert ours.decode([2, 0, *ids, 2]) == expected.decode([2, 0, *ids, 2], skip_special_tokens=True), text


def test_added_tokens_follow_the_published_vocabulary(tmp_path: Path) -> None:
    """An added token has its id, before those of pieces without one, and the size counts both."""
    folder = small_vocabulary(tmp_path)
    size = len(json.loads((folder / VOCABULARY).read_text()))
    assert vocabulary_size("biogpt", folder, read_tokenizer("biogpt", folder)) == size

    (folder / "added_tokens.json").write_text(json.dumps({"<finding>": size}))
    tokenizer = read_tokenizer("biogpt", folder)

    assert tokenizer.encode("the<finding>", add_special_tokens=False).ids[-1] == size
    assert vocabulary_size("biogpt", folder, tokenizer) == size + 1
