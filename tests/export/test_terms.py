"""Terms of weights: what is not stated is a GAP, a use beyond them is refused, and their documents travel."""

import shutil
import zipfile
from pathlib import Path

import pytest
import torch
from torch import Tensor

from export.checkpoints.terms import GivenTerms, settle_terms, terms_files
from export.import_checkpoint import import_checkpoint
from export.package import write_archive
from prelim.archive.model_config import ModelConfig
from prelim.archive.terms import GAP, USES
from prelim.errors import ArchiveError
from prelim.networks.architectures import ARCHITECTURES
from prelim.networks.model_folder import MODEL_CARD
from prelim.networks.terms import KNOWN, check_use, find_terms, missing_documents, widest_use, write_terms
from tests.export.test_import_checkpoint import published
from tests.tiny_model import CONFIG

__all__ = ["published"]

MAIRA2 = str(ARCHITECTURES["maira2"].published.defaults["licence"])
COPIES = {
    "hai-def.txt": "Health AI Developer Foundations Terms of Use",
    "gemma.txt": "Gemma Terms of Use",
    "llama2.txt": "LLAMA 2 COMMUNITY  LICENSE AGREEMENT",
    "msrla.txt": "MICROSOFT RESEARCH LICENSE TERMS",
    "apache.txt": "Apache License",
    "mit.txt": "Permission is hereby granted, free of charge",
    "bsd.txt": "Redistribution and use in source and binary forms",
}


UNREADABLE = ("license: [a", "license: mit\ndate: 2024-99-99", f"license: mit\ntags: {'[' * 3000}")
"""Front matter that YAML's reader refuses, each with an error of its own."""


def write_copies(folder: Path) -> list[Path]:
    """Files as long as terms are, with their titles."""
    for name, title in COPIES.items():
        (folder / name).write_text(f"{title}\n\n" + "whereas the parties agree " * 40, encoding="utf-8")
    return [folder / name for name in COPIES]


def stated(readme: str | None, folder: Path, system: str = "gemma3", **given: str) -> tuple[str, str]:
    """License and use of a folder with this README."""
    folder.mkdir(exist_ok=True)
    if readme is not None:
        (folder / "README.md").write_text(readme, encoding="utf-8")
    terms = GivenTerms(**given)  # type: ignore[arg-type]
    return settle_terms(ARCHITECTURES[system].published, terms, [("weights", folder)])[:2]


@pytest.mark.parametrize(
    ("license_name", "missing", "use"),
    [
        ("health-ai-developer-foundations (README.md of google/medgemma-4b-it)", ["copy", "notice", "MODIFIED"], GAP),
        ("gemma (README.md of google/gemma-3-4b-it)", ["copy", "notice", "MODIFIED"], GAP),
        ("llama2 (README.md of llava-hf/llava-1.5-7b-hf)", ["copy", "notice"], GAP),
        (MAIRA2, ["Llama 2", "Vicuna", "Microsoft", "notice"], "research"),
        (str(ARCHITECTURES["llava_mistral"].published.defaults["licence"]), ["Apache", "MODIFIED"], "research"),
        (str(ARCHITECTURES["xraygpt"].published.defaults["licence"]), ["Vicuna"], "non-commercial"),
        ("CC BY 4.0", [], GAP),
    ],
)
def test_documents_that_terms_ask_for_are_missing_until_they_are_there(
    license_name: str, missing: list[str], use: str, tmp_path: Path
) -> None:
    """Copies are given by a person; prescribed notices and marks of modification are written with them."""
    found = missing_documents(license_name, tmp_path)
    assert len(found) == len(missing)
    assert all(any(word in line for line in found) for word in missing)
    assert widest_use(license_name) == use

    write_terms(tmp_path, license_name, [], "changed")
    assert all("copy" in line for line in missing_documents(license_name, tmp_path))
    write_terms(tmp_path, license_name, write_copies(tmp_path), "changed")
    assert missing_documents(license_name, tmp_path) == []


@pytest.mark.parametrize(
    ("license_name", "terms"),
    [
        *((name, "Gemma Terms of Use") for name in ("gemma", "Gemma", "Gemma license", "gemma_terms_of_use")),
        *((name, "limit to research") for name in ("research-only", "for research use only", "Research Purposes Only")),
        *((name, "limit to research") for name in ("academic use only", "solely for research")),
        *((name, "limit to non-commercial use") for name in ("non-commercial", "Noncommercial", "CC_BY_NC 4.0")),
        *(
            (name, "limit to non-commercial use")
            for name in ("cc-by-nc-sa-4.0", "CC BY-ND-NC 1.0", "no commercial use")
        ),
        ("Creative Commons Attribution-NonCommercial 4.0", "limit to non-commercial use"),
        ("llama_2", "Llama 2 Community License"),
        ("HAI_DEF", "Health AI Developer Foundations Terms of Use"),
    ],
)
def test_terms_are_known_by_usual_names(license_name: str, terms: str) -> None:
    """Whoever writes --license does not write the whole title, nor as a README does."""
    assert [known.name for known in find_terms(license_name)] == [terms]
    if terms.startswith("limit"):
        with pytest.raises(ArchiveError, match=r"use is 'within-terms'.* allows research"):
            check_use(license_name, "within-terms", "use")


@pytest.mark.parametrize(
    "license_name",
    [
        *("CC BY 4.0 (README.md of google/gemma-3-4b-it)", "CC0 (README.md of old gemma (1))", "CC BY 4.0"),
        *("mine (README.md of meta-llama/Llama-2-7b)", "commercial", "research", "CC BY 4.0 (google/gemma-9)"),
    ],
)
def test_the_name_of_a_model_names_no_terms(license_name: str) -> None:
    """Neither does a use that is allowed."""
    assert find_terms(license_name) == []


def test_a_text_that_only_names_terms_is_not_their_copy(tmp_path: Path) -> None:
    """Neither is a notice."""
    short = tmp_path / "LICENSE"
    short.write_text("See the LLAMA 2 Community License.", encoding="utf-8")
    write_terms(tmp_path, "Llama 2 Community License", [short], "changed")
    assert missing_documents("Llama 2 Community License", tmp_path) == ["a copy of the Llama 2 Community License"]


def test_a_second_change_is_added_and_none_is_written_twice(tmp_path: Path) -> None:
    """Training continues from an import: both changed the weights."""
    for change in ("imported", "imported", "trained"):
        write_terms(tmp_path, "Gemma Terms of Use", [], change)
    assert (tmp_path / "terms" / "MODIFIED.txt").read_text(encoding="utf-8") == "imported\ntrained\n"
    assert (tmp_path / "terms" / "NOTICE.txt").read_text(encoding="utf-8").count("\n") == 1


def test_documents_of_one_name_do_not_replace_each_other(tmp_path: Path) -> None:
    """Two folders may each have a LICENSE."""
    for name in "ab":
        (tmp_path / name).mkdir()
        (tmp_path / name / "LICENSE").write_text(name, encoding="utf-8")
    write_terms(tmp_path, "MIT", [tmp_path / "a" / "LICENSE"], "")
    with pytest.raises(ArchiveError, match="LICENSE exists with other contents"):
        write_terms(tmp_path, "MIT", [tmp_path / "b" / "LICENSE"], "")


@pytest.mark.parametrize("limited", [terms for terms in KNOWN if terms.limit], ids=lambda terms: terms.name)
def test_a_use_beyond_the_license_is_refused(limited: object, tmp_path: Path) -> None:
    """Also one that only points at the terms; a narrower one and none at all are possible."""
    name = {"Microsoft Research License": "MSRLA", "limit to research": "research only"}.get(
        limited.name,  # type: ignore[attr-defined]
        "CC BY-NC-SA 4.0",
    )
    assert limited in find_terms(name)
    check_use(name, "research", "use")
    check_use(name, GAP, "use")
    with pytest.raises(ArchiveError, match=r"--use is 'within-terms'.* allows research"):
        stated(None, tmp_path, license=name, use="within-terms")
    with pytest.raises(ArchiveError, match="allowed: research, non-commercial"):
        check_use(name, "clinical", "use")


def test_a_folder_states_its_license_or_nobody_does(tmp_path: Path) -> None:
    """The license of a published model is not that of whatever has its architecture."""
    front = "---\nlicense: other\nlicense_name: health-ai-developer-foundations\n---\n# Model"
    license_name = "health-ai-developer-foundations (README.md of weights)"
    assert stated(front, tmp_path / "stated") == (license_name, GAP)
    assert stated("---\nlicense: gemma\n---\n", tmp_path / "gemma") == ("gemma (README.md of weights)", GAP)
    assert "Gemma" in find_terms("gemma (README.md of weights)")[0].name
    for number, readme in enumerate(
        (None, "# Model", "---\nlicense: other\n---\n", "---\n", *(f"---\n{text}\n---\n" for text in UNREADABLE))
    ):
        assert stated(readme, tmp_path / f"{number}") == (GAP, GAP)
    assert stated(front, tmp_path / "given", license="mine", use="research") == ("mine", "research")
    for system in ("encoder_decoder", "blip", "gemma3", "llava", "qwen2_5_vl"):
        assert ARCHITECTURES[system].published.defaults["licence"] == GAP


def test_terms_of_a_published_model_are_assumed_aloud(
    published: dict[str, Tensor], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """The card and the output say that they are, and what is missing; options state others."""
    torch.save(published, tmp_path / "pytorch_model.bin")
    out = tmp_path / "assumed"
    import_checkpoint("mobilenet_graph", [tmp_path / "pytorch_model.bin"], None, out, "small")
    card, printed = (out / MODEL_CARD).read_text(encoding="utf-8"), capsys.readouterr().out
    for text in (card, printed):
        assert "assumed: licence = 'MIT', as in the published model" in text
        assert "a copy of the MIT license" in text
    assert ModelConfig.read(out / "model.yaml").use == GAP

    out = tmp_path / "given"
    terms = GivenTerms("Llama 2 Community License", "research", (*write_copies(tmp_path),))
    import_checkpoint("mobilenet_graph", [tmp_path / "pytorch_model.bin"], None, out, "small", terms=terms)
    card, printed = (out / MODEL_CARD).read_text(encoding="utf-8"), capsys.readouterr().out
    assert "Use: research, research only" in card
    assert "`llama2.txt`" in card
    assert "GAP:" not in printed
    assert {*COPIES, "NOTICE.txt"} == {path.name for path in (out / "terms").iterdir()}


def test_documents_of_a_folder_are_found() -> None:
    """Of a folder of the hub, as it is listed; not its code, nor folders."""
    names = ["LICENSE", "LICENSE.txt", "NOTICE", "USE_POLICY.md", "terms.md", "README.md"]
    assert terms_files([*names, "config.json", "license.py", "docs/LICENSE", "noticeable.bin"]) == names


def test_documents_are_in_the_archive(demo_mar: Path) -> None:
    """With the license in model.yaml, and the section of the card says what is there."""
    with zipfile.ZipFile(demo_mar) as archive:
        assert archive.read("terms/LICENSE-Apache-2.0.txt").lstrip().startswith(b"Apache License")
        card = archive.read(MODEL_CARD).decode()
        assert b"use: within-terms" in archive.read("model.yaml")
    section = card.split("<!-- terms -->")[1].split("<!-- end of terms -->")[0]
    assert "`LICENSE-Apache-2.0.txt`, `MODIFIED.txt`" in section
    assert "GAP" not in section


def test_terms_that_python_could_import_are_no_document(tiny_model: Path, tmp_path: Path) -> None:
    """Whoever serves the archive would refuse it."""
    folder = tmp_path / "mine"
    shutil.copytree(tiny_model, folder)
    (folder / "terms").mkdir()
    (folder / "terms" / "notice.py").write_text("terms", encoding="utf-8")
    with pytest.raises(
        ArchiveError, match=r"notice\.py: a document of the terms ends in \.html, \.md, \.pdf, \.txt or"
    ):
        write_archive(folder, tmp_path, batching="dynamic", slots=2)


def test_an_archive_of_a_use_beyond_its_license_is_not_written(tiny_model: Path, tmp_path: Path) -> None:
    """Also where someone edited model.yaml."""
    folder = tmp_path / "model"
    folder.mkdir()
    for path in tiny_model.iterdir():
        (folder / path.name).symlink_to(path)
    (folder / "model.yaml").unlink()
    mapping = CONFIG.to_mapping() | {"licence": MAIRA2, "use": "clinical-evaluation"}
    ModelConfig.from_mapping(mapping, "test").write(folder / "model.yaml")
    with pytest.raises(ArchiveError, match="use is 'clinical-evaluation', but the license"):
        write_archive(folder, tmp_path, batching="in-flight", slots=1)


@pytest.mark.parametrize(("name", "value"), [("use", "clinical"), ("use", None), ("licence", " "), ("licence", 3)])
def test_model_yaml_with_unknown_terms_is_refused(name: str, value: object) -> None:
    """The message lists the uses."""
    with pytest.raises(
        ArchiveError, match=f"{name} (is|=) .*allowed: {USES and ('research' if name == 'use' else '')}"
    ):
        ModelConfig.from_mapping(CONFIG.to_mapping() | {name: value}, "test")
