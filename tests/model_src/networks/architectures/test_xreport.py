"""System 4: its size, its export and its reports."""

import io
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from export.export_onnx import export_onnx
from prelim.networks.architectures import ARCHITECTURES
from prelim.report_generator import ReportGenerator, ReportRequest
from tests.archives import write_files
from tests.forcing import logits_after_each
from tests.tiny_model import seen
from tests.tiny_xreport import BOS, EOS, SIZE, greedy_of_the_original, small_model, tiny_network

PUBLISHED = {
    "vision": {"widths": [32, 64, 128, 256, 512], "depths": [2, 2, 3, 3, 3], "dense": 3, "token_width": 256},
    "connector": {"width": 256, "layers": 3, "heads": 4, "head_width": 256},
    "decoder": {
        "kind": "cross_attention",
        "vocab_size": 30523,
        "width": 256,
        "layers": 3,
        "heads": 4,
        "head_width": 256,
        "feedforward": 256,
        "head_hidden": 1024,
        "max_positions": 159,
    },
}


def test_published_size() -> None:
    """The network has the published number of variables; as in Keras, including batch norm statistics."""
    with torch.device("meta"):
        network = ARCHITECTURES["xreport"].build(PUBLISHED)

    variables = {key: value for key, value in network.state_dict().items() if "num_batches" not in key}
    assert sum(value.numel() for value in variables.values()) == 53_942_011


@pytest.mark.parametrize("size", [SIZE, 51])
def test_exported_networks_compute_the_same(tmp_path: Path, size: int) -> None:
    """ONNX = PyTorch for vision and connector for any batch size, also when pooling odd sides."""
    network = tiny_network()
    images = torch.rand(2, 1, size, size, generator=torch.Generator().manual_seed(1))

    vision = export_onnx(network.vision, images, tmp_path / "v.onnx", inputs="pixel_values", outputs="image_features")
    features = network.vision(images)
    connector = export_onnx(
        network.connector, features, tmp_path / "c.onnx", inputs="image_features", outputs="image_embeds"
    )

    assert max(vision, connector) < 1e-4
    assert not torch.allclose(features[0], features[1], atol=1e-2)


def test_later_tokens_change_nothing() -> None:
    """The logits of a position do not depend on later tokens, padding or not."""
    network = tiny_network()
    embeds = torch.randn(1, 50, 16, generator=torch.Generator().manual_seed(0))
    ids = torch.tensor([[BOS, 7, 9, 11]])

    short = logits_after_each(network.decoder, embeds, ids)
    padded = logits_after_each(network.decoder, embeds, torch.nn.functional.pad(ids, (0, 6)))
    followed = logits_after_each(network.decoder, embeds, torch.cat([ids, torch.tensor([[4, 5]])], dim=1))

    torch.testing.assert_close(padded[:, :4], short)
    torch.testing.assert_close(followed[:, :4], short)


def test_served_reports_equal_the_original(tmp_path: Path) -> None:
    """The served reports equal those of the original's loop, up to the last position."""
    model = small_model()
    write_files(model, tmp_path)
    pixels = np.random.default_rng(0).integers(0, 256, (6, SIZE, SIZE), dtype=np.uint8)
    # In the network's size, 8 bits, with a white and a black pixel: preprocessing does not change it.
    pixels[:, 0, :2] = 0, 255
    files = [io.BytesIO() for _ in pixels]
    for file, image in zip(files, pixels, strict=True):
        Image.fromarray(image).save(file, "PNG")

    reports = ReportGenerator.load(tmp_path).generate([ReportRequest(image=file.getvalue()) for file in files])

    expected = [greedy_of_the_original(model, seen(model, file.getvalue())) for file in files]
    found = [[token for token in report.token_ids if token != EOS] for report in reports]
    assert found == expected
    assert len({tuple(ids) for ids in expected}) > 1
