"""The result as one HTML file that needs no other."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from jinja2 import Environment, FileSystemLoader, StrictUndefined

from training.datasets.checks.findings import Finding
from training.datasets.checks.plots import thumbnail

COLUMNS = ("studies", "patients", "patient_unknown", "images", "studies_without_image")


def write_page(
    path: Path,
    result: Mapping[str, Any],
    findings: Sequence[Finding],
    plots: Mapping[str, Sequence[tuple[str, str]]],
) -> None:
    """Write the page. Texts of the data set are escaped."""
    environment = Environment(
        loader=FileSystemLoader(Path(__file__).parent), autoescape=True, undefined=StrictUndefined, trim_blocks=True
    )
    frame = result["source"]["frame"]
    shown = [
        (finding, [[thumbnail(image, frame) for image in group] for group in finding.pictures]) for finding in findings
    ]
    page = environment.get_template("page.html.j2")
    html = page.render(result=result, findings=shown, plots=plots, tiles=_tiles(result), counts_columns=COLUMNS)
    path.write_text(html, encoding="utf-8")


def _tiles(result: Mapping[str, Any]) -> list[tuple[str, str]]:
    texts, states = result["texts"], result["states"]
    total = {name: sum(counts[name] for counts in result["counts"].values()) for name in COLUMNS}
    return [
        ("studies", f"{total['studies']:,}"),
        ("patients", f"{result['patients']:,}" if result["patients"] else "unknown"),
        ("images named", f"{sum(states.values()):,}"),
        ("images intact", f"{states.get('intact', 0):,}"),
        ("reports", f"{texts['reports']:,}"),
        ("distinct reports", f"{texts['distinct'] / max(1, texts['reports']):.0%}"),
        ("words, median", f"{texts['words'].get('median', 0):.0f}"),
        ("vocabulary", f"{texts['vocabulary']:,}"),
    ]
