"""Reports of a model that also writes boxes and reasoning: alone, in a batch, with beams, in a stream."""

import dataclasses
import json
import math
import shutil
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from prelim.archive.archive import Archive, load_tokenizer, read_archive
from prelim.archive.manifest import write_manifest
from prelim.encoding.report_request import PendingReport
from prelim.errors import ArchiveError
from prelim.generation.after_reasoning import ReasoningTokens
from prelim.generation.confidence import read_sentences
from prelim.generation.hypothesis import Hypothesis
from prelim.generation.marked_text import UNFINISHED, MarkedText
from prelim.generation.options import GenerationOptions
from prelim.generation.output_config import OutputConfig
from prelim.generation.report_reader import ReportReader
from prelim.images.placement import Placement
from prelim.report import Region, Report
from prelim.report_generator import EMPTY_REPORT, ReportGenerator, ReportRequest
from tests.tiny_model import PIECES, png

OUTPUT = OutputConfig("<think>", "</think>", "report", "<obj>", "</obj>", "<box>", "</box>", box_bins=1)
MARKS = ("<think>", "</think>", "<obj>", "</obj>", "<box>", "</box>", "<x0>", "<y0>")
WORDS = ("heart", "is", "not", "big", ".")
BOX = ("<box>", "<x0>", "<y0>", "<x0>", "<y0>", "</box>")


def with_marks(tiny_archive: Path, folder: Path, output: OutputConfig = OUTPUT, *, special: bool = False) -> Archive:
    """The tiny archive with marks among its tokens, so that random reports are full of them."""
    shutil.copytree(tiny_archive, folder)
    tokenizer = json.loads((folder / "tokenizer.json").read_text(encoding="utf-8"))
    names = [*PIECES[:4], *WORDS, *MARKS]
    tokenizer["model"]["vocab"] = {name: i for i, name in enumerate(names)}
    for i, mark in enumerate(MARKS, len(names) - len(MARKS)):
        plain = {"single_word": False, "lstrip": False, "rstrip": False, "normalized": False}
        tokenizer["added_tokens"].append({"id": i, "content": mark, "special": special, **plain})
    (folder / "tokenizer.json").write_text(json.dumps(tokenizer), encoding="utf-8")
    write_manifest(folder)
    archive = read_archive(folder)
    return dataclasses.replace(archive, config=dataclasses.replace(archive.config, output=output))


@pytest.fixture(scope="module")
def archive(tiny_archive: Path, tmp_path_factory: pytest.TempPathFactory) -> Archive:
    """The model whose marks are ordinary tokens."""
    return with_marks(tiny_archive, tmp_path_factory.mktemp("marked") / "archive")


@pytest.fixture(scope="module")
def generator(archive: Archive) -> ReportGenerator:
    """A generator of it."""
    return ReportGenerator(archive, slots=4)


def ids_of(archive: Archive, *tokens: str) -> list[int]:
    """Ids of tokens."""
    tokenizer = load_tokenizer(archive.folder)
    return [tokenizer.token_to_id(token) for token in tokens]


def ask(seed: int, **options: object) -> ReportRequest:
    """A request for a random report, of which everything is returned."""
    values = {"max_new_tokens": 24, "do_sample": True, "temperature": 1.6, "seed": seed, **options}
    return ReportRequest(
        image=png(seed % 3),
        options=GenerationOptions(**values),  # type: ignore[arg-type]
        return_logprobs=True,
        return_reasoning=True,
    )


def reports(generator: ReportGenerator, requests: list[ReportRequest]) -> list[Report]:
    """Reports of requests that must succeed."""
    found = generator.generate(requests)
    assert all(isinstance(report, Report) for report in found), found
    return found  # type: ignore[return-value]


@pytest.mark.parametrize(
    "options",
    [{}, {"num_beams": 3, "num_return_sequences": 2}, {"no_repeat_ngram_size": 3}, {"stop": ("is not", "big")}],
    ids=str,
)
def test_report_regions_and_tokens_line_up(
    generator: ReportGenerator, archive: Archive, options: dict[str, object]
) -> None:
    """Whatever is written; no mark is in a report, and what is in a batch is what is written alone."""
    if "num_beams" in options:
        options = {**options, "do_sample": False, "temperature": 1.0}
    requests = [ask(seed, **options) for seed in range(12)]
    together = reports(generator, requests)
    marked = 0
    for report in together:
        for one in (report, *report.alternatives):
            assert not any(mark in one.text for mark in MARKS), one
            assert not any(stop in one.text for stop in options.get("stop", ())), one  # type: ignore[union-attr]
            assert one.regions is not None
            for region in one.regions:
                assert region.text == one.text[region.start : region.end] != ""
                assert region.picture_box == (0.5, 0.5, 0.5, 0.5)
                assert region.box == Placement(80, 80).locate(region.picture_box, archive.config.preprocess)
            marked += len(one.regions)
            assert len(one.tokens) == len(one.token_ids)
    alone = [reports(generator, [request])[0] for request in requests[:3]]
    assert [dataclasses.replace(report, timing_ms={}) for report in alone] == [
        dataclasses.replace(report, timing_ms={}) for report in together[:3]
    ]
    assert any(EMPTY_REPORT not in report.warnings for report in together)


@pytest.mark.parametrize("begins", ["report", "reasoning", "either"])
def test_a_stream_has_no_reasoning_and_takes_nothing_back(archive: Archive, begins: str) -> None:
    """Every piece is a beginning of what is left of the report."""
    config = dataclasses.replace(archive.config, output=dataclasses.replace(OUTPUT, begins=begins))
    generator = ReportGenerator(dataclasses.replace(archive, config=config), slots=4)
    thought = streamed = 0
    for seed in range(20):
        generator.add("a", ask(seed))
        text, done = "", {}
        while not done:
            done = generator.step()
            text += "" if done else generator.new_text("a")
        report = done["a"]
        assert isinstance(report, Report)
        assert report.text.startswith(text)
        streamed += bool(text)
        thought += report.reasoning is not None
        if UNFINISHED.split(":", maxsplit=1)[0] in " ".join(report.warnings) and begins != "report":
            assert report.text == "" or "</think>" in load_tokenizer(archive.folder).decode(list(report.token_ids))
    assert thought
    assert streamed or begins == "either"


def test_reasoning_is_returned_only_when_asked(archive: Archive) -> None:
    """Nor are its tokens, and its log-probabilities are not in the mean."""
    config = dataclasses.replace(archive.config, output=dataclasses.replace(OUTPUT, begins="reasoning"))
    generator = ReportGenerator(dataclasses.replace(archive, config=config), slots=1)
    for seed in range(200):
        (asked,) = reports(generator, [ask(seed)])
        marks = [token.text for token in asked.tokens if "think" in token.text]
        if asked.text and asked.reasoning and marks == ["</think>"]:
            break
    else:
        pytest.fail("no report came after one reasoning")
    (report,) = reports(generator, [dataclasses.replace(ask(seed), return_reasoning=False)])
    end = 1 + [token.text for token in asked.tokens].index("</think>")
    assert report.reasoning is None
    assert report.text == asked.text
    assert report.tokens == asked.tokens[end:]
    assert (
        report.avg_logprob
        == asked.avg_logprob
        == pytest.approx(math.fsum(token.logprob for token in report.tokens) / len(report.tokens))
    )
    always = dataclasses.replace(config, output=dataclasses.replace(config.output, return_reasoning=True))  # type: ignore[type-var]
    generator = ReportGenerator(dataclasses.replace(archive, config=always), slots=1)
    assert reports(generator, [dataclasses.replace(ask(seed), return_reasoning=False)])[0].reasoning == asked.reasoning


@pytest.mark.parametrize("special", [False, True])
def test_marks_are_read_whether_or_not_they_are_special_tokens(
    tiny_archive: Path, tmp_path: Path, special: bool
) -> None:
    """A special token with a meaning is not dropped; one without is."""
    archive = with_marks(tiny_archive, tmp_path / "archive", special=special)
    reader = ReportReader(load_tokenizer(archive.folder), OUTPUT)
    ids = ids_of(archive, "<think>", "is", "</think>", "<obj>", "heart", "big", *BOX, "</obj>", "[SEP]")
    written = reader.read(ids)
    assert (written.text, written.reasoning) == ("heart big", "is")
    assert [(box.start, box.end) for box in written.boxes] == [(0, 9)]
    assert written.own == tuple(range(3, len(ids)))
    stream = reader.open(())
    assert "".join(stream.feed(ids[:count]) for count in range(1, len(ids) + 1)) == "heart big"


def write(generator: ReportGenerator, archive: Archive, tokens: Sequence[str], **asked: Any) -> Report:
    """What is answered if the model writes these tokens."""
    request = ReportRequest(**{"image": png(), "return_logprobs": True, **asked})
    pending = PendingReport(None, (2,), GenerationOptions(), request=request, images=generator._images)
    pending.embed()
    logprobs = tuple(-0.5 for _ in tokens)
    pending.outcome = (Hypothesis(tuple(ids_of(archive, *tokens)), logprobs, "eos"),)
    return generator._writer.write(pending)


WRITTEN = (
    *("<think>", "not", "</think>", "<obj>", "heart", "big", ".", *BOX, *BOX, "</obj>"),
    *("<obj>", "is", "not", ".", "</obj>", "[SEP]"),
)


def test_regions_are_in_pixels_of_the_image(generator: ReportGenerator, archive: Archive) -> None:
    """Each with its phrase; features have no pixels, and a box is in the frontal image wherever that is sent."""
    report = write(generator, archive, WRITTEN)
    region = Region("heart big.", 0, 10, (40.0, 40.0, 40.0, 40.0), (0.5, 0.5, 0.5, 0.5))
    assert (report.text, report.regions, report.warnings) == ("heart big. is not.", (region, region), ())
    assert [token.text for token in report.tokens] == list(WRITTEN[3:])
    features = write(
        generator, archive, WRITTEN, image=None, image_features=np.zeros(generator.image_features_shape, np.float32)
    )
    assert features.regions == (dataclasses.replace(region, box=None),) * 2
    both = {"image": None, "images": (png(1, 60), png(0, 80)), "roles": ("prior", "frontal")}
    second = write(generator, archive, WRITTEN, **both).regions
    assert second == (dataclasses.replace(region, image=2),) * 2


def test_tokens_of_marks_and_reasoning_belong_to_no_sentence(archive: Archive) -> None:
    """So a confidence is that of the words; the end of the text belongs to the last one."""
    reader, ids = ReportReader(load_tokenizer(archive.folder), OUTPUT), ids_of(archive, *WRITTEN)
    logprobs = tuple(-1.0 if token in (*WORDS, "[SEP]") else -100.0 for token in WRITTEN)
    written = reader.read(ids)
    found = read_sentences(
        written.text, Hypothesis(tuple(ids), logprobs, "eos"), reader.detokenize, None, written.places
    )
    assert [(text, inputs["tokens"]) for text, inputs in found] == [("heart big.", 3), ("is not.", 4)]
    assert all(inputs["largest"] == pytest.approx(0, abs=1e-4) for _, inputs in found)


def test_banned_phrases_and_grammars_hold_in_the_report_alone(archive: Archive) -> None:
    """A banned phrase is not joined by marks, and reasoning may have it; a grammar begins where reasoning ends."""
    config = dataclasses.replace(archive.config, output=dataclasses.replace(OUTPUT, begins="reasoning"))
    generator = ReportGenerator(dataclasses.replace(archive, config=config), slots=4)
    bans = {"banned_phrases": ("heart is", "not")}
    free = reports(generator, [ask(seed) for seed in range(40)])
    held = reports(generator, [ask(seed, **bans) for seed in range(40)])
    assert any("not" in report.text for report in free)
    assert not any("heart is" in report.text or "not" in report.text for report in held)
    assert any("not" in (report.reasoning or "") for report in held)
    # Greedy: its last token is never cut off in the midst of the grammar.
    words = reports(generator, [ask(seed, grammar="(big|not)( heart)+", max_new_tokens=24) for seed in range(30)])
    ended = [report for report in words if report.reasoning is not None and report.finish_reason == "eos"]
    assert all(report.text == "" or report.text.split()[0] in ("big", "not") for report in ended)
    assert all(set(report.text.split()[1:]) <= {"heart"} for report in words)
    assert any(report.text for report in words)


def test_no_token_ends_reasoning_and_begins_the_report(archive: Archive) -> None:
    """Nor does one begin reasoning again after the report has begun."""
    tokenizer = load_tokenizer(archive.folder)
    tokenizer.add_tokens(["a</think>b", "</th", "##ink>big", "##ink> "])
    tokens = ReasoningTokens(tokenizer, dataclasses.replace(OUTPUT, begins="reasoning"))
    ids = {
        token: tokenizer.token_to_id(token) for token in ("a</think>b", "</th", "##ink>big", "##ink> ", "<think>", "is")
    }
    assert set(tokens.forbidden(tokens.start).tolist()) == {ids["a</think>b"]}
    half = tokens.advance(tokens.start, ids["</th"])
    assert set(tokens.forbidden(half).tolist()) == {ids["a</think>b"], ids["##ink>big"]}
    report = tokens.advance(half, ids["##ink> "])
    assert not report.thinks
    assert ids["<think>"] not in tokens.forbidden(report).tolist()
    assert ids["<think>"] in tokens.forbidden(tokens.advance(report, ids["is"])).tolist()
    assert torch.equal(tokens.forbidden(half), tokens.forbidden(half))


def test_marks_of_boxes_must_be_tokens(archive: Archive) -> None:
    """Otherwise banned phrases could not tell them from words."""
    with pytest.raises(ArchiveError, match=r"marks of boxes that are not tokens.*'<x1>'"):
        ReportReader(load_tokenizer(archive.folder), dataclasses.replace(OUTPUT, box_bins=2))
    assert MarkedText(OUTPUT).end().report == ""
