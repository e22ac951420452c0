"""The chain of a study's drafts, as PACS and queue know it."""

from bridge.dicom.draft_chain import DraftChain
from bridge.dicom.identity import DRAFT, MEASUREMENTS, document_uid


def test_a_circle_has_no_head_and_ends() -> None:
    """Headers of a PACS can say that two drafts replace each other."""
    chain = DraftChain({"1.1": "1.2", "1.2": "1.1"}, {"1.1": "1.9", "1.2": "1.9"})
    assert chain.heads == []
    assert chain.find_documents(["1.1"], MEASUREMENTS) == {}


def test_a_merged_chain_leads_to_one_document_of_each_branch() -> None:
    """One branch has a measurement report of its last draft, the other only of its first."""
    old, new = document_uid("1.1", MEASUREMENTS), document_uid("1.3", MEASUREMENTS)
    documents = {"1.1": "1.8", "1.2": "1.8", "1.3": "1.8", old: "1.9", new: "1.9"}
    chain = DraftChain({"1.1": "", "1.2": "1.1", "1.3": ""}, documents)
    assert chain.heads == ["1.2", "1.3"]
    assert chain.find_documents(chain.heads, MEASUREMENTS) == {new: "1.9", old: "1.9"}
    assert chain.find_documents(chain.heads, DRAFT) == {"1.2": "1.8", "1.3": "1.8"}
