"""The tokenizer of a folder as `transformers` reads it, whose settings change what the files of the vocabulary say."""

from pathlib import Path

from tokenizers import Tokenizer

from export.tokenizers import llama
from export.tokenizers.added_tokens import NEW
from export.tokenizers.chat_template import transformers_tokenizer
from prelim.archive.archive import TOKENIZER, load_tokenizer
from prelim.errors import ArchiveError


def folder_tokenizer(folder: Path) -> Tokenizer:
    """Read the tokenizer of a folder; without tokenizer_config.json its vocabulary alone."""
    if (folder / NEW).is_file():
        try:
            return Tokenizer.from_str(transformers_tokenizer(folder).backend_tokenizer.to_str())
        except ArchiveError:
            # A class of its own, whose vocabulary may still be that of tokenizer.json.
            if not (folder / TOKENIZER).is_file():
                raise
    return load_tokenizer(folder) if (folder / TOKENIZER).is_file() else llama.llama_tokenizer(folder)
