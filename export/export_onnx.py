"""Exports vision encoder and connector to ONNX, and compares the result with PyTorch."""

from collections.abc import Mapping
from pathlib import Path
from types import MappingProxyType

import numpy as np
import onnx
import torch
from torch import Tensor, nn

from prelim.encoding.onnx_session import OnnxSession
from prelim.errors import ArchiveError

OPSET = 20
TOLERANCE = 1e-4
"""Largest accepted difference from PyTorch, relative to the largest output. Summing float32 in another order changes
results by 1e-6 to 1e-5 in networks of this depth; a wrong operator changes them by far more."""

_MOST_UNITS = 4096
"""Of a dimension that varies."""


def export_onnx(
    module: nn.Module,
    example: Tensor,
    path: Path,
    *,
    inputs: str,
    outputs: str,
    varying: Mapping[int, int] = MappingProxyType({}),
) -> float:
    """Export a network with one input and one output; the first dimension of both is the batch.

    The weights go to `<path>.data`, for two reasons: ONNX Runtime memory-maps that file, so workers share its pages,
    but copies weights that are inside the .onnx file; and protobuf, the format of the .onnx file, is limited to 2 GiB.

    module  : in evaluation mode
    example : Tensor, shape (batch, ...), an input; also used for the comparison, with other batch sizes as well
    inputs, outputs : their names in the file
    varying : further dimensions of the input that vary -> the number of which their sizes are multiples
    returns : largest difference from PyTorch, relative to the largest output

    Raises ArchiveError if the outputs of the exported network differ.
    """
    sizes = {0: torch.export.Dim("batch", min=1, max=256)}
    for axis, unit in varying.items():
        size = torch.export.Dim(f"size_{axis}", min=1, max=_MOST_UNITS)
        sizes[axis] = unit * size if unit > 1 else size
    program = torch.onnx.export(
        module,
        (example,),
        input_names=[inputs],
        output_names=[outputs],
        dynamic_shapes=(sizes,),
        opset_version=OPSET,
        dynamo=True,
        verbose=False,
    )
    if program is None:
        raise ArchiveError(f"{path.name}: torch.onnx.export returned None")
    program.save(path, external_data=True)
    model = onnx.load(path, load_external_data=False)
    strip_metadata(model)
    onnx.save(model, path)
    return compare(module, example, path, varying)


def compare(module: nn.Module, example: Tensor, path: Path, varying: Mapping[int, int] = MappingProxyType({})) -> float:
    """Largest difference between a network and its exported file, relative to the largest output."""
    session = OnnxSession(path)
    worst = 0.0
    smaller = [example.narrow(axis, 0, unit) for axis, unit in varying.items()]
    # Not more images: at 896 pixels the attention of one takes 3 GB.
    for images in (example, example[:1], *smaller):
        with torch.inference_mode():
            expected = module(images).numpy()
        actual = session.run(images).numpy()
        if actual.shape != expected.shape:
            raise ArchiveError(f"{path.name} returns shape {actual.shape}, PyTorch returns {expected.shape}")
        largest = float(np.abs(expected).max())
        difference = float(np.abs(actual - expected).max()) / (largest or 1.0)
        # NaN compares false with everything, so `not <=` also rejects NaN.
        if not difference <= TOLERANCE:
            raise ArchiveError(f"{path.name} differs from PyTorch by {difference:.2e}; allowed: {TOLERANCE:.0e}")
        worst = max(worst, difference)
    return worst


def strip_metadata(model: onnx.ModelProto) -> None:
    """Remove metadata that differs between machines, for reproducible files."""
    model.doc_string = ""
    del model.metadata_props[:]
    graphs = [model.graph, *model.functions]
    for graph in graphs:
        graph.doc_string = ""
        del graph.metadata_props[:]
        for item in (*graph.node, *graph.value_info):
            item.doc_string = ""
            del item.metadata_props[:]
    for item in (*model.graph.input, *model.graph.output, *model.graph.initializer):
        item.doc_string = ""
        del item.metadata_props[:]
