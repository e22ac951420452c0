r"""How the demo model does on pictures of other sources than those of its training; the figures go into its card.

$ python -m training.evaluation.external models/demo --templates ../shared/data/open_radiology \
    --covid ../shared/data/covid_chestxray --iu ../shared/data/iu_xray

covid-chestxray (Cohen et al., 2020): is the finding group of a frontal chest radiograph right? IU X-ray: what view does
the caption of a lateral radiograph name? The model knows only frontal ones.

Pictures that open_radiology has too, in any split, are left out: covid-chestxray contains the Hannover repository, a
source of open_radiology.
"""

import csv
import json
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from prelim.networks.model_folder import read_model_folder
from terminal.arguments import CommandLine
from training.datasets.checks.duplicates import is_near_any
from training.datasets.delimited import read_rows
from training.datasets.formats.open_radiology import read_templates
from training.datasets.study import DatasetError
from training.datasets.templates import LabelReader, Labels
from training.datasets.trained_on import hash_picture, name_weights
from training.evaluation.metrics.measure import Bootstrap, Measure
from training.evaluation.model_run import ModelRunner
from training.evaluation.systems import rounded

FRONTAL = frozenset({"PA", "AP", "AP Supine"})

NOT_PNEUMONIA = frozenset({"todo", "ARDS"})
"""Findings of covid-chestxray that are unknown, or that the captions have no word for; all but these are infections."""


HANNOVER = "ml-workgroup/covid-19-image-repository"
"""In the address of a picture of covid-chestxray that comes from there, also under another name."""


@dataclass(frozen=True)
class Known:
    """The pictures of the data set that the model was trained, chosen and tested on.

    names : their file names at their source, without extensions
    bits  : perceptual hashes, uint64, shape (pictures, words)
    """

    names: frozenset[str]
    bits: np.ndarray

    def find_reason(self, picture: Path, address: str = "") -> str:
        """Why a picture is left out; empty where the data set does not have it.

        A source as a whole is left out with the pictures that were taken from it: its others show the same patients.
        """
        if HANNOVER in address:
            return "Hannover repository"
        if picture.stem in self.names:
            return "file name"
        bits = hash_picture(picture)
        return "picture" if bits is not None and is_near_any(bits, self.bits) else ""


def read_known(folder: Path) -> Known:
    """The pictures of open_radiology, from its provenance.csv and images."""
    rows = [row for _, row in read_rows(folder / "provenance.csv", ("id", "original_file"))]
    names = frozenset(Path(row["original_file"]).stem for row in rows)
    files = [find_picture(folder / "images", row["id"]) for row in rows]
    hashes = [bits for file in files if (bits := hash_picture(file)) is not None]
    return Known(frozenset(name for name in names if not name.isdecimal()), np.array(hashes))


def read_covid(folder: Path) -> list[tuple[Path, str, str, str]]:
    """Picture, finding group, patient and address of the frontal radiographs of covid-chestxray, without duplicates."""
    rows = json.loads((folder / "pairs.json").read_text(encoding="utf-8"))
    return [
        (
            find_picture(folder / "images_320", row["file"]),
            "normal" if row["finding"] == "No Finding" else "pneumonia",
            str(row["patientid"]),
            row["url"] or "",
        )
        for row in rows
        if row["view"] in FRONTAL and row["finding"] not in NOT_PNEUMONIA and not row["duplicate_of"]
    ]


def read_other_radiographs(covid: Path, iu: Path, known: Known) -> dict[str, list[Path]]:
    """Chest radiographs of covid-chestxray and IU X-ray by view, without those that open_radiology has."""
    rows = json.loads((covid / "pairs.json").read_text(encoding="utf-8"))
    found: dict[str, list[Path]] = {"frontal chest, other hospitals": [], "lateral chest": []}
    for row in rows:
        if row["view"] in {*FRONTAL, "L"} and not row["duplicate_of"]:
            picture = find_picture(covid / "images_320", row["file"])
            if not known.find_reason(picture, row["url"] or ""):
                found["lateral chest" if row["view"] == "L" else "frontal chest, other hospitals"].append(picture)
    laterals = read_laterals(iu)
    for picture in sorted((iu / "images").iterdir()):
        if not known.find_reason(picture):
            found["lateral chest" if picture in laterals else "frontal chest, other hospitals"].append(picture)
    return found


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

    known = read_known(templates)
    candidates, all_laterals = read_covid(covid), read_laterals(iu)
    reasons = [known.find_reason(path, address) for path, _, _, address in candidates]
    rows = [row for row, reason in zip(candidates, reasons, strict=True) if not reason]
    laterals = [path for path in all_laterals if not known.find_reason(path)]
    views = Counter(labels.view for labels in read_labels(laterals))
    said = read_labels([path for path, *_ in rows])
    scores = score_covid(said, [group for _, group, *_ in rows], [patient for _, _, patient, _ in rows])
    return {
        **name_weights(model),
        "covid_chestxray": {**scores, "left_out": dict(sorted(Counter(filter(None, reasons)).items()))},
        "iu_laterals": {
            "pictures": len(laterals),
            "views": dict(sorted(views.items())),
            "left_out": len(all_laterals) - len(laterals),
        },
    }


def main() -> None:
    """The command line."""
    parser = CommandLine(__doc__)
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
