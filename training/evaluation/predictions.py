"""Reports that another system has written: ReXrank's JSON, or a table (CSV) with the columns id and text."""

from collections.abc import Sequence
from pathlib import Path

from training.datasets.delimited import find_delimiter, read_rows
from training.datasets.formats import rexrank
from training.datasets.study import DatasetError, Study
from training.datasets.values import read_value


def read_predictions(path: Path) -> dict[str, str]:
    """Text by study id, from a .json file as ReXrank's, or a .csv file with the columns `id` and `text`.

    Raises DatasetError naming the line of a row with too many or too few fields, and of an id that is there twice.
    """
    if path.suffix == ".json":
        return rexrank.read_predictions(path)
    if path.suffix != ".csv":
        raise DatasetError(f"{path} is neither a model folder nor predictions; predictions are .json (ReXrank) or .csv")
    predictions: dict[str, str] = {}
    for place, row in read_rows(path, ("id", "text"), find_delimiter(path)):
        if row["id"] in predictions:
            raise DatasetError(f"{place}: the id {row['id']!r} is there a second time; keep one of its texts")
        predictions[row["id"]] = row["text"]
    return predictions


def sort_predictions(predictions: dict[str, str], studies: Sequence[Study], path: Path) -> list[str]:
    """The texts in the order of the studies. Raises DatasetError if one is missing; extra ones are ignored.

    An id 12.0, which was read from a column of numbers, is 12, unless both are there.
    """
    plain = {read_value(name) or name: text for name, text in predictions.items()}
    if len(plain) == len(predictions):
        predictions = plain | predictions
    lacking = [study.study_id for study in studies if study.study_id not in predictions]
    if lacking:
        raise DatasetError(
            f"{path} has no text for {len(lacking)} of {len(studies)} studies, the first being {lacking[0]!r}; "
            f"its own ids are like {next(iter(predictions), '')!r}; a system that wrote nothing gets an empty text"
        )
    return [predictions[study.study_id] for study in studies]
