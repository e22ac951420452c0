"""A request for a report names its images in one way."""

from pathlib import Path
from typing import Any

import pytest

from prelim.errors import UnreadableInput
from prelim.report_generator import ReportRequest
from tests.tiny_model import png


@pytest.mark.parametrize("images", [{"image": "chest.jpg"}, {"image": Path("chest.jpg")}, {"images": (png(), "a")}])
def test_path_instead_of_bytes_is_explained(images: Any) -> None:
    """When the request is made."""
    with pytest.raises(UnreadableInput, match=r"an image is of type \w+; give the bytes of its file"):
        ReportRequest(**images)
