"""vision.onnx or connector.onnx with products of 8 bits, by scales of what its layers read and write for images.

ONNX Runtime's own calibration and its form for it: pairs of QuantizeLinear and DequantizeLinear, which ONNX Runtime and
OpenVINO compute without leaving 8 bits.
"""

import logging
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import onnx

from export.export_onnx import strip_metadata
from prelim.encoding.onnx_session import Array

_PRODUCTS = ("Conv", "Gemm", "MatMul")
_FLOAT_OUTPUTS = {"onnxruntime": ("Gemm", "MatMul"), "openvino": _PRODUCTS}
"""Runtime -> products whose outputs are not rounded. ONNX Runtime computes convolutions in 8 bits only with them."""


class _Inputs:
    """What ONNX Runtime's calibration reads: one input at a time."""

    def __init__(self, name: str, inputs: Array) -> None:
        self._feeds: Iterator[dict[str, Any]] = ({name: one[None]} for one in inputs)

    def get_next(self) -> dict[str, Any] | None:
        """The next input, None after the last one."""
        return next(self._feeds, None)


def quantize_network(path: Path, inputs: Array, out: Path, runtime: str) -> None:
    """Write the network of a file with products of 8 bits.

    inputs  : by which scales are set, what the network reads of each image, shape (images, ...)
    out     : another file, its weights in `<out>.data`
    runtime : which is to run it; others can, but slower or with larger errors
    """
    # Imported here because it takes seconds.
    from onnxruntime.quantization import QuantFormat, QuantType, quantize_static

    model = onnx.load(path)
    # Shapes are inferred again; those that the exporter noted for transposed weights would contradict them.
    del model.graph.value_info[:]
    # It recommends to optimize the network first, which would fuse what OpenVINO fuses itself.
    with _without_warnings():
        quantize_static(
            model,
            out,
            _Inputs(model.graph.input[0].name, inputs),
            quant_format=QuantFormat.QDQ,
            op_types_to_quantize=list(_PRODUCTS),
            per_channel=True,
            activation_type=QuantType.QUInt8,
            weight_type=QuantType.QInt8,
            use_external_data_format=True,
            extra_options={"OpTypesToExcludeOutputQuantization": list(_FLOAT_OUTPUTS[runtime])},
        )
    written = onnx.load(out, load_external_data=False)
    strip_metadata(written)
    onnx.save(written, out)


@contextmanager
def _without_warnings() -> Iterator[None]:
    """Keep warnings out of the log, as they were before afterwards, whatever happens."""
    before = logging.root.manager.disable
    logging.disable(max(before, logging.WARNING))
    try:
        yield
    finally:
        logging.disable(before)
