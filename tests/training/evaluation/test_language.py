"""Reports that the English rules cannot read are noticed."""

import pytest

from training.evaluation.language import describe_language, find_language

ENGLISH = ["No acute disease.", "No pleural effusion.", "Cardiomegaly.", "Normal heart size. Clear lungs."]
SPANISH = ["Sin hallazgos patológicos.", "No se observa derrame pleural.", "Cardiomegalia.", "Silueta cardíaca normal."]
BENGALI = ["ফুসফুস স্বাভাবিক।"]
ROMANIAN = ["Fără revărsat pleural. Cord normal.", "Opacitate bazală stângă."]
CHINESE = ["心影不大。", "两肺清晰。", "未见胸腔积液。"]


@pytest.mark.parametrize(
    ("texts", "language"), [(ENGLISH, "en"), (SPANISH, "es"), (CHINESE, "zh"), (["1 2", ""], ""), (BENGALI, "")]
)
def test_the_language_of_a_set_of_reports(texts: list[str], language: str) -> None:
    """Of all together: a single short report cannot be told."""
    assert find_language(texts) == language


def test_a_language_is_named_where_it_is_certain() -> None:
    """Mixed texts and PadChest's stems look like languages that they are not."""
    german = ["Unauffälliger Befund.", "Kein Erguss.", "Herz normal groß."]
    assert describe_language(german) == "in another language (de)"
    for texts in (
        ["No effusion."] * 4 + ["Sin derrame pleural."] * 5,
        ["sin hallazg patolog", "cardiomegali . sin derram", "aument densid"],
    ):
        assert describe_language(texts).startswith("not English (looks like ")
    assert find_language(ROMANIAN) != "en"
    assert describe_language(["Plaušu lauki bez infiltrācijas. Sirds normāla."]).startswith("not English (looks like")
    assert describe_language(["1 2"]) == "in a language that could not be told"
