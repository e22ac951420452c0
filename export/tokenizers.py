"""Published tokenizers -> one tokenizer.json each, all that serving needs."""

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

from tokenizers import AddedToken, Tokenizer

from export import bert_tokenizer, biogpt_tokenizer, llama_tokenizer
from model_src.archive import TOKENIZER, load_tokenizer
from model_src.errors import ArchiveError

CONVERTERS: Mapping[str, tuple[tuple[str, ...], Callable[[Path], Tokenizer]]] = {
    "bert-base-uncased": ((), bert_tokenizer.bert_tokenizer),
    "biogpt": ((biogpt_tokenizer.VOCABULARY, biogpt_tokenizer.MERGES), biogpt_tokenizer.biogpt_tokenizer),
    "llama2": ((llama_tokenizer.FILE,), llama_tokenizer.llama_tokenizer),
}
"""By the name that a system's `Published.tokenizer` has: the files that its converter reads in a folder, and it.
Without files the converter finds them by itself."""


def read_tokenizer(kind: str, path: Path, added_tokens: Sequence[str] = ()) -> Tokenizer:
    """The tokenizer of a published model.

    kind         : a name in CONVERTERS, or any other for a folder with tokenizer.json
    path         : a folder with its files, or one of them
    added_tokens : special tokens that get the next ids, if the tokenizer has them not

    Raises ArchiveError when a file is missing or cannot be read.
    """
    folder = path if path.is_dir() else path.parent
    files, convert = CONVERTERS.get(kind, ((TOKENIZER,), load_tokenizer))
    # The converter comes first: a tokenizer.json beside the published files may differ from them in odd cases.
    if not all((folder / name).is_file() for name in files):
        if not (folder / TOKENIZER).is_file():
            raise ArchiveError(f"{folder} has no tokenizer: expected {' and '.join(files)}")
        convert = load_tokenizer
    tokenizer = convert(folder)
    tokenizer.add_special_tokens([AddedToken(token, normalized=False) for token in added_tokens])
    return tokenizer
