"""What a DICOM file is a picture of, against what the model takes."""

from pathlib import Path

import pytest
from pydicom import uid
from pydicom.dataset import Dataset
from pydicom.sequence import Sequence
from pydicom.uid import (
    UID,
    DigitalMammographyXRayImageStorageForPresentation,
    DigitalXRayImageStorageForPresentation,
    DigitalXRayImageStorageForProcessing,
    SecondaryCaptureImageStorage,
)

from prelim.archive.model_config import ModelConfig
from prelim.errors import Refused
from prelim.images.dicom.anatomy import BREAST_VIEWS, REGION_CODES, REGION_OF_WORD, VIEW_OF_WORD, VIEW_TERMS
from prelim.images.dicom.subject import MAMMOGRAPHY
from prelim.images.input_config import Accepts, InputConfig
from prelim.images.radiograph import Radiograph, read_radiograph
from prelim.networks.architectures import ARCHITECTURES
from tests.dicom_files import make_dicom

PROJECT = Path(__file__).resolve().parents[4]

CHEST = InputConfig(
    accepts=Accepts(
        body_parts=("CHEST",),
        views=("PA", "AP"),
        sop_classes=("ComputedRadiographyImageStorage", "DigitalXRayImageStorageForPresentation"),
    )
)
SILENT = {"BodyPartExamined": "", "ViewPosition": ""}


def read(config: InputConfig = CHEST, **header: object) -> Radiograph:
    """Read the phantom with this header."""
    return read_radiograph(make_dicom(**header), config)


def names(radiograph: Radiograph) -> list[str]:
    """Return the first words of the warnings."""
    return [warning.split(":")[0] for warning in radiograph.warnings]


def coded(value: str, scheme: str = "SCT") -> Sequence:
    """Return a code sequence of one item."""
    item = Dataset()
    item.CodeValue, item.CodingSchemeDesignator, item.CodeMeaning = value, scheme, "test"
    return Sequence([item])


@pytest.mark.parametrize(
    ("name", "tag", "header"),
    [
        ("body_part", "(0018,0015)", {"BodyPartExamined": "HAND"}),
        ("body_part", "(0018,0015)", {"BodyPartExamined": "HIP"}),
        ("body_part", "(0018,0015)", {"BodyPartExamined": "FACE"}),
        ("body_part", "(0018,0015)", {"BodyPartExamined": "BACK"}),
        ("view", "(0018,0015)", {"BodyPartExamined": "CHEST PA/LAT", "ViewPosition": ""}),
        ("body_part", "(0018,0015)", {"BodyPartExamined": "Left hand"}),
        ("body_part", "(0018,0015)", {"BodyPartExamined": "CHESTABDOMEN"}),
        ("body_part", "(0018,0015)", {"BodyPartExamined": "CHEST ABDOMEN"}),
        ("body_part", "(0018,0015)", {"BodyPartExamined": "THORACIC SPINE"}),
        ("body_part", "(0018,0015)", {"BodyPartExamined": "BREAST"}),
        ("body_part", "(0008,2218)", {**SILENT, "AnatomicRegionSequence": coded("85562004")}),
        ("body_part", "(0008,2218)", {**SILENT, "AnatomicRegionSequence": coded("T-D2500", "SRT")}),
        ("body_part", "(0008,2218)", {"AnatomicRegionSequence": coded("76752008")}),
        ("body_part", "(0018,5101)", {**SILENT, "ViewPosition": "MLO"}),
        ("body_part", "(0018,5101)", {**SILENT, "ViewPosition": "CC"}),
        ("view", "(0018,5101)", {"ViewPosition": "LL"}),
        ("view", "(0018,5101)", {"ViewPosition": "LATERAL"}),
        ("view", "(0018,5101)", {"ViewPosition": "Lat."}),
        ("view", "(0018,5101)", {"ViewPosition": "LLD"}),
        ("view", "(0018,5101)", {"ViewPosition": "PA LAT"}),
        ("view", "(0018,0015)", {"BodyPartExamined": "CHEST LAT", "ViewPosition": ""}),
        ("view", "(0054,0220)", {**SILENT, "ViewCodeSequence": coded("399173006")}),
        ("view", "(0054,0220)", {"ViewCodeSequence": coded("R-102CD", "SRT")}),
        ("sop_class", "(0008,0016)", {"SOPClassUID": DigitalMammographyXRayImageStorageForPresentation}),
        ("sop_class", "(0008,0016)", {"SOPClassUID": SecondaryCaptureImageStorage}),
        ("sop_class", "(0008,0016)", {"SOPClassUID": "1.2.3.4"}),
        ("for_processing", "(0008,0016)", {"SOPClassUID": DigitalXRayImageStorageForProcessing}),
        ("for_processing", "(0008,0068)", {"PresentationIntentType": "FOR PROCESSING"}),
    ],
)
def test_a_contradiction_is_refused_by_name(name: str, tag: str, header: dict) -> None:
    """Any tag that says another body part, view or class is a 422 that names reason, tag, and what the model reads."""
    with pytest.raises(Refused) as caught:
        read(**header)
    message = str(caught.value)
    assert message.startswith(f"{name}: {tag}"), message
    assert "this model reads" in message or name == "for_processing"


@pytest.mark.parametrize(
    "header",
    [
        {"BodyPartExamined": "chest"},
        {"BodyPartExamined": "THORAX"},
        {"BodyPartExamined": "Thorax p.a."},
        {"BodyPartExamined": "CHEST PORTABLE"},
        {"BodyPartExamined": "THORAX DEBOUT FACE"},
        {"BodyPartExamined": "FACE THORAX"},
        {"BodyPartExamined": "POUMONS FACE"},
        {"BodyPartExamined": "CHEST BACK"},
        {"BodyPartExamined": "CHEST PA/LAT"},
        {"ViewPosition": "AP"},
        {"ViewPosition": "PA erect"},
        {"ViewPosition": "FRONTAL"},
        {"AnatomicRegionSequence": coded("51185008")},
        {"AnatomicRegionSequence": coded("T-D3000", "SRT"), "BodyPartExamined": ""},
        {"ViewCodeSequence": coded("399348003"), "ViewPosition": ""},
        {"SOPClassUID": DigitalXRayImageStorageForPresentation, "Modality": "DX"},
    ],
)
def test_other_words_for_the_same_are_read(header: dict) -> None:
    """Synonyms, other languages, codes and words that say nothing of either are accepted without a warning."""
    assert read(**header).warnings == ()


@pytest.mark.parametrize(
    ("name", "header"),
    [
        ("body_part_unknown", {"BodyPartExamined": ""}),
        ("body_part_unknown", {"drop": ("BodyPartExamined",)}),
        ("body_part_unknown", {"BodyPartExamined": "XQZ"}),
        ("view_unknown", {"ViewPosition": ""}),
        ("view_unknown", {"ViewPosition": "PORTABLE"}),
        ("sop_class_unknown", {"drop": ("SOPClassUID",)}),
    ],
)
def test_absence_is_a_warning(name: str, header: dict) -> None:
    """What no tag says is answered, with a warning by name."""
    assert names(read(**header)) == [name]


def test_nothing_is_asked_where_nothing_is_configured() -> None:
    """Without `accepts` any body part, view and class is read, and none is missed; raw detector data never is."""
    anything = InputConfig()
    assert read(anything, BodyPartExamined="HAND", ViewPosition="LL", SOPClassUID="1.2.3").warnings == ()
    assert read(anything, drop=("BodyPartExamined", "ViewPosition", "SOPClassUID")).warnings == ()
    with pytest.raises(Refused, match="for_processing"):
        read(anything, SOPClassUID=DigitalXRayImageStorageForProcessing)


@pytest.mark.parametrize("keyword", ["CTImageStorage", "DigitalIntraOralXRayImageStorageForPresentation"])
def test_a_class_of_another_modality(keyword: str) -> None:
    """A class whose images have another modality than the file says is refused by it, unless the model reads that."""
    for name in (keyword, "UltrasoundImageStorage", "MRImageStorage"):
        with pytest.raises(Refused, match=r"^modality: .0008,0016"):
            read(InputConfig(), SOPClassUID=getattr(uid, name))
    assert read(InputConfig(modalities=("CR", "CT", "IO")), SOPClassUID=getattr(uid, keyword)).warnings == ()


def test_raw_data_are_read_where_they_are_configured() -> None:
    """A model that lists a class For Processing takes it."""
    raw = InputConfig(accepts=Accepts(sop_classes=("DigitalXRayImageStorageForProcessing",)))
    header = {"SOPClassUID": DigitalXRayImageStorageForProcessing, "PresentationIntentType": "FOR PROCESSING"}
    assert read(raw, **header).warnings == ()


def test_the_demo_takes_frontal_chests_and_knees() -> None:
    """The demo model answers what it was trained on, and no hand, hip, mammogram or lateral view."""
    demo = ModelConfig.read(PROJECT / "models" / "demo" / "model.yaml").input
    for part in ("CHEST", "KNEE"):
        assert read(demo, BodyPartExamined=part, ViewPosition="AP").warnings == ()
    for header in (
        {"BodyPartExamined": "HAND"},
        {"BodyPartExamined": "HIP"},
        {"SOPClassUID": DigitalMammographyXRayImageStorageForPresentation},
        {"ViewPosition": "LL"},
    ):
        with pytest.raises(Refused):
            read(demo, **header)


@pytest.mark.parametrize("system", ["densenet_disease_llama", "xraygpt", "xreport"])
def test_systems_of_chest_radiographs_take_no_other(system: str) -> None:
    """The published systems that were trained on chest radiographs say so in their defaults, and name no view."""
    section = ARCHITECTURES[system].published.defaults["input"]
    config = InputConfig(**section)
    assert read(config, ViewPosition="LL").view == "LL"
    with pytest.raises(Refused, match="body_part"):
        read(config, BodyPartExamined="KNEE")


def test_the_tables_are_consistent() -> None:
    """No code stands for two regions, every word leads to a term that exists, and so does every class."""
    codes = [code for text in REGION_CODES.values() for code in text.split()]
    assert len(codes) == len(set(codes))
    assert set(REGION_OF_WORD.values()) <= set(REGION_CODES)
    assert set(VIEW_OF_WORD.values()) == set(VIEW_TERMS)
    assert set(VIEW_TERMS) >= BREAST_VIEWS
    assert not set(REGION_OF_WORD) & set(VIEW_OF_WORD)
    assert all(isinstance(getattr(uid, keyword), UID) for keyword in MAMMOGRAPHY)
