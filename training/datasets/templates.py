"""What a caption says: the labels of a picture, and how they are read back from generated text."""

import re
from collections.abc import Iterable, Mapping
from typing import NamedTuple


class Labels(NamedTuple):
    """The four labels that a caption states."""

    modality: str
    anatomy: str
    view: str
    finding: str

    @property
    def finding_group(self) -> str:
        """The finding at the grain at which it is scored.

        Chest radiographs: normal, pneumonia (bacterial, viral, COVID-19 or not said, alone or with another
        finding), any other finding by its own name. Knees: Kellgren-Lawrence grades 0-1 or 2-4. Breast
        ultrasound and chest CT: normal, benign, malignant. Everything else: the finding itself.
        """
        kind = (self.modality, self.anatomy)
        if kind == ("radiograph", "chest") and ("pneumonia" in self.finding or "COVID-19" in self.finding):
            return "pneumonia"
        if kind == ("radiograph", "knee"):
            return "grade 0-1" if self.finding.split()[0] in ("no", "doubtful") else "grade 2-4"
        if kind in (("ultrasound", "breast"), ("CT", "chest")):
            return self.finding.split()[0]
        return self.finding


def plain(caption: str) -> str:
    """A caption as it is compared: lower case, single spaces, no space around hyphens or before commas."""
    caption = re.sub(r"\s*-\s*", "-", caption.lower())
    return re.sub(r"\s+([,.])", r"\1", " ".join(caption.split())).rstrip(".")


def words(caption: str) -> list[str]:
    """Lower-case words of a caption without commas; hyphenated words stay whole."""
    return re.findall(r"[a-z0-9]+(?:-[a-z0-9]+)*", plain(caption))


class LabelReader:
    """Reads labels back from a caption by looking it up among all templates."""

    def __init__(self, templates: Mapping[Labels, Iterable[str]]) -> None:
        self._exact = {plain(caption): labels for labels, captions in templates.items() for caption in captions}
        self._bags = [(frozenset(words(caption)), caption) for caption in self._exact]

    def read(self, caption: str) -> tuple[Labels, bool]:
        """Labels of a caption and whether it was a template; if not, of the template with the nearest words.

        Nearest: the largest Jaccard index of the two sets of words; the first template wins a tie.
        """
        key = plain(caption)
        if key in self._exact:
            return self._exact[key], True
        bag = frozenset(words(caption))
        _, nearest = max(self._bags, key=lambda entry: len(bag & entry[0]) / max(len(bag | entry[0]), 1))
        return self._exact[nearest], False
