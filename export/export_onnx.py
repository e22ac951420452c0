"""Vision encoder and connector as ONNX files, compared with PyTorch after the export."""

from pathlib import Path

import numpy as np
import onnx
import torch
from torch import Tensor, nn

from prelim.encoding.onnx_session import OnnxSession
from prelim.errors import ArchiveError

OPSET = 20
TOLERANCE = 1e-4
"""Largest difference to PyTorch that is let through, relative to the largest output. float32 sums in another order
differ by 1e-6 to 1e-5 in networks of this depth; a wrong operator differs by far more."""


def export_onnx(module: nn.Module, example: Tensor, path: Path, *, inputs: str, outputs: str) -> float:
    """Write a network with one input and one output, the first dimension of both being the batch.

    Its weights go to `<path>.data`, for two reasons: ONNX Runtime maps that file into memory, so that workers share
    its pages, where it would copy what is in the network's own; and protobuf, the format of that, ends at 2 GiB.

    module  : in evaluation mode
    example : Tensor, shape (batch, ...), an input; the comparison uses it and batches of other sizes
    inputs, outputs : their names in the file
    returns : largest difference to PyTorch, relative to the largest output

    Raises ArchiveError when the exported network computes something else.
    """
    batch = torch.export.Dim("batch", min=1, max=256)
    program = torch.onnx.export(
        module,
        (example,),
        input_names=[inputs],
        output_names=[outputs],
        dynamic_shapes=({0: batch},),
        opset_version=OPSET,
        dynamo=True,
        verbose=False,
    )
    if program is None:
        raise ArchiveError(f"{path.name}: the exporter of PyTorch gave nothing")
    program.save(path, external_data=True)
    model = onnx.load(path, load_external_data=False)
    _forget_origin(model)
    onnx.save(model, path)
    return compare(module, example, path)


def compare(module: nn.Module, example: Tensor, path: Path) -> float:
    """Largest difference between a network and its exported file, relative to the largest output."""
    session = OnnxSession(path)
    worst = 0.0
    for images in (example, example[:1], torch.cat([example, example.flip(0), example[:1]])):
        with torch.inference_mode():
            expected = module(images).numpy()
        actual = session.run(images.numpy())
        if actual.shape != expected.shape:
            raise ArchiveError(f"{path.name} gives shape {actual.shape}, PyTorch gives {expected.shape}")
        largest = float(np.abs(expected).max())
        difference = float(np.abs(actual - expected).max()) / (largest or 1.0)
        # Not a number is no small difference either, and every comparison with it is false.
        if not difference <= TOLERANCE:
            raise ArchiveError(f"{path.name} differs from PyTorch by {difference:.2e}; allowed: {TOLERANCE:.0e}")
        worst = max(worst, difference)
    return worst


def _forget_origin(model: onnx.ModelProto) -> None:
    """Remove notes about where and how the file was made: they differ between machines, and the file must not."""
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
