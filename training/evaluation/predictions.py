"""Reports that another system has written: ReXrank's JSON, or CSV with the columns id and text."""

import csv
from collections.abc import Sequence
from pathlib import Path

from training.datasets.formats import rexrank
from training.datasets.study import DatasetError, Study


def read_predictions(path: Path) -> dict[str, str]:
    """Text by study id, from a .json file as ReXrank's, or a .csv file with the columns `id` and `text`."""
    if path.suffix == ".json":
        return rexrank.read_predictions(path)
    if path.suffix != ".csv":
        raise DatasetError(f"{path} is neither a model folder nor predictions; predictions are .json (ReXrank) or .csv")
    with path.open(newline="", encoding="utf-8") as file:
        reader = csv.DictReader(file)
        columns = reader.fieldnames or ()
        missing = sorted({"id", "text"} - set(columns))
        if missing:
            raise DatasetError(f"{path} has no column {', '.join(missing)}; its columns are {', '.join(columns)}")
        return {row["id"]: row["text"] or "" for row in reader}


def in_order(predictions: dict[str, str], studies: Sequence[Study], path: Path) -> list[str]:
    """The texts in the order of the studies. Raises DatasetError if one lacks; those of other studies are no fault."""
    lacking = [study.study_id for study in studies if study.study_id not in predictions]
    if lacking:
        raise DatasetError(
            f"{path} has no text for {len(lacking)} of {len(studies)} studies, the first being {lacking[0]!r}; "
            f"its own ids are like {next(iter(predictions), '')!r}; a system that wrote nothing gets an empty text"
        )
    return [predictions[study.study_id] for study in studies]
