"""Every warning and refusal of the library has plain words on the page."""

import ast
import re

from launcher.environment import ROOT

LIBRARY = ROOT / "model_src" / "prelim"
BY_NAME = {"body_part", "view", "body_part_unknown", "view_unknown", "sop_class_unknown"}
"""Written with their name as a variable, in subject.py."""


def codes() -> set[str]:
    """First words of the library's messages that begin with `code: `."""
    found = set(BY_NAME)
    for file in (
        *(LIBRARY / "images").rglob("*.py"),
        LIBRARY / "encoding" / "gate.py",
        LIBRARY / "report_writer.py",
        LIBRARY / "generation" / "marked_text.py",
    ):
        for node in ast.walk(ast.parse(file.read_text(encoding="utf-8"))):
            first = node.values[0] if isinstance(node, ast.JoinedStr) and node.values else node
            if isinstance(first, ast.Constant) and isinstance(first.value, str):
                found |= set(re.findall(r"^([a-z][a-z_]+): ", first.value))
    # Comments of a table of tags, which are not messages; the name of a field.
    return found - {"absent", "allowed", "image_features"}


def explained() -> set[str]:
    """Codes that web/js/words.js has a sentence for."""
    text = (ROOT / "web" / "js" / "words.js").read_text(encoding="utf-8")
    return set(re.findall(r"^  ([a-z_]+): \"", text, re.MULTILINE))


def test_every_code_has_plain_words() -> None:
    """And the page has none that the library does not use."""
    assert len(codes()) > 20
    assert codes() == explained()
