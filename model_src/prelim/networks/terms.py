"""Terms that are known: which uses they allow, and what must travel with weights under them.

Sources: Health AI Developer Foundations Terms of Use (2024), section 3.1; Gemma Terms of Use, section 3.1; Llama 2
Community License (2023), section 1.b; Apache License 2.0, section 4; MIT and BSD licenses, their conditions.
"""

import re
import shutil
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from prelim.archive.terms import GAP, TERMS, USES
from prelim.errors import ArchiveError
from prelim.networks.card_section import GAP as GAP_IN_CARD

NOTICE, MODIFIED = "NOTICE.txt", "MODIFIED.txt"
"""Documents that are written here: sentences that terms prescribe, and that the weights were changed."""

WITHIN = {"research": ("research",), "non-commercial": ("research", "non-commercial", "clinical-evaluation")}
"""A limit on the use -> the uses within it."""

_WHERE_STATED = r" \(README\.md of .*\)$"
"""What an import adds to the license that a folder states: the name of a model is not that of its terms."""

_SHORTEST = 500
"""Characters. A text that is shorter names terms, and is not their copy."""


@dataclass(frozen=True)
class KnownTerms:
    """What one set of terms asks for.

    name     : for messages
    named    : pattern of what `licence` of model.yaml calls it, in any case
    titled   : pattern of what is in every copy of it, in any case; empty: no copy is needed
    limit    : the widest use, if it is not for its text to say
    notice   : sentence that must be in a file of notices
    modified : changed files must be marked
    """

    name: str
    named: str
    titled: str = ""
    limit: str = ""
    notice: str = ""
    modified: bool = False


KNOWN = (
    KnownTerms(
        "Health AI Developer Foundations Terms of Use",
        r"health[\W_]ai[\W_]developer[\W_]foundations|\bhai[\W_]def\b",
        "health ai developer foundations terms of use",
        notice="HAI-DEF is provided under and subject to the Health AI Developer Foundations Terms of Use found at "
        "https://developers.google.com/health-ai-developer-foundations/terms",
        modified=True,
    ),
    KnownTerms(
        "Gemma Terms of Use",
        r"(?<!/)\bgemma(?![^\W_])",
        "gemma terms of use",
        notice="Gemma is provided under and subject to the Gemma Terms of Use found at ai.google.dev/gemma/terms",
        modified=True,
    ),
    KnownTerms(
        "Llama 2 Community License",
        r"\bllama[\W_]?2(?![^\W_])",
        "llama 2 community license",
        notice="Llama 2 is licensed under the LLAMA 2 Community License, Copyright (c) Meta Platforms, Inc. All Rights "
        "Reserved.",
    ),
    KnownTerms("license of the LLaMA that Vicuna was made of", r"\bvicuna\b", "llama"),
    KnownTerms(
        "Microsoft Research License", r"\bmsr[\W_]?la\b|microsoft[\W_]research[\W_]license", "microsoft", "research"
    ),
    KnownTerms(
        "limit to research",
        r"\b(research|academic)[\W_]((use|purposes?)[\W_])?only(?![^\W_])|\b(only|solely)[\W_]for[\W_](research|academic)",
        limit="research",
    ),
    KnownTerms(
        "limit to non-commercial use",
        r"\bcc[\W_]?by([\W_](nd|sa))?[\W_]?nc(?![^\W_])|\bno[nt]?[\W_]?(for[\W_])?commercial|attributionnoncommercial",
        limit="non-commercial",
    ),
    KnownTerms("Apache License 2.0", r"\bapache\b", "apache license", modified=True),
    KnownTerms("MIT license", r"\bmit\b", "permission is hereby granted"),
    KnownTerms("BSD license", r"\bbsd\b", "redistribution and use in source and binary forms"),
)


def find_terms(license_name: str) -> list[KnownTerms]:
    """The known terms that `licence` of model.yaml names."""
    name = _squeeze(re.sub(_WHERE_STATED, "", license_name))
    return [terms for terms in KNOWN if re.search(terms.named, name)]


def widest_use(license_name: str) -> str:
    """The only use that known terms allow, or GAP: what their text allows is for a person to state."""
    limits = {terms.limit for terms in find_terms(license_name)}
    return next((use for use in WITHIN if use in limits), GAP)


def check_use(license_name: str, use: str, where: str) -> None:
    """Raise ArchiveError for a use that is unknown, or wider than known terms allow; `where` says where it is given."""
    if use not in USES:
        raise ArchiveError(f"{where} is {use!r:.40}; allowed: {', '.join(USES)}")
    limit = widest_use(license_name)
    if limit != GAP and use not in (*WITHIN[limit], GAP):
        raise ArchiveError(
            f"{where} is {use!r}, but the license of the weights, {license_name!r:.200}, allows "
            f"{', '.join(WITHIN[limit])}; if they have another license, give its name"
        )


def list_documents(folder: Path) -> list[Path]:
    """The documents of a model folder that travel with its weights."""
    return sorted(path for path in (folder / TERMS).glob("*") if path.is_file())


def missing_documents(license_name: str, folder: Path) -> list[str]:
    """What known terms ask for and a model folder lacks. A copy counts if it is plain text with the terms' title."""
    texts = [_plain(path) for path in list_documents(folder)]
    copies = [text for text in texts if len(text) >= _SHORTEST]
    missing = [
        f"a copy of the {terms.name}"
        for terms in find_terms(license_name)
        if terms.titled and not any(terms.titled in text for text in copies)
    ]
    found = "\n".join(texts)
    missing += [
        f"the notice that the {terms.name} prescribes"
        for terms in find_terms(license_name)
        if _squeeze(terms.notice) not in found
    ]
    marked = (folder / TERMS / MODIFIED).is_file() or not any(terms.modified for terms in find_terms(license_name))
    return missing if marked else [*missing, f"{TERMS}/{MODIFIED}, which says what was changed"]


def check_documents(folder: Path, documents: Sequence[Path]) -> None:
    """Raise ArchiveError for a document that a model folder has under the same name with other contents."""
    for path in documents:
        copy = _copy_of(path, folder)
        if copy.exists() and copy.read_bytes() != path.read_bytes() and copy.name not in (NOTICE, MODIFIED):
            raise ArchiveError(f"{copy} exists with other contents than {path}; rename one of them, or remove it")


def write_terms(folder: Path, license_name: str, documents: Sequence[Path], change: str) -> None:
    """Write the documents of a model folder: copies of those given, and those that can be written here.

    change : one sentence on how the weights were changed; added to what the documents say already

    Raises ArchiveError for two documents of one name with different contents.
    """
    known = find_terms(license_name)
    target = folder / TERMS
    for path in documents:
        check_documents(folder, [path])
        target.mkdir(parents=True, exist_ok=True)
        if not (copy := _copy_of(path, folder)).exists():
            shutil.copyfile(path, copy)
    notices = [terms.notice for terms in known if terms.notice]
    for name, lines in ((NOTICE, notices), (MODIFIED, [change] if any(terms.modified for terms in known) else [])):
        _add_lines(target / name, lines)


def describe_terms(license_name: str, use: str, folder: Path) -> str:
    """The section on terms of a model card, in Markdown."""
    documents = [f"`{path.name}`" for path in list_documents(folder)]
    lines = [f"License of the weights: {license_name}.", f"Use: {use}, {USES[use]}."]
    if documents:
        lines.append(f"Documents that travel with it, in `{TERMS}/`: {', '.join(documents)}.")
    return "\n\n".join([" ".join(lines), *(f"{GAP_IN_CARD} {gap}." for gap in find_gaps(license_name, use, folder))])


def find_gaps(license_name: str, use: str, folder: Path) -> Iterator[str]:
    """What is missing of the terms of a model folder."""
    if GAP in license_name:
        yield f"the license of the weights (`licence` in {folder.name}/model.yaml)"
    if use == GAP:
        yield f"the use (`use` in {folder.name}/model.yaml: {', '.join(name for name in USES if name != GAP)})"
    missing = missing_documents(license_name, folder)
    if missing:
        yield f"whoever gets these weights must get {'; '.join(missing)} (in {folder.name}/{TERMS}/)"


def _copy_of(document: Path, folder: Path) -> Path:
    """Where a document is in a model folder, by a name that archives may have."""
    return folder / TERMS / re.sub(r"^\.+|[^\w.-]", "_", document.name, flags=re.ASCII)


def _add_lines(path: Path, lines: Sequence[str]) -> None:
    """Add the lines that a text lacks; without any, the file is not made."""
    text = path.read_text(encoding="utf-8") if path.is_file() else ""
    new = [line for line in lines if _squeeze(line) not in _squeeze(text)]
    if new:
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text("\n".join([*text.splitlines(), *new, ""]), encoding="utf-8")


def _plain(path: Path) -> str:
    return _squeeze(path.read_text(encoding="utf-8", errors="replace"))


def _squeeze(text: str) -> str:
    """Words in lower case with single spaces."""
    return " ".join(text.lower().split())
