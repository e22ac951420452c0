"""Reports that another system has written: ReXrank's JSON, or a table (CSV) with the columns id and text."""

from collections.abc import Sequence
from pathlib import Path

from training.datasets.delimited import find_delimiter, read_rows
from training.datasets.formats import rexrank
from training.datasets.study import DatasetError, Study
from training.datasets.values import fold_number, read_value


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
    """The texts in the order of the studies; extra ones are ignored.

    An id 12.0, which was read from a column of numbers, is 12.

    Raises DatasetError if a text is missing, and where two ids differ only in what spreadsheets change (`fold_number`):
    unless there is a study of each.
    """
    names = {study.study_id for study in studies}
    alike: dict[str, list[str]] = {}
    for name in predictions:
        alike.setdefault(fold_number(name), []).append(name)
    found: dict[str, str] = {}
    lacking = []
    for study in studies:
        given = alike.get(fold_number(study.study_id), [])
        if len(given) > 1 and not names.issuperset(given):
            raise DatasetError(
                f"{path} has the ids {' and '.join(map(repr, given))}, of which a spreadsheet may have made one of the "
                f"other; keep one for the study {study.study_id!r}, written as in the data set"
            )
        exact = [name for name in given if study.study_id in (name, read_value(name))]
        if exact:
            found[study.study_id] = predictions[study.study_id if study.study_id in exact else exact[0]]
        else:
            lacking.append((study.study_id, given))
    if lacking:
        name, given = lacking[0]
        raise DatasetError(
            f"{path} has no text for {len(lacking)} of {len(studies)} studies, the first being {name!r}; "
            f"its own ids are like {(given or [*predictions, ''])[0]!r}"
            + (" (a spreadsheet drops zeros of a number: format the column as text)" if given else "")
            + "; a system that wrote nothing gets an empty text"
        )
    return [found[study.study_id] for study in studies]
