"""System 2 through import, ONNX-ready networks and engine."""

import json
from collections.abc import Iterator
from pathlib import Path

import torch
from torch import Tensor, nn
from torch.nn.functional import cross_entropy

from export.checkpoints.published_weights import our_weights
from export.import_checkpoint import import_checkpoint
from prelim.decoders.decoder import IMAGE
from prelim.generation.decode_request import DecodeRequest
from prelim.generation.engine import Engine
from prelim.generation.options import GenerationOptions
from prelim.images.preprocess import preprocess_image
from prelim.networks.architectures import ARCHITECTURES
from prelim.networks.connectors.disease_attention import DiseaseAttention
from prelim.networks.model_folder import read_network
from prelim.networks.trained_decoder import serving_decoder
from prelim.networks.transformers_lm import TransformersLM
from tests.parity.fixture import Fixture, Value, pil_pattern

SECTIONS = {"outputs": False, "outputs_fanin": True}
"""Section of the fixture -> whether rule B fills its weights."""

SYSTEM = "densenet_disease_llama"
EOS = 2


def outputs(fixture: Fixture, section: str, folder: Path) -> Iterator[tuple[str, Value]]:
    """Yield every output of one section with its recorded name."""
    fan_in = SECTIONS[section]
    torch.save(fixture.weights("vision", fan_in=fan_in), folder / "dense_net_121_d_e50.pth")
    torch.save(fixture.weights("model", fan_in=fan_in), folder / "checkpoint.pth")
    (folder / "config.json").write_text(json.dumps(fixture.contents["tiny_llm_config"]), encoding="utf-8")
    files = [folder / name for name in ("dense_net_121_d_e50.pth", "checkpoint.pth", "config.json")]
    import_checkpoint(SYSTEM, files, None, folder / "model", "parity")
    config, network = read_network(folder / "model")
    images = fixture.normal("input/image", (2, 3, 224, 224))
    yield "input/image", images
    features = network.vision(images)
    yield "densenet_features", features.transpose(1, 2).reshape(2, 1024, 7, 7)
    attended = network.connector.attend(features)
    yield "attended", attended
    yield "attention_weights", network.connector.attention(features)[0].flatten(1).t()[..., None]
    yield "disease_logits", network.connector.disease_logits(features)
    yield "visual_features", attended
    words = fixture.contents["tiny_llm_config"]["vocab_size"]
    ids = fixture.integers("input/ids", (2, 9), 3, words - 1)
    ids[:, 0], ids[1, 7:] = 1, words - 1
    yield "input/ids", ids
    visual = fixture.normal("input/visual", (2, 14, 1024))
    yield "input/visual", visual
    yield from _true_projection(fixture, fan_in, features, ids, visual)
    yield from _language_model(network.connector, network.decoder, visual, ids)
    image = preprocess_image(pil_pattern(224, 224), config.preprocess)
    yield "preprocess_224x224", torch.from_numpy(image)


def _true_projection(
    fixture: Fixture, fan_in: bool, features: Tensor, ids: Tensor, visual: Tensor
) -> Iterator[tuple[str, Value]]:
    """The projection to Llama's full width; the fixture has only the token embeddings of the language model."""
    stub = fixture.weights("true_projection", fan_in=fan_in)
    words = stub.pop("llm_model.embed_tokens.weight")
    encoder = fixture.weights("vision", fan_in=fan_in)
    published = ARCHITECTURES[SYSTEM].published
    weights, _ = our_weights(published, encoder | stub)
    prefix = "connector."
    connector = DiseaseAttention(1024, words.shape[1])
    weights = {key.removeprefix(prefix): value for key, value in weights.items() if key.startswith(prefix)}
    weights["attention_weights"] = weights["attention_weights"].squeeze(-1)
    connector.load_state_dict(weights)
    section = {"model_type": "llama", "vocab_size": len(words), "hidden_size": words.shape[1], "num_hidden_layers": 0}
    decoder = TransformersLM({**section, "tie_word_embeddings": True})
    decoder.body.embed_tokens.weight.copy_(words)
    embeds = connector(features)
    yield "visual_projection_true", embeds
    yield "combined_embeddings_true_hidden4096", decoder.embed(embeds, _prompts(ids))
    yield "visual_projection_true_unitvar", connector.proj(visual)


def _language_model(
    connector: DiseaseAttention, decoder: TransformersLM, visual: Tensor, ids: Tensor
) -> Iterator[tuple[str, Value]]:
    """Logits, loss and reports of the language model for given disease features."""
    embeds = connector.proj(visual)
    prefix = embeds.shape[1]
    mask = torch.ones(2, prefix + ids.shape[1], dtype=torch.int64)
    mask[1, prefix + 7 :] = 0
    # The record has logits after padding too, so it needs the original's mask.
    hidden = decoder.body(inputs_embeds=decoder.embed(embeds, _prompts(ids)), attention_mask=mask).last_hidden_state
    logits = decoder.logits(hidden)
    yield "tiny_logits", logits
    labels = torch.full(mask.shape, -100)
    labels[:, prefix + 4 :] = ids[:, 4:]
    labels[1, prefix + 7 :] = -100
    yield "tiny_loss", cross_entropy(logits[:, :-1].flatten(0, 1), labels[:, 1:].flatten()).item()
    engine = Engine(serving_decoder(decoder), slots=1, eos_token_ids=[EOS], pad_token_id=0, detokenize=str)
    options = GenerationOptions(
        num_beams=5, early_stopping=True, no_repeat_ngram_size=2, max_new_tokens=40 - mask.shape[1]
    )
    done = engine.decode({"": DecodeRequest(embeds[0], tuple(_prompts(ids)[0].tolist()), options)})
    yield "tiny_generate_beam5_norepeat2_maxlen40", list(done[""][0].token_ids)


def _prompts(ids: Tensor) -> Tensor:
    """Prepend the image to the prompts."""
    return nn.functional.pad(ids, (1, 0), value=IMAGE)
