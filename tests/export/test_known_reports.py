"""Known reports at packaging: a table of draft tokens in the archive, with which the same reports are written."""

import json
from pathlib import Path

import pytest
from tokenizers import Tokenizer, pre_tokenizers

from export.known_reports import tabulate
from export.package import write_archive
from prelim.archive.archive import DRAFTS, TOKENIZER, read_archive
from prelim.archive.manifest import write_manifest
from prelim.archive.mar import unpack_mar
from prelim.errors import ArchiveError
from prelim.generation.drafts import count_drafts
from prelim.generation.options import GenerationOptions
from prelim.networks.model_folder import read_model_folder
from prelim.report import Report
from prelim.report_generator import ReportGenerator, ReportRequest
from tests.tiny_model import png, write_tiny_model


def write_reading_model(folder: Path) -> Path:
    """The tiny model with a tokenizer that also encodes."""
    tokenizer = Tokenizer.from_file(str(write_tiny_model(folder) / TOKENIZER))
    tokenizer.pre_tokenizer = pre_tokenizers.Whitespace()
    tokenizer.save(str(folder / TOKENIZER))
    return folder


def write_reports(path: Path, texts: list[str]) -> Path:
    """As JSON Lines."""
    path.write_text("".join(json.dumps({"report": text, "id": i}) + "\n" for i, text in enumerate(texts)), "utf-8")
    return path


def test_the_same_reports_with_and_without(tmp_path: Path) -> None:
    """Greedy and sampled, with fewer steps; packaging again gives the same bytes, and the table is checked."""
    folder = write_reading_model(tmp_path / "tiny")
    plain = ReportGenerator.load(write_archive(folder, tmp_path / "plain", batching="in-flight", slots=2))
    requests = [
        ReportRequest(image=png(seed), options=GenerationOptions(do_sample=seed > 1, seed=5, max_new_tokens=20))
        for seed in range(4)
    ]
    written = [report for report in plain.generate(requests) if isinstance(report, Report)]
    assert len(written) == 4
    known = write_reports(tmp_path / "known.jsonl", [report.text for report in written] * 2)

    paths = [
        write_archive(folder, tmp_path / store, batching="in-flight", slots=2, reports=known) for store in ("a", "b")
    ]
    assert paths[0].read_bytes() == paths[1].read_bytes()
    with_drafts = ReportGenerator.load(paths[0])
    for request, report in zip(requests, written, strict=True):
        (again,) = with_drafts.generate([request])
        assert isinstance(again, Report)
        assert (again.token_ids, again.logprobs) == (report.token_ids, report.logprobs)
    if with_drafts.not_compiled is None:
        assert with_drafts.take_draft_counts()[1] > 0

    unpacked = tmp_path / "unpacked"
    unpacked.mkdir()
    unpack_mar(paths[0], unpacked)
    (unpacked / DRAFTS).write_bytes(b"damaged")
    with pytest.raises(ArchiveError, match=DRAFTS):
        read_archive(unpacked)
    count_drafts([[1000, 1001], [1000, 1001]]).write(unpacked / DRAFTS)
    write_manifest(unpacked)
    with pytest.raises(ArchiveError, match="does not know"):
        ReportGenerator(read_archive(unpacked))


def test_reports_are_as_the_model_writes_them(tmp_path: Path) -> None:
    """With the token that ends a report, special tokens as words."""
    model = read_model_folder(write_reading_model(tmp_path / "tiny"))
    known = write_reports(tmp_path / "known.jsonl", ["the heart is normal .", "the heart is not enlarged ."] * 2)
    table = tabulate(known, model)
    words = {word: model.tokenizer.token_to_id(word) for word in ["the", "heart", "is", "normal", "enlarged", "."]}

    assert table.propose([words["the"]], 2) == [words["heart"], words["is"]]
    end = model.config.tokenizer.eos_token_id
    assert table.propose([words[word] for word in ("the", "heart", "is", "normal")], 4) == [words["."], end]


@pytest.mark.parametrize(
    ("line", "reason"),
    [
        ('{"text": "a"}', "line 2 is not a known report"),
        ('{"report": 1}', "line 2 is not a known report"),
        ('["report"]', "line 2 is not a known report"),
        ('{"report": "a", "report": "b"}', "line 2 is not a known report"),
        ("the heart", "line 2 is not a known report"),
        ('{"report": "normal"}', "nothing can be proposed"),
    ],
)
def test_other_files_are_refused(line: str, reason: str, tmp_path: Path) -> None:
    """The file and the line are named, and nothing of it is repeated."""
    model = read_model_folder(write_reading_model(tmp_path / "tiny"))
    known = tmp_path / "known.jsonl"
    known.write_text(f'{{"report": "chest"}}\n{line}\n', encoding="utf-8")

    with pytest.raises(ArchiveError, match=reason) as raised:
        tabulate(known, model)
    assert str(known) in str(raised.value)
    with pytest.raises(ArchiveError, match="cannot be read"):
        tabulate(tmp_path / "absent.jsonl", model)
