"""The measured parts of docs/evaluate.md: every figure in them is written by this command, none by hand.

$ python -m training.evaluation.documented                     # measures, and writes the parts into the page
$ python -m training.evaluation.documented --check             # measures, and fails where the page says otherwise
$ python -m training.evaluation.documented --check labeler     # one part

A part lies between `<!-- NAME -->` and `<!-- end of NAME -->`. It takes the data of ../shared/data (--data).
"""

import re
import sys
from collections.abc import Callable, Collection, Mapping
from pathlib import Path
from typing import Any

from prelim.labels.labeler import FINDINGS
from terminal.arguments import CommandLine
from training.datasets.source import Source
from training.evaluation.blindness import SIDES, measure, tabulate
from training.evaluation.data import EvaluationData, read_data
from training.evaluation.metrics import coverage, labeler_check
from training.evaluation.metrics.r2gen import Protocol
from training.evaluation.systems import CONSTANT, FREQUENT, RANDOM, baselines, evaluate
from training.evaluation.table import figure, format_cell, format_count, format_row

PAGE = Path("docs/evaluate.md")

DETAIL = "F1 of each label, by rules"
"""Left out of the page."""


def read_iu_xray(data: Path) -> EvaluationData:
    """The test split of R2Gen's IU X-Ray."""
    path = data / "iu_xray" / "r2gen_annotation.json"
    return read_data(Source(format="r2gen", path=str(path), sections=("report",)), "test")


def write_baselines(data: Path) -> str:
    """The baselines on the test split of R2Gen's IU X-Ray, and what they show."""
    studies = read_iu_xray(data)
    protocol = Protocol(studies.train_texts)
    others = baselines(studies, protocol, None, None)
    said = others.systems.pop(CONSTANT)
    result = evaluate(CONSTANT, said, studies, protocol=protocol, others=others)
    systems = (CONSTANT, FREQUENT, RANDOM)
    lines = [format_row(["", *systems]), "|---" * (len(systems) + 1) + "|"]
    shown = [section for section in result["sections"] if section["title"] != DETAIL]
    for section in shown:
        for name in section["figures"][CONSTANT]:
            lines.append(format_row([name, *(format_cell(section, system, name) for system in systems)]))
    for key, title in (("reports", "distinct reports"), ("ratio", "distinct / all")):
        lines.append(format_row([title, *(format_count(result["distinct"][system][key]) for system in systems)]))
    return "\n".join([*lines, "", _describe_baselines(result, systems)])


def _describe_baselines(result: Mapping[str, Any], systems: Collection[str]) -> str:
    references = result["distinct"]["references"]
    highest = [
        name
        for name in ("BLEU-1", "BLEU-2", "BLEU-3", "BLEU-4", "ROUGE-L")
        if max(systems, key=lambda system: figure(result, name, system)[0]) == CONSTANT
    ]
    findings, labels = f"micro F1, {len(FINDINGS)} findings", f"micro F1, {len(FINDINGS) + 1} labels"
    return (
        f"Of the {result['studies']} references {references['reports']} are distinct ({references['ratio']:.3f}). The "
        f"constant has a micro F1 of {figure(result, findings, CONSTANT)[0]:.3f} for the {len(FINDINGS)} findings, and "
        f"of the three the highest {', '.join(highest)}. The most frequent report names no finding either, and has a "
        f"micro F1 of {figure(result, labels, FREQUENT)[0]:.3f} with “no finding” among the labels."
    )


def write_blindness(data: Path) -> str:
    """Wrong texts by every score, and by how much right labels are noticed."""
    studies = read_iu_xray(data)
    figures = {name: {one.name: one.score() for one in measures} for name, measures in measure(studies).items()}
    swapped = sum(SIDES.search(text) is not None for text in studies.references)
    gain = figures["random training report, same 14 labels"]["BLEU-4"] - figures["random training report"]["BLEU-4"]
    return (
        f"{tabulate(figures)}\n\n{swapped} of the {len(studies.references)} references name a side. A random report "
        f"with the right labels has {gain:.3f} more BLEU-4 than any random report."
    )


def write_labeler(data: Path) -> str:
    """The labeler on the reports that were labeled by hand."""
    gold, reports, test = labeler_check.read_all(data / "negbio_gold", data / "iu_xray" / "NLMCXR_reports.tgz")
    rows = labeler_check.check(gold, reports, test)
    held = len(set(gold) & set(test))
    return (
        f"{labeler_check.markdown(rows)}\n\n{len(gold):,} reports; {held} are in NegBio's test list (held out), "
        f"{len(gold) - held:,} are not (development)."
    )


def write_intervals(_: Path) -> str:
    """How often intervals of F1 contain the truth."""
    return coverage.markdown(coverage.simulate())


PARTS: dict[str, Callable[[Path], str]] = {
    "baselines": write_baselines,
    "blindness": write_blindness,
    "intervals": write_intervals,
    "labeler": write_labeler,
}


def find_part(page: str, name: str) -> re.Match[str]:
    """The part of a page. Raises ValueError where it is not there exactly once."""
    found = list(re.finditer(rf"(?<=<!-- {name} -->\n).*?(?=\n<!-- end of {name} -->)", page, flags=re.DOTALL))
    if len(found) != 1:
        raise ValueError(f"{PAGE} has {len(found)} parts <!-- {name} --> ... <!-- end of {name} -->; it must have one")
    return found[0]


def find_differences(page: str, name: str, measured: str, without: Collection[str] = ()) -> list[str]:
    """What a page says in one part, and was measured differently.

    without : titles of rows and columns that were not measured
    """
    said, found = _read_cells(find_part(page, name).group(), without), _read_cells(measured, without)
    return [
        f"{name}: {' / '.join(place)} is {said.get(place, 'missing')!r}, measured: {found.get(place, 'nothing')!r}"
        for place in dict.fromkeys([*said, *found])
        if said.get(place) != found.get(place)
    ]


def _read_cells(text: str, without: Collection[str]) -> dict[tuple[str, ...], str]:
    """Every cell by the titles of its row and column, every other line by its number among them."""
    cells: dict[tuple[str, ...], str] = {}
    head: list[str] = []
    number = 0
    for line in filter(None, text.splitlines()):
        parts = [part.strip() for part in line.removeprefix("|").removesuffix("|").split("|")]
        if not line.startswith("|"):
            head, number = [], number + 1
            cells["text", str(number)] = line
        elif not head:
            head = parts
        else:
            titles = zip(head, parts, strict=True)
            cells |= {(parts[0], title): part for title, part in titles if not {title, parts[0]} & set(without)}
    return cells


def main() -> None:
    """The command line."""
    parser = CommandLine(__doc__)
    parser.add_argument("parts", nargs="*", metavar="PART", help=f"of: {', '.join(PARTS)} (default: all)")
    parser.add_argument("--check", action="store_true", help="write nothing; exit with 1 where the page is wrong")
    parser.add_argument("--data", type=Path, default=Path("../shared/data"))
    parser.add_argument("--page", type=Path, default=PAGE)
    arguments = parser.parse_args()
    if unknown := set(arguments.parts) - set(PARTS):
        parser.error(f"unknown part {unknown.pop()!r}; allowed: {', '.join(PARTS)}")
    page, differences = arguments.page.read_text(encoding="utf-8"), []
    for name in arguments.parts or PARTS:
        measured = PARTS[name](arguments.data)
        place = find_part(page, name)
        differences += find_differences(page, name, measured)
        page = page[: place.start()] + measured + page[place.end() :]
    print("\n".join(differences) or f"{arguments.page} says what was measured")
    if arguments.check:
        sys.exit(1 if differences else 0)
    arguments.page.write_text(page, encoding="utf-8")


if __name__ == "__main__":
    main()
