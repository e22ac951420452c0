"""docs/threat-model.md: every line names tests that exist, and the frozen components are those of the jar."""

import ast
import importlib.util
import re
import zipfile
from pathlib import Path

import pytest

from deploy.sbom import FROZEN

TESTS = Path(__file__).resolve().parent
PAGE = (TESTS.parent / "docs" / "threat-model.md").read_text(encoding="utf-8")
NAMED = re.findall(r"`([\w/]+\.py)::(\w+|\*)`", PAGE)


def section(title: str) -> list[list[str]]:
    """Cells of a section's table, without its head."""
    text = PAGE.partition(f"\n## {title}\n")[2].partition("\n## ")[0]
    rows = [line.strip("|").split("|") for line in text.splitlines() if line.startswith("|")]
    return rows[2:]


@pytest.mark.parametrize("file", sorted({file for file, _ in NAMED}))
def test_named_tests_exist(file: str) -> None:
    """`*` is all tests of a file, which has some."""
    tree = ast.parse((TESTS / file).read_text(encoding="utf-8"))
    defined = {node.name for node in tree.body if isinstance(node, ast.FunctionDef) and node.name.startswith("test_")}
    assert defined
    assert {name for named, name in NAMED if named == file} - {"*"} <= defined


@pytest.mark.parametrize("title", ["Defended", "Frozen components"])
def test_every_line_names_a_test(title: str) -> None:
    """A defense without a test is a hope."""
    rows = section(title)
    assert len(rows) >= 3
    for row in rows:
        assert len(row) == 3, row
        assert re.search(r"`[\w/]+\.py::(\w+|\*)`", row[2]), row[0]


def test_frozen_components_are_the_named_ones() -> None:
    """The versions in TorchServe's jar, and log4j's switch of JNDI lookups (2.17.1), which nothing here turns on."""
    (folder,) = importlib.util.find_spec("ts").submodule_search_locations or ()
    with zipfile.ZipFile(Path(folder, "frontend", "model-server.jar")) as jar:
        netty = jar.read("META-INF/io.netty.versions.properties").decode()
        grpc = jar.read("io/grpc/internal/GrpcUtil.class")
        log4j = jar.read("org/apache/logging/log4j/core/net/JndiManager.class")
    assert [purl.rpartition("@")[2] for purl in FROZEN] == ["4.1.53.Final", "1.50.0", "2.17.1"]
    assert "netty-codec-http.version=4.1.53.Final" in netty
    assert b"1.50.0" in grpc
    assert b"isJndiLookupEnabled" in log4j
    for file in ("config.properties", "env.sh", "handlers/log4j2.xml", "launcher/server.py"):
        assert "jndi" not in (TESTS.parent / file).read_text(encoding="utf-8").lower()
    for version in ("netty 4.1.53", "gRPC 1.50.0", "log4j 2.17.1"):
        assert version in PAGE
