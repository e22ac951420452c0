"""Models of a hub, by name; their files come into the cache of `huggingface_hub`. Nothing else here downloads."""

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
"""OWNER/NAME, with the prefix that open_clip puts before it or without, and with a branch, tag or commit or without."""

TIMEOUT = 5.0
"""Seconds that a hub has to answer, before its cache is looked into; the library itself would wait without end."""

_FAILURES = (OSError, ValueError, httpx2.HTTPError)
"""What `huggingface_hub` lets out; its own errors are OSErrors, an answer that is no hub's is a ValueError."""


def is_name(given: str) -> bool:
    """Whether this can be the name of a hub's model; that there is one only the hub can tell."""
    return NAME.fullmatch(given) is not None


def download(name: str, choose: Callable[[Collection[str]], Collection[str]], wanted: str) -> tuple[str, Path]:
    """Fetch files of a hub's model, if they are not in the cache.

    name    : as in NAME
    choose  : of the names of all its files those that are needed; none where it has not what is needed
    wanted  : these files in words, for messages
    returns : repository@commit, and the folder with the files

    Raises ArchiveError when the hub cannot be reached, refuses, or has not the files, and they are not in the cache.
    """
    parts = NAME.fullmatch(name)
    if parts is None:
        raise ArchiveError(f"{name!r} is no name of a hub's model; expected OWNER/NAME or OWNER/NAME@REVISION")
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
        raise ArchiveError(f"{name} of the hub has not {wanted}; it has {', '.join(sorted(names)) or 'no file'}")
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
        print(f"{label} is taken from the cache: {_reason(unreached)}")
    return label, folder


def _message(name: str, error: Exception, wanted: str) -> str:
    return (
        f"{name} is no file or folder here, and cannot be had from the hub: {_reason(error)}. Or download {wanted} "
        "where the hub can be reached, and give their folder in place of the name"
    )


def _reason(error: Exception) -> str:
    """What happened, and what can be done about it."""
    # The library raises "not in the cache" from what happened before it looked there.
    if isinstance(error, LocalEntryNotFoundError) and isinstance(error.__cause__, Exception):
        error = error.__cause__
    status = error.response.status_code if isinstance(error, HfHubHTTPError) else None
    if isinstance(error, OfflineModeIsEnabled):
        return "HF_HUB_OFFLINE is set; unset it"
    if isinstance(error, RevisionNotFoundError):
        return "it has no such revision; give a branch, a tag or a commit that it has"
    if isinstance(error, RepositoryNotFoundError) and not isinstance(error, GatedRepoError):
        return f"it knows none of this name, or hides it ({status}); check it, or set HF_TOKEN to one that may see it"
    if status in {401, 403}:
        return f"it refuses ({status}); accept the licence on the model's page, and set HF_TOKEN to one of that account"
    if status is not None:
        return f"it answers with status {status}; check HF_ENDPOINT if it is set, or try again later"
    return f"it cannot be reached ({type(error).__name__}: {error}); check the connection, and HF_ENDPOINT if it is set"
