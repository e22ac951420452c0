"""Converts Llama's published vocabulary, a SentencePiece file, to the `tokenizers` library.

SentencePiece (Kudo and Richardson, EMNLP 2018) merges the adjacent pair whose union has the best score, the leftmost
one of equals. The library uses a list of merges: every split of a piece in two, in the order of the pieces' scores.
"""

from collections.abc import Sequence
from pathlib import Path

from sentencepiece import SentencePieceProcessor
from tokenizers import AddedToken, Tokenizer, decoders, models, normalizers

SPACE = "▁"
FILE = "tokenizer.model"


def llama_tokenizer(folder: Path) -> Tokenizer:
    """Read the tokenizer of a folder with `tokenizer.model`. It adds no special tokens, not even a start token."""
    source = SentencePieceProcessor(model_file=str(folder / FILE))
    count = range(source.get_piece_size())
    return build_tokenizer(
        [source.id_to_piece(i) for i in count],
        [source.get_score(i) for i in count],
        special=[i for i in count if source.is_control(i) or source.is_unknown(i)],
        single_bytes=[i for i in count if source.is_byte(i)],
        unknown=source.unk_id(),
    )


def build_tokenizer(
    pieces: Sequence[str], scores: Sequence[float], *, special: Sequence[int], single_bytes: Sequence[int], unknown: int
) -> Tokenizer:
    """Build the tokenizer of a SentencePiece vocabulary; it prepends a space to every text.

    pieces, scores        : one for each id
    special, single_bytes : ids of the special tokens, and of the pieces <0x00> to <0xFF>
    unknown               : id of the unknown token
    """
    ids = {piece: i for i, piece in enumerate(pieces)}
    apart = {*special, *single_bytes}
    joined = [i for i, piece in enumerate(pieces) if i not in apart and len(piece) > 1]
    joined.sort(key=lambda i: (-scores[i], i))
    merges = [halves for i in joined for halves in _halves(pieces[i], ids)]
    tokenizer = Tokenizer(models.BPE(ids, merges, unk_token=pieces[unknown], fuse_unk=True, byte_fallback=True))
    tokenizer.normalizer = normalizers.Sequence([normalizers.Prepend(SPACE), normalizers.Replace(" ", SPACE)])
    # Strips the prepended space. ByteFallback: a token may be only part of a character.
    tokenizer.decoder = decoders.Sequence(
        [decoders.Replace(SPACE, " "), decoders.ByteFallback(), decoders.Fuse(), decoders.Strip(" ", 1, 0)]
    )
    tokenizer.add_special_tokens([AddedToken(pieces[i], normalized=False) for i in special])
    return tokenizer


def _halves(piece: str, ids: dict[str, int]) -> list[tuple[str, str]]:
    """Every split of a piece into two other pieces."""
    pairs = [(piece[:cut], piece[cut:]) for cut in range(1, len(piece))]
    return sorted((pair for pair in pairs if pair[0] in ids and pair[1] in ids), key=lambda pair: ids[pair[0]])
