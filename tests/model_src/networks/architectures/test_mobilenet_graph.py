"""System 1 at its published size."""

from prelim.networks.architectures import ARCHITECTURES


def test_published_size() -> None:
    """The network has the published number of parameters."""
    parts = {
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

    network = ARCHITECTURES["mobilenet_graph"].build(parts)

    assert sum(parameter.numel() for parameter in network.parameters()) == 49_566_298
