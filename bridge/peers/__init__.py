"""The systems that the bridge talks to: PACS (DICOMweb, DIMSE), RIS (HL7 v2), FHIR server, report server."""
