"""Published tokenizers -> one tokenizer.json each, all that serving needs."""

from collections.abc import Callable, Collection, Mapping, Sequence
from pathlib import Path

from tokenizers import AddedToken, Tokenizer

from export.checkpoints.checkpoint import GGUF
from export.tokenizers import bert, biogpt, llama
from prelim.archive.archive import TOKENIZER, load_tokenizer
from prelim.errors import ArchiveError

CONVERTERS: Mapping[str, tuple[tuple[tuple[str, ...], ...], Callable[[Path], Tokenizer]]] = {
    "bert-base-uncased": (((bert.FILE,), (TOKENIZER,)), bert.bert_tokenizer),
    "biogpt": (((biogpt.VOCABULARY, biogpt.MERGES),), biogpt.biogpt_tokenizer),
    "llama2": (((llama.FILE,),), llama.llama_tokenizer),
}
"""By the name that a system's `Published.tokenizer` has: the sets of files that its converter can read, the best first,
and the converter."""


def files_among(kind: str, names: Collection[str]) -> tuple[str, ...]:
    """Of the names of a folder's files those that its tokenizer is made of; none if it has none.

    kind : as in `read_tokenizer`
    """
    readable, _ = CONVERTERS.get(kind, ((), load_tokenizer))
    # The converter comes first: a tokenizer.json beside the published files may differ from them in odd cases.
    return next((files for files in (*readable, (TOKENIZER,)) if all(name in names for name in files)), ())


def expected_files(kind: str) -> str:
    """The files that a tokenizer is best made of, for messages."""
    readable, _ = CONVERTERS.get(kind, (((TOKENIZER,),), load_tokenizer))
    return " and ".join(readable[0])


def tokenizer_files(kind: str, path: Path) -> list[Path]:
    """The files that `read_tokenizer` reads. Raises ArchiveError when they are not there."""
    if path.suffix == GGUF:
        return [path]
    folder = path if path.is_dir() else path.parent
    files = files_among(kind, {file.name for file in folder.iterdir()})
    if not files:
        raise ArchiveError(f"{folder} has no tokenizer: expected {expected_files(kind)}")
    return [folder / name for name in files]


def read_tokenizer(kind: str, path: Path, added_tokens: Sequence[str] = ()) -> Tokenizer:
    """The tokenizer of a published model.

    kind         : a name in CONVERTERS, or any other for a folder with tokenizer.json
    path         : a folder with its files, or one of them
    added_tokens : special tokens that get the next ids, if the tokenizer has them not

    Raises ArchiveError when a file is missing or cannot be read.
    """
    files = tokenizer_files(kind, path)
    readable, convert = CONVERTERS.get(kind, ((), load_tokenizer))
    if path.suffix == GGUF:
        # The libraries behind it take seconds to import, which other tokenizers need not wait for.
        from export.tokenizers.gguf import gguf_tokenizer

        tokenizer = gguf_tokenizer(path)
    elif tuple(file.name for file in files) in readable:
        tokenizer = convert(files[0].parent)
    else:
        tokenizer = load_tokenizer(files[0].parent)
    tokenizer.add_special_tokens([AddedToken(token, normalized=False) for token in added_tokens])
    return tokenizer
