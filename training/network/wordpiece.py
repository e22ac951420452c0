"""The demo model's tokenizer: a small uncased WordPiece vocabulary, as system 1 has a large one."""

from collections import Counter
from collections.abc import Iterable

from tokenizers import Regex, Tokenizer, decoders, normalizers, pre_tokenizers, processors
from tokenizers.models import WordPiece

PAD, UNK, BOS, EOS = range(4)
SPECIAL_TOKENS = ["[PAD]", "[UNK]", "[CLS]", "[SEP]"]

SPACE = "▁"
"""Stands for the space in front of a word, as in SentencePiece (Kudo and Richardson, EMNLP 2018)."""

CONTINUED = "##"

WORD = Regex(
    rf"{SPACE}?(?:\d+(?:[.,:/]\d+)+|\p{{Han}}|(?:(?!\p{{Han}})[\p{{L}}\p{{M}}\p{{N}}])+|[^\p{{L}}\p{{M}}\p{{N}}])"
)
"""A number with its separators, one Chinese character, letters and digits, or one other sign."""


def make_tokenizer(captions: Iterable[str], vocab_size: int) -> Tokenizer:
    """A tokenizer that wraps a caption in [CLS] and [SEP] and gives the caption back in lower case, with single spaces.

    A word carries the space in front of it, so "and/or", "it's" and "x-ray" come back without spaces, and "a - b" with
    them. Accents stay: without them "año" (year) is another word.

    The vocabulary is every character, alone and as a continuation, then the most frequent words whole. The
    trainer of `tokenizers` breaks ties in an order that changes from run to run; this order never does.
    """
    normalizer = normalizers.Sequence(
        [
            normalizers.BertNormalizer(lowercase=True, strip_accents=False, handle_chinese_chars=False),
            normalizers.Strip(),
            normalizers.Replace(Regex(r"\s+"), " "),
        ]
    )
    pre_tokenizer = pre_tokenizers.Sequence(
        [
            pre_tokenizers.Metaspace(replacement=SPACE, prepend_scheme="always", split=False),
            pre_tokenizers.Split(WORD, behavior="removed", invert=True),
        ]
    )
    counts = Counter(
        word for caption in captions for word, _ in pre_tokenizer.pre_tokenize_str(normalizer.normalize_str(caption))
    )
    characters = sorted({character for word in counts for character in word})
    by_frequency = sorted(counts, key=lambda word: (-counts[word], word))
    pieces = [*SPECIAL_TOKENS, *characters, *(f"{CONTINUED}{character}" for character in characters), *by_frequency]
    vocab = {piece: i for i, piece in enumerate(list(dict.fromkeys(pieces))[:vocab_size])}
    tokenizer = Tokenizer(WordPiece(vocab, unk_token="[UNK]", continuing_subword_prefix=CONTINUED))  # noqa: S106
    tokenizer.normalizer = normalizer
    tokenizer.pre_tokenizer = pre_tokenizer
    tokenizer.add_special_tokens(SPECIAL_TOKENS)
    tokenizer.post_processor = processors.TemplateProcessing(
        single="[CLS] $A [SEP]", special_tokens=[("[CLS]", BOS), ("[SEP]", EOS)]
    )
    tokenizer.decoder = decoders.Sequence(
        [
            decoders.Replace(CONTINUED, ""),
            decoders.Metaspace(replacement=SPACE, prepend_scheme="always"),
            decoders.Fuse(),
        ]
    )
    return tokenizer
