"""Locates the files of a tokenizer, locally or on the hub."""

from collections.abc import Collection
from pathlib import Path

from export.checkpoints.import_source import ImportSource, locate
from export.checkpoints.terms import README, terms_files
from export.tokenizers.read import all_files, expected_files, tokenizer_files


def tokenizer_source(kind: str, given: str | Path) -> ImportSource:
    """Locate a tokenizer: a folder, one of its files, or the name of a model on the hub; see `read_tokenizer`.

    Raises ArchiveError if it does not exist or cannot be downloaded.
    """
    wanted = f"tokenizer files ({expected_files(kind)})"

    def choose(names: Collection[str]) -> list[str]:
        files = list(all_files(kind, names))
        documents = [name for name in terms_files(names) if name != README]
        return [*files, *documents] if files else []

    label, path = locate(given, choose, wanted)
    return ImportSource(label, path, tuple(tokenizer_files(kind, path)))
