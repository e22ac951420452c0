"""The checkpoint that the memory benchmark imports equals the published one except for its values."""

import pytest
import torch

from benchmarks.models.random_checkpoint import CHECKPOINTS
from tests.parity.fixture import fixture_path, read_fixture


@pytest.mark.slow
def test_keys_and_shapes_are_those_of_the_fixture() -> None:
    """Every recorded key of the original exists with its shape, and the number of parameters is equal."""
    fixture = read_fixture(fixture_path(0))
    recorded = {entry["key"]: tuple(entry["shape"]) for entry in fixture["modules"]["model"]["state_dict"]}

    with torch.device("meta"):
        checkpoint = CHECKPOINTS["biomedclip_qformer_biogpt"]()

    # The fixture has two of BioGPT's 24 layers, each with 16 tensors.
    found = {key: tuple(value.shape) for key, value in checkpoint.items()}
    assert {key: found[key] for key in recorded} == recorded
    assert len(found) == len(recorded) + 22 * 16
    tied = checkpoint["biogpt_decoder.output_projection.weight"].numel()
    assert sum(value.numel() for value in checkpoint.values()) - tied == 626_173_185
