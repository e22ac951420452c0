"""Downloads models from the Hugging Face Hub into its cache. No other module of this project downloads anything."""

import re
from collections.abc import Callable, Collection
from pathlib import Path

import httpx2
from huggingface_hub import HfApi, get_cached_repo_tree, snapshot_download
from huggingface_hub.errors import (
    CachedRepoTreeNotFoundError,
    GatedRepoError,
    HfHubHTTPError,
    LocalEntryNotFoundError,
    OfflineModeIsEnabled,
    RepositoryNotFoundError,
    RevisionNotFoundError,
)

from prelim.errors import ArchiveError

NAME = re.compile(r"(?:hf-hub:)?(?P<repository>\w[\w.-]*/\w[\w.-]*)(?:@(?P<revision>\w[\w./-]*))?")
"""OWNER/NAME, optionally with open_clip's prefix, and optionally with a branch, tag or commit."""

TIMEOUT = 5.0
"""Seconds to wait for the hub before falling back to the cache; the library has no timeout by default."""

_FAILURES = (OSError, ValueError, httpx2.HTTPError)
"""Exceptions of `huggingface_hub`: its own are OSErrors; a malformed response is a ValueError."""


def is_name(given: str) -> bool:
    """Whether this is a syntactically valid model name; the model need not exist."""
    return NAME.fullmatch(given) is not None


def download(name: str, choose: Callable[[Collection[str]], Collection[str]], wanted: str) -> tuple[str, Path]:
    """Download files of a model from the hub, unless they are in the cache.

    name    : as in NAME
    choose  : selects the needed files from the names of all files; returns none if a needed file is missing
    wanted  : description of these files for messages
    returns : repository@commit, and the folder with the files

    Raises ArchiveError if the files are not in the cache and the hub is unreachable, denies access or lacks them.
    """
    parts = NAME.fullmatch(name)
    if parts is None:
        raise ArchiveError(f"{name!r} is not a valid model name; expected OWNER/NAME or OWNER/NAME@REVISION")
    repository, revision = parts["repository"], parts["revision"]
    unreached: Exception | None = None
    try:
        info = HfApi().model_info(repository, revision=revision, timeout=TIMEOUT)
        names = [file.rfilename for file in info.siblings or ()]
    except _FAILURES as error:
        unreached = error
        try:
            names = [file.path for file in get_cached_repo_tree(repository, revision=revision)]
        except CachedRepoTreeNotFoundError:
            raise ArchiveError(_message(name, error, wanted)) from error
    chosen = choose(names)
    if not chosen:
        raise ArchiveError(
            f"{name} on the hub does not contain {wanted}; it contains {', '.join(sorted(names)) or 'no files'}"
        )
    try:
        folder = Path(
            snapshot_download(
                repository, revision=revision, allow_patterns=list(chosen), local_files_only=unreached is not None
            )
        )
    except _FAILURES as error:
        raise ArchiveError(_message(name, unreached or error, wanted)) from error
    label = f"{repository}@{folder.name}"
    if unreached is not None:
        print(f"{label}: using the cache ({_reason(unreached)})")
    return label, folder


def _message(name: str, error: Exception, wanted: str) -> str:
    return (
        f"{name} is not a local file or folder, and could not be downloaded: {_reason(error)}. Alternatively download "
        f"{wanted} on a machine with access to the hub, and pass their folder instead of the name"
    )


def _reason(error: Exception) -> str:
    """The cause of a failure, and how to fix it."""
    # The library chains "not in the cache" to the error that came first, which is the useful one.
    if isinstance(error, LocalEntryNotFoundError) and isinstance(error.__cause__, Exception):
        error = error.__cause__
    status = error.response.status_code if isinstance(error, HfHubHTTPError) else None
    if isinstance(error, OfflineModeIsEnabled):
        return "HF_HUB_OFFLINE is set; unset it"
    if isinstance(error, RevisionNotFoundError):
        return "the model has no such revision; give an existing branch, tag or commit"
    if isinstance(error, RepositoryNotFoundError) and not isinstance(error, GatedRepoError):
        return (
            f"the hub has no such model, or it is private ({status}); check the name, or set HF_TOKEN to a token with "
            "access"
        )
    if status in {401, 403}:
        return (
            f"the hub denies access ({status}); accept the license on the model's page, and set HF_TOKEN to a token of "
            "that account"
        )
    if status is not None:
        return f"the hub answered with status {status}; check HF_ENDPOINT if set, or try again later"
    return f"the hub cannot be reached ({type(error).__name__}: {error}); check the connection, and HF_ENDPOINT if set"
