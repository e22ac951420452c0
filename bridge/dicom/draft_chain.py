"""The drafts of a study, each replacing earlier ones, and which of their documents the PACS is known to have taken."""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass

from bridge.dicom.identity import document_uid


@dataclass(frozen=True)
class DraftChain:
    """What the PACS shows and what the queue has recorded, together.

    drafts    : SOP Instance UID of every draft -> UIDs of the drafts that it replaces, separated by backslashes
    documents : SOP Instance UID of every document of theirs that the PACS shows or has acknowledged -> its series
    """

    drafts: Mapping[str, str]
    documents: Mapping[str, str]

    @property
    def heads(self) -> list[str]:
        """The drafts that no other replaces: one, unless studies with drafts were merged."""
        replaced = {uid for uids in self.drafts.values() for uid in split_uids(uids)}
        return sorted(draft for draft in self.drafts if draft not in replaced)

    def find_documents(self, drafts: Iterable[str], kind: str) -> dict[str, str]:
        """Return the documents of one kind that a successor of some drafts replaces -> their series.

        A draft can have no document of the kind: the bridge was killed before it was stored, the kind was switched on
        later, or the PACS copied only the draft. Then it is that of the drafts before it, which still looks current.
        """
        found: dict[str, str] = {}
        waiting, seen = list(drafts), set[str]()
        while waiting:
            draft = waiting.pop(0)
            document = document_uid(draft, kind)
            if document in self.documents:
                found[document] = self.documents[document]
            elif draft not in seen:
                # What a PACS shows can go round in a circle.
                seen.add(draft)
                waiting += split_uids(self.drafts.get(draft, ""))
        return found


def split_uids(uids: str) -> list[str]:
    """Return the UIDs of a text, in which they are separated by backslashes."""
    return list(filter(None, uids.split("\\")))
