"""One root of errors: what the library and its users raise on purpose is in the tree of prelim.errors."""

import ast
import re
from pathlib import Path

from prelim import errors

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
