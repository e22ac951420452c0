"""Heads that are computed one after the other give the features of heads that are computed together."""

from pathlib import Path

import pytest
import torch

from export.export_onnx import export_onnx
from prelim.networks.vision import attention_by_head
from prelim.networks.vision.attention_by_head import BY_HEAD, choose_attention
from prelim.networks.vision.feature_tower import MODEL_TYPES, SIGLIP, FeatureTower


def tower(kind: str) -> FeatureTower:
    """A small tower with random weights."""
    torch.manual_seed(0)
    made = FeatureTower(
        model_type=kind,
        image_size=32,
        patch_size=8,
        width=48,
        layers=2,
        heads=3,
        feedforward=96,
        activation="gelu",
        features=[2],
    )
    return made.eval().requires_grad_(False)


@pytest.mark.parametrize("kind", MODEL_TYPES)
def test_features_are_the_same(kind: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Of every kind of tower."""
    together = tower(kind)
    monkeypatch.setattr(attention_by_head, "LARGEST_SCORES", 0)
    one_by_one = tower(kind)
    images = torch.randn(2, 3, 32, 32)
    called = []
    monkeypatch.setattr(
        attention_by_head,
        "scaled_dot_product_attention",
        lambda *heads, **options: (
            called.append(0) or torch.nn.functional.scaled_dot_product_attention(*heads, **options)
        ),
    )

    torch.testing.assert_close(one_by_one(images), together(images), rtol=1e-5, atol=1e-5)
    # Of three heads in two layers.
    assert len(called) == 6


def test_they_can_be_exported(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """`export_onnx` compares the file with PyTorch, also for another number of images."""
    monkeypatch.setattr(attention_by_head, "LARGEST_SCORES", 0)

    export_onnx(tower(SIGLIP), torch.randn(2, 3, 32, 32), tmp_path / "vision.onnx", inputs="images", outputs="features")


def test_large_images_alone_are_encoded_so() -> None:
    """MedGemma's of 896 pixels, whose scores would take gigabytes, and not LLaVA's of 336 or Rad-DINO's of 518."""
    chosen = [choose_attention((side // 14) ** 2, heads) for side, heads in ((896, 16), (518, 12), (336, 16))]
    assert chosen == [BY_HEAD, "sdpa", "sdpa"]
