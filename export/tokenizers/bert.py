"""BERT's published vocabulary as a tokenizer of the `tokenizers` library.

Source: Devlin et al., "BERT: Pre-training of Deep Bidirectional Transformers for Language Understanding", 2019.
"""

from pathlib import Path

from tokenizers import AddedToken, Tokenizer, decoders, models, normalizers, pre_tokenizers, processors

from prelim.archive.archive import TOKENIZER, load_tokenizer
from prelim.errors import ArchiveError

FILE = "vocab.txt"
SPECIAL = ("[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]")

CLEAN_UP = (" .", " ?", " !", " ,", " n't", " 'm", " 's", " 've", " 're")
"""Where `transformers` removes a space from decoded text, in its order, without the apostrophe between words."""


def bert_tokenizer(folder: Path) -> Tokenizer:
    """The lower-casing tokenizer of a folder with vocab.txt, or with a tokenizer.json of the same kind.

    Encodes a text as [CLS] text [SEP], without truncation or padding.

    Raises ArchiveError if a special token is missing.
    """
    if (folder / FILE).is_file():
        pieces = (folder / FILE).read_text(encoding="utf-8").rstrip("\n").split("\n")
        ids = {piece.rstrip("\r"): i for i, piece in enumerate(pieces)}
    else:
        ids = load_tokenizer(folder).get_vocab()
    missing = [token for token in SPECIAL if token not in ids]
    if missing:
        raise ArchiveError(f"{folder / FILE} or {TOKENIZER} lacks {', '.join(missing)}; it is not BERT's vocabulary")
    tokenizer = Tokenizer(models.WordPiece(ids, unk_token="[UNK]", max_input_chars_per_word=100))  # noqa: S106
    # The published tokenizers apply NFC first, which the library's BERT normalizer does not.
    tokenizer.normalizer = normalizers.Sequence([normalizers.NFC(), normalizers.BertNormalizer(lowercase=True)])
    tokenizer.pre_tokenizer = pre_tokenizers.BertPreTokenizer()
    tokenizer.post_processor = processors.TemplateProcessing(
        single="[CLS] $A [SEP]",
        pair="[CLS] $A [SEP] $B:1 [SEP]:1",
        special_tokens=[(token, ids[token]) for token in ("[CLS]", "[SEP]")],
    )
    # The library cleans up single tokens, `transformers` the whole text.
    closed = [decoders.Replace(found, found[1:]) for found in CLEAN_UP]
    apostrophe = decoders.Replace(" ' ", "'")
    tokenizer.decoder = decoders.Sequence(
        [decoders.WordPiece(cleanup=False), decoders.Fuse(), *closed[:4], apostrophe, *closed[4:]]
    )
    tokenizer.add_special_tokens([AddedToken(token, normalized=False) for token in SPECIAL])
    return tokenizer
