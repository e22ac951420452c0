"""`export.audit`: reports that are in an audit log are written again, equal in all bits, and what differs is named."""

import random
import sys
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from export import audit
from export.audit import Original, Replayed, find_line, replay, verify
from handlers.auditor import Auditor
from handlers.exchange import Exchange
from handlers.response import ServedModel
from handlers.settings import Settings
from prelim.audit.check import read_log
from prelim.audit.key import AuditKey
from prelim.audit.log import AuditLog
from prelim.audit.record import record_report
from prelim.errors import AuditError
from prelim.generation.options import GenerationOptions
from prelim.report_generator import ReportGenerator, ReportRequest
from tests.tiny_model import CONFIG, png

REPORTS = 100


@dataclass(frozen=True)
class Site:
    """An audit log of REPORTS reports.

    originals : what each was written from, in the order of the lines
    """

    folder: Path
    key: Path
    archive: Path
    originals: list[Original]

    @property
    def lines(self) -> list[dict[str, Any]]:
        """The lines, which are checked."""
        return [line for line, _ in read_log(self.folder, AuditKey.read(self.key))]


def random_options(rng: random.Random) -> GenerationOptions:
    """Beams, samples and penalties; half of the samples are without a seed."""
    beams, sample = rng.choice([1, 1, 2, 3]), rng.random() < 0.4
    return GenerationOptions(
        num_beams=beams,
        do_sample=sample,
        temperature=rng.choice([1.0, 1.7]) if sample else 1.0,
        seed=rng.randrange(2**63) if sample and rng.random() < 0.5 else None,
        num_return_sequences=rng.randint(1, beams),
        repetition_penalty=rng.choice([1.0, 1.3]),
        max_new_tokens=rng.randint(4, 20),
        stop=("effusion",) if rng.random() < 0.2 else (),
    )


@pytest.fixture(scope="module")
def site(tiny_mar: Path, tmp_path_factory: pytest.TempPathFactory) -> Site:
    """Reports on 12 images with random options, written in batches of random neighbors by one thread."""
    folder, rng = tmp_path_factory.mktemp("site"), random.Random(0)
    key = folder / "audit.key"
    key.write_bytes(b"k" * 32)
    key.chmod(0o600)
    for seed in range(12):
        (folder / f"{seed}.png").write_bytes(png(seed))
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    generator = ReportGenerator.load(tiny_mar, threads=1)
    model = ServedModel("tiny", "1.0", "mobilenet_graph", generator.sha256)
    settings = replace(Settings.read(None), threads=1, share_weights=False)
    auditor = Auditor(AuditLog(folder / "audit", AuditKey.read(key)), model, CONFIG.generation, settings, "cpu")
    originals: dict[str, Original] = {}
    exchanges: dict[str, Exchange] = {}
    for number in range(REPORTS):
        file, options = folder / f"{rng.randrange(12)}.png", random_options(rng)
        request = auditor.repeatable(ReportRequest(image=file.read_bytes(), options=options))
        exchanges[f"r{number}"] = Exchange(request, name=f"r{number}")
        originals[f"r{number}"] = Original([file], {"stop": list(options.stop)} if options.stop else {})
        generator.add(f"r{number}", request)
    recorded: list[str] = []
    while len(recorded) < REPORTS:
        for name, report in generator.step().items():
            assert not isinstance(report, Exception)
            auditor.record(report, exchanges[name])
            recorded.append(name)
    torch.set_num_threads(threads)
    return Site(folder / "audit", key, tiny_mar, [originals[name] for name in recorded])


def test_a_hundred_reports_are_equal_in_all_bits(site: Site) -> None:
    """In a new process, alone instead of in batches: token ids, texts and log-probabilities of all sequences."""
    lines = site.lines
    assert len({line["digests"]["logprobs"] for line in lines}) > REPORTS / 2
    assert any(len(original.texts) for original in site.originals)

    replayed = replay(lines, site.originals, site.archive, site.key)

    assert [f"{one}" for one in replayed] == ["equal in all bits"] * REPORTS


def test_what_differs_is_named(site: Site, tiny_archive: Path, tmp_path: Path) -> None:
    """First what differs in the report, then each difference in what it was written from, whether it matters or not."""
    lines = site.lines
    plain = next(i for i, line in enumerate(lines) if not line["texts"] and line["tokens"] > 3)
    stopped = next(i for i, line in enumerate(lines) if line["texts"])
    line, original = lines[plain], site.originals[plain]
    (tmp_path / "other.png").write_bytes(png(99))
    archive = line["model"] | {"sha256": "0" * 64}
    cases = [
        (line, replace(original, images=[tmp_path / "other.png"])),
        (line | {"model": archive}, original),
        (line | {"processor": "Z80", "libraries": line["libraries"] | {"torch": "1.0"}}, original),
        (line | {"digests": line["digests"] | {"logprobs": "0" * 64}}, original),
        (lines[stopped] | {"texts": {"stop": "0" * 64}}, site.originals[stopped]),
        (features := record_features(site, tiny_archive, tmp_path / "features.npy")),
        (line, replace(original, images=[site.key])),
        (features[0], original),
        (lines[stopped], replace(site.originals[stopped], texts={"stop": "effusion"})),
    ]

    replayed = replay(*zip(*cases, strict=True), site.archive, site.key)

    image, weights, elsewhere, changed, texts, *others = replayed

    assert image.difference in ("token_ids", "logprobs")
    assert image.causes == ("another image",)
    assert f"{weights}".startswith("equal in all bits, although there is another archive: ")
    assert archive["sha256"] in f"{weights}"
    assert f"{elsewhere}".startswith("equal in all bits, although there is another processor: ")
    assert "other libraries: torch 1.0 was " in f"{elsewhere}"
    assert f"{changed}" == "logprobs differ: archive, processor, image and options are the same"
    assert f"{texts}" == "equal in all bits, although there is other options"
    again, unreadable, no_features, one_text = others
    assert f"{again}" == f"{one_text}" == "equal in all bits"
    assert f"{unreadable}".startswith("no report now (NotAnImage: ")
    assert unreadable.causes == no_features.causes == ("another image",)


def record_features(site: Site, archive: Path, file: Path) -> tuple[dict[str, Any], Original]:
    """The line of a request with image_features instead of an image, and the file that has them."""
    generator = ReportGenerator.load(archive, threads=1)
    features = np.random.default_rng(0).normal(size=generator.image_features_shape).astype(np.float32)
    np.save(file, features)
    request = ReportRequest(image_features=features, options=CONFIG.generation)
    (report,) = generator.generate([request])
    assert not isinstance(report, Exception)
    record = record_report(request, report, CONFIG.generation, AuditKey.read(site.key))
    return site.lines[0] | dict(record), Original([file], {})


def test_texts_that_were_not_given_are_asked_for(site: Site) -> None:
    """By the names of their fields."""
    index = next(i for i, line in enumerate(site.lines) if line["texts"])
    with pytest.raises(AuditError, match="was made with stop; give them in the file of --texts"):
        replay([site.lines[index]], [replace(site.originals[index], texts={})], site.archive, site.key)


def test_noted_hashes_show_a_log_that_was_written_twice(site: Site, tmp_path: Path) -> None:
    """By somebody with the key, or put back to an earlier state: only what was noted elsewhere shows that."""
    key = AuditKey.read(site.key)
    number, last = verify(site.folder, key)
    again = AuditLog(tmp_path / "audit", key)
    lines = [{name: value for name, value in line.items() if name not in ("line", "before")} for line in site.lines]
    for line in lines[:-1]:
        again.append(line)

    assert number == REPORTS
    assert verify(site.folder, key, noted={number: last[:16]}) == (number, last)
    assert verify(again.folder, key)[0] == REPORTS - 1
    with pytest.raises(AuditError, match=f"ends after line {REPORTS - 1}; line {REPORTS} was noted"):
        verify(again.folder, key, noted={number: last})
    again.append(lines[0])
    with pytest.raises(AuditError, match="wrote the log once more"):
        verify(again.folder, key, noted={number: last})


def test_request_with_several_lines() -> None:
    """A client that sends a request again keeps its id."""
    lines = [{"line": i, "request": name, "digests": {}} for i, name in ((1, "a"), (2, "b"), (3, "a"))]
    assert find_line(lines, "b")["line"] == 2
    assert find_line(lines, "a", 3)["line"] == 3
    refusal = {"line": 4, "request": "d", "refused": {"code": 422, "type": "UnlikeTraining"}}
    for request, message in (
        ("a", "the lines 1, 3; choose by --line"),
        ("c", "c has no line"),
        ("d", "d got no report .UnlikeTraining"),
    ):
        with pytest.raises(AuditError, match=message):
            find_line([*lines, refusal], request)


def test_command_line(site: Site, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    """`verify` and `replay` say what they found, and their exit codes too."""
    monkeypatch.setenv("PRELIM_AUDIT_KEY", str(site.key))
    index = next(i for i, line in enumerate(site.lines) if not line["texts"])
    name, (image,) = site.lines[index]["request"], site.originals[index].images

    # What it does is tested above.
    monkeypatch.setattr(audit, "replay", lambda lines, originals, *_: [Replayed(None, (f"{originals[0].images}",))])

    def run(*arguments: object) -> object:
        monkeypatch.setattr(sys, "argv", ["audit", *map(str, arguments)])
        with pytest.raises(SystemExit) as ended:
            audit.main()
        return ended.value.code

    assert run("verify", site.folder) == 0
    assert f"nothing was changed up to line {REPORTS}" in capsys.readouterr().out
    assert run("replay", site.folder, name, image, site.archive) == 0
    assert f"{[image]}" in capsys.readouterr().out
    assert run(
        "verify", site.folder, "--noted", f"{REPORTS + 1}:{'0' * 8}"
    ) == f"the log ends after line {REPORTS}; " + (f"line {REPORTS + 1} was noted")


@pytest.mark.parametrize(
    "given", ["abc", "12", "12:", "12:3f9a", "0:3f9a0c11", "-1:3f9a0c11", "12:3F9A0C1Z", ":3f9a0c11"]
)
def test_a_note_is_a_line_and_enough_of_its_hash(
    given: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    """Anything else is one line about the option: without digits every log would pass."""
    monkeypatch.setattr(sys, "argv", ["audit", "verify", str(tmp_path), "--key", "key", f"--noted={given}"])
    with pytest.raises(SystemExit) as ended:
        audit.main()
    assert ended.value.code == 2
    assert f"argument --noted: {given!r} is not LINE:HASH" in capsys.readouterr().err


def test_mistakes_of_the_command_line_are_one_line(site: Site, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Files of texts that are absent, no JSON, no object or of unknown fields; absent images; two notes of one line."""
    monkeypatch.setenv("PRELIM_AUDIT_KEY", str(site.key))
    index = next(i for i, line in enumerate(site.lines) if not line["texts"])
    name, (image,) = site.lines[index]["request"], site.originals[index].images
    wrong = ("[", "33", '{"promt": "x"}', '{"stop": 3}', '{"age": 200}', '{"messages": ["x"]}', '{"prompt": null}')
    for contents in wrong:
        (tmp_path / f"{len(contents)}.json").write_text(contents, encoding="utf-8")
    (tmp_path / "cp1252.json").write_bytes('{"prompt": "Ödem"}'.encode("cp1252"))
    replay = ("replay", site.folder, name)
    for arguments, message in (
        ((*replay, image, site.archive, "--texts", tmp_path / "absent"), "absent, of --texts, cannot be read: No such"),
        ((*replay, image, site.archive, "--texts", tmp_path), "of --texts, cannot be read: Is a directory"),
        ((*replay, image, site.archive, "--texts", tmp_path / "cp1252.json"), "is not JSON in UTF-8"),
        ((*replay, image, site.archive, "--texts", tmp_path / "1.json"), "is not JSON in UTF-8"),
        ((*replay, image, site.archive, "--texts", tmp_path / "2.json"), "is not an object"),
        (
            (*replay, image, site.archive, "--texts", tmp_path / "14.json"),
            "has the field 'promt'; allowed are",
        ),
        ((*replay, image, site.archive, "--texts", tmp_path / "11.json"), "stop is 3; it must be a string or a list"),
        ((*replay, image, site.archive, "--texts", tmp_path / "12.json"), "age must be whole years"),
        ((*replay, image, site.archive, "--texts", tmp_path / "19.json"), "messages must be a list of objects with"),
        ((*replay, image, site.archive, "--texts", tmp_path / "16.json"), "prompt must be a text"),
        ((*replay, tmp_path / "absent", site.archive), "absent is not a file; give every image of the request"),
        (("verify", site.folder, "--noted", f"1:{'0' * 8}", "--noted", f"1:{'1' * 8}"), "two hashes for one line"),
    ):
        monkeypatch.setattr(sys, "argv", ["audit", *map(str, arguments)])
        with pytest.raises(SystemExit) as ended:
            audit.main()
        assert message in str(ended.value.code)
        assert "\n" not in str(ended.value.code)
