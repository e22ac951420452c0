"""Tokenizers of VisionEncoderDecoderModels: those of BERT or GPT-2, as old and new versions of transformers save them.

Source: Devlin et al., "BERT", 2019; Radford et al., "Language Models are Unsupervised Multitask Learners", 2019.
"""

import json
from pathlib import Path

from tokenizers import AddedToken, Tokenizer, decoders, models, normalizers, pre_tokenizers

from export.tokenizers import bert
from prelim.archive.archive import TOKENIZER, load_tokenizer

VOCABULARY, MERGES = "vocab.json", "merges.txt"
SETTINGS = "tokenizer_config.json"
END_OF_TEXT = "<|endoftext|>"


def encoder_decoder_tokenizer(folder: Path) -> Tokenizer:
    """The tokenizer of a folder with tokenizer.json, with BERT's vocab.txt, or with GPT-2's vocabulary and merges.

    Word pieces are joined as `bert_tokenizer` says, in either file. Raises ArchiveError as that does.
    """
    stored = load_tokenizer(folder) if (folder / TOKENIZER).is_file() else None
    if isinstance(stored.model if stored else None, models.WordPiece) or (folder / bert.FILE).is_file():
        tokenizer = bert.bert_tokenizer(folder)
        if not _lower_case(folder, stored):
            tokenizer.normalizer = normalizers.Sequence(
                [normalizers.NFC(), normalizers.BertNormalizer(lowercase=False, strip_accents=False)]
            )
        return tokenizer
    if stored is not None:
        return stored
    tokenizer = Tokenizer(models.BPE.from_file(str(folder / VOCABULARY), str(folder / MERGES)))
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    if tokenizer.token_to_id(END_OF_TEXT) is not None:
        tokenizer.add_special_tokens([AddedToken(END_OF_TEXT, normalized=False)])
    return tokenizer


def _lower_case(folder: Path, stored: Tokenizer | None) -> bool:
    """Whether texts are read in lower case: as tokenizer_config.json says, else tokenizer.json, else they are."""
    if (folder / SETTINGS).is_file():
        settings = json.loads((folder / SETTINGS).read_text(encoding="utf-8"))
        if isinstance(settings.get("do_lower_case"), bool):
            return bool(settings["do_lower_case"])
    if stored is not None:
        normalizer = json.loads(stored.to_str()).get("normalizer") or {}
        return bool(normalizer.get("lowercase", True))
    return True
