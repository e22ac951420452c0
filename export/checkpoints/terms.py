"""Finds the terms of an imported model: as given, as its folder states them, or as known of the published model."""

import re
from collections.abc import Collection, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml

from prelim.archive.terms import GAP
from prelim.errors import ArchiveError
from prelim.networks.architectures.architecture import Published
from prelim.networks.terms import check_use, widest_use

README = "README.md"
_DOCUMENT = re.compile(
    r"(licen[cs]e|copying|notice|terms|(acceptable|prohibited)?[-_ ]?use[-_ ]policy)\b.*", re.IGNORECASE
)
_FRONT = re.compile(r"\A\ufeff?---\s*\n(.*?)\n---\s*(\n|\Z)", re.DOTALL)


@dataclass(frozen=True)
class GivenTerms:
    """Terms as the user of the import states them.

    license   : of the weights; None: as the folder or the published model has it
    use       : one of prelim.archive.terms.USES; None: the one that the license allows, if it is one, or GAP
    documents : files that must travel with the weights
    """

    license: str | None = None
    use: str | None = None
    documents: tuple[Path, ...] = ()

    def __post_init__(self) -> None:
        if self.license is not None and not self.license.strip():
            raise ArchiveError("--license is empty; give the name of the license, or leave it out")
        for path in self.documents:
            if not path.is_file():
                raise ArchiveError(f"--terms {path}: there is no such file")


def is_terms_file(name: str) -> bool:
    """Whether a file of a folder is one of its terms, or the README that may name them."""
    return name == README or (_DOCUMENT.match(name) is not None and "/" not in name and not name.endswith(".py"))


def terms_files(names: Collection[str]) -> list[str]:
    """The names that `is_terms_file`."""
    return [name for name in names if is_terms_file(name)]


def find_documents(given: GivenTerms, folders: Collection[Path]) -> list[Path]:
    """Files that travel: those given, and those that folders of the import have."""
    found = [
        path
        for folder in dict.fromkeys(folders)
        for path in sorted(folder.iterdir())
        if path.is_file() and path.name != README and is_terms_file(path.name)
    ]
    return [*given.documents, *(path for path in found if path.name not in {p.name for p in given.documents})]


def settle_terms(
    published: Published, given: GivenTerms, folders: Sequence[tuple[str, Path]]
) -> tuple[str, str, list[str]]:
    """License and use of the weights, and what of them is assumed; GAP is what nobody states.

    folders : label and path of those that the checkpoint is in

    The README of a folder counts for systems whose folders are whole models of any origin. For a published model its
    own license is assumed.

    Raises ArchiveError for a use that the license does not allow.
    """
    license_name, assumed = given.license, []
    if license_name is None:
        license_name = str(published.defaults["licence"])
        if license_name == GAP:
            stated = (_stated(label, path) for label, path in folders)
            license_name = next((text for text in stated if text is not None), GAP)
        else:
            assumed.append(f"licence = {license_name!r}, as in the published model; change it with --license NAME")
    use = widest_use(license_name) if given.use is None else given.use
    check_use(license_name, use, "--use")
    return license_name, use, assumed


def _stated(label: str, folder: Path) -> str | None:
    """The license in the README's front matter, with the place where it is stated; None without one."""
    path = folder / README
    if not path.is_file():
        return None
    front = _FRONT.match(path.read_text(encoding="utf-8", errors="replace"))
    try:
        stated: Any = yaml.safe_load(front[1]) if front else None
    except (yaml.YAMLError, ValueError, RecursionError):
        return None
    if not isinstance(stated, dict):
        return None
    name = stated.get("license_name") if stated.get("license") in (None, "other") else stated["license"]
    return f"{' '.join(name.split())} ({README} of {label})" if isinstance(name, str) and name.strip() else None
