"""The words and codes of regions and views: those of the standard, and what stations write."""

import pytest
from pydicom.dataset import Dataset
from pydicom.sequence import Sequence
from pydicom.sr.codedict import codes

from prelim.errors import Refused
from prelim.images.dicom.anatomy import (
    REGION_CODES,
    REGION_OF_CODE,
    REGION_OF_WORD,
    VIEW_OF_CODE,
    VIEW_OF_POSITION,
    VIEW_OF_WORD,
    VIEW_TERMS,
)
from prelim.images.dicom.anatomy_words import REGION_SPELLINGS, find_terms, fold
from prelim.images.dicom.values import split_words
from prelim.images.input_config import Accepts, InputConfig
from prelim.images.radiograph import Radiograph, read_radiograph
from tests.dicom_files import dataset, encode, make_dicom, phantom, set_text

CHEST = InputConfig(accepts=Accepts(body_parts=("CHEST",), views=("PA", "AP")))


def read(**header: object) -> Radiograph:
    """Read the phantom with this header by a model of frontal chests."""
    return read_radiograph(make_dicom(**header), CHEST)


def concept(value: str, scheme: str = "SCT", keyword: str = "CodeValue", meaning: str = "test") -> Sequence:
    """Return a code sequence of one item."""
    item = Dataset()
    setattr(item, keyword, value)
    item.CodingSchemeDesignator, item.CodeMeaning = scheme, meaning
    return Sequence([item])


@pytest.mark.parametrize("context", ["cid4009", "cid4030", "cid4031"])
def test_regions_of_the_standard(context: str) -> None:
    """Every code of PS3.16's context groups of regions is known."""
    group = getattr(codes, context)
    unknown = [name for name in group.dir() if getattr(group, name).value not in REGION_OF_CODE]
    assert len(group.dir()) > 100
    assert unknown == []


@pytest.mark.parametrize("context", ["cid4010", "cid4014"])
def test_views_of_the_standard(context: str) -> None:
    """Every code of PS3.16's context groups of views is known."""
    group = getattr(codes, context)
    assert [name for name in group.dir() if getattr(group, name).value not in VIEW_OF_CODE] == []


@pytest.mark.parametrize(
    ("label", "term"),
    [
        ("HÜFTE", "HIP"),
        ("HUFTE", "HIP"),
        ("Huefte rechts", "HIP"),
        ("MUÑECA", "WRIST"),
        ("LWS", "LSPINE"),
        ("HWS", "CSPINE"),
        ("BWS ap", "TSPINE"),
        ("ELLBOGEN", "ELBOW"),
        ("HANDGELENK", "WRIST"),
        ("UP_EXM", "UPPERLIMB"),
        ("LOW_EXM", "LOWERLIMB"),
        ("UNTEREXTREMITAET", "LOWERLIMB"),
        ("HEEL", "CALCANEUS"),
        ("SCOLIOSIS", "SPINE"),
        ("MAIN", "HAND"),
        ("COUDE", "ELBOW"),
        ("TOBILLO", "ANKLE"),
        ("PIE", "FOOT"),
        ("CODO", "ELBOW"),
        ("ESPALDA", "SPINE"),
        ("CHEVILLE", "ANKLE"),
        ("GASTRO", "STOMACH"),
        ("IVP", "KIDNEY"),
        ("BABYGRAM", "WHOLEBODY"),
        ("RKNEE", "KNEE"),
        ("L-THIGH", "THIGH"),
        ("LTHIGH", "THIGH"),
        ("HAND2V", "HAND"),
        ("Membre inférieur", "LOWERLIMB"),
        ("L SPINE", "LSPINE"),
        ("Lumbar spine", "LSPINE"),
        ("ABDOMEN/KUB", "ABDOMEN"),
        ("Fuß", "FOOT"),
        ("TÓRAX", "CHEST"),
        ("Brustkorb", "CHEST"),
        ("RX TORAX", "CHEST"),
        ("Thorax de face", "CHEST"),
        ("Brustwirbelsäule", "TSPINE"),
        ("Œsophage", "ESOPHAGUS"),
    ],
)
@pytest.mark.parametrize("charset", ["utf-8", "latin-1"])
def test_labels_of_body_parts(label: str, term: str, charset: str) -> None:
    """Words in other languages, with accents in either encoding, with sides, numbers and views, name their region."""
    if charset == "latin-1" and "Œ" in label:
        charset = "utf-8"
    assert set(find_terms(split_words(label), REGION_OF_WORD)) == {term}
    text = label.encode(charset).decode("utf-8", "surrogateescape")
    made = dataset(phantom(), drop=("BodyPartExamined",))
    raw = text.encode("utf-8", "surrogateescape")
    set_text(made, BodyPartExamined="x" * len(raw))
    made["BodyPartExamined"] = made.get_item("BodyPartExamined")._replace(value=raw + b" " * (len(raw) % 2))
    if term == "CHEST":
        assert read_radiograph(encode(made), CHEST).warnings == ()
        return
    with pytest.raises(Refused, match=f"body_part: .*'{term}'"):
        read_radiograph(encode(made), CHEST)


@pytest.mark.parametrize(
    "label", ["OS", "BODY", "XQZ", "PORTABLE", "LEFT", "R", "2V", "123", "RIGHT SIDE", "Lower ext"]
)
def test_words_that_say_nothing(label: str) -> None:
    """Words that name nothing, or half of something, give neither region nor view."""
    terms = find_terms(split_words(label), REGION_OF_WORD) + find_terms(split_words(label), VIEW_OF_WORD)
    assert terms == (["LOWERLIMB"] if label == "Lower ext" else [])


@pytest.mark.parametrize(
    ("label", "term"),
    [
        ("LLAT", "LATERAL"),
        ("RLAT", "LATERAL"),
        ("SIDE", "LATERAL"),
        ("CROSS TABLE", "LATERAL"),
        ("X-TABLE LAT", "LATERAL"),
        ("XTL", "LATERAL"),
        ("RAO", "OBLIQUE"),
        ("LAO", "OBLIQUE"),
        ("RPO", "OBLIQUE"),
        ("LPO", "OBLIQUE"),
        ("TAN", "TANGENTIAL"),
        ("SWIM", "SWIMMERS"),
        ("OPEN MOUTH", "OPENMOUTH"),
        ("WATERS", "WATERS"),
        ("FLEX", "FLEXION"),
        ("EXT", "EXTENSION"),
        ("FROG", "FROGLEG"),
        ("FROG LEG", "FROGLEG"),
        ("P A", "PA"),
        ("Postero-anterior", "PA"),
        ("POSTERO_ANTERIOR", "PA"),
        ("d.v.", "PA"),
        ("Face", "FRONTAL"),
        ("Profil", "LATERAL"),
        ("Schräg", "OBLIQUE"),
    ],
)
def test_labels_of_views(label: str, term: str) -> None:
    """View Position in other words is refused or accepted as its term is."""
    assert set(find_terms(split_words(label), VIEW_OF_POSITION)) == {term}
    if VIEW_TERMS[term] & {"PA", "AP"}:
        assert read(ViewPosition=label).warnings == ()
        return
    with pytest.raises(Refused, match=f"view: .*'{term}'"):
        read(ViewPosition=label)


@pytest.mark.parametrize(
    ("sequence", "term"),
    [
        (concept("85562004", keyword="LongCodeValue"), "HAND"),
        (concept("t-d8700", "SRT"), "HAND"),
        (concept("t-d8700", "snm3"), "HAND"),
        (concept("7183", "FMA", meaning="Hand"), "HAND"),
        (concept("9712", "FMA", meaning="Left hand"), "HAND"),
        (concept("XR42", "99HOSPITAL", meaning="Mano izquierda"), "HAND"),
        (concept("122495006", meaning="chest"), "TSPINE"),
    ],
)
def test_coded_regions(sequence: Sequence, term: str) -> None:
    """A long code, small letters, and the meaning of a code in a scheme that is not known, name the region."""
    with pytest.raises(Refused, match=f"body_part: .0008,2218.*'{term}'"):
        read(AnatomicRegionSequence=sequence, BodyPartExamined="")


def test_a_number_of_another_scheme_is_not_a_code() -> None:
    """661005 is the jaw in SNOMED CT only."""
    assert REGION_OF_CODE["661005"] == "JAW"
    radiograph = read(AnatomicRegionSequence=concept("661005", "FMA", meaning="Thorax"), BodyPartExamined="")
    assert radiograph.warnings == ()


def test_coded_views() -> None:
    """A view of the standard, and one by its meaning."""
    for sequence in (concept("399135007"), concept("X1", "99LOCAL", meaning="Left lateral")):
        with pytest.raises(Refused, match=r"view: .0054,0220"):
            read(ViewCodeSequence=sequence, ViewPosition="")


@pytest.mark.parametrize("intent", ["FOR_PROCESSING", "for processing", "For-Processing", "FORPROCESSING"])
def test_raw_data_in_other_words(intent: str) -> None:
    """Raw detector data are refused however Presentation Intent Type spells it."""
    with pytest.raises(Refused, match="for_processing"):
        read(PresentationIntentType=intent)


@pytest.mark.parametrize("value", ["Y", "TRUE", "true", "YES\\NO", "yes", "1"])
def test_burned_in_in_other_words(value: str) -> None:
    """Text in the pixels is refused however Burned In Annotation says it."""
    with pytest.raises(Refused, match="burned_in_annotation"):
        read_radiograph(encode(set_text(dataset(phantom()), BurnedInAnnotation=value)), CHEST)


@pytest.mark.parametrize("value", ["MAYBE", "UNKNOWN", "J"])
def test_burned_in_that_says_nothing(value: str) -> None:
    """What is neither YES nor NO is a warning."""
    radiograph = read_radiograph(encode(set_text(dataset(phantom()), BurnedInAnnotation=value)), CHEST)
    assert [warning.split(":")[0] for warning in radiograph.warnings] == ["burned_in_unknown"]
    plain = read_radiograph(encode(set_text(dataset(phantom()), BurnedInAnnotation="n")), CHEST)
    assert plain.warnings == ()


def test_the_spellings_are_consistent() -> None:
    """Every spelling leads to a term that exists, none is of two terms, and all are folded."""
    assert set(REGION_SPELLINGS) <= set(REGION_CODES)
    words = [fold(word) for text in REGION_SPELLINGS.values() for word in dict.fromkeys(text.split())]
    owners: dict[str, set[str]] = {}
    for term, text in REGION_SPELLINGS.items():
        for word in text.split():
            owners.setdefault(fold(word), set()).add(term)
    assert [word for word, terms in owners.items() if len(terms) > 1] == []
    assert not set(words) & set(REGION_CODES) - {term for term in REGION_CODES if REGION_OF_WORD[term] == term}
    assert all(word == fold(word) for word in (*REGION_OF_WORD, *VIEW_OF_POSITION))
