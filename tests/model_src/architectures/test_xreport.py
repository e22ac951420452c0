"""System 4: its size, its export, and the words it writes."""

import io
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from tokenizers import Tokenizer, models
from torch import Tensor

from export.export_onnx import export_onnx
from export.package import write_files
from model_src.architectures import ARCHITECTURES
from model_src.architectures.architecture import Network
from model_src.model_config import ModelConfig
from model_src.model_folder import Model
from model_src.report_generator import ReportGenerator, ReportRequest
from tests.tiny_xreport import PARTS, POSITIONS, SIZE, VOCAB_SIZE, tiny_network

BOS, EOS, PAD = 1, 2, 0
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
    """The network has the published number of variables; Keras counts the statistics of batch norms among them."""
    with torch.device("meta"):
        network = ARCHITECTURES["xreport"].build(PUBLISHED)

    variables = {key: value for key, value in network.state_dict().items() if "num_batches" not in key}
    assert sum(value.numel() for value in variables.values()) == 53_942_011


@pytest.mark.parametrize("size", [SIZE, 51])
def test_exported_networks_compute_the_same(tmp_path: Path, size: int) -> None:
    """ONNX = PyTorch for vision and connector in any batch, also where the pooling meets odd sides."""
    network = tiny_network()
    images = torch.rand(2, 1, size, size, generator=torch.Generator().manual_seed(1))

    vision = export_onnx(network.vision, images, tmp_path / "v.onnx", inputs="pixel_values", outputs="image_features")
    features = network.vision(images)
    connector = export_onnx(
        network.connector, features, tmp_path / "c.onnx", inputs="image_features", outputs="image_embeds"
    )

    assert max(vision, connector) < 1e-4
    assert not torch.allclose(features[0], features[1], atol=1e-2)


def test_padding_to_come_changes_nothing() -> None:
    """What stands after a position, padding or not, has no influence on its logits."""
    network = tiny_network()
    embeds = torch.randn(1, 50, 16, generator=torch.Generator().manual_seed(0))
    ids = torch.tensor([[BOS, 7, 9, 11]])

    short = network.decoder(embeds, ids)
    padded = network.decoder(embeds, torch.nn.functional.pad(ids, (0, 6)))
    followed = network.decoder(embeds, torch.cat([ids, torch.tensor([[4, 5]])], dim=1))

    torch.testing.assert_close(padded[:, :4], short)
    torch.testing.assert_close(followed[:, :4], short)


def greedy_of_the_original(network: Network, pixel_values: Tensor) -> list[int]:
    """The published loop: all positions padded with 0 and computed anew for every token."""
    sequence = torch.zeros(1, POSITIONS + 1, dtype=torch.int64)
    sequence[0, 0] = BOS
    for i in range(1, POSITIONS + 1):
        sequence[0, i] = network(pixel_values, sequence[:, :-1])[0, i - 1].argmax()
        if sequence[0, i] == EOS:
            return sequence[0, 1:i].tolist()
    return sequence[0, 1:].tolist()


def test_served_reports_are_those_of_the_original(tmp_path: Path) -> None:
    """Archive, ONNX Runtime and the cached decoder write what the original's loop writes, up to the last position."""
    network = tiny_network()
    network.decoder.lm_head.bias[PAD] = -1e4
    config = ModelConfig.from_mapping(
        {
            **ARCHITECTURES["xreport"].published.defaults,
            "name": "tiny",
            "version": "1.0",
            "architecture": "xreport",
            **PARTS,
            "tokenizer": {"bos_token_id": BOS, "eos_token_id": EOS, "pad_token_id": PAD},
            "preprocess": {"size": SIZE, "channels": 1, "antialias": False, "mean": [0.0], "std": [1.0]},
            "generation": {"max_new_tokens": POSITIONS},
        },
        "tiny",
    )
    tokenizer = Tokenizer(models.WordLevel({f"w{i}": i for i in range(VOCAB_SIZE)}, unk_token="w0"))  # noqa: S106
    write_files(Model(config, network, tokenizer), tmp_path)
    pixels = np.random.default_rng(0).integers(0, 256, (6, SIZE, SIZE), dtype=np.uint8)
    # Of the size that the network takes, in 8 bits and on a white and a black pixel: no rendering changes it.
    pixels[:, 0, :2] = 0, 255
    files = [io.BytesIO() for _ in pixels]
    for file, image in zip(files, pixels, strict=True):
        Image.fromarray(image).save(file, "PNG")

    reports = ReportGenerator.load(tmp_path).generate([ReportRequest(image=file.getvalue()) for file in files])

    expected = [greedy_of_the_original(network, torch.from_numpy(image)[None, None] / 255) for image in pixels]
    found = [[token for token in report.token_ids if token != EOS] for report in reports]
    assert found == expected
    assert len({tuple(ids) for ids in expected}) > 1
