"""The folders whose tests are measured, and the tests that protect each of their files."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path


@dataclass(frozen=True)
class Folder:
    """One folder of code.

    path  : of the code; all its .py files belong to it
    first : file name without .py -> tests to run first, because they most likely notice
    tests : tests to run for every file, the fastest first
    """

    path: str
    tests: tuple[str, ...]
    first: Mapping[str, tuple[str, ...]] = field(default_factory=dict)

    def files(self, root: Path) -> list[str]:
        """Paths of the code, relative to the repository."""
        return sorted(path.relative_to(root).as_posix() for path in (root / self.path).rglob("*.py"))

    def tests_of(self, path: str) -> list[str]:
        """Tests of one file, in the order in which they run."""
        return list(dict.fromkeys((*self.first.get(Path(path).stem, ()), *self.tests)))


GENERATION = "tests/model_src/generation"
IMAGES = "tests/model_src/images"
METRICS = "tests/training/evaluation/metrics"

FOLDERS = {
    "generation": Folder(
        "model_src/prelim/generation",
        tuple(
            f"{GENERATION}/test_{name}.py"
            for name in (
                *("hypothesis", "logits", "option_bounds", "options", "prompt", "columns", "engine", "generate_parity"),
            )
        ),
        {
            "text_stream": (f"{GENERATION}/test_text_stream.py",),
            "engine": (f"{GENERATION}/test_engine.py", f"{GENERATION}/test_isolation.py"),
        },
    ),
    "decoders": Folder(
        "model_src/prelim/decoders",
        (
            "tests/model_src/decoders/test_layers.py",
            "tests/model_src/decoders/test_decoders.py",
            f"{GENERATION}/test_engine.py",
            f"{GENERATION}/test_causal_lm_parity.py",
            "tests/export/checkpoints/test_weights_file.py",
            "tests/export/test_precision.py",
        ),
        {"packed": ("tests/export/test_precision.py",)},
    ),
    "kernels": Folder(
        "model_src/prelim/kernels",
        tuple(
            f"tests/model_src/kernels/test_{name}.py" for name in ("single_kernels", "unavailable", "rows", "kernels")
        ),
    ),
    "images": Folder(
        "model_src/prelim/images",
        (
            *(f"{IMAGES}/{name}.py" for name in ("test_limits", "dicom/test_header_values", "test_preprocess")),
            *(
                f"{IMAGES}/{name}.py"
                for name in ("dicom/test_codestream_headers", "test_raster_depth", "test_radiograph")
            ),
            f"{IMAGES}/dicom",
        ),
        dict.fromkeys(
            ("decoder_fence", "decoding_child", "decoding_process", "structure"),
            (f"{IMAGES}/test_radiograph.py", f"{IMAGES}/test_decoding_limits.py", f"{IMAGES}/test_hostile_input.py"),
        ),
    ),
    "archive": Folder(
        "model_src/prelim/archive",
        tuple(f"tests/model_src/archive/test_{name}.py" for name in ("mar", "archive", "model_config")),
    ),
    "handlers": Folder(
        "handlers",
        tuple(
            f"tests/handlers/test_{name}.py"
            for name in (*("field_limits", "answers", "settings", "request", "insights", "report_handler", "limits"),)
        ),
    ),
    "metrics": Folder(
        "training/evaluation/metrics",
        tuple(f"{METRICS}/test_{name}.py" for name in ("values", "labeller")),
        # They start METEOR's Java or train a model.
        dict.fromkeys(("meteor", "ngrams", "r2gen"), (f"{METRICS}/test_values.py", f"{METRICS}/test_overlap.py"))
        | {"template_captions": (f"{METRICS}/test_values.py", f"{METRICS}/test_template_captions.py")},
    ),
}
