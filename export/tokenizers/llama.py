"""Llama's published vocabulary, a SentencePiece file, as a tokenizer of the `tokenizers` library.

SentencePiece (Kudo and Richardson, EMNLP 2018) joins the two neighbours whose union has the best score, the leftmost
of equals. The library joins by a list of merges: every way to halve a piece, in the order of the pieces' scores.
"""

from collections.abc import Sequence
from pathlib import Path

from sentencepiece import SentencePieceProcessor
from tokenizers import AddedToken, Tokenizer, decoders, models, normalizers

SPACE = "▁"
FILE = "tokenizer.model"


def llama_tokenizer(folder: Path) -> Tokenizer:
    """The tokenizer of a folder with `tokenizer.model`. It adds no token by itself, in particular no start token."""
    source = SentencePieceProcessor(model_file=str(folder / FILE))
    count = range(source.get_piece_size())
    return of_pieces(
        [source.id_to_piece(i) for i in count],
        [source.get_score(i) for i in count],
        special=[i for i in count if source.is_control(i) or source.is_unknown(i)],
        single_bytes=[i for i in count if source.is_byte(i)],
        unknown=source.unk_id(),
    )


def of_pieces(
    pieces: Sequence[str], scores: Sequence[float], *, special: Sequence[int], single_bytes: Sequence[int], unknown: int
) -> Tokenizer:
    """The tokenizer of a vocabulary of SentencePiece, with a space put in front of every text.

    pieces, scores        : one for each id
    special, single_bytes : ids that are no parts of words, and those of the pieces <0x00> to <0xFF>
    unknown               : the id of what is no piece
    """
    ids = {piece: i for i, piece in enumerate(pieces)}
    apart = {*special, *single_bytes}
    joined = [i for i, piece in enumerate(pieces) if i not in apart and len(piece) > 1]
    joined.sort(key=lambda i: (-scores[i], i))
    merges = [halves for i in joined for halves in _halves(pieces[i], ids)]
    tokenizer = Tokenizer(models.BPE(ids, merges, unk_token=pieces[unknown], fuse_unk=True, byte_fallback=True))
    tokenizer.normalizer = normalizers.Sequence([normalizers.Prepend(SPACE), normalizers.Replace(" ", SPACE)])
    # The space that was put in front of the text goes again; one token may be a part of a character.
    tokenizer.decoder = decoders.Sequence(
        [decoders.Replace(SPACE, " "), decoders.ByteFallback(), decoders.Fuse(), decoders.Strip(" ", 1, 0)]
    )
    tokenizer.add_special_tokens([AddedToken(pieces[i], normalized=False) for i in special])
    return tokenizer


def _halves(piece: str, ids: dict[str, int]) -> list[tuple[str, str]]:
    """Every way to make a piece of two others."""
    pairs = [(piece[:cut], piece[cut:]) for cut in range(1, len(piece))]
    return sorted((pair for pair in pairs if pair[0] in ids and pair[1] in ids), key=lambda pair: ids[pair[0]])
