"""The folders whose tests are measured, and the tests that protect them."""

from dataclasses import dataclass
from pathlib import Path


@dataclass(frozen=True)
class Folder:
    """One folder of code.

    path  : of the code; all its .py files belong to it
    tests : that protect it
    once  : most of it runs once in a process, for the first test that needs it, and the others use what came of it
    """

    path: str
    tests: tuple[str, ...]
    once: bool = False

    def files(self, root: Path) -> list[str]:
        """Paths of the code, relative to the repository."""
        return sorted(path.relative_to(root).as_posix() for path in (root / self.path).rglob("*.py"))

    def test_files(self, root: Path) -> list[str]:
        """Paths of the files of tests, relative to the repository."""
        found = {
            path
            for name in self.tests
            for path in ([root / name] if name.endswith(".py") else (root / name).rglob("test_*.py"))
        }
        return sorted(path.relative_to(root).as_posix() for path in found)


GENERATION = "tests/model_src/generation"
METRICS = "tests/training/evaluation/metrics"

FOLDERS = {
    "generation": Folder("model_src/prelim/generation", (GENERATION,)),
    "decoders": Folder(
        "model_src/prelim/decoders",
        (
            "tests/model_src/decoders",
            f"{GENERATION}/test_engine.py",
            f"{GENERATION}/test_causal_lm_parity.py",
            "tests/export/checkpoints/test_weights_file.py",
            "tests/export/test_precision.py",
            "tests/model_src/networks/test_teacher_forcing.py",
            # What `pack` makes of them.
            "tests/model_src/kernels/test_kernels.py",
            "tests/model_src/kernels/test_cross_attention_step.py",
        ),
    ),
    "kernels": Folder("model_src/prelim/kernels", ("tests/model_src/kernels",), once=True),
    "images": Folder("model_src/prelim/images", ("tests/model_src/images",)),
    "archive": Folder(
        "model_src/prelim/archive",
        ("tests/model_src/archive", "tests/export/test_archive_integrity.py", "tests/export/test_signature.py"),
    ),
    "handlers": Folder(
        "handlers",
        tuple(
            f"tests/handlers/test_{name}.py"
            for name in (
                *("field_limits", "answers", "settings", "request", "images", "insights", "report_handler", "limits"),
                *(
                    "completion",
                    "completion_request",
                    "clock",
                    "only_worker",
                    "return_image",
                    "edges",
                    "auditor",
                    "records",
                ),
            )
        ),
    ),
    "audit": Folder("model_src/prelim/audit", ("tests/model_src/audit", "tests/export/test_audit.py")),
    "labels": Folder(
        "model_src/prelim/labels",
        tuple(f"{METRICS}/test_{name}.py" for name in ("labeler", "labeler_probes", "edges")),
    ),
    "metrics": Folder(
        "training/evaluation/metrics",
        # The other one trains a model.
        tuple(
            f"{METRICS}/test_{name}.py"
            for name in (
                *("values", "labeler", "labeler_check", "labeler_probes", "overlap", "template_captions", "edges"),
                *("authorities", "answers"),
            )
        ),
    ),
}
