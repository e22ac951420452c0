"""Runners of one network that the encoder benchmark compares."""

import shutil
import tempfile
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnxruntime as ort
import torch
from torch import nn

from prelim.archive.archive import VISION
from prelim.archive.encoder_config import EXACT, INT8, RUNTIMES, EncoderConfig
from prelim.encoding.network_session import Session, open_connector, open_vision
from prelim.encoding.onnx_session import Array
from prelim.encoding.openvino_session import import_openvino

Encoding = Callable[[Array], Array]

OURS = "ours, "
EAGER = "PyTorch eager"
OPENVINO = "OpenVINO, its own settings"
FLOOR = "floor: a product of two matrices with as many operations"


@dataclass(frozen=True)
class Runner:
    """One way to run a network.

    run    : batch -> output of the network; None if it cannot run
    reason : why it cannot run
    floor  : whether it computes something else with the same number of operations
    """

    name: str
    run: Encoding | None
    reason: str = ""
    floor: bool = False


@dataclass(frozen=True)
class Setting:
    """Settings of ONNX Runtime.

    entries  : entries of the session configuration; all others are as served
    level    : level of graph optimization
    rewrite  : writes a changed copy of the network first
    """

    entries: Mapping[str, str] = field(default_factory=dict)
    level: ort.GraphOptimizationLevel = ort.GraphOptimizationLevel.ORT_ENABLE_ALL
    rewrite: Callable[[Path, Path], None] | None = None


def _fuse(network: Path, out: Path) -> None:
    """Apply ONNX Runtime's optimizer for transformers: it fuses bias and GELU, but does not recognize the attention."""
    from onnxruntime.transformers.optimizer import optimize_model

    optimize_model(str(network), model_type="vit", opt_level=0, use_gpu=False).save_model_to_file(
        str(out), use_external_data_format=True
    )


def _quantize(network: Path, out: Path) -> None:
    """Quantize weights to 8 bits; activations are quantized at each call."""
    from onnxruntime.quantization import QuantType, quantize_dynamic

    model = onnx.load(network)
    # Shapes are inferred again; those that the exporter noted for transposed weights would contradict them.
    del model.graph.value_info[:]
    quantize_dynamic(model, out, weight_type=QuantType.QInt8, per_channel=True, use_external_data_format=True)


_SPIN, _PACK = "session.intra_op.allow_spinning", "session.disable_prepacking"
SETTINGS = {
    "weights shared": Setting({_PACK: "1"}),
    "threads spin": Setting({_SPIN: "1"}),
    "basic graph optimization": Setting(level=ort.GraphOptimizationLevel.ORT_ENABLE_BASIC),
    "optimizer for transformers": Setting(rewrite=_fuse),
    "int8 weights, dynamic": Setting(rewrite=_quantize),
}
"""Name in the table -> settings of ONNX Runtime."""


def runners(
    network: nn.Module,
    path: Path,
    threads: int,
    *,
    settings: bool,
    compiled: bool = True,
    served: Mapping[str, Path] | None = None,
    peers: Mapping[str, Path] | None = None,
) -> list[Runner]:
    """Make the runners: what one worker serves with, the first of them the default, and PyTorch with the same weights.

    network  : the part in PyTorch
    path     : the same part as ONNX, named as in an archive
    settings : ONNX Runtime's other settings as well
    compiled : torch.compile as well
    served   : runtime -> the part with products of 8 bits
    peers    : name -> further files for OpenVINO, with its own settings
    """
    torch._dynamo.reset()
    found = [*_ours(path, served or {}, threads)]
    found += [Runner(EAGER, _of_torch(network)), Runner(f"{EAGER}, bf16", _of_torch(network, torch.bfloat16))]
    files = {OPENVINO: path} | dict(peers or {})
    found += [Runner(name, _of_openvino(file, threads)) for name, file in files.items()]
    if compiled:
        found.append(_compile(network))
    if settings:
        found += [_of_setting(f"ONNX Runtime, {name}", path, setting, threads) for name, setting in SETTINGS.items()]
    return found


def _ours(path: Path, quantized: Mapping[str, Path], threads: int) -> Iterator[Runner]:
    """A part in every runtime and precision that a worker runs it in; the first is the default."""
    field, open_part = ("precision", open_vision) if path.name == VISION else ("connector", open_connector)
    for runtime, precisions in RUNTIMES.items():
        for precision in precisions:
            encoder = EncoderConfig(runtime, **{field: precision})
            file = quantized.get(runtime) if precision == INT8 else path
            if file is None or (runtime != EXACT.runtime and encoder.is_exact(field)):
                continue
            session = open_part(file, encoder, "cpu", threads, packed=True)
            together = f", {session.together} together" if session.together > 1 else ""
            yield Runner(f"{OURS}{runtime} {precision}{together}", _of_session(session))


def _of_openvino(path: Path, threads: int) -> Encoding:
    """A network as OpenVINO runs it by itself: in bf16 where the processor has it, for batches of one size."""
    core = import_openvino().Core()
    compiled: dict[int, Any] = {}

    def run(batch: Array) -> Array:
        if len(batch) not in compiled:
            model = core.read_model(path)
            model.reshape(batch.shape)
            compiled[len(batch)] = core.compile_model(model, "CPU", {"INFERENCE_NUM_THREADS": threads})
        return np.array(compiled[len(batch)](batch)[0])

    return run


def floor(operations: int) -> Runner:
    """One product of square matrices in fp32 with as many operations, by oneDNN with packed weights if available.

    It takes turns with the others because the speed of a shared machine varies.
    """
    side = round((operations / 2) ** (1 / 3))
    matrix = torch.randn(side, side)
    if not torch.backends.mkldnn.is_available():  # type: ignore[no-untyped-call]
        return Runner(FLOOR, lambda _: (matrix @ matrix.T).numpy(), floor=True)
    packed = torch.ops.mkldnn._reorder_linear_weight(matrix, side)

    def run(_: Array) -> Array:
        with torch.inference_mode():
            return torch.ops.mkldnn._linear_pointwise(matrix, packed, None, "none", [], "").numpy()

    return Runner(FLOOR, run, floor=True)


def _of_session(session: Session) -> Encoding:
    return lambda batch: session.run(torch.from_numpy(batch)).numpy()


def _of_torch(network: Callable[[torch.Tensor], torch.Tensor], autocast: torch.dtype | None = None) -> Encoding:
    def run(batch: Array) -> Array:
        with torch.inference_mode(), torch.autocast("cpu", autocast, enabled=autocast is not None):
            return network(torch.from_numpy(batch)).float().numpy()

    return run


def _compile(network: nn.Module) -> Runner:
    """The network with torch.compile, if there is a C++ compiler."""
    name = "torch.compile"
    if not any(map(shutil.which, ("c++", "g++", "clang++"))):
        return Runner(name, None, "there is no C++ compiler")
    return Runner(name, _of_torch(torch.compile(network, dynamic=False)))


def _of_setting(name: str, path: Path, setting: Setting, threads: int) -> Runner:
    options = ort.SessionOptions()
    options.intra_op_num_threads, options.inter_op_num_threads = threads, 1
    options.graph_optimization_level = setting.level
    options.enable_cpu_mem_arena = False
    options.log_severity_level = 3
    for key, value in ({_SPIN: "0", _PACK: "0"} | dict(setting.entries)).items():
        options.add_session_config_entry(key, value)
    with tempfile.TemporaryDirectory() as temporary:
        if setting.rewrite is not None:
            written = Path(temporary) / path.name
            try:
                setting.rewrite(path, written)
            except Exception as error:  # noqa: BLE001 - whatever fails, the other settings can still be measured
                return Runner(name, None, f"{type(error).__name__}: {error}"[:200])
            path = written
        session = ort.InferenceSession(str(path), options, providers=["CPUExecutionProvider"])
    given = session.get_inputs()[0].name

    def run(batch: Array) -> Array:
        return np.asarray(session.run(None, {given: batch})[0])

    return Runner(name, run)
