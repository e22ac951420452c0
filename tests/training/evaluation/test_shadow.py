"""Two versions are compared by their records: every planted difference is listed, and none where there is none."""

import random
import sys
from pathlib import Path
from typing import Any

import pytest

from prelim.audit.key import AuditKey
from prelim.audit.log import AuditLog
from prelim.errors import AuditError
from prelim.labels.findings import read_findings
from training.evaluation.metrics.f1 import share_interval
from training.evaluation.shadow import __main__ as shadow
from training.evaluation.shadow.pairs import Pair, differences, pair

TEXTS = [
    "Small left pleural effusion. No pneumothorax. The heart is not enlarged.",
    "Right lower lobe pneumonia. No pleural effusion. No edema.",
    "The heart is enlarged. Possible edema. No focal consolidation.",
    "Left pneumothorax. Right-sided chest tube. No fracture.",
    "No pneumothorax. No pleural effusion. Normal heart size. Right basilar atelectasis.",
]
DROPPED = (
    "Small left pleural effusion. ",
    "Right lower lobe pneumonia. ",
    "The heart is enlarged. ",
    "Left pneumothorax. ",
)
MIRROR = {"left": "right", "right": "left", "Left": "Right", "Right": "Left"}
KEY = AuditKey(b"k" * 32)


def line(request: str, text: str, version: str = "1", **changes: Any) -> dict[str, Any]:
    """A line of a report, as the handler writes it."""
    digests = {"text": KEY.digest("text", text.encode())}
    model = {"name": "demo", "version": version, "sha256": version * 64}
    timing = {"queue": 1.0, "decode": 10.0 * len(text.split())}
    fields = {"request": request, "model": model, "digests": digests, "tokens": len(text.split()), "timing_ms": timing}
    return fields | {"line": 1, "findings": read_findings(text)} | changes


def plant(rng: random.Random) -> tuple[list[dict[str, Any]], list[dict[str, Any]], dict[str, str]]:
    """Lines of 200 requests by two versions, and the 20 requests in which a difference is planted, with its kind."""
    texts = {f"r{i}": TEXTS[i % len(TEXTS)] for i in range(200)}
    changed, planted = dict(texts), {}
    candidates = [*texts]
    rng.shuffle(candidates)
    while len(planted) < 20:
        name, kind = candidates.pop(), ("dropped", "side", "no")[len(planted) % 3]
        text = texts[name]
        if kind == "dropped":
            finding = next((sentence for sentence in DROPPED if text.startswith(sentence)), "")
            changed[name] = text.removeprefix(finding)
        elif kind == "side":
            changed[name] = " ".join(MIRROR.get(word, word) for word in text.split(" "))
        else:
            changed[name] = text.replace("No p", "P", 1) if "No p" in text else text
        if changed[name] != text:
            planted[name] = kind
    return [line(name, text) for name, text in texts.items()], [line(n, t, "2") for n, t in changed.items()], planted


@pytest.mark.parametrize("seed", range(5))
def test_planted_differences_are_all_listed(seed: int) -> None:
    """A finding dropped, left for right, "no" removed: each by its kind and its request, and no others."""
    old, new, planted = plant(random.Random(seed))

    found = [difference for one in pair(old, new) for difference in differences(one)]

    assert {difference.request for difference in found} == set(planted)
    kinds = {"dropped": "vanished", "side": "side", "no": "appeared"}
    for request, kind in planted.items():
        assert kinds[kind] in {difference.kind for difference in found if difference.request == request}


def test_a_version_does_not_differ_from_itself() -> None:
    """Whatever the times are."""
    old, _, _ = plant(random.Random(0))
    again = [one | {"timing_ms": {"decode": 1.0}} for one in old]
    assert [difference for one in pair(old, again) for difference in differences(one)] == []


@pytest.mark.parametrize(
    ("old", "new", "expected"),
    [
        ("Left effusion.", "Possible left effusion.", [("certainty", "pleural effusion")]),
        ("No effusion.", "Clear lungs.", [("denial", "pleural effusion")]),
        ("Clear lungs.", "The lungs are clear.", [("wording", "")]),
        ("Left effusion.", None, [("refused", "")]),
        (None, "Left effusion.", [("answered", "")]),
        (None, None, []),
    ],
)
def test_kinds(old: str | None, new: str | None, expected: list[tuple[str, str]]) -> None:
    """What differs has a name of its own; two refusals for one reason are equal."""
    lines = [
        line("r", text) if text is not None else {"request": "r", "refused": {"code": 422, "type": "UnlikeTraining"}}
        for text in (old, new)
    ]
    assert [(found.kind, found.finding) for found in differences(Pair("r", *lines))] == expected


def test_records_without_findings_are_refused() -> None:
    """An audit log as it is usually written does not tell what reports say."""
    plain = {name: value for name, value in line("r", "Left effusion.").items() if name != "findings"}
    with pytest.raises(AuditError, match="record with PRELIM_AUDIT_FINDINGS=yes"):
        pair([plain], [plain])


def test_share_interval_is_wilsons() -> None:
    """Wilson 1927 for 1 of 10, and for none of 10, where the normal approximation has no width."""
    assert share_interval(1, 10) == pytest.approx((0.1, 0.017876, 0.404150), abs=1e-5)
    assert share_interval(0, 10) == pytest.approx((0.0, 0.0, 0.277533), abs=1e-5)


def test_page(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    """The command reads two logs, checks them, and writes one file with plots and every difference."""
    old, new, planted = plant(random.Random(0))
    refused = {"request": "r0", "model": new[0]["model"], "refused": {"code": 422, "type": "UnlikeTraining"}}
    for name, lines in (("old", old), ("new", [*new[1:], refused, line("alone", "Clear lungs.", "2")])):
        log = AuditLog(tmp_path / name, KEY)
        for one in lines:
            log.append({field: value for field, value in one.items() if field != "line"})
    (tmp_path / "key").write_bytes(b"k" * 32)
    (tmp_path / "key").chmod(0o600)
    monkeypatch.setenv("PRELIM_AUDIT_KEY", str(tmp_path / "key"))
    monkeypatch.setattr(
        sys, "argv", ["shadow", *(str(tmp_path / name) for name in ("old", "new")), "--out", str(tmp_path / "a.html")]
    )

    shadow.main()

    page = (tmp_path / "a.html").read_text()
    assert f"{tmp_path / 'a.html'}" in capsys.readouterr().out
    assert "demo 2 (2222222222222222) compared with demo 1 (1111111111111111)" in page
    assert "Both have 200 requests; 0 more are of the old version alone, 1 of the new." in page
    assert "data:image/png;base64," in page
    assert all(f"<td>{request}</td>" in page for request in {*planted, "r0"})


def test_logs_of_two_keys(tmp_path: Path) -> None:
    """A version does not differ from itself, although digests of equal texts do; the page says what is not compared."""
    texts = {f"r{i}": text for i, text in enumerate(TEXTS)}
    keys = [tmp_path / "one.key", tmp_path / "other.key"]
    for path, letter in zip(keys, (b"k", b"o"), strict=True):
        path.write_bytes(letter * 32)
        path.chmod(0o600)
        key = AuditKey.read(path)
        log = AuditLog(tmp_path / path.stem, key)
        for name, text in texts.items():
            written = line(name, text) | {"digests": {"text": key.digest("text", text.encode())}}
            log.append({field: value for field, value in written.items() if field != "line"})

    page = "".join(shadow.compare_versions(tmp_path / "one", tmp_path / "other", keys))

    assert "<td>wording</td><td>0</td>" in page
    assert "The logs have two keys" in page
