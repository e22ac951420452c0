"""The demo model's tokenizer: a small uncased WordPiece vocabulary, as system 1 has a large one."""

from collections import Counter
from collections.abc import Iterable

from tokenizers import Regex, Tokenizer, decoders, normalizers, pre_tokenizers, processors
from tokenizers.models import WordPiece

PAD, UNK, BOS, EOS = range(4)
SPECIAL_TOKENS = ["[PAD]", "[UNK]", "[CLS]", "[SEP]"]

WORD = Regex(r"\d+(?:[.,:/]\d+)+|[\p{L}\p{M}\p{N}]+|[^\s\p{L}\p{M}\p{N}]")
"""A number with its separators, letters and digits, or one other sign."""

SPACE_AT_SIGN = Regex(r"\s+(?=[;:)\]%])|(?<=[(\[])\s+")
"""Signs that the decoder of WordPiece leaves alone; it joins full stops and commas itself."""

SPACE_BETWEEN_HAN = Regex(r"(?<=\p{Han}|[，。；：、])\s+(?=\p{Han}|[，。；：、])")


def make_tokenizer(captions: Iterable[str], vocab_size: int) -> Tokenizer:
    """A tokenizer that wraps a caption in [CLS] and [SEP] and gives lower-case text back.

    The vocabulary is every character, alone and as a continuation, then the most frequent words whole. The
    trainer of `tokenizers` breaks ties in an order that changes from run to run; this order never does.
    Accents stay: without them "año" (year) is another word. Numbers with a point, comma, colon or slash are one word
    ("3.5", not "3. 5"). The pre-tokenizer takes "x-ray" apart, so the decoder joins words at hyphens again, and
    Chinese characters, each a word, at spaces.
    """
    normalizer = normalizers.BertNormalizer(lowercase=True, strip_accents=False)
    pre_tokenizer = pre_tokenizers.Split(WORD, behavior="removed", invert=True)
    counts = Counter(
        word for caption in captions for word, _ in pre_tokenizer.pre_tokenize_str(normalizer.normalize_str(caption))
    )
    characters = sorted({character for word in counts for character in word})
    by_frequency = sorted(counts, key=lambda word: (-counts[word], word))
    pieces = [*SPECIAL_TOKENS, *characters, *(f"##{character}" for character in characters), *by_frequency]
    vocab = {piece: i for i, piece in enumerate(list(dict.fromkeys(pieces))[:vocab_size])}
    tokenizer = Tokenizer(WordPiece(vocab, unk_token="[UNK]"))  # noqa: S106
    tokenizer.normalizer = normalizer
    tokenizer.pre_tokenizer = pre_tokenizer
    tokenizer.add_special_tokens(SPECIAL_TOKENS)
    tokenizer.post_processor = processors.TemplateProcessing(
        single="[CLS] $A [SEP]", special_tokens=[("[CLS]", BOS), ("[SEP]", EOS)]
    )
    tokenizer.decoder = decoders.Sequence(
        [
            decoders.WordPiece(),
            decoders.Fuse(),
            decoders.Replace(Regex(r"\s*-\s*"), "-"),
            decoders.Replace(SPACE_AT_SIGN, ""),
            decoders.Replace(SPACE_BETWEEN_HAN, ""),
        ]
    )
    return tokenizer
