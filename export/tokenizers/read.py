"""Reads published tokenizers of all supported kinds."""

from collections.abc import Callable, Collection, Mapping, Sequence
from pathlib import Path

from tokenizers import AddedToken, Tokenizer

from export.checkpoints.file_kind import check_whole
from export.checkpoints.settings import GGUF, read_json
from export.tokenizers import bert, biogpt, encoder_decoder, folder, llama
from export.tokenizers.added_tokens import ADDED_TOKENS, add_tokens, find_added_tokens
from export.tokenizers.chat_template import TEMPLATES
from prelim.archive.archive import TOKENIZER, load_tokenizer
from prelim.errors import ArchiveError

CONVERTERS: Mapping[str, tuple[tuple[tuple[str, ...], ...], Callable[[Path], Tokenizer]]] = {
    "bert-base-uncased": (((bert.FILE,), (TOKENIZER,)), bert.bert_tokenizer),
    "biogpt": (((biogpt.VOCABULARY, biogpt.MERGES),), biogpt.biogpt_tokenizer),
    "encoder_decoder": (
        ((TOKENIZER,), (bert.FILE,), (encoder_decoder.VOCABULARY, encoder_decoder.MERGES)),
        encoder_decoder.encoder_decoder_tokenizer,
    ),
    "llama2": (((llama.FILE,),), llama.llama_tokenizer),
    "transformers": (((TOKENIZER,), (llama.FILE,)), folder.folder_tokenizer),
}
"""`Published.tokenizer` of a system -> the sets of files that its converter can read, the preferred one first, and the
converter."""


_FURTHER = (*ADDED_TOKENS, *TEMPLATES)


def find_files(kind: str, names: Collection[str]) -> tuple[str, ...]:
    """Pick the tokenizer's files from the file names of a folder; empty if there are none.

    kind : as in `read_tokenizer`
    """
    readable, _ = CONVERTERS.get(kind, ((), load_tokenizer))
    # The published files first: a tokenizer.json next to them may differ in rare cases.
    return next((files for files in (*readable, (TOKENIZER,)) if all(name in names for name in files)), ())


def all_files(kind: str, names: Collection[str]) -> tuple[str, ...]:
    """The tokenizer's files of `find_files`, and of added tokens and chat templates; empty if there are none."""
    files = find_files(kind, names)
    return (*files, *(name for name in _FURTHER if name in names)) if files else ()


def expected_files(kind: str) -> str:
    """The preferred files of a tokenizer, for messages."""
    readable, _ = CONVERTERS.get(kind, (((TOKENIZER,),), load_tokenizer))
    return " and ".join(readable[0])


def tokenizer_files(kind: str, path: Path) -> list[Path]:
    """The files that `read_tokenizer` reads. Raises ArchiveError if they do not exist."""
    if path.suffix == GGUF:
        return [path]
    folder = path if path.is_dir() else path.parent
    files = all_files(kind, {file.name for file in folder.iterdir()})
    if not files:
        raise ArchiveError(f"{folder} has no tokenizer: expected {expected_files(kind)}")
    return [folder / name for name in files]


def read_tokenizer(kind: str, path: Path, added_tokens: Sequence[str] = ()) -> Tokenizer:
    """Read the tokenizer of a published model.

    kind         : a name in CONVERTERS; any other one means a folder with tokenizer.json
    path         : a folder with its files, or one of them
    added_tokens : special tokens to add with the next ids if the tokenizer lacks them

    Raises ArchiveError if a file is missing or cannot be read, or if an added token cannot get its id.
    """
    files = [file for file in tokenizer_files(kind, path) if file.name not in _FURTHER]
    readable, convert = CONVERTERS.get(kind, ((), load_tokenizer))
    for file in files:
        check_whole(file, smallest=1)
    if path.suffix == GGUF:
        # Imported here because its libraries take seconds to import.
        from export.tokenizers.gguf import gguf_tokenizer

        tokenizer = gguf_tokenizer(path)
    elif tuple(file.name for file in files) in readable:
        try:
            tokenizer = convert(files[0].parent)
        except (OSError, RuntimeError, ValueError, KeyError, TypeError) as error:
            raise ArchiveError(f"{files[0]} cannot be read as a tokenizer: {error}") from error
    else:
        tokenizer = load_tokenizer(files[0].parent)
    if path.suffix != GGUF:
        add_tokens(tokenizer, find_added_tokens(files[0].parent), files[0].parent)
    tokenizer.add_special_tokens([AddedToken(token, normalized=False) for token in added_tokens])
    return tokenizer


def vocabulary_size(kind: str, path: Path, tokenizer: Tokenizer) -> int:
    """The number of ids of a published tokenizer that `read_tokenizer` has converted.

    The converted one has more ids if pieces that only occur inside others have no published id; see `biogpt_tokenizer`.
    """
    ids = tokenizer.get_vocab(with_added_tokens=True)
    folder = path if path.is_dir() else path.parent
    if kind == "biogpt" and (folder / biogpt.VOCABULARY).is_file() and path.suffix != GGUF:
        published = read_json(folder / biogpt.VOCABULARY)
        ids = {**published, **{token: i for token, i in ids.items() if i in tokenizer.get_added_tokens_decoder()}}
    return 1 + max(ids.values(), default=-1)
