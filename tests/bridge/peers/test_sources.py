"""A study that came by C-STORE and is in the PACS too: what the PACS says now counts."""

from pathlib import Path

from pydicom.dataset import Dataset

from bridge.dicom.identity import SiteKey
from bridge.failures import StudyFailure
from bridge.peers.interfaces import StudySources
from bridge.store.spool import Spool
from tests.bridge.studies import STUDY, MemoryPacs, radiograph


class LatePacs(MemoryPacs):
    """As a real one, it has no image that has not arrived."""

    def image(self, header: Dataset) -> Dataset:
        """Return an image with its pixels."""
        if str(header.SOPInstanceUID) not in self.instances:
            raise StudyFailure("pacs_404")
        return super().image(header)


def names(sources: StudySources) -> list[tuple[str, str]]:
    """Return the patient's name in the header and in the file of each image."""
    return [(str(header.PatientName), str(sources.image(header).PatientName)) for header in sources.study(STUDY).images]


def test_a_correction_in_the_pacs_is_seen_while_the_images_are_in_the_spool(tmp_path: Path) -> None:
    """The spool counts until the PACS has the study; then a corrected name and a deleted image are as in the PACS."""
    spool, pacs = Spool(tmp_path / "spool", SiteKey(b"k" * 32)), LatePacs()
    for number in (1, 2):
        spool.add(radiograph(number, PatientName="Wrong"))
    sources = StudySources(spool, pacs)

    assert names(sources) == [("Wrong", "Wrong")] * 2
    pacs.add(radiograph(1, PatientName="Right"))
    assert names(sources) == [("Right", "Right")]
    assert names(StudySources(None, pacs)) == [("Right", "Right")]
    assert sources.study("1.2.3").images == ()


def test_a_pacs_that_only_takes_drafts_is_not_read(tmp_path: Path) -> None:
    """Without poll and hook its DICOMweb may store and nothing else."""
    spool, pacs = Spool(tmp_path / "spool", SiteKey(b"k" * 32)), LatePacs(radiograph(PatientName="Right"))
    spool.add(radiograph(PatientName="Spooled"))
    pacs.fail = [AssertionError()]

    assert names(StudySources(spool, pacs, follows=False)) == [("Spooled", "Spooled")]
    assert names(StudySources(spool, None)) == [("Spooled", "Spooled")]
