"""Identifying strings wherever stations write them."""

from pydicom.dataset import Dataset
from pydicom.sequence import Sequence

PLANTED = {
    "PatientName": "PLANTNAME^ERIKA",
    "PatientID": "PLANT-4711",
    "OtherPatientIDs": "PLANT-4712",
    "PatientBirthDate": "19011203",
    "PatientAddress": "PLANTSTREET 5",
    "PatientTelephoneNumbers": "0041-PLANTPHONE",
    "PatientComments": "PLANTCOMMENT on the person",
    "OtherPatientNames": "PLANTALIAS^E",
    "PatientMotherBirthName": "PLANTMOTHER",
    "EthnicGroup": "PLANTGROUP",
    "Occupation": "PLANTJOB",
    "AccessionNumber": "PLANTACC",
    "ReferringPhysicianName": "PLANTREF^DR",
    "PerformingPhysicianName": "PLANTPERF^DR",
    "OperatorsName": "PLANTOPER",
    "InstitutionName": "PLANTHOSPITAL",
    "InstitutionAddress": "PLANTPLACE",
    "StationName": "PLANTSTATION",
    "StudyDescription": "Chest of PLANTDESC",
    "SeriesDescription": "PLANTSERIES",
    "ProtocolName": "PLANTPROTOCOL",
    "ImageComments": "PLANTIMAGE",
    "DerivationDescription": "PLANTDERIVE",
    "RequestedProcedureDescription": "PLANTPROC",
    "StudyID": "PLANTSTUDY",
    "DeviceSerialNumber": "PLANTDEVICE",
    "BodyPartExamined": "PLANTBODY CHEST",
    "ViewPosition": "PA PLANTVIEW",
    "WindowCenterWidthExplanation": "PLANTWINDOW",
}
PRIVATE, NESTED, MEANING = "PLANTPRIVATE", "PLANTNESTED", "PLANTMEANING"
UIDS = {
    "StudyInstanceUID": "1.2.826.0.1.3680043.9.7777.66601",
    "SeriesInstanceUID": "1.2.826.0.1.3680043.9.7777.66602",
    "SOPInstanceUID": "1.2.826.0.1.3680043.9.7777.66603",
    "FrameOfReferenceUID": "1.2.826.0.1.3680043.9.7777.66604",
}
MARKERS = (
    *(next((word for word in value.replace("^", " ").split() if "PLANT" in word), value) for value in PLANTED.values()),
    *(PRIVATE, NESTED, MEANING),
    *UIDS.values(),
)


def plant(made: Dataset) -> Dataset:
    """Write the strings into a data set and return it."""
    for keyword, value in (PLANTED | UIDS).items():
        setattr(made, keyword, value)
    block = made.private_block(0x0029, "PLANT PRIVATE CREATOR", create=True)
    block.add_new(1, "LO", PRIVATE)
    item = Dataset()
    item.RequestedProcedureDescription = NESTED
    made.RequestAttributesSequence = Sequence([item])
    code = Dataset()
    code.CodeValue, code.CodingSchemeDesignator, code.CodeMeaning = "816094009", "SCT", MEANING
    made.AnatomicRegionSequence = Sequence([code])
    return made
