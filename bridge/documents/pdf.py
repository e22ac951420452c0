"""A draft as an encapsulated PDF (PS3.3 A.45.1), for viewers that do not show structured reports."""

import datetime

from pydicom.dataset import Dataset, FileMetaDataset, validate_file_meta
from pydicom.uid import EncapsulatedPDFStorage, ExplicitVRLittleEndian

from bridge.configuration.settings import ReportSettings
from bridge.dicom.identity import KINDS, PDF, document_uid, series_uid
from bridge.dicom.study_state import PATIENT, STUDY
from bridge.documents.context import identify, short
from bridge.documents.draft import TITLE, Draft
from bridge.documents.pages import print_pages


def write_pdf(draft: Draft, settings: ReportSettings) -> Dataset:
    """Return the encapsulated PDF of a draft, ready to be stored.

    Patient and study are printed and in the header; a document that replaces another says so on its first page.
    """
    source = identify(draft.header)
    document = Dataset()
    for keyword in (*PATIENT, *STUDY):
        if keyword in source:
            document[keyword] = source[keyword]
    now = datetime.datetime.now().astimezone()
    document.SpecificCharacterSet = "ISO_IR 192"
    document.SOPClassUID = EncapsulatedPDFStorage
    document.SOPInstanceUID = document_uid(draft.uid, PDF)
    document.InstanceCreationDate = document.ContentDate = now.strftime("%Y%m%d")
    document.InstanceCreationTime = document.ContentTime = now.strftime("%H%M%S")
    document.AcquisitionDateTime = None
    document.Modality = "DOC"
    document.SeriesInstanceUID = series_uid(draft.study_uid, PDF)
    document.SeriesNumber = settings.series_number + KINDS.index(PDF)
    document.SeriesDescription = settings.series_description
    document.InstanceNumber = draft.place
    model = draft.answer["model"]
    document.Manufacturer = settings.manufacturer
    document.ManufacturerModelName = short(model["name"])
    document.SoftwareVersions = short(str(model["version"]))
    document.DeviceSerialNumber = short(model["sha256"])
    # PS3.3 C.8.6.1: made on a workstation. The text has the patient's name in its pages (C.24.2).
    document.ConversionType = "WSD"
    document.BurnedInAnnotation = "YES"
    document.DocumentTitle = settings.series_description
    document.ConceptNameCodeSequence = [TITLE]
    document.VerificationFlag = "UNVERIFIED"
    document.SourceInstanceSequence = [_reference(image) for image in draft.evidence]
    document.MIMETypeOfEncapsulatedDocument = "application/pdf"
    pages = print_pages(draft, source, settings)
    document.EncapsulatedDocument = pages + b"\x00" * (len(pages) % 2)
    document.EncapsulatedDocumentLength = len(pages)
    document.TimezoneOffsetFromUTC = now.strftime("%z")
    document.preamble = b"\x00" * 128
    document.file_meta = FileMetaDataset()
    # The client of STOW-RS writes what is here and adds nothing; the length is computed when it writes.
    document.file_meta.FileMetaInformationGroupLength = 0
    document.file_meta.TransferSyntaxUID = ExplicitVRLittleEndian
    document.file_meta.MediaStorageSOPClassUID = document.SOPClassUID
    document.file_meta.MediaStorageSOPInstanceUID = document.SOPInstanceUID
    validate_file_meta(document.file_meta)
    return document


def _reference(image: Dataset) -> Dataset:
    item = Dataset()
    item.ReferencedSOPClassUID = image.SOPClassUID
    item.ReferencedSOPInstanceUID = image.SOPInstanceUID
    return item
