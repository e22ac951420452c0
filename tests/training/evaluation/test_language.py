"""Reports that the English rules cannot read are noticed."""

import pytest

from training.evaluation.language import MIXED, describe_language, find_language, measure_foreign

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


LISTS = {
    "es": "neumonia derrame cardiomegalia fractura escoliosis fibrosis masa neumotorax",
    "de": "Erguss Kardiomegalie Stauung Rundherd Emphysem Narbe Pneumothorax",
    "fr": "pneumonie epanchement cardiomegalie atelectasie fracture nodule emphyseme",
    "it": "polmonite versamento cardiomegalia frattura nodulo enfisema",
    "nl": "pneumonie pleuravocht cardiomegalie fractuur oedeem nodus emfyseem",
    "pt": "pneumonia derrame cardiomegalia fratura edema enfisema escoliose",
    "en": "pneumonia effusion cardiomegaly fracture edema nodule emphysema scoliosis",
}


@pytest.mark.parametrize("language", LISTS)
@pytest.mark.parametrize("size", [1, 3])
def test_lists_of_one_word_a_line_are_no_sentences(language: str, size: int) -> None:
    """One word a report, and some a report: words alone do not look English, nor English ones French."""
    words = LISTS[language].split()
    texts = ["\n".join(words[i : i + size]) for i in range(0, len(words), size)]
    assert (find_language(texts) == "en") is (language == "en")
    assert (find_language(texts[:3]) == "en") is (language == "en")


@pytest.mark.parametrize("spanish", [0, 1, 5, 7, 9])
def test_mixtures_of_two_languages_are_noticed(spanish: int) -> None:
    """Of ten reports each; the share is one at least, since short reports cannot be told."""
    english = ["No acute disease.", "No focal infiltrates.", "Stable emphysematous lung changes.", "Clear lungs."]
    other = ["No se observa derrame pleural ni neumotórax.", "Silueta cardíaca normal, sin hallazgos."]
    texts = [other[i % 2] if i < spanish else english[i % 4] for i in range(10)]
    share, language = measure_foreign(texts)
    assert share == spanish / 10
    assert (share > MIXED) is (spanish > 0)
    assert bool(language) is (spanish > 0)
    if spanish:
        assert "another language" in describe_language(texts) or "looks like" in describe_language(texts)
