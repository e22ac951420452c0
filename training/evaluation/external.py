r"""How the demo model does on pictures of other sources than those of its training; the figures go into its card.

$ python -m training.evaluation.external models/demo --templates ../shared/data/open_radiology \
    --covid ../shared/data/covid_chestxray --iu ../shared/data/iu_xray

covid-chestxray (Cohen et al., 2020): is the finding group of a frontal chest radiograph right? IU X-ray: what view does
the caption of a lateral radiograph name? The model knows only frontal ones.
"""

import argparse
import csv
import json
from collections import Counter
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from prelim.networks.model_folder import read_model_folder
from training.datasets.formats.open_radiology import read_templates
from training.datasets.study import DatasetError
from training.datasets.templates import LabelReader, Labels
from training.evaluation.metrics.measure import Bootstrap, Measure
from training.evaluation.model_run import ModelRunner
from training.evaluation.systems import rounded

FRONTAL = frozenset({"PA", "AP", "AP Supine"})

NOT_PNEUMONIA = frozenset({"todo", "ARDS"})
"""Findings of covid-chestxray that are unknown, or that the captions have no word for; all but these are infections."""


def read_covid(folder: Path) -> list[tuple[Path, str, str]]:
    """Picture, finding group and patient of the frontal radiographs of covid-chestxray; duplicates are left out."""
    rows = json.loads((folder / "pairs.json").read_text(encoding="utf-8"))
    return [
        (
            find_picture(folder / "images_320", row["file"]),
            "normal" if row["finding"] == "No Finding" else "pneumonia",
            str(row["patientid"]),
        )
        for row in rows
        if row["view"] in FRONTAL and row["finding"] not in NOT_PNEUMONIA and not row["duplicate_of"]
    ]


def find_picture(folder: Path, name: str) -> Path:
    """The picture of a name, whatever its extension is. Raises DatasetError if there is none."""
    stem = Path(name).stem
    for suffix in (".jpg", ".png", ".jpeg"):
        if (path := folder / f"{stem}{suffix}").is_file():
            return path
    raise DatasetError(f"{folder} has no picture {stem}; expected {stem}.jpg, .png or .jpeg")


def read_laterals(folder: Path) -> list[Path]:
    """The lateral radiographs of IU X-ray that are in `images/`, by indiana_projections.csv."""
    with (folder / "indiana_projections.csv").open(newline="", encoding="utf-8") as file:
        lateral = {row["filename"].split(".")[0] for row in csv.DictReader(file) if row["projection"] == "Lateral"}
    return sorted(path for path in (folder / "images").iterdir() if path.stem.removeprefix("CXR") in lateral)


def score_covid(said: Sequence[Labels], groups: Sequence[str], patients: Sequence[str]) -> dict[str, Any]:
    """For how many pictures the finding group is right, for the model and for one that always says pneumonia.

    As everywhere, a group is right only with modality and anatomy.
    """
    chest = [labels[:2] == ("radiograph", "chest") for labels in said]
    right = [there and labels.finding_group == group for there, labels, group in zip(chest, said, groups, strict=True)]
    bootstrap = Bootstrap(patients)
    return {
        "pictures": len(groups),
        "patients": len(set(patients)),
        "chest_radiograph": sum(chest),
        "right": sum(right),
        "finding_group": rounded(bootstrap.interval(Measure.of_reports("finding group", right))),
        "always_pneumonia": rounded(
            bootstrap.interval(Measure.of_reports("finding group", [group == "pneumonia" for group in groups]))
        ),
        "by_group": {
            group: [sum(r for r, g in zip(right, groups, strict=True) if g == group), groups.count(group)]
            for group in sorted(set(groups))
        },
    }


def measure(model: Path, templates: Path, covid: Path, iu: Path) -> Mapping[str, Any]:
    """Both figures."""
    runner, reader = ModelRunner(read_model_folder(model)), LabelReader(read_templates(templates))

    def read_labels(images: Sequence[Path]) -> list[Labels]:
        return [reader.read(text)[0] for text in runner.run(images, [""] * len(images)).reports]

    rows, laterals = read_covid(covid), read_laterals(iu)
    views = Counter(labels.view for labels in read_labels(laterals))
    said = read_labels([path for path, _, _ in rows])
    return {
        "covid_chestxray": score_covid(said, [group for _, group, _ in rows], [patient for _, _, patient in rows]),
        "iu_laterals": {"pictures": len(laterals), "views": dict(sorted(views.items()))},
    }


def main() -> None:
    """The command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("model", type=Path)
    parser.add_argument("--templates", type=Path, required=True, help="folder of open_radiology")
    parser.add_argument("--covid", type=Path, required=True, help="folder of covid-chestxray")
    parser.add_argument("--iu", type=Path, required=True, help="folder of IU X-ray")
    parser.add_argument("--out", type=Path, default=Path("out/evaluation/external.json"))
    arguments = parser.parse_args()
    result = measure(arguments.model, arguments.templates, arguments.covid, arguments.iu)
    arguments.out.parent.mkdir(parents=True, exist_ok=True)
    arguments.out.write_text(json.dumps(result, indent=1), encoding="utf-8")
    print(json.dumps(result, indent=1))


if __name__ == "__main__":
    main()
