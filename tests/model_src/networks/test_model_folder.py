"""Calibrations stay valid when the project gets new settings."""

from pathlib import Path

from prelim.networks.model_folder import hash_model, read_model_folder

DEMO = Path(__file__).parents[3] / "models" / "demo"


def test_the_demos_calibration_is_of_its_model() -> None:
    """Settings that are newer than it, with their defaults, are not in the hash."""
    model = read_model_folder(DEMO)

    assert model.confidence is not None
    assert model.confidence.model == hash_model(DEMO, model.config)
