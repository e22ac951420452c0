"""The uses that the terms of a model's weights allow: `use` of model.yaml."""

from collections.abc import Mapping

GAP = "GAP"
"""What nobody has stated."""

TERMS = "terms"
"""Folder of the documents that travel with the weights; in model folders and archives."""

DOCUMENTS = frozenset({"", ".txt", ".md", ".pdf", ".html"})
"""Endings of these documents: nothing that Python imports."""

USES: Mapping[str, str] = {
    "research": "research only",
    "non-commercial": "no commercial use",
    "clinical-evaluation": "evaluation in a clinic, where no patient's care depends on it",
    "within-terms": "any use that its terms allow: read them",
    GAP: "not stated by whoever imported or trained it",
}
"""Use -> its meaning. None of them makes a draft more than UNVERIFIED."""
