"""Open-i: the Indiana University reports as XML files, in a folder or in the archive NLMCXR_reports.tgz."""

from collections.abc import Iterator
from pathlib import Path
from xml.etree import ElementTree

from training.datasets.files import keep_texts
from training.datasets.image_files import ImageFolder
from training.datasets.packed import read_members
from training.datasets.study import DatasetError, Study

ARCHIVE = "NLMCXR_reports.tgz"


def read(path: Path, images: Path | None) -> Iterator[Study]:
    """Read every XML file of the archive, of the folder that holds it, or of a folder of XML files.

    The images are in `images/` next to the archive or in the folder. The XML does not give views. One
    report a patient (Demner-Fushman et al., JAMIA 2016).
    """
    if (path / ARCHIVE).is_file():
        path = path / ARCHIVE
    folder = ImageFolder(images or (path if path.is_dir() else path.parent) / "images")
    for place, data in _read_files(path):
        yield _make_study(place, data, folder)


def _read_files(path: Path) -> Iterator[tuple[str, bytes]]:
    if path.is_dir():
        names = sorted(file for file in path.rglob("*.xml") if not file.name.startswith("._"))
        if not names:
            raise DatasetError(f"the folder {path} has neither {ARCHIVE} nor XML files; give one of them as path")
        for file in names:
            yield str(file), file.read_bytes()
        return
    if not path.is_file():
        raise DatasetError(f"{path} does not exist; give {ARCHIVE}, or a folder of XML files, as path")
    for name, data in read_members(path):
        if name.endswith(".xml") and not Path(name).name.startswith("._"):
            yield f"{path}, {name}", data


def _make_study(place: str, data: bytes, folder: ImageFolder) -> Study:
    try:
        # Entities are not expanded beyond what expat allows; these files declare none.
        root = ElementTree.fromstring(data)  # noqa: S314
    except ElementTree.ParseError as error:
        raise DatasetError(f"{place} is not XML: {error}; fetch it again") from error
    uid = root.find("uId")
    if uid is None or "id" not in uid.attrib:
        raise DatasetError(f"{place} has no element uId with an id; it is not an Open-i report: remove it")
    sections: dict[str, str] = {}
    for part in root.iter("AbstractText"):
        name, text = part.get("Label", "report").lower(), "".join(part.itertext())
        sections[name] = "\n".join(filter(None, (sections.get(name), text)))
    files = tuple(folder.find(f"{image.get('id')}.png") for image in root.iter("parentImage"))
    captions = (caption.text for caption in root.iterfind("parentImage/caption"))
    return Study(
        study_id=uid.attrib["id"],
        images=files,
        sections=keep_texts(sections, place),
        patient_id=uid.attrib["id"],
        views=("",) * len(files),
        source="Open-i",
        split=None,
        labels={
            "mesh": ";".join(major.text or "" for major in root.iterfind("MeSH/major")),
            "image": next((caption for caption in captions if caption), ""),
        },
        place=place,
    )
