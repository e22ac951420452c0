"""The check of the rule labeler against gold labels, on a small archive, and the table of simulated intervals."""

import io
import json
import runpy
import sys
import tarfile
from pathlib import Path

import pytest

from training.evaluation.metrics import coverage, f1, labeler_check
from training.evaluation.metrics.f1 import f1_interval

PAGE = Path(__file__).parents[4] / "docs" / "evaluate.md"

REPORTS = {
    "CXR1": ("There is edema.", "No effusion."),
    "CXR2": ("Edema.", "Cardiomegaly."),
    "CXR3": ("Lungs are clear.", None),
    "CXR4": ("Left pleural effusion.", "Edema."),
    "CXR5": ("No edema.", ""),
}
GOLD = {"CXR1": "Edema", "CXR2": "Cardiomegaly", "CXR3": "normal", "CXR4": "Effusion Edema", "CXR5": "Edema"}
"""Edema: right in 1 and 4, wrongly said in 2, missed in 5."""
COLUMNS = ("Edema", "Cardiomegaly", "Effusion", "normal", "Mass", "Nodule", "Pleural_Thickening")
HELD_OUT = ("CXR4", "CXR5", "CXR99")


def write_archive(path: Path) -> None:
    """Open-i's layout: one XML file a report, other files among them, one report without an identifier."""
    files = {"ecgen/README.txt": "no report", "ecgen/none.xml": "<eCitation/>"}
    for uid, parts in REPORTS.items():
        sections = "".join(
            f'<AbstractText Label="{label}">{text or ""}</AbstractText>'
            for label, text in zip(("FINDINGS", "IMPRESSION"), parts, strict=True)
            if text is not None
        )
        sections = f'<AbstractText Label="INDICATION">Fracture.</AbstractText>{sections}'
        files[f"ecgen/{uid}.xml"] = f'<eCitation><uId id="{uid}"/><Abstract>{sections}</Abstract></eCitation>'
    with tarfile.open(path, "w:gz") as archive:
        folder = tarfile.TarInfo("ecgen.xml")
        folder.type = tarfile.DIRTYPE
        archive.addfile(folder)
        for name, text in files.items():
            member = tarfile.TarInfo(name)
            member.size = len(text.encode())
            archive.addfile(member, io.BytesIO(text.encode()))


@pytest.fixture
def gold_folder(tmp_path: Path) -> Path:
    """Gold labels and the list of held-out reports in NegBio's layout, and the archive."""
    rows = [",".join((uid, *(str(int(name in labels.split())) for name in COLUMNS))) for uid, labels in GOLD.items()]
    (tmp_path / "openi_gld_std14.csv").write_text("\n".join([f"filename,{','.join(COLUMNS)}", *rows]))
    (tmp_path / "openi-testset.txt").write_text("\n".join(HELD_OUT))
    write_archive(tmp_path / "reports.tgz")
    return tmp_path


def test_reports_are_findings_and_impression(gold_folder: Path) -> None:
    """Other sections and other files are left out; a section that is not there is empty."""
    gold, reports, test = labeler_check.read_all(gold_folder, gold_folder / "reports.tgz")

    assert reports == {uid: f"{findings}\n\n{impression or ''}" for uid, (findings, impression) in REPORTS.items()}
    assert gold == {uid: frozenset(labels.split()) for uid, labels in GOLD.items()}
    assert test == list(HELD_OUT)


def test_command_counts_by_part(
    gold_folder: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """Precision, recall and F1 of all reports, of those inspected and of those held out, in a file and a table."""
    target = gold_folder / "new" / "folder" / "labeler.json"
    arguments = ["--gold", str(gold_folder), "--reports", str(gold_folder / "reports.tgz"), "--json", str(target)]
    for _ in range(2):  # the folder may be there
        monkeypatch.setattr(sys, "argv", ["labeler_check", *arguments])
        labeler_check.main()

    assert target.read_text().startswith('[\n {\n  "gold": "Atelectasis",\n'), "a line for each value"
    rows = {row["gold"]: row for row in json.loads(target.read_text())}
    assert list(rows) == [*labeler_check.SAME, *labeler_check.SIMILAR]
    counts = {"all": (2, 1, 1), "development": (1, 1, 0), "held_out": (1, 0, 1)}
    for part, (right, wrong, missed) in counts.items():
        assert rows["Edema"][part] == {
            "positive": right + missed,
            "precision": round(right / (right + wrong), 4),
            "recall": round(right / (right + missed), 4),
            "f1": [round(figure, 4) for figure in f1_interval(right, wrong, missed)],
        }
    none = {"positive": 0, "precision": 0, "recall": 0, "f1": [0, 0, 1]}
    assert [rows["Pneumonia"][part] for part in counts] == [none] * 3
    assert (rows["Edema"]["same"], rows["normal"]["same"], rows["normal"]["label"]) == (True, False, "no finding")
    printed = capsys.readouterr().out
    assert printed.startswith("5 reports, 3 of them held out\n\n| gold finding")
    assert "| Edema | edema | 0.667 | 0.667 | 0.667 (" in printed


def test_simulated_intervals_are_those_of_the_page(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """The first row of the table in docs/evaluate.md; the command prints all rows in the order given."""
    shares = coverage.simulate((5,))

    *head, row = coverage.markdown(shares).splitlines()
    assert "\n".join([*head, row]) in PAGE.read_text()
    assert 0 < shares[5][0] < shares[5][1] < 1
    monkeypatch.setattr(coverage, "simulate", lambda: {40: [0.5, 0.955], 3: [0.25, 1]})
    coverage.main()
    assert capsys.readouterr().out.splitlines() == [*head, "| 40 | 50 % | 96 % |", "| 3 | 25 % | 100 % |"]
    assert (coverage.POSITIVES, coverage.REPORTS) == ((5, 10, 20, 40), 300)


def test_both_run_as_commands(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    """The files are programs; the simulation begins at once."""
    monkeypatch.setattr(sys, "argv", ["labeler_check", "--help"])
    with pytest.raises(SystemExit):
        runpy.run_path(labeler_check.__file__, run_name="__main__")
    assert "--gold" in capsys.readouterr().out
    monkeypatch.setattr(f1, "f1_interval", None)
    monkeypatch.setattr(f1, "f1", lambda _: sys.exit("simulated"))
    with pytest.raises(SystemExit, match="simulated"):
        runpy.run_path(coverage.__file__, run_name="__main__")
