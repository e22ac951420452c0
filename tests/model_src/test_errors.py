"""One root of errors: what the library and its users raise on purpose is in the tree of prelim.errors."""

import ast
import re
from pathlib import Path

import pytest

from prelim import errors
from prelim.archive.model_config import ModelConfig
from prelim.decoders.weights_file import read_weights
from prelim.generation.confidence import read_confidence

ROOT = Path(__file__).resolve().parents[2]
FOLDERS = ("model_src", "handlers", "export", "training", "bulk")


def find_errors() -> dict[str, str]:
    """Name -> base of every error class of the library and of the packages that import it."""
    found = {}
    for path in (file for folder in FOLDERS for file in (ROOT / folder).rglob("*.py")):
        for node in ast.walk(ast.parse(path.read_bytes())):
            if isinstance(node, ast.ClassDef) and node.bases:
                base = ast.unparse(node.bases[0])
                if node.name.endswith("Error") or hasattr(errors, base):
                    found[node.name] = base
    return found


def test_every_error_has_the_one_root_and_is_in_the_tree_that_is_documented() -> None:
    """A program shows the message of PrelimError without a traceback, so none may have another root."""
    bases = find_errors()
    documented = re.findall(r"^ +(\w+) +", errors.__doc__ or "", re.M)

    assert {name: base for name, base in bases.items() if base not in {*bases, "Exception"}} == {}
    assert [name for name, base in bases.items() if base == "Exception"] == ["PrelimError"]
    assert sorted(bases) == sorted([*documented, "PrelimError"])


def test_a_file_is_named_once_with_the_reason(tmp_path: Path) -> None:
    """A missing file gives one message, whatever was to be read; what libraries raise is passed on."""
    missing = tmp_path / "model.yaml"
    for read in (ModelConfig.read, read_weights, read_confidence):
        with pytest.raises(errors.ArchiveError, match=rf"{missing} cannot be read: No such file or directory(;.*)?$"):
            read(missing)
    assert errors.reason_of(OSError("no name")) == errors.reason_of(ValueError("no name")) == "no name"
