"""The page's modules import each other one way: the page, then its parts, then what they share."""

import re

from launcher.environment import ROOT

LAYERS = (("page",), ("chat", "drafts", "report", "viewer"), ("elements", "server", "words"))


def test_modules_import_only_lower_ones() -> None:
    """Every module has a layer, and its imports are of lower layers."""
    level = {name: number for number, names in enumerate(LAYERS) for name in names}
    modules = sorted((ROOT / "web" / "js").glob("*.js"))
    assert {path.stem for path in modules} == set(level)
    for path in modules:
        imported = re.findall(r'from "\./(\w+)\.js"', path.read_text(encoding="utf-8"))
        assert all(level[name] > level[path.stem] for name in imported), path.stem
