"""One word, one meaning: a public class or type has a name of its own, whatever folder it is in."""

import ast
import re
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
    "Answer": "of the server: its JSON to a client, its bytes to the handler",
    "Array": "of NumPy",
    "Messages": "turns of a conversation",
    "Value": "in a line of a log",
}
TYPE = re.compile(r"[A-Z][a-z]\w*")


def find_types(tree: ast.Module) -> list[str]:
    """Public classes and aliases of types; not variables of types, which are letters."""
    found = []
    for node in tree.body:
        if isinstance(node, ast.ClassDef):
            found.append(node.name)
        elif isinstance(node, ast.Assign) and not (
            isinstance(node.value, ast.Call) and ast.unparse(node.value.func) == "TypeVar"
        ):
            found += [target.id for target in node.targets if isinstance(target, ast.Name)]
    return [name for name in found if TYPE.fullmatch(name)]


def test_a_name_has_one_meaning() -> None:
    """`SHARED` are the names that mean the same wherever they are defined, and each still is in several places."""
    places = defaultdict(list)
    for path in (file for folder in FOLDERS for file in (ROOT / folder).rglob("*.py")):
        for name in find_types(ast.parse(path.read_bytes())):
            places[name].append(path.relative_to(ROOT).as_posix())
    several = {name: found for name, found in places.items() if len(found) > 1}
    assert {name: found for name, found in several.items() if name not in SHARED} == {}
    assert set(SHARED) <= set(several)


def test_the_root_of_the_library_has_the_whole_pipeline_and_nothing_else() -> None:
    """Everything else is in a room that says what it holds."""
    root = {path.name for path in (ROOT / "model_src" / "prelim").glob("*.py")}
    assert root == {"__init__.py", "report_generator.py", "report_writer.py", "report.py", "errors.py"}
