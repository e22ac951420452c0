"""What a folder says of marks in its model's texts: section `output` of model.yaml.

Boxes are those of MAIRA-2, whose tokenizer has a token for each number of a side; its processor_config.json names the
other marks. Reasoning is between the marks of the folder's chat template, or of its tokenizer.
"""

from collections.abc import Sequence
from dataclasses import replace
from itertools import count
from pathlib import Path
from typing import Any

from tokenizers import Tokenizer

from export.checkpoints.record import ImportRecord
from export.checkpoints.settings import PREPROCESSOR, read_json
from export.tokenizers.chat_template import find_template
from prelim.errors import ArchiveError
from prelim.generation.output_config import OutputConfig
from prelim.generation.prompt_config import PromptConfig

THINK = ("<think>", "</think>")
REASONING = (THINK, ("<unused94>", "<unused95>"))
"""Marks of Qwen3, of DeepSeek-R1 and models that learned from it, and of MedGemma. Every Gemma has tokens of that name,
so that for these the template counts alone."""

_BOXES = {
    "phrase_start_token": "<obj>",
    "phrase_end_token": "</obj>",
    "box_start_token": "<box>",
    "box_end_token": "</box>",
}
"""Settings of MAIRA-2's processor, with their defaults."""

_BINS = "num_box_coord_bins"


def find_output(
    folders: Sequence[Path], tokenizer: Tokenizer, prompt: PromptConfig | None, record: ImportRecord
) -> OutputConfig | None:
    """Section `output`; None for a model that writes nothing but reports.

    folders   : of the checkpoint and of its tokenizer
    tokenizer : that is served
    prompt    : section `prompt`, which can open the reasoning

    Raises ArchiveError for settings of boxes that contradict the tokenizer.
    """
    output = _boxes(folders, tokenizer) or OutputConfig()
    templates = [_template(folder) for folder in folders]
    for start, end in REASONING:
        if any(start in text and end in text for text in templates) or (
            (start, end) == THINK and _are_added(tokenizer, start, end)
        ):
            opened = "" if prompt is None else prompt.after.rstrip()
            begins = "reasoning" if opened.endswith(start) else "report" if opened.endswith(end) else "either"
            output = replace(output, reasoning_start=start, reasoning_end=end, begins=begins)
            record.note(
                f"what is between {start} and {end} is reasoning, and not part of reports (output of model.yaml)"
            )
            break
    if output.has_boxes:
        record.note("boxes of phrases become regions, and are not part of the text of reports (output of model.yaml)")
    return output if output != OutputConfig() else None


def _boxes(folders: Sequence[Path], tokenizer: Tokenizer) -> OutputConfig | None:
    settings: dict[str, Any] = {}
    for path in (folder / PREPROCESSOR[1] for folder in folders):
        if path.is_file():
            settings |= {name: value for name, value in read_json(path).items() if name in (*_BOXES, _BINS)}
    marks = [settings.get(name, default) for name, default in _BOXES.items()]
    across, down = (_count_numbers(tokenizer, side) for side in "xy")
    has_tokens = min(across, down) > 0 and all(
        isinstance(mark, str) and tokenizer.token_to_id(mark) is not None for mark in marks
    )
    if settings and not (has_tokens and across == down == settings.get(_BINS, across)):
        raise ArchiveError(
            f"{PREPROCESSOR[1]} has {', '.join(map(repr, marks))} and {_BINS} {settings.get(_BINS)!r}, but the "
            f"tokenizer has {across} tokens <x0>, <x1>, ... and {down} tokens <y0>, <y1>, ...; give the tokenizer of "
            "this model"
        )
    if not has_tokens:
        return None
    names = ("phrase_start", "phrase_end", "box_start", "box_end")
    return OutputConfig(**dict(zip(names, marks, strict=True)), box_bins=min(across, down))


def _count_numbers(tokenizer: Tokenizer, side: str) -> int:
    return next(n for n in count() if tokenizer.token_to_id(f"<{side}{n}>") is None)


def _template(folder: Path) -> str:
    """The chat template of a folder; one that cannot be read has no marks, and is refused where it is rendered."""
    try:
        return find_template(folder) or ""
    except ArchiveError:
        return ""


def _are_added(tokenizer: Tokenizer, *marks: str) -> bool:
    """Whether the tokenizer has all the marks as tokens of their own, outside of its vocabulary of words."""
    added = {token.content for token in tokenizer.get_added_tokens_decoder().values()}
    return added.issuperset(marks)
