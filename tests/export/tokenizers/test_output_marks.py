"""What a folder says of boxes and reasoning becomes section `output`; what contradicts its tokenizer is refused."""

import json
from pathlib import Path

import pytest
from tokenizers import Tokenizer, models

from export.checkpoints.record import ImportRecord
from export.tokenizers.output_marks import find_output
from prelim.errors import ArchiveError
from prelim.generation.output_config import OutputConfig
from prelim.generation.prompt_config import PromptConfig

BOXES = ("<obj>", "</obj>", "<box>", "</box>", *(f"<{side}{n}>" for side in "xy" for n in range(100)))
TEMPLATE = "{{ messages }}<think>{{ '</think>' }}"


def tokenizer(*tokens: str) -> Tokenizer:
    """A tokenizer with added tokens."""
    made = Tokenizer(models.WordLevel({"[UNK]": 0}, unk_token="[UNK]"))  # noqa: S106
    made.add_tokens(list(tokens))
    return made


def find(folder: Path, *tokens: str, after: str = "", template: str = "", **processor: object) -> OutputConfig | None:
    """Section `output` of a folder."""
    if template:
        (folder / "chat_template.jinja").write_text(template, encoding="utf-8")
    if processor:
        (folder / "processor_config.json").write_text(json.dumps(processor), encoding="utf-8")
    return find_output([folder], tokenizer(*tokens), PromptConfig(after=after), ImportRecord())


def test_a_model_that_writes_reports_alone_has_no_section(tmp_path: Path) -> None:
    """Also a Gemma, whose vocabulary has the marks of MedGemma's reasoning, and a processor that names no marks."""
    assert find(tmp_path, "<unused94>", "<unused95>", "<obj>", template="{{ messages }}", patch_size=14) is None


def test_boxes_are_known_by_their_tokens(tmp_path: Path) -> None:
    """With MAIRA-2's names, or those that its processor says."""
    usual = OutputConfig("", "", "either", "<obj>", "</obj>", "<box>", "</box>", 100)
    assert find(tmp_path, *BOXES) == usual
    assert find(tmp_path, *BOXES, num_box_coord_bins=100) == usual
    other = find(tmp_path, "<p>", "</p>", *BOXES[2:], phrase_start_token="<p>", phrase_end_token="</p>")  # noqa: S106
    assert other == OutputConfig("", "", "either", "<p>", "</p>", "<box>", "</box>", 100)


@pytest.mark.parametrize(
    ("processor", "tokens"),
    [({"num_box_coord_bins": 50}, BOXES), ({"num_box_coord_bins": 100}, BOXES[:-1]), ({"box_end_token": "|"}, BOXES)],
)
def test_settings_that_contradict_the_tokenizer_are_refused(
    tmp_path: Path, processor: dict[str, object], tokens: tuple[str, ...]
) -> None:
    """By the name of the file."""
    with pytest.raises(ArchiveError, match=r"processor_config\.json has .* but the tokenizer has"):
        find(tmp_path, *tokens, **processor)  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("after", "begins"),
    [("\nassistant\n<think>\n", "reasoning"), ("\n<think>\n\n</think>\n\n", "report"), ("\nassistant\n", "either")],
)
def test_the_prompt_says_what_a_text_begins_with(tmp_path: Path, after: str, begins: str) -> None:
    """By the words after the image, which the folder's template gave."""
    assert find(tmp_path, template=TEMPLATE, after=after) == OutputConfig("<think>", "</think>", begins)


def test_reasoning_is_known_by_template_or_tokens(tmp_path: Path) -> None:
    """Marks of MedGemma by its template alone."""
    assert find(tmp_path, "<think>", "</think>") == OutputConfig("<think>", "</think>")
    template = "{{ '<unused94>thought' }}<unused95>"
    assert find(tmp_path, template=template) == OutputConfig("<unused94>", "<unused95>")
