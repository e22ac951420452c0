"""A tokenizer of every kind that the project has, with few tokens, and those in use."""

import json
from collections.abc import Callable
from pathlib import Path

import pytest
from tokenizers import Tokenizer, decoders, models, pre_tokenizers

from export.tokenizers.bert import FILE, bert_tokenizer
from export.tokenizers.biogpt import MERGES, VOCABULARY, biogpt_tokenizer
from export.tokenizers.llama import SPACE, build_tokenizer
from export.tokenizers.read import read_tokenizer
from training.network.wordpiece import make_tokenizer

ROOT = Path(__file__).resolve().parent.parent.parent.parent


def byte_level(_: Path) -> Tokenizer:
    """As GPT-2 and SmolLM2 have it: "Ġ" is a space, and "é", "心" and an emoji are tokens of single bytes."""
    pieces = ["<s>", "</s>", "lung", "Ġclear", "Ġ", "-", ".", "#", "Ã", "©", "å", "¿", "ĥ", "ð", "Ł", "«", "ģ", "ÿ"]
    tokenizer = Tokenizer(models.BPE({piece: i for i, piece in enumerate(pieces)}, []))
    tokenizer.decoder = decoders.ByteLevel()
    tokenizer.add_special_tokens(["<s>", "</s>"])
    tokenizer.add_tokens(["one–token"])
    return tokenizer


def sentencepiece(_: Path) -> Tokenizer:
    """As Llama has it, with tokens for bytes."""
    pieces = [
        "<unk>",
        "<s>",
        "</s>",
        f"{SPACE}lung",
        "s",
        SPACE,
        "##",
        "mm",
        *(f"<0x{byte:02X}>" for byte in range(256)),
    ]
    return build_tokenizer(
        pieces, [-float(i) for i in range(len(pieces))], special=(0, 1, 2), single_bytes=range(8, 264), unknown=0
    )


def moses(folder: Path) -> Tokenizer:
    """As BioGPT has it: words end in "</w>", and the rules join words, escaped signs and quotation marks."""
    words = ["@-@", "&apos;", "&quot;", "&apos;&apos;", ",", ")", "(", "$", "clear", "s", "&apos;s", "心", ".", "&amp;"]
    pieces = ["<s>", "<pad>", "</s>", "<unk>", "lung", "&am", "p;", "&", "心", *(f"{word}</w>" for word in words)]
    (folder / VOCABULARY).write_text(json.dumps({piece: i for i, piece in enumerate(pieces)}))
    (folder / MERGES).write_text("")
    return biogpt_tokenizer(folder)


def bert(folder: Path) -> Tokenizer:
    """As systems 1 and 4 have it: the spaces of abbreviations and stops are closed in the whole text."""
    signs = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", "'", "n", "t", "##t", "m", "s", "ve", ".", ",", "lung", "-"]
    (folder / FILE).write_text("\n".join(signs))
    return bert_tokenizer(folder)


def wordpiece(_: Path) -> Tokenizer:
    """As training makes it: hyphens are closed up."""
    return make_tokenizer(["covid-19 isn't x-ray . no - effusion"], 60)


def wordpiece_alone(_: Path) -> Tokenizer:
    """As the smallest model of the tests has it."""
    pieces = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "findings", ":", "the", "##s", ".", "n't"]
    tokenizer = Tokenizer(models.WordLevel({piece: i for i, piece in enumerate(pieces)}, unk_token="[UNK]"))  # noqa: S106
    tokenizer.add_special_tokens(pieces[:4])
    tokenizer.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    tokenizer.decoder = decoders.WordPiece()
    return tokenizer


def demo(_: Path) -> Tokenizer:
    """The demo model's."""
    return Tokenizer.from_file(str(ROOT / "models" / "demo" / "tokenizer.json"))


def smollm2(_: Path) -> Tokenizer:
    """SmolLM2's, from its GGUF file."""
    from benchmarks.models.smollm2 import GGUF

    if not GGUF.is_file():
        pytest.skip(f"{GGUF} is not here; `make build/smollm2/installed` fetches it")
    return read_tokenizer("gguf", GGUF)


def published(kind: str) -> Callable[[Path], Tokenizer]:
    """One of the published vocabularies."""

    def read(_: Path) -> Tokenizer:
        folder = ROOT.parent / "shared" / "data" / "tokenizers" / kind
        if not folder.is_dir():
            pytest.skip("the folder ../shared with published tokenizers is not here")
        return read_tokenizer(kind, folder)

    return read


SMALL = {
    "byte-level": byte_level,
    "SentencePiece": sentencepiece,
    "Moses": moses,
    "BERT": bert,
    "WordPiece": wordpiece,
    "WordPiece alone": wordpiece_alone,
}
IN_USE = {
    "demo": demo,
    "SmolLM2": smollm2,
    "Llama 2": published("llama2"),
    "BioGPT": published("biogpt"),
    "BERT, published": published("bert-base-uncased"),
}
