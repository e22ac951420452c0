"""Quantize a network with NNCF, in the environment of the peers: `python nncf.py NETWORK IMAGES OUT`.

NETWORK : .onnx file
IMAGES  : .npy file, float32, shape (images, channels, size, size)
OUT     : .xml file of OpenVINO, for a batch of any size
"""

import sys

import numpy as np


def main() -> None:
    """Command line."""
    # This file must not be found as the package of its name, and OpenVINO would report its import over the network.
    sys.path.pop(0)
    sys.modules["openvino_telemetry"] = None  # type: ignore[assignment]
    import nncf
    import openvino

    network, images, out = sys.argv[1:]
    model = openvino.Core().read_model(network)
    transformer = any(node.get_type_name() == "Softmax" for node in model.get_ops())
    dataset = nncf.Dataset([image[None] for image in np.load(images)])
    quantized = nncf.quantize(
        model,
        dataset,
        subset_size=len(np.load(images)),
        preset=nncf.QuantizationPreset.MIXED,
        model_type=nncf.ModelType.TRANSFORMER if transformer else None,
    )
    openvino.save_model(quantized, out, compress_to_fp16=False)


if __name__ == "__main__":
    main()
