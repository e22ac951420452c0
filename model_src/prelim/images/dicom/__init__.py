"""DICOM files: bytes -> stored values -> gray levels."""
