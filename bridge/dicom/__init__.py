"""Radiographs by their headers: the state of a study, derived UIDs and pseudonyms, de-identification."""
