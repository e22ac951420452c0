"""System 0 through import, ONNX-ready networks and engine."""

from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from open_clip.hf_model import HFTextEncoder
from torch import Tensor
from torch.nn.functional import cross_entropy, normalize
from transformers import BertConfig

from export.import_checkpoint import import_checkpoint
from prelim.archive.model_config import ModelConfig
from prelim.decoders.decoder import IMAGE, Decoder
from prelim.generation.decode_request import DecodeRequest
from prelim.generation.engine import Engine
from prelim.generation.options import GenerationOptions
from prelim.images.preprocess import preprocess_image
from prelim.networks.architectures.architecture import Network
from prelim.networks.model_folder import read_network
from prelim.networks.trained_decoder import serving_decoder
from tests.parity.fixture import Fixture, Value, pil_pattern

SECTIONS = {"outputs": False, "outputs_fanin": True}
"""Section of the fixture -> whether rule B fills its weights."""

TEXT = "biomedclip_encoder.model.text."
PAD = 1


def outputs(fixture: Fixture, section: str, folder: Path) -> Iterator[tuple[str, Value]]:
    """Yield every output of one section with its recorded name."""
    weights = fixture.weights("model", fan_in=SECTIONS[section])
    torch.save(weights, folder / "final_model.pth")
    import_checkpoint("biomedclip_qformer_biogpt", [folder / "final_model.pth"], None, folder / "model", "parity")
    config, network = read_network(folder / "model")
    images = fixture.normal("input/image", (2, 3, 224, 224))
    yield "input/image", images
    tokens = network.vision.trunk.forward_features(images)
    yield "vit_tokens", tokens
    yield "biomedclip_raw", network.vision.project(tokens)
    features = network.vision(images)
    yield "biomedclip_l2norm", features
    yield "qformer_from_l2norm", network.connector.query(features)
    text = fixture.integers("input/cliptext", (2, 16), 5, 30000)
    text[:, 0], text[1, 12:] = 2, 0
    yield "input/cliptext", text
    yield "biomedclip_text", _text_tower(fixture, weights)(text)
    yield from _language(fixture, config, network)
    for width, height in ((300, 260), (640, 480)):
        image = preprocess_image(pil_pattern(width, height), config.preprocess)
        yield f"preprocess_{width}x{height}", torch.from_numpy(image)


def _language(fixture: Fixture, config: ModelConfig, network: Network) -> Iterator[tuple[str, Value]]:
    """Outputs computed from an image feature: queries, logits, loss and token ids."""
    feature = normalize(fixture.normal("input/feature", (2, 512)), dim=1)
    yield "input/feature_l2", feature
    yield "qformer", network.connector.query(feature)
    many = fixture.normal("input/tokens", (2, 50, 512))
    mask = torch.ones(2, 50)
    mask[1, 30:] = 0
    yield "qformer_50tokens", network.connector.query(many)
    yield "qformer_50tokens_masked", network.connector.query(many, mask)
    image_embeds = network.connector(feature)
    yield "projection", image_embeds
    ids = fixture.integers("input/ids", (2, 10), 5, 42000)
    ids[:, 0], ids[:, 1], ids[0, 9], ids[1, 6], ids[1, 7:] = 2, 0, 2, 2, PAD
    yield "input/ids", ids
    embeds = network.decoder.embed(image_embeds, torch.cat([torch.full((2, 1), IMAGE), ids], dim=1))
    yield "report_embeddings", embeds[:, 32:]
    seen = torch.cat([torch.ones(2, 32), ids != PAD], dim=1).long()
    # The record has logits after padding too, so it needs the original's mask.
    decoder = network.decoder
    logits = decoder.logits(decoder.body(inputs_embeds=embeds, attention_mask=seen).last_hidden_state)
    yield "biogpt2_logits", logits
    # The published loss includes padding.
    yield "loss", cross_entropy(logits[:, 31:-1].flatten(0, 1), ids.flatten()).item()
    served = serving_decoder(decoder)
    published = replace(config.generation, max_new_tokens=24)
    yield "generate_hf_kwargs_max24", _decode(config, served, image_embeds[0], (IMAGE,), published)
    prompt = (IMAGE, 2, 11, 12, 13, 14)
    yield "generate_hf_kwargs_prompt_max24", _decode(config, served, image_embeds[0], prompt, published)
    greedy = GenerationOptions(max_new_tokens=16)
    yield "generate_greedy16", _decode(config, served, image_embeds[0], (IMAGE,), greedy)


def _decode(
    config: ModelConfig, served: Decoder[Any], image: Tensor, prompt: tuple[int, ...], options: GenerationOptions
) -> list[int]:
    """Generate the token ids of one report."""
    tokens = config.tokenizer
    engine = Engine(
        served,
        slots=1,
        eos_token_ids=[tokens.eos_token_id],
        pad_token_id=tokens.pad_token_id,
        detokenize=str,
    )
    return list(engine.decode({"": DecodeRequest(image, prompt, options)})[""][0].token_ids)


def _text_tower(fixture: Fixture, weights: dict[str, Tensor]) -> HFTextEncoder:
    """BiomedCLIP's text tower in open_clip, built from exactly the keys that the import ignores as the text tower.

    The system does not use it. Reproducing the recorded outputs verifies the reason for ignoring these keys.
    """
    own = {key.removeprefix(TEXT): value for key, value in weights.items() if key.startswith(TEXT)}
    vocab_size, width = own["transformer.embeddings.word_embeddings.weight"].shape
    layers = sum(key.endswith(".intermediate.dense.weight") for key in own)
    tower = HFTextEncoder(
        "bert",
        output_dim=own["proj.2.weight"].shape[0],
        config=BertConfig(
            vocab_size=vocab_size,
            hidden_size=width,
            num_hidden_layers=layers,
            num_attention_heads=width // 64,
            intermediate_size=own["transformer.encoder.layer.0.intermediate.dense.weight"].shape[0],
        ),
        pooler_type=fixture.contents["biomedclip_config"]["text_cfg"]["hf_pooler_type"],
        proj_type=fixture.contents["biomedclip_config"]["text_cfg"]["hf_proj_type"],
        pretrained=False,
    )
    tower.transformer.pooler = None
    tower.load_state_dict(own)
    return tower.eval()
