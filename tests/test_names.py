"""One word, one meaning: a public class has a name of its own, whatever folder it is in."""

import ast
from collections import defaultdict
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
FOLDERS = (
    *("model_src", "handlers", "export", "training", "client", "launcher", "loadtests", "benchmarks", "bridge", "bulk"),
    *("terminal", "deploy"),
)
SHARED = {
    "Settings": "all settings of one program, in each program that has some",
    "Peer": "each module of benchmarks/decode/peers has one, with the same interface",
}


def test_a_class_name_has_one_meaning() -> None:
    """`SHARED` are the names that mean the same wherever they are defined, and each still is in several places."""
    places = defaultdict(list)
    for path in (file for folder in FOLDERS for file in (ROOT / folder).rglob("*.py")):
        for node in ast.parse(path.read_bytes()).body:
            if isinstance(node, ast.ClassDef) and not node.name.startswith("_"):
                places[node.name].append(path.relative_to(ROOT).as_posix())
    several = {name: found for name, found in places.items() if len(found) > 1}
    assert {name: found for name, found in several.items() if name not in SHARED} == {}
    assert set(SHARED) <= set(several)
