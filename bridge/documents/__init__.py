"""A draft as DICOM documents: Basic Text SR, measurement report (TID 1500), encapsulated PDF."""
