"""Reports that the English rules cannot read are noticed."""

import pytest

from training.evaluation.language import find_language

ENGLISH = ["No acute disease.", "No pleural effusion.", "Cardiomegaly.", "Normal heart size. Clear lungs."]
SPANISH = ["Sin hallazgos patológicos.", "No se observa derrame pleural.", "Cardiomegalia.", "Silueta cardíaca normal."]
CHINESE = ["心影不大。", "两肺清晰。", "未见胸腔积液。"]


@pytest.mark.parametrize(("texts", "language"), [(ENGLISH, "en"), (SPANISH, "es"), (CHINESE, "zh"), (["1 2", ""], "")])
def test_the_language_of_a_set_of_reports(texts: list[str], language: str) -> None:
    """Of all together: a single short report cannot be told."""
    assert find_language(texts) == language
