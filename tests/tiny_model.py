"""A model folder that is made in a second: system 1 with the smallest dimensions, random weights."""

import io
from pathlib import Path

import numpy as np
import torch
from PIL import Image
from tokenizers import Tokenizer, decoders, models

from prelim.archive.model_config import ModelConfig, SpecialTokens
from prelim.generation.options import GenerationOptions
from prelim.images.preprocess import PreprocessConfig, preprocess
from prelim.images.radiograph import InputConfig, read_radiograph
from prelim.networks.model_folder import Model, build_network, write_model_folder

PIECES = [
    *("[PAD]", "[UNK]", "[CLS]", "[SEP]", "findings", ":", "the", "heart", "is", "not", "enlarged", "."),
    *("no", "effusion", "impression", "normal", "chest"),
]

CONFIG = ModelConfig(
    name="tiny",
    version="1.0",
    licence="none, random weights",
    architecture="mobilenet_graph",
    vision={},
    connector={"width": 32},
    decoder={
        "kind": "cross_attention",
        "vocab_size": len(PIECES),
        "width": 32,
        "layers": 2,
        "heads": 4,
        "feedforward": 64,
        "max_positions": 48,
    },
    tokenizer=SpecialTokens(bos_token_id=2, eos_token_id=3, pad_token_id=0),
    input=InputConfig(),
    preprocess=PreprocessConfig(size=64, mean=(0.5, 0.5, 0.5), std=(0.25, 0.25, 0.25)),
    generation=GenerationOptions(max_new_tokens=24),
)


def write_tiny_model(folder: Path, config: ModelConfig = CONFIG, seed: int = 0) -> Path:
    """Write the model folder; its reports depend on the image."""
    torch.manual_seed(seed)
    network = build_network(config)
    for name, parameter in network.named_parameters():
        if parameter.ndim > 1 and not name.startswith("vision."):
            # The image must matter, but not so much that the words before do not.
            gain = 0.5 if "cross_attention" in name else 2.0
            torch.nn.init.normal_(parameter, std=2.0 if "embedding" in name else gain / parameter.shape[-1] ** 0.5)
    # An untrained encoder is nearly blind until its batch norms have seen what images differ in.
    with torch.no_grad():
        for module in network.vision.modules():
            if isinstance(module, torch.nn.BatchNorm2d):
                module.momentum = None
        images = torch.randn(64, 1, 64, 64).cumsum(2).cumsum(3)
        network.vision.train()
        network.vision((images / images.std()).expand(-1, 3, -1, -1))
        network.decoder.lm_head.bias[:2] = -1e4
        network.decoder.lm_head.bias[3] += 1
    tokenizer = Tokenizer(models.WordLevel({piece: i for i, piece in enumerate(PIECES)}, unk_token="[UNK]"))  # noqa: S106
    tokenizer.add_special_tokens(PIECES[:4])
    tokenizer.decoder = decoders.WordPiece()
    write_model_folder(folder, config, network.eval().state_dict(), tokenizer)
    return folder


def seen(model: Model, image: bytes) -> torch.Tensor:
    """The image_features of one file, shape (1, ...), computed by the network in PyTorch."""
    pixel_values = preprocess(read_radiograph(image, model.config.input), model.config.preprocess)
    with torch.inference_mode():
        return model.network.vision(torch.from_numpy(pixel_values)[None]).clone()


def png(seed: int = 0, side: int = 80) -> bytes:
    """A smooth random gray picture as a PNG file."""
    field = np.random.default_rng(seed).normal(size=(side, side)).cumsum(0).cumsum(1)
    gray = (255 * (field - field.min()) / np.ptp(field)).astype(np.uint8)
    file = io.BytesIO()
    Image.fromarray(gray).save(file, "PNG")
    return file.getvalue()
