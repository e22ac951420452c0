"""Known reports, such as those of the training: from them, packaging makes the table of draft tokens."""

from collections.abc import Iterator
from pathlib import Path

from prelim.errors import ArchiveError, reason_of
from prelim.formats.json_text import RepeatedKey, load_json
from prelim.generation.drafts import Drafts, count_drafts
from prelim.networks.model_folder import Model


def tabulate(path: Path, model: Model) -> Drafts:
    """The table of the reports in a file, as the model writes them.

    path : JSON Lines, the text of each in `report`; other fields are ignored

    Raises ArchiveError naming the file and the line that is not such, and where no context is in two reports.
    """
    model.tokenizer.encode_special_tokens = True  # a report's words are only ever words
    config, end = model.config, model.config.tokenizer.eos_token_ids[0]

    def ids(text: str) -> list[int]:
        encoded: list[int] = model.tokenizer.encode(text, add_special_tokens=False).ids
        return encoded

    ending = ids(config.generation.stop[0]) if config.generation.stop else [end]
    table = count_drafts([*ids(text), *ending] for text in _texts(path))
    if not len(table.contexts):
        raise ArchiveError(f"{path}: no two of its reports have words in common, so that nothing can be proposed")
    return table


def _texts(path: Path) -> Iterator[str]:
    try:
        lines = path.read_text(encoding="utf-8").split("\n")
    except (OSError, UnicodeDecodeError) as error:
        raise ArchiveError(f"{path} cannot be read: {reason_of(error)}") from error
    for number, line in enumerate(lines, 1):
        if not line.strip():
            continue
        try:
            contents = load_json(line)
        except (RepeatedKey, ValueError):
            contents = None
        text = contents.get("report") if isinstance(contents, dict) else None
        if not isinstance(text, str):
            raise ArchiveError(
                f'{path}, line {number} is not a known report; each line is a JSON object such as {{"report": "..."}}'
            )
        yield text
