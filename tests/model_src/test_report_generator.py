"""Properties of the straight line from bytes to report."""

import dataclasses
import io
import itertools
import re
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from torch import Tensor

from prelim.archive.archive import load_tokenizer, read_archive
from prelim.encoding.onnx_session import OnnxSession
from prelim.errors import (
    ArchiveError,
    InputError,
    InternalError,
    InvalidOption,
    NonFiniteOutput,
    NotAnImage,
    UnreadableInput,
)
from prelim.generation.options import GenerationOptions
from prelim.images.preprocess import preprocess, preprocess_image
from prelim.images.radiograph import read_radiograph
from prelim.report import Report
from prelim.report_generator import EMPTY_REPORT, ReportGenerator, ReportRequest
from tests.tiny_model import png


@pytest.fixture(scope="module")
def generator(tiny_archive: Path) -> ReportGenerator:
    """A generator of the tiny model with four slots."""
    return ReportGenerator.load(tiny_archive, slots=4)


def one(generator: ReportGenerator, request: ReportRequest) -> Report:
    """The report of one request that must succeed."""
    (report,) = generator.generate([request])
    assert isinstance(report, Report), report
    return report


def test_reports_depend_on_the_image(generator: ReportGenerator) -> None:
    """Different images get different reports, the same image the same report."""
    reports = [one(generator, ReportRequest(image=png(seed))) for seed in (0, 1, 2, 3, 0)]

    assert reports[0].token_ids == reports[4].token_ids
    assert len({report.token_ids for report in reports}) > 2


def test_every_end_of_text_token_ends_a_report(generator: ReportGenerator, tiny_archive: Path) -> None:
    """A model with several end-of-text tokens stops at the first of them."""
    whole = one(generator, ReportRequest(image=png(0))).token_ids
    token = next(token for token in whole[1:-1] if token != whole[0])
    archive = read_archive(tiny_archive)
    tokens = dataclasses.replace(
        archive.config.tokenizer, eos_token_id=(archive.config.tokenizer.eos_token_ids[0], token)
    )
    config = dataclasses.replace(archive.config, tokenizer=tokens)

    report = one(ReportGenerator(dataclasses.replace(archive, config=config), slots=1), ReportRequest(image=png(0)))

    assert report.token_ids == whole[: whole.index(token) + 1]
    assert report.finish_reason == "eos"


def test_empty_report_has_a_warning(generator: ReportGenerator) -> None:
    """A report without text is not taken for a finding that there is nothing."""
    whole = one(generator, ReportRequest(image=png(0)))
    options = dataclasses.replace(generator.config.generation, stop=(whole.text[:3],))

    report = one(generator, ReportRequest(image=png(0), options=options))

    assert whole.warnings == ()
    assert (report.text, report.warnings) == ("", (EMPTY_REPORT,))


def test_batch_equals_alone(generator: ReportGenerator) -> None:
    """More requests than slots, with different options, get the reports that each gets alone."""
    requests = [
        ReportRequest(
            image=png(i),
            options=GenerationOptions(max_new_tokens=10 + i, num_beams=1 + i % 3, num_return_sequences=1 + i % 3),
            return_logprobs=True,
        )
        for i in range(9)
    ]

    together = generator.generate(requests)

    alone = [one(generator, request) for request in requests]
    written = [[dataclasses.replace(report, timing_ms={}) for report in reports] for reports in (alone, together)]
    assert written[0] == written[1], "every bit of the log-probabilities and alternatives as well"


def test_networks_see_one_image_at_a_time(generator: ReportGenerator, monkeypatch: pytest.MonkeyPatch) -> None:
    """Images that arrive together are encoded and connected as each would be alone."""
    sizes: list[int] = []
    run = OnnxSession.run

    def recorded(session: OnnxSession, batch: Tensor) -> Tensor:
        sizes.append(len(batch))
        return run(session, batch)

    monkeypatch.setattr(OnnxSession, "run", recorded)
    generator.generate([ReportRequest(image=png(50 + i)) for i in range(3)])

    assert sizes == [1] * 6


def test_broken_file_leaves_its_neighbors_unchanged(generator: ReportGenerator) -> None:
    """A file that cannot be read fails alone, wherever it is in the batch."""
    good = [ReportRequest(image=png(i)) for i in range(3)]
    expected = [one(generator, request).token_ids for request in good]
    for place in range(4):
        requests = [*good[:place], ReportRequest(image=b"%PDF-1.7 broken"), *good[place:]]

        answers = generator.generate(requests)

        assert isinstance(answers.pop(place), NotAnImage)
        assert [report.token_ids for report in answers] == expected


BAD: list[tuple[str, Any]] = [
    *((name, value) for name in ("prompt", "messages", "roles", "options", "context") for value in (5, b"x", "\ud800")),
    ("prompt", ["x"]),
    ("messages", (5,)),
    ("messages", ({"role": "user"},)),
    ("messages", ({"role": "user", "content": 5},)),
    ("messages", ({"role": "user", "content": "\ud800"},)),
    ("roles", (5,)),
    ("roles", ([],)),
    ("context", {5: "x"}),
    ("context", {"age": 10**5000}),
    ("context", {"indication": "\ud800"}),
    ("image_features", "x"),
    ("image_features", [[1], [1, 2]]),
    ("image_features", [object()]),
]


def test_bad_value_of_a_field_leaves_its_neighbors_unchanged(generator: ReportGenerator) -> None:
    """Each fails alone, by its own error, and the generator works afterwards."""
    good = ReportRequest(image=png(0), options=GenerationOptions(max_new_tokens=3))
    expected = one(generator, good).token_ids
    fields = [{"image": None if name == "image_features" else png(1), name: value} for name, value in BAD]

    answers = generator.generate([good, *(ReportRequest(**given) for given in fields), good])

    assert [answers[0].token_ids, answers[-1].token_ids] == 2 * [expected]
    for (name, value), error in zip(BAD, answers[1:-1], strict=True):
        at_fault = [*value] if name == "context" and isinstance(value, dict) and "age" in value else [name]
        assert isinstance(error, InputError), (name, type(value), error.__cause__)
        assert name in ("context", "image_features") or error.field in at_fault
    assert not generator.active


@pytest.mark.parametrize("failing", ["check", "in_order"])
def test_what_raises_while_a_request_is_prepared_ends_it_alone(
    generator: ReportGenerator, monkeypatch: pytest.MonkeyPatch, failing: str
) -> None:
    """Also what no check foresees; an interruption ends all, and leaves none behind."""
    bad, good = ReportRequest(image=png(1), prompt="bad"), ReportRequest(image=png(0))
    usual, raised = getattr(ReportRequest, failing), [RuntimeError("unforeseen")]

    def fail(request: ReportRequest, *given: Any) -> Any:
        if request is bad:
            raise raised[0]
        return usual(request, *given)

    monkeypatch.setattr(ReportRequest, failing, fail)
    report, error = generator.generate([good, bad])
    assert isinstance(report, Report)
    assert isinstance(error, InternalError)
    raised[0] = KeyboardInterrupt()  # type: ignore[call-overload]
    with pytest.raises(KeyboardInterrupt):
        generator.generate([good, bad])
    assert one(generator, good).token_ids == report.token_ids


def test_features_stand_for_the_image(generator: ReportGenerator, tiny_archive: Path) -> None:
    """image_features that the encoder gave for an image get that image's report."""
    from prelim.archive.archive import VISION
    from prelim.encoding.onnx_session import OnnxSession
    from prelim.images.preprocess import preprocess
    from prelim.images.radiograph import read_radiograph

    pixel_values = preprocess(read_radiograph(png(5), generator.config.input), generator.config.preprocess)
    features = OnnxSession(tiny_archive / VISION).run(torch.from_numpy(pixel_values[None]))[0].numpy()

    by_features = one(generator, ReportRequest(image_features=features))

    assert by_features.token_ids == one(generator, ReportRequest(image=png(5))).token_ids


@pytest.mark.parametrize(
    ("request_", "message"),
    [
        (
            ReportRequest(image_features=np.zeros((3, 576), np.float32)),
            r"shape \(3, 576\); this model takes \(4, 576\)",
        ),
        (ReportRequest(image_features=np.full((4, 576), "1")), "must be numbers"),
        (ReportRequest(image_features=np.full((4, 576), np.nan, np.float32)), "not finite"),
        (ReportRequest(image_features=np.full((4, 576), 3e38, np.float32)), r"size 3e\+38; allowed: -10000 to 10000"),
        (ReportRequest(image_features=np.full((4, 576), -10001, np.float32)), "size 1e"),
        (
            ReportRequest(image=png(), options=GenerationOptions(num_beams=16, max_new_tokens=1000)),
            "at most 48 are possible",
        ),
        (ReportRequest(image=png(), prompt="What is seen?"), "prompt is set, but tiny takes none"),
        (ReportRequest(image=png(), options=GenerationOptions(max_new_tokens=49)), "at most 48 are possible"),
    ],
)
def test_wrong_request_is_explained(generator: ReportGenerator, request_: ReportRequest, message: str) -> None:
    """A request that cannot be answered gets an error that says what is wrong with it."""
    (error,) = generator.generate([request_])

    assert isinstance(error, InvalidOption)
    with pytest.raises(InputError, match=message):
        raise error


@pytest.mark.parametrize(
    ("request_", "message"),
    [
        (ReportRequest(), "there is no image"),
        (ReportRequest(image=b""), "there is no image"),
        (ReportRequest(images=()), "there is no image"),
        (
            ReportRequest(image=png(), image_features=np.zeros((4, 576), np.float32)),
            "image and image_features are both given",
        ),
        (ReportRequest(image=png(), images=(png(),)), "image and images are both given"),
        (ReportRequest(image=png(), prompt="?", messages=()), "prompt and messages are both given"),
    ],
)
def test_image_comes_in_one_way(generator: ReportGenerator, request_: ReportRequest, message: str) -> None:
    """The same mistake is the same error, whoever makes it."""
    (error,) = generator.generate([request_])

    assert isinstance(error, UnreadableInput)
    with pytest.raises(UnreadableInput, match=message):
        raise error


def test_requests_in_flight_are_not_lost(generator: ReportGenerator) -> None:
    """An id is used once at a time, and `generate` returns only its own reports."""
    expected = one(generator, ReportRequest(image=png(1))).token_ids
    generator.add("a", ReportRequest(image=png(1)))
    with pytest.raises(ValueError, match="the request 'a' has not ended"):
        generator.add("a", ReportRequest(image=png(2)))
    with pytest.raises(RuntimeError, match="1 requests have not ended"):
        generator.generate([ReportRequest(image=png(2))])
    done: dict[str, Any] = {}
    while not done:
        done = generator.step(0)

    assert done["a"].token_ids == expected
    assert not generator.active


@pytest.mark.parametrize("value", [np.nan, np.inf])
@pytest.mark.parametrize("network", ["_vision", "_connector"])
def test_image_that_becomes_nan_fails_alone(
    generator: ReportGenerator, monkeypatch: pytest.MonkeyPatch, network: str, value: float
) -> None:
    """NaN of the encoder or the connector is a 500 for its request, and no feature that is kept; others get reports."""
    generator.reset()
    session = getattr(generator._images, network)
    requests = [ReportRequest(image=png(seed)) for seed in (70, 71, 72)]
    run, images = session.run, itertools.count()

    def poisoned(batch: Tensor) -> Tensor:
        outputs: Tensor = run(batch)
        if next(images) == 1:
            outputs[0, 0, 0] = value
        return outputs

    with monkeypatch.context() as patch:
        patch.setattr(session, "run", poisoned)
        first, error, last = generator.generate(requests)

    assert isinstance(error, NonFiniteOutput)
    expected = [one(generator, request).token_ids for request in requests]
    assert [first.token_ids, last.token_ids] == [expected[0], expected[2]]


def test_features_that_become_nan_are_the_clients_fault(
    generator: ReportGenerator, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Features within the bound that the connector still makes NaN of are refused by name."""
    monkeypatch.setattr(generator._images._connector, "run", lambda batch: torch.full((len(batch), 4, 32), torch.nan))

    (error,) = generator.generate([ReportRequest(image_features=np.ones((4, 576), np.float32))])

    assert isinstance(error, InvalidOption)
    assert "image_features become NaN" in str(error)


def test_features_that_the_decoder_makes_nan_of_are_the_clients_fault(
    generator: ReportGenerator, monkeypatch: pytest.MonkeyPatch
) -> None:
    """NaN in the decoder is a 500 for an image, and a 400 for features, whose values nobody but the client knows."""
    prefill = generator._engine._decoder.prefill
    monkeypatch.setattr(generator._engine._decoder, "prefill", lambda *given: prefill(*given) * np.nan)

    image, features = generator.generate(
        [ReportRequest(image=png(0)), ReportRequest(image_features=np.ones((4, 576), np.float32))]
    )

    assert isinstance(image, NonFiniteOutput)
    assert isinstance(features, InvalidOption)
    assert str(features).startswith("image_features: the decoder computed NaN")


def test_cache_bound_follows_from_its_setting(tiny_archive: Path) -> None:
    """`max_cache_mb` bounds the cache, and so beams x tokens of a request; too small a bound fails at start."""
    small = ReportGenerator.load(tiny_archive, slots=4, max_cache_mb=0.5)
    wide = ReportRequest(image=png(), options=GenerationOptions(num_beams=16, max_new_tokens=40))

    assert 0 < small.max_cache_mb <= 0.5
    (error,) = small.generate([wide])
    assert isinstance(error, InvalidOption)
    assert f"a request may use {small.max_columns} here" in str(error)
    assert isinstance(ReportGenerator.load(tiny_archive, slots=4).generate([wide])[0], Report)
    with pytest.raises(ArchiveError, match=r"max_cache_mb is 0.01; 4 slots .* tiny can need 1"):
        ReportGenerator.load(tiny_archive, slots=4, max_cache_mb=0.01)


def test_longest_report_is_a_setting(tiny_archive: Path, generator: ReportGenerator) -> None:
    """The cache has room for one row of it, within its own bound; unset it is 1,024."""

    def refused(by: ReportGenerator, tokens: int) -> str:
        error = by.generate([ReportRequest(image=png(), options=GenerationOptions(max_new_tokens=tokens))])[0]
        assert isinstance(error, InvalidOption)
        return str(error)

    longer = ReportGenerator.load(tiny_archive, slots=1, max_new_tokens=5000)
    assert longer.max_columns > 5000 > generator.max_columns
    assert "allowed here: 1 to 1024" in refused(generator, 1025)
    assert "allowed here: 1 to 5000" in refused(longer, 5001)
    assert "has 48" in refused(longer, 5000)
    assert "has 48" in refused(generator, 1024)
    for tokens, message in ((3, "max_new_tokens is 3; allowed: "), (16385, " to 16384")):
        with pytest.raises(ArchiveError, match=message):
            ReportGenerator.load(tiny_archive, max_new_tokens=tokens)
    with pytest.raises(ArchiveError, match=r"max_cache_mb is 0.5; .* tiny can need"):
        ReportGenerator.load(tiny_archive, slots=4, max_cache_mb=0.5, max_new_tokens=5000)


@pytest.mark.parametrize("steps", [1, 3, 8])
def test_new_text_makes_the_beginning_of_the_report(generator: ReportGenerator, steps: int) -> None:
    """With greedy search and sampling, with stop texts that cross calls, and with other requests."""
    whole = one(generator, ReportRequest(image=png(1))).text
    stops = [(), (whole[4:9],), (whole[-9:-3], whole[-12:-8]), ("not in it",)]
    options = [GenerationOptions(max_new_tokens=24, stop=stop) for stop in stops]
    options += [GenerationOptions(max_new_tokens=24, stop=stop, do_sample=True, seed=4) for stop in stops]
    for chosen in options:
        generator.add("a", ReportRequest(image=png(1), options=chosen))
        generator.add("b", ReportRequest(image=png(2), options=options[0]))
        pieces, reports = [], {}
        while "a" not in reports:
            pieces += [generator.new_text("a")]
            reports |= generator.step(steps)
        generator.cancel("b")

        assert reports["a"].text.startswith("".join(pieces))
        if chosen.stop == () and steps == 1:
            assert len(reports["a"].text) - len("".join(pieces)) < 12
            assert len([piece for piece in pieces if piece]) > 3


def test_canceled_request_leaves_no_trace(generator: ReportGenerator) -> None:
    """A canceled request is gone, and its slot is free."""
    generator.add("a", ReportRequest(image=png(0)))
    generator.add("b", ReportRequest(image=png(1)))
    generator.step(2)

    generator.cancel("a")

    assert set(generator.active) == set(generator.running) == {"b"}
    generator.reset()
    assert not generator.active


def test_waiting_for_a_slot_is_time_in_the_queue(generator: ReportGenerator) -> None:
    """More requests than slots: all get reports, and the last one's queue is longer than the first one's decoding."""
    options = GenerationOptions(max_new_tokens=10, min_new_tokens=10)

    first, *_, last = generator.generate([ReportRequest(png(i), options=options) for i in range(6)])

    assert isinstance(first, Report)
    assert isinstance(last, Report)
    assert last.timing_ms["queue"] > first.timing_ms["decode"]


def test_alternatives_are_the_other_beams(generator: ReportGenerator) -> None:
    """num_return_sequences gives one report and the rest as alternatives, all different."""
    options = GenerationOptions(max_new_tokens=12, num_beams=4, num_return_sequences=4)

    report = one(generator, ReportRequest(image=png(2), options=options))

    assert len({report.text, *(a.text for a in report.alternatives)}) > 1
    assert len(report.alternatives) == 3


def test_reports_are_unverified(generator: ReportGenerator) -> None:
    """Every report says that nobody has verified it, and how long each part took."""
    report = one(generator, ReportRequest(image=png()))

    assert report.status == "UNVERIFIED"
    assert set(report.timing_ms) == {"queue", "preprocess", "vision", "decode"}
    assert all(value >= 0 for value in report.timing_ms.values())


def test_return_image_is_what_the_network_reads(generator: ReportGenerator) -> None:
    """A PNG of the network's size, the same when the features come from the cache; none unless it is asked for."""
    asked = ReportRequest(image=png(3), return_image=True)
    (first,) = one(generator, asked).pictures
    assert one(generator, asked).pictures == (first,)
    size, channels = generator.config.preprocess.size, generator.config.preprocess.channels
    with Image.open(io.BytesIO(first)) as picture:
        assert picture.size == (size, size)
        seen = preprocess_image(picture.copy(), generator.config.preprocess)
    read = preprocess(read_radiograph(png(3), generator.config.input), generator.config.preprocess)
    assert read.shape[0] == channels
    np.testing.assert_allclose(seen, read, atol=1e-5)
    assert one(generator, ReportRequest(image=png(3))).pictures == ()


def test_banned_phrases_are_the_models_unless_the_request_has_its_own(
    generator: ReportGenerator, tiny_archive: Path
) -> None:
    """By a default of model.yaml no report has the word; a request's own list replaces it, also by nothing."""
    images = [png(seed) for seed in range(6)]
    plain = [one(generator, ReportRequest(image=image)).text for image in images]
    word = next(word for word in ("heart", "not", "normal", "the", "no") if any(word in text.split() for text in plain))
    archive = read_archive(tiny_archive)
    banned = dataclasses.replace(archive.config.generation, banned_phrases=(word.upper(),))
    config = dataclasses.replace(archive.config, generation=banned)
    strict = ReportGenerator(dataclasses.replace(archive, config=config), slots=4)

    for beams in (1, 3):
        options = dataclasses.replace(banned, num_beams=beams)
        texts = [one(strict, ReportRequest(image=image, options=options)).text for image in images]
        assert not any(word in re.findall(r"\w+", text) for text in texts)
    assert [one(strict, ReportRequest(image=image)).text for image in images] != plain
    free = [one(strict, ReportRequest(image=image, options=archive.config.generation)).text for image in images]
    assert free == plain


@pytest.mark.parametrize("beams", [1, 3])
def test_a_report_has_the_form_of_its_grammar(generator: ReportGenerator, beams: int) -> None:
    """Its alternatives too, and the stream is its beginning; phrases are banned as well."""
    grammar = "findings :( [a-z]+){1,3}[.] impression :( [a-z]+){1,3}[.]"
    options = GenerationOptions(num_beams=beams, num_return_sequences=min(beams, 2), grammar=grammar, max_new_tokens=30)
    options = dataclasses.replace(options, banned_phrases=("effusion",))
    for seed in range(3):
        generator.add("a", ReportRequest(image=png(seed), options=options))
        sent, ended = "", generator.step()
        while not ended:
            sent += generator.new_text("a")
            ended = generator.step()
        report = ended["a"]
        assert isinstance(report, Report)
        for text in (report.text, *(alternative.text for alternative in report.alternatives)):
            assert re.fullmatch(grammar, text)
            assert "effusion" not in text
        assert report.finish_reason == "eos"
        assert sent
        assert report.text.startswith(sent)
        assert (report.findings is None, report.impression is None) == (False, False)


def test_a_grammar_of_a_model_is_checked_at_the_start(tiny_archive: Path) -> None:
    """model.yaml is named, with what is wrong."""
    archive = read_archive(tiny_archive)
    wrong = dataclasses.replace(archive.config, generation=dataclasses.replace(archive.config.generation, grammar="("))
    with pytest.raises(ArchiveError, match=r"model\.yaml, section generation: grammar cannot be used: unclosed group"):
        ReportGenerator(dataclasses.replace(archive, config=wrong))


def test_phrases_that_cannot_be_banned_stop_the_start_or_the_request(
    tiny_archive: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """In model.yaml the file is named; in a request it fails before it waits for a slot."""
    archive = read_archive(tiny_archive)
    banned = dataclasses.replace(archive.config.generation, banned_phrases=("prior",))
    tokenizer = load_tokenizer(tiny_archive)
    tokenizer.decoder = None
    monkeypatch.setattr("prelim.report_generator.load_tokenizer", lambda _: tokenizer)
    generator = ReportGenerator(archive, slots=1)
    with pytest.raises(InvalidOption, match="banned_phrases is given, but this model's tokens cannot be mapped"):
        generator.add("a", ReportRequest(image=png(), options=banned))
    assert not generator.active
    config = dataclasses.replace(archive.config, generation=banned)
    with pytest.raises(ArchiveError, match=r"model\.yaml, section generation: banned_phrases is given"):
        ReportGenerator(dataclasses.replace(archive, config=config))
