"""Headers in DICOM's JSON (PS3.18 annex F), as archives write them."""

from typing import Any

from pydicom.dataelem import DataElement
from pydicom.dataset import Dataset
from pydicom.jsonrep import JSON_VALUE_KEYS

Row = dict[str, Any]


def read_header(row: Row) -> Dataset:
    """Return a header without bulk data. An element that cannot be read is left out, and the others stay.

    row : attribute tag -> {"vr", "Value"}; of a study's metadata, one instance

    One wrong number, such as a decimal comma in a file of another station, must not cost the whole study its draft.
    """
    header = Dataset()
    for tag, contents in row.items():
        key = next((one for one in JSON_VALUE_KEYS if one in contents), None)
        value = [""] if key is None else contents[key]
        try:
            header.add(DataElement.from_json(Dataset, tag, contents["vr"], value, key, _no_bulk_data))
        except (ValueError, TypeError, LookupError, AttributeError, OverflowError):
            continue
    return header


def uid_of(row: Row, tag: str) -> str:
    """Return a UID of a row, or "" if it has none."""
    match row.get(tag):
        case {"Value": [str(uid), *_]}:
            return uid
    return ""


def _no_bulk_data(*_: Any) -> bytes:
    """Leave bulk data out: headers are compared, pixels are fetched as a file."""
    return b""
