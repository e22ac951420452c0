"""The table of docs/import.md has the figures of `export.plan`."""

import re
from pathlib import Path

import pytest

from export.plan import footprint_of, plan
from prelim.networks.architectures import ARCHITECTURES
from prelim.networks.machine import Machine

TABLE = Path(__file__).resolve().parents[2] / "docs" / "import.md"
GBS, GFLOPS = 37.5, 200
ROW = re.compile(r"^\| [^|]+ \| `(\w+)` \| `(\w+)` " + 4 * r"\| ([^|]+) " + r"\| ", re.MULTILINE)
ROWS = ROW.findall(TABLE.read_text(encoding="utf-8"))


def figures(system: str, precision: str) -> list[str]:
    """What a row says: disk, memory of a worker, time of an image and of a step."""
    _, needs = footprint_of([], system, precision)
    operations = {kind: times * GFLOPS * 1e9 for kind, times in (("fp32", 1), ("bf16", 2), ("int8", 4))}
    found = plan(needs, Machine(GBS * 1e9, GBS * 1e9, operations), precision, 1)
    sizes = [f"{size / 1e9:.1f} GB" for size in (found.archive, found.worker)]
    return [*sizes, f"{found.image:.1f} s", f"{1e3 * found.step:.0f} ms"]


@pytest.mark.parametrize("row", ROWS, ids=lambda row: f"{row[0]} {row[1]}")
def test_rows_are_those_of_the_plan(row: tuple[str, ...]) -> None:
    """For the systems in their published size, and the machine that the text names."""
    system, precision, *written = row

    assert written == figures(system, precision)


def test_table_has_the_systems_of_transformers() -> None:
    """Each with the command that imports it."""
    systems = {"encoder_decoder", "blip", "llava", "maira2", "llava_mistral", "llava_rad", "gemma3", "qwen2_5_vl"}
    assert {row[0] for row in ROWS} == systems


@pytest.mark.parametrize("system", ARCHITECTURES)
def test_every_system_has_a_plan_in_its_published_size(system: str) -> None:
    """As the help offers, without any file; a report is as long as its decoder has positions for."""
    config, needs = footprint_of([], system, "fp32")

    assert needs.encoder > 0
    assert needs.decoder > 0
    assert 0 < needs.tokens <= config.decoder.get("max_positions", needs.tokens)
