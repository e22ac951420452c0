"""The serving benchmark: its archives, its loads and its figures."""

import json
import zipfile
from dataclasses import asdict, replace
from pathlib import Path

import pytest
import yaml
from PIL import Image

from benchmarks.machine import ROOT
from benchmarks.serving.__main__ import bench, offered_rates
from benchmarks.serving.archives import MODEL_CONFIG, SUBJECTS, TORCHSERVE, Candidate, Workshop, derive
from benchmarks.serving.runs import Figures, Plan, take_medians
from benchmarks.serving.sweep import VARIANTS, candidates
from benchmarks.serving.table import draw, table
from loadtests.load import Load
from loadtests.outcomes import RequestGroup, Summary
from prelim.archive.encoder_config import EncoderConfig
from prelim.archive.manifest import write_manifest
from prelim.archive.mar import check_mar, write_mar
from prelim.archive.model_config import ModelConfig

FIGURES = Figures(
    offered=2.0,
    reports_per_s=1.5,
    p50=1.0,
    p95=2.0,
    p99=3.0,
    requests=10,
    failures=0,
    late_p95=0.0,
    foreign_cores=0.0,
)


def test_medians_are_of_each_figure_and_skip_what_is_missing() -> None:
    """A round in which all requests failed has no percentiles; the median is that of the other rounds."""
    rounds = [FIGURES, replace(FIGURES, reports_per_s=2.5, p95=None), replace(FIGURES, reports_per_s=9.0, p95=4.0)]

    assert take_medians(rounds) == replace(FIGURES, reports_per_s=2.5, p95=3.0)


@pytest.mark.parametrize(
    ("requests", "failures", "shown"), [(120, 0, 3), (120, 21, 2), (20, 1, 1), (1, 0, 1), (9, 9, 0)]
)
def test_percentiles_of_too_few_reports_are_left_out(requests: int, failures: int, shown: int) -> None:
    """A p95 needs 20 reports, a p99 100."""
    figures = asdict(replace(FIGURES, requests=requests, failures=failures))
    cells = [cell.strip() for cell in table({"ours": figures}, []).splitlines()[2].split("|")]
    assert cells[5:8] == ["1", "2", "3"][:shown] + ["–"] * (3 - shown)
    assert cells[8] == f"{failures} of {requests}"


def test_closed_loop_has_no_offered_rate() -> None:
    """Only an open loop has an offered rate."""
    reports = RequestGroup("all", "report", 8, 1, 0.5, 0.6, 0.7)
    summary = Summary((reports,), reports, 8, 0.125, 4.0, 0.01, {"500": 1})

    assert Figures.of(summary, Load(rate=3), 0.0).offered == 3
    figures = Figures.of(summary, Load(rate=3, closed_loop=2), 0.25)
    assert (figures.offered, figures.failures, figures.foreign_cores) == (None, 1, 0.25)


def test_offered_rates_are_shares_of_maximum_throughput() -> None:
    """Each candidate gets shares of its own maximum; the first and each other get 70 % of each other's."""
    first, second, third, fourth = (Candidate(name, name, "fp32", {}) for name in "abcd")
    most = {"a": 10.0, "b": 4.0, "c": 1.0, "d": 2.0}
    rates = offered_rates([first, second, replace(third, offered=False), fourth], most)

    assert [(candidate.name, share, pytest.approx(rate)) for candidate, share, rate in rates] == [
        *(("a", "30%", 3.0), ("a", "70%", 7.0), ("a", "100%", 10.0)),
        *(("b", "30%", 1.2), ("b", "70%", 2.8), ("b", "100%", 4.0)),
        *(("d", "30%", 0.6), ("d", "70%", 1.4), ("d", "100%", 2.0)),
        *(("a", "70% of b", 2.8), ("b", "70% of a", 7.0)),
        *(("a", "70% of d", 1.4), ("d", "70% of a", 7.0)),
    ]


def test_derived_archive_differs_in_name_and_settings_alone(tmp_path: Path) -> None:
    """All other files are equal, and a changed key of the section `prelim` leaves its other keys unchanged."""
    committed = (ROOT / "handlers" / "model-config.yaml").read_text(encoding="utf-8")
    files = {MODEL_CONFIG: committed, TORCHSERVE: '{"model": {"modelName": "one", "handler": "h.py"}}', "weights": "w"}
    folder = tmp_path / "one"
    for name, text in files.items():
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_text(text, encoding="utf-8")
    write_manifest(folder)
    given = write_mar(folder, tmp_path / "one.mar")
    path = derive(given, tmp_path, "two", {"batchSize": 3, "prelim": {"steps_per_handle": 5}})
    manifest = check_mar(path)
    with zipfile.ZipFile(path) as archive:
        derived = {name: archive.read(name).decode() for name in manifest.files}
    before, after = yaml.safe_load(committed), yaml.safe_load(derived.pop(MODEL_CONFIG))

    assert path.stem == json.loads(derived.pop(TORCHSERVE))["model"]["modelName"] == "two"
    assert derived == {"weights": "w"}
    assert after == {**before, "batchSize": 3, "prelim": {**before["prelim"], "steps_per_handle": 5}}


@pytest.mark.parametrize("vary", VARIANTS)
def test_sweep_begins_with_the_served_settings(vary: str) -> None:
    """The first variant is the committed model-config.yaml except for in-flight batching; all names are different."""
    committed = yaml.safe_load((ROOT / "handlers" / "model-config.yaml").read_text(encoding="utf-8"))
    variants = candidates(vary, "fp32")
    first = dict(variants[0].settings or {})
    assert first.pop("continuousBatching", False) is False

    assert {**committed["prelim"], **first.pop("prelim", {})} == committed["prelim"]
    assert {**committed, **first, "batchSize": variants[0].batch_size} == committed
    assert len({variant.served for variant in variants}) == len({variant.name for variant in variants}) == len(variants)


def test_table_marks_disturbed_figures() -> None:
    """Only figures measured under other load have a star."""
    saturated = {"a": vars(FIGURES), "b": vars(replace(FIGURES, foreign_cores=0.7, p50=None, offered=None))}
    lines = table(saturated, []).splitlines()

    assert "*" not in lines[2]
    assert "| b | saturated | – | 1.5\\* | – | – | – | 0 of 10 |" in lines[3]
    assert lines[-1].startswith("\\* under other load: up to 0.7 cores")


def test_chart_is_a_picture(tmp_path: Path) -> None:
    """Candidates with and without open-loop loads can be drawn."""
    subject = {
        "tokens": 48,
        "saturated": {"a": vars(FIGURES), "b": vars(FIGURES)},
        "offered": [{"candidate": "a", "load": "70%", **vars(replace(FIGURES, offered=rate))} for rate in (1.0, 2.0)],
    }
    draw({"models": {"demo": subject}}, tmp_path / "images" / "chart.png")

    with Image.open(tmp_path / "images" / "chart.png") as image:
        assert min(image.size) > 300


@pytest.mark.server
@pytest.mark.slow
@pytest.mark.parametrize(
    ("shares", "served"),
    [
        ((), ("demo_inflight", "demo_plain8")),
        pytest.param((0.7,), tuple(one.served for one in SUBJECTS["demo"].candidates), marks=pytest.mark.exhaustive),
    ],
    ids=["two", "all"],
)
def test_demo_is_served(
    shares: tuple[float, ...], served: tuple[str, ...], demo_mar: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Candidates of the demo model answer each request with a report of the correct length, here a short one.

    Each is saturated; the first two get rates of each other's maximum, and all of them some of their own where shares
    are given; alone each gets five requests.
    """

    def package(workshop: Workshop, precision: str, encoder: EncoderConfig | None) -> Path:
        assert encoder is None
        assert precision == ModelConfig.read(ROOT / "models" / "demo" / "model.yaml").precision
        return workshop._packed.setdefault((precision, encoder), demo_mar)

    candidates = tuple(one for one in SUBJECTS["demo"].candidates if one.served in served)
    subject = replace(SUBJECTS["demo"], tokens=16, candidates=candidates)
    if not shares:
        monkeypatch.setattr(Workshop, "_package", package)
    monkeypatch.setattr("benchmarks.serving.__main__.SHARES", shares)
    monkeypatch.setattr("benchmarks.serving.__main__.ALONE_COUNT", 3)
    found = bench(subject, Plan(rounds=1, closed=5, open=5, patience=0), tmp_path, None)

    names = [candidate.name for candidate in subject.candidates]
    assert list(found["saturated"]) == names
    assert {one["candidate"] for one in found["offered"]} == set(names)
    for figures in (*found["saturated"].values(), *found["offered"]):
        assert figures["failures"] == 0
        assert figures["reports_per_s"] > 0
    assert all(one["outside"] > 0 for one in found["alone"].values())
