"""Download archives into a folder, and keep those that have the expected hash.

python -m launcher.fetch model_store https://archives.hospital.example/demo.mar=SHA256

For a host that has no volume with archives: it runs before the server, which itself never downloads. An archive that is
there already with its hash is not downloaded again. If PRELIM_PUBLIC_KEY is set, its signature, URL.sig, comes with it.
"""

import os
import re
import sys
from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from urllib.parse import urlsplit

import requests

from launcher.archives import PUBLIC_KEY
from launcher.errors import LaunchError, using
from prelim.archive.manifest import sha256_of
from prelim.archive.signature import SUFFIX
from terminal.arguments import CommandLine

CHUNK = 2**20
SECONDS = 60
"""Without a byte after which a download has failed."""


def main() -> int:
    """Fetch all; the exit code is 0 if each is there."""
    parser = CommandLine(__doc__)
    parser.add_argument("folder", type=Path)
    parser.add_argument("archives", nargs="+", metavar="URL=SHA256")
    arguments = parser.parse_args()
    try:
        for url, sha256 in parse_sources(arguments.archives):
            print(f"{fetch(url, sha256, arguments.folder).name}: sha256 {sha256}", flush=True)
            if PUBLIC_KEY in os.environ:
                fetch_signature(url, arguments.folder)
    except LaunchError as error:
        print(error, file=sys.stderr)
        return 1
    return 0


def parse_sources(texts: Sequence[str]) -> list[tuple[str, str]]:
    """URLs and hashes. Raises LaunchError, also for two archives of one name, of which the second would be served."""
    sources = [parse_source(text) for text in texts]
    for name, count in Counter(_name(url) for url, _ in sources).items():
        if count > 1:
            raise LaunchError(f"{count} archives are called {name}; rename all but one")
    return sources


def parse_source(text: str) -> tuple[str, str]:
    """URL and hash. Raises LaunchError."""
    found = re.fullmatch(r"(https?://\S+\.mar)=([0-9a-f]{64})", text)
    if found is None:
        raise LaunchError(
            f"the archive is {text!r}; allowed: URL=SHA256, where URL is http(s)://.../NAME.mar and SHA256 has 64 "
            "hexadecimal digits in lower case"
        )
    return found[1], found[2]


def fetch(url: str, sha256: str, folder: Path) -> Path:
    """The archive's file. Raises LaunchError if it cannot be downloaded or has another hash; then there is no file."""
    target = folder / _name(url)
    with using(target):
        if target.is_file() and sha256_of(target) == sha256:
            return target
        folder.mkdir(parents=True, exist_ok=True)
        target.unlink(missing_ok=True)
        _download(url, target, sha256)
    return target


def fetch_signature(url: str, folder: Path) -> Path:
    """The file of an archive's signature, which the launcher is going to check. Raises LaunchError."""
    address = urlsplit(url)
    signature = address._replace(path=address.path + SUFFIX)
    target = folder / Path(signature.path).name
    with using(target):
        _download(signature.geturl(), target)
    return target


def _name(url: str) -> str:
    return Path(urlsplit(url).path).name


def _download(url: str, target: Path, sha256: str | None = None) -> None:
    """Download a file, which is there only when it is complete and has the expected hash. Raises LaunchError."""
    name = target.name
    unfinished = target.with_name(f".{name}.unfinished")
    try:
        with requests.get(url, stream=True, timeout=SECONDS) as response, unfinished.open("wb") as written:
            response.raise_for_status()
            for chunk in response.iter_content(CHUNK):
                written.write(chunk)
        found = sha256_of(unfinished)
        if sha256 is not None and found != sha256:
            raise LaunchError(f"{name} has sha256 {found}, expected {sha256}: it is damaged, or another version")
        unfinished.replace(target)
    except requests.RequestException as error:
        # Its text has the URL, which may have a password in it.
        raise LaunchError(f"{name} cannot be downloaded ({type(error).__name__}{_status(error)})") from None
    finally:
        unfinished.unlink(missing_ok=True)


def _status(error: requests.RequestException) -> str:
    return f", status {error.response.status_code}" if error.response is not None else ""


if __name__ == "__main__":
    sys.exit(main())
