"""Archives are checked by the installed package, before TorchServe unpacks them and runs their code."""

import json
import os
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path, PurePosixPath

import prelim
from launcher.environment import ROOT
from launcher.errors import LaunchError, using
from prelim.archive.manifest import Manifest, sha256_of
from prelim.archive.mar import check_mar, read_file
from prelim.archive.signature import Verifier
from prelim.archive.terms import DOCUMENTS, TERMS
from prelim.errors import ArchiveError

CODE = {"handlers": ROOT, "prelim": Path(prelim.__file__).parents[1]}
"""Folder of code in an archive -> where this installation has it."""

PUBLIC_KEY = "PRELIM_PUBLIC_KEY"
"""Variable with the file of the key that must have signed the archives. An update replaces config.properties."""

HANDLER = "report_handler.py"
TORCHSERVE = "MAR-INF/MANIFEST.json"
DATA = frozenset({".yaml", ".json", ".safetensors", ".onnx", ".data", ".md"})
"""Endings of what is not code in an archive: nothing that Python imports, and no pickle."""


@dataclass(frozen=True)
class CheckedArchive:
    """An archive that may be served.

    file   : of the store
    name   : under which TorchServe serves it
    sha256 : of its manifest, found by this package and not by the code in the archive
    signed : whether the key of PRELIM_PUBLIC_KEY has signed it
    """

    file: Path
    name: str
    sha256: str
    signed: bool = False


def check_store(store: Path, *, other_code: bool = False) -> list[CheckedArchive]:
    """Check all archives of a folder, their signatures too if PRELIM_PUBLIC_KEY names a key.

    other_code : archives may have other code than this installation; what it does is then up to who built them

    Raises LaunchError with what is wrong with each archive, or if there is none.
    """
    paths = sorted(path for path in store.glob("*.mar") if path.is_file())
    if not paths:
        raise LaunchError(f"{store} has no archive; `make archive` builds one")
    checked, faults = [], []
    verifier = _verifier()
    for path in paths:
        try:
            with using(path):
                # Before anything else of an archive that may be a stranger's is read.
                if verifier is not None:
                    verifier.check(path)
                archive = check_archive(path, other_code=other_code)
            checked.append(replace(archive, signed=verifier is not None))
        except (ArchiveError, LaunchError) as error:
            faults.append(str(error))
    if faults:
        raise LaunchError("\n".join(faults))
    return checked


def _verifier() -> Verifier | None:
    """Of the key that PRELIM_PUBLIC_KEY names; None if it is not set. Raises LaunchError for a key that is not one."""
    key = os.environ.get(PUBLIC_KEY)
    if key is None:
        return None
    if not key:
        raise LaunchError(f"{PUBLIC_KEY} is empty; set it to the file of a public key, or unset it")
    try:
        return Verifier(Path(key))
    except ArchiveError as error:
        raise LaunchError(f"{PUBLIC_KEY}: {error}") from None


def check_archive(path: Path, *, other_code: bool = False) -> CheckedArchive:
    """Check one archive. Raises ArchiveError."""
    manifest = check_mar(path)
    try:
        model = json.loads(read_file(path, TORCHSERVE))["model"]
        name, handler = str(model["modelName"]), str(model["handler"])
    except (ValueError, TypeError, KeyError):
        raise ArchiveError(f"{path}: {TORCHSERVE} is damaged; build the archive again with `make archive`") from None
    if not other_code:
        _check_code(path, manifest)
        if handler != HANDLER:
            raise ArchiveError(f"{path}: its handler is not {HANDLER}; build the archive again with `make archive`")
    return CheckedArchive(path, name, manifest.sha256)


def _check_code(path: Path, manifest: Manifest) -> None:
    """Raise ArchiveError unless all code of the archive is that of this installation."""
    other = [name for name, sha256 in manifest.files.items() if not _is_ours(name, sha256)]
    if other:
        raise ArchiveError(
            f"{path}: {_join(other)} differ from this installation's. Build the archive again with `make archive`, or "
            "start with --other-code if you know who built it"
        )


def _is_ours(name: str, sha256: str) -> bool:
    top = PurePosixPath(name).parts[0]
    if top in CODE:
        source = CODE[top] / name
    elif name == HANDLER:
        source = ROOT / "handlers" / name
    else:
        return PurePosixPath(name).suffix in (DOCUMENTS if top == TERMS else DATA)
    return source.is_file() and sha256_of(source) == sha256


def _join(names: Sequence[str]) -> str:
    more = f" and {len(names) - 3} more files" if len(names) > 3 else ""
    return ", ".join(names[:3]) + more
