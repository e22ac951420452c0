"""Whatever is in a study, a person finds an outcome with a reason; what the bridge does not read does no harm."""

from collections.abc import Callable, Sequence
from io import BytesIO
from typing import Any

import numpy as np
import pytest
from pydicom import dcmread
from pydicom.dataset import Dataset

from bridge.dicom.identity import SiteKey
from bridge.dicom.json_header import read_header
from bridge.dicom.study_state import StudyState
from prelim.errors import RequestError
from prelim.images.input_config import InputConfig
from prelim.images.radiograph import read_radiograph
from tests.bridge.conftest import Bench
from tests.bridge.fake_server import FakeServer, refusal
from tests.bridge.studies import STUDY, radiograph
from tests.dicom_files import compress, encapsulate, phantom

MakeBench = Callable[..., Bench]
KEY = SiteKey(b"k" * 32)

CLASSES = {
    "a key object": ("KO", "1.2.840.10008.5.1.4.1.1.88.59"),
    "a presentation state": ("PR", "1.2.840.10008.5.1.4.1.1.11.1"),
    "a report": ("SR", "1.2.840.10008.5.1.4.1.1.88.11"),
    "a PDF": ("DOC", "1.2.840.10008.5.1.4.1.1.104.1"),
    "a video": ("ES", "1.2.840.10008.5.1.4.1.1.77.1.1.1"),
    "an enhanced angiogram": ("XA", "1.2.840.10008.5.1.4.1.1.12.1.1"),
    "a mammogram": ("MG", "1.2.840.10008.5.1.4.1.1.1.2"),
    "a digitized film": ("DX", "1.2.840.10008.5.1.4.1.1.7"),
    "raw data": ("DX", "1.2.840.10008.5.1.4.1.1.1.1.1"),
}
FRAMES = np.repeat(phantom()[None], 2, 0)


def other(name: str, number: int = 50) -> bytes:
    """Return an object without pixels, in a series of its own."""
    modality, sop_class = CLASSES[name]
    frame = Dataset()
    frame.FrameContentSequence = [Dataset()]
    return radiograph(
        number,
        SOPClassUID=sop_class,
        Modality=modality,
        SeriesInstanceUID=f"{STUDY}.{number}",
        PerFrameFunctionalGroupsSequence=[frame, frame],
        NumberOfFrames=2,
        drop=("PixelData", "Rows", "Columns"),
    )


def coded(file: bytes, number: int = 1, **header: Any) -> bytes:
    """Return a compressed file as an image of the study."""
    made = dcmread(BytesIO(file))
    for keyword, value in header.items():
        setattr(made, keyword, value)
    made.StudyInstanceUID, made.SeriesInstanceUID, made.SOPInstanceUID = STUDY, f"{STUDY}.1", f"{STUDY}.1.{number}"
    made.file_meta.MediaStorageSOPInstanceUID = made.SOPInstanceUID
    return written(made)


def written(made: Dataset) -> bytes:
    """Return the file of a data set."""
    file = BytesIO()
    made.save_as(file)
    return file.getvalue()


def two_frames(number: int = 1) -> bytes:
    """Return a radiograph with two frames, and pixels for both."""
    return radiograph(number, NumberOfFrames=2, PixelData=FRAMES.tobytes())


def refuse_as_the_real_one(server: FakeServer) -> None:
    """Let the fake server refuse what the real one refuses."""

    def answer(image: bytes) -> tuple[int, Any]:
        try:
            read_radiograph(image, InputConfig())
        except RequestError as error:
            return refusal(error.status, type(error).__name__, str(error))
        return server.report(image)

    server.answer = answer


OUTCOMES: dict[str, tuple[Sequence[bytes], tuple[str, str]]] = {
    "PA, lateral and all else": (
        [radiograph(1), radiograph(2, ViewPosition="LL"), *map(other, CLASSES, range(50, 60))],
        ("reported", ""),
    ),
    "PA after a film of two frames": ([two_frames(2), radiograph(1, AcquisitionDate="20000101")], ("reported", "")),
    "two frames": ([two_frames()], ("refused", "422_multi_frame")),
    "two frames, compressed": (
        [coded(compress(phantom(), "1.2.840.10008.1.2.5"), NumberOfFrames=2)],
        ("refused", "422_multi_frame"),
    ),
    "a radiograph coded as a video": (
        [coded(encapsulate(b"\0\0\1\xb3" + bytes(200), "1.2.840.10008.1.2.4.100", NumberOfFrames=2))],
        # Its stream cannot be followed, so its pixels stay here (bridge.dicom.bare_pixels).
        ("refused", "400_UnreadableInput"),
    ),
    "a radiograph without pixels": ([radiograph(drop=("PixelData",))], ("refused", "400_UnreadableInput")),
    "only raw data": ([other("raw data")], ("skipped", "for_processing")),
    "raw data and a lateral": ([other("raw data"), radiograph(ViewPosition="LL")], ("skipped", "no_frontal_image")),
    "nothing": ([], ("skipped", "study_is_gone")),
    **{f"only {name}": ([other(name)], ("skipped", "no_radiograph")) for name in CLASSES if name != "raw data"},
}


@pytest.mark.parametrize("case", OUTCOMES)
def test_every_object_has_an_outcome(make_bench: MakeBench, case: str) -> None:
    """Drafts are of radiographs of one frame; for the rest the queue has the server's reason, or the bridge's own."""
    files, expected = OUTCOMES[case]
    bench = make_bench(*files)
    refuse_as_the_real_one(bench.server)
    bench.queue.notify(STUDY, 0)
    bench.run()

    assert bench.state() == expected
    assert len(bench.pacs.stored) == (expected[0] == "reported")


def metadata(file: bytes) -> dict[str, Any]:
    """Return what a PACS shows of a file, in JSON."""
    return dcmread(BytesIO(file)).to_json_dict(bulk_data_threshold=1, bulk_data_element_handler=lambda _: "x")


UNREADABLE: dict[str, Any] = {
    "a decimal comma": {"00281050": {"vr": "DS", "Value": ["1,5"]}},
    "a number that is a word": {"00200013": {"vr": "IS", "Value": ["first"]}},
    "a value that is not a list": {"00181030": {"vr": "LO", "Value": "Thorax"}},
    "a sequence of words": {"00081140": {"vr": "SQ", "Value": ["x"]}},
    "no value representation": {"00181030": {"Value": ["Thorax"]}},
    "a tag that is not one": {"zz": {"vr": "LO", "Value": ["x"]}},
}


@pytest.mark.parametrize("case", UNREADABLE)
def test_an_element_that_cannot_be_read_costs_nothing_else(case: str) -> None:
    """In the radiograph itself or in another object of the study: the image stays, with its other elements."""
    row = metadata(radiograph())
    instance = {"00080018": {"vr": "UI", "Value": ["1.2.3"]}}
    state = StudyState.of(STUDY, [read_header(one) for one in (row | UNREADABLE[case], instance | UNREADABLE[case])])

    (image,) = state.images
    assert (image.PatientID, image.ViewPosition) == ("4711-0815", "PA")
    assert state.fingerprint(KEY) == StudyState.of(STUDY, [dcmread(BytesIO(radiograph()))]).fingerprint(KEY)


def test_half_a_surrogate_pair_in_the_metadata_is_a_state_like_others() -> None:
    """Archives that garble names write them; JSON allows it, UTF-8 does not."""
    states = []
    for name in ("\ud800", "\ud801"):
        row = dcmread(BytesIO(radiograph())).to_json_dict(
            bulk_data_threshold=1, bulk_data_element_handler=lambda _: "x"
        )
        row["00100010"] = {"vr": "PN", "Value": [{"Alphabetic": name}]}
        states.append(StudyState.of(STUDY, [read_header(row)]).fingerprint(KEY))
    assert states[0] != states[1]


def test_an_instance_without_uids_is_not_an_image() -> None:
    """Nobody could fetch it, or name it in a document."""
    row = {"00080016": {"vr": "UI", "Value": ["1.2.840.10008.5.1.4.1.1.1"]}}
    assert StudyState.of(STUDY, [read_header(row)]).why_skipped() == "no_radiograph"
