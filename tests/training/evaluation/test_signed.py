"""Drift of the agreement with signed reports is seen, and chance seldom takes its looks."""

import datetime
import json
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from scipy.stats import betabinom, binom, fisher_exact

from prelim.labels.labeler import FINDINGS
from training.evaluation.shadow import __main__ as shadow
from training.evaluation.shadow import signed_page
from training.evaluation.shadow.control import ALARM, Group, chart, limits
from training.evaluation.shadow.signed import Signed, SignedError

MONDAY = datetime.date(2026, 3, 2)


def test_limits_are_those_of_the_predictive_distribution() -> None:
    """By scipy: counts beyond them have at most half the alarm rate on their side, and counts at them have more."""
    for count, total, size in [(0, 100, 30), (12, 400, 50), (200, 400, 80), (400, 400, 10), (3, 9, 1)]:
        low, high = limits(count, total, size, 0.01)
        predicted = betabinom(size, count + 0.5, total - count + 0.5)
        assert predicted.cdf(low - 1) <= 0.005 < predicted.cdf(low)
        assert predicted.sf(high) <= 0.005 < predicted.sf(high - 1)


@pytest.mark.parametrize("share", [0.01, 0.05, 0.2, 0.5])
@pytest.mark.parametrize("size", [20, 60])
def test_without_drift_few_points_are_out(share: float, size: int) -> None:
    """At most the stated share, whatever the true share is: summed over all counts of 8 groups and one more."""
    total, out = 8 * size, 0.0
    for count in range(total + 1):
        chance = binom.pmf(count, total, share)
        if chance > 1e-7:
            low, high = limits(count, total, size, ALARM)
            out += chance * (binom.cdf(low - 1, size, share) + binom.sf(high, size, share))
    assert out <= ALARM


def test_the_baseline_has_no_limits_and_empty_groups_are_in_control() -> None:
    """Nothing is judged by itself."""
    points = chart([Group("a", 50, 50), Group("b", 50, 0), Group("c", 0, 0)], 2)
    assert [(point.low, point.high, point.is_out) for point in points] == [
        (None, None, False),
        (None, None, False),
        (0, 0, False),
    ]


def summary(weeks: int, drift_from: int | None, seed: int) -> dict[str, Any]:
    """What the bridge writes: 60 studies a week over five days; from a week on, 30 % of the drafts miss effusions."""
    rng = np.random.default_rng(seed)
    days = []
    for week in range(weeks):
        for day in range(5):
            findings = {}
            for finding in FINDINGS:
                drifted = drift_from is not None and week >= drift_from and finding == "pleural effusion"
                shares = [0.1, 0.03, 0.3, 0.57] if drifted else [0.3, 0.03, 0.05, 0.62]
                findings[finding] = rng.multinomial(12, shares).tolist()
            date = MONDAY + datetime.timedelta(weeks=week, days=day)
            days.append({"day": f"{date}", "model": "a" * 16, "studies": 12, "findings": findings})
    return {"counts": {"pairs": 60 * weeks, "reports_alone": 7}, "days": days}


@pytest.mark.parametrize("seed", range(5))
def test_a_planted_drift_is_flagged_in_its_week(tmp_path: Path, seed: int) -> None:
    """That finding, from that week on, and nothing before."""
    (tmp_path / "a.json").write_text(json.dumps(summary(20, 14, seed)))
    stretches = Signed.read(tmp_path / "a.json").stretches()
    drifted = FINDINGS.index("pleural effusion")
    points = chart([stretch.group(drifted) for stretch in stretches], 8)

    assert [point.group.name for point in points if point.is_out] == [
        f"{MONDAY + datetime.timedelta(weeks=week)}" for week in range(14, 20)
    ]
    before, after = (sum(point.group.count for point in part) for part in (points[:14], points[14:]))
    assert fisher_exact([[before, 14 * 60 - before], [after, 6 * 60 - after]]).pvalue < 1e-6


def test_stretches_of_so_many_studies(tmp_path: Path) -> None:
    """Whole days until there are enough; what is left waits."""
    (tmp_path / "a.json").write_text(json.dumps(summary(3, None, 0)))
    signed = Signed.read(tmp_path / "a.json")
    assert [stretch.studies for stretch in signed.stretches()] == [60, 60, 60]
    assert [stretch.studies for stretch in signed.stretches(50)] == [60, 60, 60]
    assert [stretch.studies for stretch in signed.stretches(40)] == [48, 48, 48]


def run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, *arguments: str) -> str:
    """The page that the command writes."""
    monkeypatch.setattr(sys, "argv", ["shadow", *arguments, "--out", str(tmp_path / "a.html")])
    shadow.main()
    return (tmp_path / "a.html").read_text()


def test_page(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Alarms, plot, agreement by finding and counts; without enough weeks it says so."""
    (tmp_path / "a.json").write_text(json.dumps(summary(12, 10, 0)))
    page = run(tmp_path, monkeypatch, "--signed", str(tmp_path / "a.json"))
    week = MONDAY + datetime.timedelta(weeks=10)
    assert f"<td>{week}</td><td>pleural effusion</td>" in page
    assert "data:image/png;base64," in page
    assert "<td>reports_alone</td><td>7</td>" in page
    assert "The limits are from the first 8 stretches (480 studies)." in page

    monkeypatch.setattr(signed_page, "plot", lambda *_: b"")
    page = run(tmp_path, monkeypatch, "--signed", str(tmp_path / "a.json"), "--baseline", "12")
    assert "There are no limits yet" in page
    (tmp_path / "a.json").write_text('{"counts": {}, "days": []}')
    assert "0 studies" in run(tmp_path, monkeypatch, "--signed", str(tmp_path / "a.json"))


@pytest.mark.parametrize("text", ["", "[]", "{}", '{"counts": {}, "days": [{"day": "2026-03-02"}]}'])
def test_another_file_is_refused(tmp_path: Path, text: str) -> None:
    """With the command that writes the right one."""
    (tmp_path / "a.json").write_text(text)
    with pytest.raises(SignedError, match="is not what python -m bridge agreement --out writes"):
        Signed.read(tmp_path / "a.json")


def test_arguments(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    """Two logs, the file, or both."""
    for arguments in ([], ["old"], ["--signed", "a.json", "--baseline", "0"]):
        with pytest.raises(SystemExit):
            run(tmp_path, monkeypatch, *arguments)
    assert "give OLD and NEW, --signed, or both" in capsys.readouterr().err
