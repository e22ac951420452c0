"""Section `encoder` of model.yaml: what runs vision.onnx and connector.onnx on a CPU, and in what precision."""

from collections.abc import Mapping
from dataclasses import dataclass

from prelim.errors import ArchiveError

AUTO = "auto"
"""The precision of a model folder whose archive gets the fastest one that keeps what the model writes."""

INT8 = "int8"
"""The precision whose scales are in the network's file."""

RUNTIMES: Mapping[str, tuple[str, ...]] = {
    "onnxruntime": ("fp32", "int8"),
    "openvino": ("fp32", "bf16", "int8"),
}
"""What can run a network -> its precisions. On a GPU ONNX Runtime runs the same files."""

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
    "GPU": {"onnxruntime": (), "openvino": ()},
}
"""Precisions that are faster than fp32 by the kind of processor, `prelim.kernels.family`, and by runtime."""


@dataclass(frozen=True)
class EncoderConfig:
    """Section `encoder` of model.yaml.

    runtime   : a key of RUNTIMES. "openvino" must be installed where the archive is served
    precision : of the vision encoder: one of the runtime's, or AUTO, which packaging replaces by one. "int8": products
                of 8 bits by scales that packaging has measured, in vision.onnx itself; all else is in fp32, or in
                OpenVINO in bf16 where the processor has it
    connector : the same of connector.onnx; in "fp32" it runs in ONNX Runtime, whatever runs the encoder

    Raises ArchiveError for a value that is not allowed.
    """

    runtime: str = "onnxruntime"
    precision: str = "fp32"
    connector: str = "fp32"

    def __post_init__(self) -> None:
        if self.runtime not in RUNTIMES:
            raise ArchiveError(f"encoder.runtime is {self.runtime!r}; allowed: {', '.join(RUNTIMES)}")
        for name, given in self.precisions.items():
            if given not in (allowed := (*RUNTIMES[self.runtime], AUTO)):
                raise ArchiveError(f"encoder.{name} is {given!r}; allowed with {self.runtime}: {', '.join(allowed)}")

    @property
    def of_features(self) -> dict[str, str]:
        """What image_features are of besides weights, for what is fitted to them; empty where they are fp32's."""
        return {} if self.precision in ("fp32", AUTO) else {"runtime": self.runtime, "precision": self.precision}

    @property
    def precisions(self) -> dict[str, str]:
        """The precisions of both networks, by the name of their field."""
        return {name: getattr(self, name) for name in PARTS}

    def is_exact(self, part: str) -> bool:
        """Whether a network runs as it does in a model that says nothing of its encoder; `part` is one of PARTS."""
        return self.precisions[part] == "fp32" and (part == "connector" or self.runtime == EXACT.runtime)

    def __str__(self) -> str:
        return f"{self.runtime} {self.precision}"


PARTS = ("precision", "connector")
"""Fields with the precision of a network."""

EXACT = EncoderConfig()
"""What runs the encoder of a model that says nothing of it."""
