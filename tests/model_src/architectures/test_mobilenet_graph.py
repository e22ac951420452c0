"""System 1 computes what the published implementation computes."""

from pathlib import Path

import pytest
import torch
from torch.nn.functional import cross_entropy

from model_src.architectures import ARCHITECTURES
from model_src.architectures.architecture import Network
from model_src.generation.engine import DecodeRequest, Engine
from model_src.generation.options import GenerationOptions
from tests.fixture_weights import Fixture

PUBLISHED = {
    "vision": {},
    "connector": {"width": 512},
    "decoder": {
        "kind": "cross_attention",
        "vocab_size": 30522,
        "width": 512,
        "layers": 5,
        "heads": 8,
        "feedforward": 1024,
        "max_positions": 2000,
    },
}


def published_network(fixture: Fixture) -> Network:
    """The network at its published size, with the fixture's checkpoint under its published names."""
    architecture = ARCHITECTURES["mobilenet_graph"]
    network = architecture.build(PUBLISHED).eval()
    shapes = {key: tensor.shape for key, tensor in network.state_dict().items()}
    weights = {architecture.our_key(key): tensor for key, tensor in fixture.state_dict("model").items()}
    assert weights.keys() == shapes.keys()
    network.load_state_dict({key: tensor.reshape(shapes[key]) for key, tensor in weights.items()})
    return network


def test_published_size() -> None:
    """The network has the published number of parameters."""
    network = ARCHITECTURES["mobilenet_graph"].build(PUBLISHED)

    assert sum(parameter.numel() for parameter in network.parameters()) == 49_566_298


@pytest.mark.parametrize("fan_in", [False, True])
def test_outputs_equal_the_shared_fixture(shared: Path, fan_in: bool) -> None:
    """Features, memory, logits, loss and generated token ids are those of the original implementation."""
    fixture = Fixture(shared / "fixtures" / "system1.json", fan_in=fan_in)
    network = published_network(fixture)
    images = fixture.normal("input/image", (2, 3, 224, 224))
    captions = fixture.integers("input/captions")
    with torch.inference_mode():
        features = network.vision(images)
        fixture.assert_close("features", features.transpose(1, 2).reshape(2, 576, 7, 7))
        fixture.assert_close("vis_proj", network.connector.proj(features))
        tokens = fixture.normal("input/tokens49", (2, 49, 512))
        fixture.assert_close("graph_layer_standalone", network.connector.propagate(tokens))
        memory = network.connector(features)
        fixture.assert_close("memory", memory)
        fixture.assert_close("logits", network.decoder(memory, captions))
        logits = network(images, captions[:, :-1])
        loss = cross_entropy(logits.flatten(0, 1), captions[:, 1:].flatten(), ignore_index=0)
    assert loss.item() == pytest.approx(fixture.outputs["loss_eval_mode"]["value"], rel=1e-3)
    # The published loop does not stop at the end of text here: 12 tokens whatever they are.
    engine = Engine(network.decoder, slots=2, eos_token_ids=[-1], pad_token_id=0, detokenize=str)
    options = GenerationOptions(max_new_tokens=12)
    engine.add({f"{i}": DecodeRequest(memory[i], (101,), options) for i in range(2)})
    done = {}
    while engine.active:
        done.update(engine.step())
    generated = [[101, *done[f"{i}"][0].token_ids] for i in range(2)]
    assert generated == fixture.integers("generate_batch2_max_len12").tolist()
