"""Write the bill of materials of an archive: model, data, licenses, scores next to those of a trivial baseline, limits.

python -m deploy.ml_bom model_store/demo.mar        # out/demo-1.0.cdx.json, CycloneDX 1.7 with a model card

Everything comes from the archive: model.yaml, manifest.json and MODEL_CARD.md, whose tables are read, so that no number
is written twice. What a card does not say is not in the bill.
"""

import re
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import yaml

from deploy.bom import license_of, write_bom
from deploy.fill_environment import InstallError
from deploy.sbom import OUT
from prelim.archive.archive import CONFIG
from prelim.archive.manifest import Manifest, sha256_of
from prelim.archive.mar import check_mar, read_file
from prelim.errors import ArchiveError
from prelim.report import NOTICE
from terminal.arguments import CommandLine

CARD = "MODEL_CARD.md"
BASELINE = "constant"
"""Columns of the card's scores that begin so are those of the trivial baseline: always the same report."""

_FIGURE = re.compile(r"([-+]?\d+(?:\.\d+)?)(?: \(([-+]?[\d.]+) to ([-+]?[\d.]+)\))?")


def main() -> None:
    """Command line."""
    parser = CommandLine(__doc__)
    parser.add_argument("archive", type=Path)
    parser.add_argument("--out", type=Path, default=OUT)
    arguments = parser.parse_args()
    fields = describe(arguments.archive)
    model = fields["metadata"]["component"]
    print(write_bom(arguments.out / f"{model['name']}-{model['version']}.cdx.json", fields))


def describe(archive: Path) -> dict[str, Any]:
    """Fields of the bill of materials of an archive. Raises InstallError if it is damaged."""
    try:
        manifest = check_mar(archive)
        config = yaml.safe_load(read_file(archive, CONFIG))
        card = read_file(archive, CARD).decode("utf-8") if CARD in manifest.files else ""
    except ArchiveError as error:
        raise InstallError(f"{error}") from None
    datasets = list(read_datasets(card))
    model = {
        "type": "machine-learning-model",
        "bom-ref": "model",
        "name": config["name"],
        "version": config["version"],
        "hashes": [{"alg": "SHA-256", "content": sha256_of(archive)}],
        "licenses": [license_of(config["licence"])],
        "properties": [
            {"name": "prelim:manifest-sha256", "value": manifest.sha256},
            {"name": "prelim:use", "value": config["use"]},
        ],
        "modelCard": describe_model(config, card, [data["bom-ref"] for data in datasets]),
    }
    files = list(list_files(manifest))
    contents = [part["bom-ref"] for part in (*datasets, *files)]
    return {
        "metadata": {"component": model},
        "components": [*datasets, *files],
        "dependencies": [{"ref": "model", "dependsOn": contents}, *({"ref": ref} for ref in contents)],
    }


def list_files(manifest: Manifest) -> Iterator[dict[str, Any]]:
    """Every file of the archive, the manifest excepted, which has their hashes."""
    for name, sha256 in manifest.files.items():
        hashes = [{"alg": "SHA-256", "content": sha256}]
        yield {"type": "file", "bom-ref": f"file:{name}", "name": name, "hashes": hashes}


def describe_model(config: Mapping[str, Any], card: str, datasets: list[str]) -> dict[str, Any]:
    """The model card of the bill."""
    images = f"radiograph as PNG, JPEG, WebP, TIFF or DICOM ({', '.join(config['input']['modalities'])})"
    parameters = {
        "approach": {"type": "supervised"},
        "task": "image to text: preliminary radiology report",
        "architectureFamily": f"vision encoder, connector, {config['decoder']['kind']} decoder",
        "modelArchitecture": config["architecture"],
        "datasets": [{"ref": ref} for ref in datasets],
        "inputs": [{"format": images}],
        "outputs": [{"format": "text, in JSON with status UNVERIFIED"}],
    }
    limits = [line for title in ("Known limits", "On pictures of other sources") for line in paragraphs(card, title)]
    considerations = {
        "users": ["people who evaluate, test or measure report generation; not for care of patients"],
        "useCases": paragraphs(card, None)[:1],
        "technicalLimitations": limits,
        "ethicalConsiderations": [
            {"name": NOTICE, "mitigationStrategy": "every answer and document has the status UNVERIFIED"}
        ],
    }
    return {
        "modelParameters": parameters,
        "quantitativeAnalysis": {"performanceMetrics": list(read_scores(card))},
        "considerations": {name: value for name, value in considerations.items() if value},
    }


def read_scores(card: str) -> Iterator[dict[str, Any]]:
    """Metrics of the model, and after each the same of the trivial baselines, from the card's table of scores.

    A row in bold names the group of the rows below it.
    """
    (_, *columns), *rows = next(tables(card, "Scores"), [[""]])
    wanted = [number for number, name in enumerate(columns) if number == 0 or name.startswith(BASELINE)]
    group = ""
    for name, *values in rows:
        if name.startswith("**"):
            group = name.strip("*")
        for number in wanted:
            figure = _FIGURE.fullmatch(values[number])
            if figure is None:
                continue
            metric = {"type": f"{group}: {name}", "value": figure[1]}
            metric["slice"] = "model" if number == 0 else f"baseline: {columns[number]}"
            bounds = {"lowerBound": figure[2], "upperBound": figure[3]} if figure[2] else {}
            yield metric | ({"confidenceInterval": bounds} if bounds else {})


def read_datasets(card: str) -> Iterator[dict[str, Any]]:
    """Data sets with their licenses, from the card's table of sources."""
    for head, *rows in tables(card, "Data and licenses"):
        for source, spdx, *more in rows:
            amounts = zip(head[2:], more, strict=False)
            yield {
                "type": "data",
                "bom-ref": f"data:{source}",
                "name": source,
                "licenses": [license_of(spdx)],
                "data": [{"type": "dataset", "name": source}],
                "properties": [{"name": f"prelim:{name.replace(' ', '-')}", "value": value} for name, value in amounts],
            }


def section(card: str, title: str | None) -> str:
    """Text under a heading of the second level; of None, what is before the first."""
    parts = re.split(r"(?m)^## (.+)\n", card)
    if title is None:
        return parts[0].partition("\n")[2]
    return dict(zip(parts[1::2], parts[2::2], strict=True)).get(title, "")


def paragraphs(card: str, title: str | None) -> list[str]:
    """Paragraphs and list items of a section, each in one line, without tables."""
    text = re.sub(r"(?m)^- ", "\n", section(card, title))
    joined = (" ".join(block.split()) for block in text.split("\n\n"))
    return [block for block in joined if block and not block.startswith(("|", "<"))]


def tables(card: str, title: str) -> Iterator[list[list[str]]]:
    """Tables of a section, as lists of rows of cells; the first row is the head."""
    for table in re.findall(r"(?m)(?:^\|.*\|\n?)+", section(card, title)):
        rows = [[cell.strip() for cell in line.strip("|").split("|")] for line in table.splitlines()]
        yield [rows[0], *rows[2:]]


if __name__ == "__main__":
    main()
