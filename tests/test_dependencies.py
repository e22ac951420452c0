"""Imports are declared: by the extra of pyproject.toml that the importing folder is installed with."""

import ast
import re
import sys
import tomllib
from collections.abc import Iterable, Iterator
from importlib.metadata import packages_distributions
from pathlib import Path

import pytest
from packaging.requirements import Requirement

from prelim.audit.machine import LIBRARIES

ROOT = Path(__file__).resolve().parents[1]
LIBRARY = "model_src/prelim"
NETWORKS = f"{LIBRARY}/networks"
INSTALLED_WITH = {
    LIBRARY: (),
    NETWORKS: ("train",),
    "handlers": ("serve",),
    "launcher": ("serve",),
    "export": ("train",),
    "training": ("train",),
    "bridge": ("bridge",),
    "bulk": ("bulk",),
    "terminal": (),
    "loadtests": ("serve", "bench"),
    "benchmarks": ("serve", "train", "bulk", "bench"),
    "deploy": ("serve", "dev"),
}
"""Extras, besides the dependencies of the library, which all but the bridge and the client have."""
LAZILY = {LIBRARY: ("serve", "train", "openvino")}
"""Extras of which imports inside of functions may be: what only some archives need."""
OWN_ENVIRONMENT = ("benchmarks/decode/peers", "benchmarks/encoder/peers")
"""Compared engines; peers.in and peers_llama.in next to them are their requirements."""
OWN = {"prelim", "prelim_client", *(folder for folder in INSTALLED_WITH if "/" not in folder)}
DISTRIBUTIONS = packages_distributions()
QUANTIZED_TENSORS = re.compile(
    r"torch\.(quantize_per_|qu?int|qscheme|per_(tensor|channel)_|ao\.|quantization)"
    r"|ops\.(quantized|fbgemm)|\.(dequantize|int_repr|q_scale|q_zero_point)\(\)|fbgemm",
    re.IGNORECASE,
)
"""PyTorch's quantized tensors, of which it has announced the removal."""


def normalize(name: str) -> str:
    """The name of a distribution as indexes compare it."""
    return re.sub(r"[-_.]+", "-", name).lower()


def read_requirements() -> dict[str, set[str]]:
    """Names of distributions by extra; "" are the library's own."""
    table = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))
    groups = {"": table["project"]["dependencies"]}
    groups |= table["project"]["optional-dependencies"] | table["dependency-groups"]
    client = tomllib.loads((ROOT / "client" / "pyproject.toml").read_text(encoding="utf-8"))
    groups["client"] = client["project"]["dependencies"]
    return {extra: {normalize(Requirement(line).name) for line in lines} for extra, lines in groups.items()}


REQUIREMENTS = read_requirements()


def find_imports(node: ast.AST, inside: bool = False) -> Iterator[tuple[str, bool]]:
    """Top-level package of every absolute import, and whether it is inside of a function."""
    for child in ast.iter_child_nodes(node):
        if isinstance(child, ast.Import):
            yield from ((alias.name.split(".")[0], inside) for alias in child.names)
        elif isinstance(child, ast.ImportFrom) and child.level == 0 and child.module:
            yield child.module.split(".")[0], inside
        else:
            yield from find_imports(child, inside or isinstance(child, ast.FunctionDef))


def undeclared(files: Iterable[Path], always: set[str], lazily: set[str]) -> set[str]:
    """`file: package` of imports that no requirement covers."""
    found = set()
    for path in files:
        for package, inside in find_imports(ast.parse(path.read_bytes())):
            if package in sys.stdlib_module_names or package in OWN:
                continue
            names = {normalize(name) for name in DISTRIBUTIONS.get(package, ())}
            if not names & (lazily if inside else always):
                found.add(f"{path.relative_to(ROOT)}: {package}")
    return found


@pytest.mark.parametrize("folder", INSTALLED_WITH)
def test_imports_are_declared(folder: str) -> None:
    """Not only installed, because something else happens to depend on it: that may change."""
    inner = [*(other for other in INSTALLED_WITH if other.startswith(f"{folder}/")), *OWN_ENVIRONMENT]
    files = [
        file for file in (ROOT / folder).rglob("*.py") if not any(file.is_relative_to(ROOT / other) for other in inner)
    ]
    assert files
    library = REQUIREMENTS[""] if folder != "bridge" else set()
    always = library.union(*(REQUIREMENTS[extra] for extra in INSTALLED_WITH[folder]))
    lazily = always.union(*(REQUIREMENTS[extra] for extra in LAZILY.get(folder, ())))
    assert undeclared(files, always, lazily) == set()


def test_the_audit_log_records_what_computes_a_report() -> None:
    """Every library that the library needs, but for those that only read settings and show progress."""
    assert REQUIREMENTS[""] - {"pyyaml", "tqdm"} <= set(LIBRARIES)


def test_imports_of_the_client_are_declared() -> None:
    """Its own pyproject.toml has them, and they are few."""
    assert undeclared((ROOT / "client").rglob("*.py"), REQUIREMENTS["client"], REQUIREMENTS["client"]) == set()


def test_nothing_needs_quantized_tensors_of_pytorch() -> None:
    """Weights of few bits are ordinary tensors of integers with scales, and their kernels are ours."""
    found = {
        f"{path.relative_to(ROOT)}: {use[0]}"
        for folder in (*INSTALLED_WITH, "client")
        for path in (ROOT / folder).rglob("*.py")
        for use in QUANTIZED_TENSORS.finditer(path.read_text(encoding="utf-8"))
    }
    assert found == set()
    assert QUANTIZED_TENSORS.search("torch.quantize_per_tensor(x, 0.1, 0, torch.qint8)")
    assert QUANTIZED_TENSORS.search("torch.ops.quantized.linear_dynamic(x, packed)")


def test_an_undeclared_import_is_found(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Also one that is installed, and at the top of a file one that only functions may have."""
    monkeypatch.setattr("tests.test_dependencies.ROOT", tmp_path)
    file = tmp_path / "a.py"
    file.write_text("import numpy, llvmlite.ir\nimport json\n\ndef f():\n    import ray, absent\n", encoding="utf-8")
    assert undeclared([file], {"numpy"}, {"numpy", "ray"}) == {"a.py: llvmlite", "a.py: absent"}
