"""Section `encoder` of model.yaml: what runs vision.onnx on a CPU, and in what precision."""

from collections.abc import Mapping
from dataclasses import dataclass

from prelim.errors import ArchiveError

AUTO = "auto"
"""The precision of a model folder whose archive gets the fastest one that keeps what the model writes."""

RUNTIMES: Mapping[str, tuple[str, ...]] = {
    "onnxruntime": ("fp32", "int8"),
    "openvino": ("fp32", "bf16", "int8"),
}
"""What can run vision.onnx -> its precisions. On a GPU ONNX Runtime runs the same file."""

FASTEST_FIRST: Mapping[str, Mapping[str, tuple[str, ...]]] = {
    "x86-64 with AVX512-VNNI": {"onnxruntime": ("int8",), "openvino": ("int8", "bf16")},
    # Without VNNI sums of two products of 8 bits are cut off at 16 bits, and bf16 is computed as fp32.
    "x86-64 with AVX512": {"onnxruntime": (), "openvino": ()},
    "x86-64 with AVX2": {"onnxruntime": (), "openvino": ()},
    # Not measured.
    "x86-64 with AVX-VNNI": {"onnxruntime": (), "openvino": ()},
    "aarch64 with SDOT": {"onnxruntime": (), "openvino": ()},
    "aarch64": {"onnxruntime": (), "openvino": ()},
    "without compiled steps": {"onnxruntime": (), "openvino": ()},
}
"""Precisions that are faster than fp32 by the kind of processor, `prelim.kernels.family`, and by runtime."""


@dataclass(frozen=True)
class EncoderConfig:
    """Section `encoder` of model.yaml.

    runtime   : a key of RUNTIMES. "openvino" must be installed where the archive is served
    precision : one of the runtime's, or AUTO, which packaging replaces by one. "int8": products of 8 bits by scales
                that packaging has measured, in vision.onnx itself; all else is in fp32, or in OpenVINO in bf16 where
                the processor has it

    Raises ArchiveError for a value that is not allowed.
    """

    runtime: str = "onnxruntime"
    precision: str = "fp32"

    def __post_init__(self) -> None:
        if self.runtime not in RUNTIMES:
            raise ArchiveError(f"encoder.runtime is {self.runtime!r}; allowed: {', '.join(RUNTIMES)}")
        if self.precision not in (allowed := (*RUNTIMES[self.runtime], AUTO)):
            raise ArchiveError(
                f"encoder.precision is {self.precision!r}; allowed with {self.runtime}: {', '.join(allowed)}"
            )

    @property
    def is_quantized(self) -> bool:
        """Whether vision.onnx has weights of 8 bits."""
        return self.precision == "int8"

    @property
    def rounds(self) -> bool:
        """Whether image_features are not those of fp32, so that what is fitted to them must be fitted to these."""
        return self.precision not in ("fp32", AUTO)

    def __str__(self) -> str:
        return f"{self.runtime} {self.precision}"


EXACT = EncoderConfig()
"""What runs the encoder of a model that says nothing of it."""
