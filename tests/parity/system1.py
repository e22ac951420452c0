"""System 1 through import, ONNX-ready networks and engine."""

from collections.abc import Iterator
from pathlib import Path

import torch
from torch.nn.functional import cross_entropy

from export.import_checkpoint import import_checkpoint
from prelim.generation.decode_request import DecodeRequest
from prelim.generation.engine import Engine
from prelim.generation.options import GenerationOptions
from prelim.images.preprocess import preprocess_image
from prelim.networks.model_folder import read_network
from tests.forcing import logits_after_each
from tests.parity.fixture import Fixture, Value, pil_pattern

SECTIONS = {"outputs": False, "outputs_fanin": True}
"""Section of the fixture -> whether rule B fills its weights."""


def outputs(fixture: Fixture, section: str, folder: Path) -> Iterator[tuple[str, Value]]:
    """Yield every output of one section with its recorded name."""
    torch.save(fixture.weights("model", fan_in=SECTIONS[section]), folder / "pytorch_model.bin")
    import_checkpoint("mobilenet_graph", [folder / "pytorch_model.bin"], None, folder / "model", "parity")
    config, network = read_network(folder / "model")
    images = fixture.normal("input/image", (2, 3, 224, 224))
    captions = fixture.integers("input/captions", (2, 12), 103, 30000)
    captions[:, 0], captions[0, 9:], captions[1, 11] = 101, 0, 102
    yield "input/image", images
    yield "input/captions", captions
    features = network.vision(images)
    yield "features", features.transpose(1, 2).reshape(2, 576, 7, 7)
    yield "vis_proj", network.connector.proj(features)
    yield "graph_layer_standalone", network.connector.propagate(fixture.normal("input/tokens49", (2, 49, 512)))
    memory = network.connector(features)
    yield "memory", memory
    yield "memory_via_encode_images", memory
    yield "logits", logits_after_each(network.decoder, memory, captions)
    logits = network.decoder.teacher_forcing(memory, captions[:, :1], captions[:, 1:])
    yield "loss_eval_mode", cross_entropy(logits.flatten(0, 1), captions[:, 1:].flatten(), ignore_index=0).item()
    # The published loop continues after end-of-text until all rows end in the same step: here, to the maximum length.
    engine = Engine(network.decoder, slots=2, eos_token_ids=[-1], pad_token_id=0, detokenize=str)
    options = GenerationOptions(max_new_tokens=12)
    done = engine.decode({f"{i}": DecodeRequest(memory[i], (101,), options) for i in range(2)})
    rows = [[101, *done[f"{i}"][0].token_ids] for i in range(2)]
    yield "generate_batch1_max_len12", rows[0]
    yield "generate_batch2_max_len12", [*rows[0], *rows[1]]
    for width, height in ((300, 260), (640, 480)):
        image = preprocess_image(pil_pattern(width, height), config.preprocess)
        yield f"preprocess_{width}x{height}", torch.from_numpy(image)
