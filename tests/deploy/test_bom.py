"""Bills of materials: what is in the lock and in the archive is in them, and they are valid CycloneDX."""

import json
import shutil
from pathlib import Path
from typing import Any

import pytest

import prelim
from deploy import ml_bom, sbom
from deploy.bom import write_bom
from deploy.fill_environment import LOCKS, InstallError
from launcher.environment import ROOT
from launcher.install import read_lock
from prelim.archive.manifest import write_manifest
from prelim.archive.mar import check_mar, unpack_mar, write_mar


@pytest.fixture
def with_card(tiny_mar: Path, tmp_path: Path) -> Path:
    """The tiny archive with the card of the demo model."""
    folder = tmp_path / "unpacked"
    folder.mkdir()
    unpack_mar(tiny_mar, folder)
    shutil.copy(ROOT / "models" / "demo" / "MODEL_CARD.md", folder)
    write_manifest(folder)
    return write_mar(folder, tmp_path / "tiny.mar")


def read(path: Path) -> dict[str, Any]:
    """A bill of materials."""
    found: dict[str, Any] = json.loads(path.read_text(encoding="utf-8"))
    assert (found["bomFormat"], found["specVersion"]) == ("CycloneDX", "1.7")
    return found


@pytest.mark.parametrize("target", ["cpu", "gpu"])
def test_sbom_has_every_package_of_the_lock(target: str, tmp_path: Path) -> None:
    """With version, hashes and license; and the frozen libraries that no lock names."""
    bom = read(write_bom(tmp_path / "sbom.json", sbom.describe(target)))
    names = ["gpu.lock"] if target == "gpu" else ["cpu.lock", "cpu-torch.lock"]
    locked = {name: lines for file in names for name, lines in read_lock(LOCKS / file).items()}
    components = {component["name"]: component for component in bom["components"]}
    assert components.keys() == locked.keys()
    for name, component in components.items():
        assert locked[name].startswith(f"{name}=={component['version']} ")
        assert component["purl"].startswith(f"pkg:pypi/{name}@")
        hashes = [one["content"] for reference in component["externalReferences"] for one in reference["hashes"]]
        assert all(f"sha256:{content}" in locked[name] for content in hashes)
        assert hashes
    unlicensed = [name for name, component in components.items() if "licenses" not in component]
    assert len(unlicensed) < len(components) / 10
    jar = {one["purl"] for one in components["torchserve"]["components"]}
    assert jar == sbom.FROZEN.keys()
    assert bom["metadata"]["component"]["version"] == prelim.__version__


def test_ml_bom_has_model_data_licenses_scores_and_limits(with_card: Path, tmp_path: Path) -> None:
    """Each score is followed by that of the trivial baseline; each file of the archive is listed with its hash."""
    bom = read(write_bom(tmp_path / "ml.json", ml_bom.describe(with_card)))
    model = bom["metadata"]["component"]
    assert (model["type"], model["name"], model["version"]) == ("machine-learning-model", "tiny", "1.0")
    assert model["licenses"] == [{"license": {"name": "none, random weights"}}]
    files = {part["name"]: part["hashes"][0]["content"] for part in bom["components"] if part["type"] == "file"}
    assert files == check_mar(with_card).files

    card = model["modelCard"]
    metrics = {(one["type"], one["slice"]): one for one in card["quantitativeAnalysis"]["performanceMetrics"]}
    group = "labels read back from the caption: finding group"
    assert metrics[group, "model"]["value"] == "0.905"
    assert metrics[group, "model"]["confidenceInterval"] == {"lowerBound": "0.876", "upperBound": "0.930"}
    assert metrics[group, "baseline: constant, most frequent"]["value"] == "0.264"
    slices = {slice_ for _, slice_ in metrics}
    assert slices == {"model", "baseline: constant, best BLEU-4 on val", "baseline: constant, most frequent"}

    data = {part["name"]: part for part in bom["components"] if part["type"] == "data"}
    assert data["NIH ChestX-ray14"]["licenses"][0]["license"]["name"].startswith("NIH Clinical Center terms")
    assert data["VQA-RAD"]["licenses"] == [{"license": {"id": "CC0-1.0"}}]
    assert data["VQA-RAD"]["properties"] == [{"name": "prelim:training-pictures", "value": "153"}]
    assert {one["ref"] for one in card["modelParameters"]["datasets"]} == {part["bom-ref"] for part in data.values()}

    considerations = card["considerations"]
    assert any("always saying pneumonia is right for 97.8%" in text for text in considerations["technicalLimitations"])
    assert any(text.startswith("COVID-19 means adults") for text in considerations["technicalLimitations"])
    assert "UNVERIFIED" in considerations["ethicalConsiderations"][0]["name"]
    assert considerations["useCases"][0].startswith("Writes one caption of a radiology picture")


def test_archive_without_a_card_has_a_bill(tiny_mar: Path, tmp_path: Path) -> None:
    """What is not known is not in it."""
    model = read(write_bom(tmp_path / "ml.json", ml_bom.describe(tiny_mar)))["metadata"]["component"]
    assert model["modelCard"]["quantitativeAnalysis"] == {"performanceMetrics": []}
    assert "technicalLimitations" not in model["modelCard"]["considerations"]
    assert model["modelCard"]["modelParameters"]["modelArchitecture"] == "mobilenet_graph"


def test_what_is_not_valid_is_not_written(tiny_mar: Path, tmp_path: Path) -> None:
    """An unknown field, and a damaged archive."""
    with pytest.raises(InstallError, match=r"would not be valid CycloneDX 1\.7"):
        write_bom(tmp_path / "bom.json", {"components": [{"type": "library", "name": "x", "licence": "MIT"}]})
    damaged = tmp_path / "damaged.mar"
    damaged.write_bytes(tiny_mar.read_bytes()[:-1])
    with pytest.raises(InstallError, match=r"damaged\.mar is damaged"):
        ml_bom.describe(damaged)
    assert not (tmp_path / "bom.json").exists()
