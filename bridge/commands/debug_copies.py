"""`python -m bridge deidentify CONFIG FILE... --out FOLDER`: Copies of DICOM files without identities, to find a fault.

They have the elements of the allow-list and nothing else, UIDs replaced with the site's key, and names that follow from
these. Messages count the files and never name them: stations write patients' names into file names.
"""

import os
import sys
from pathlib import Path

from pydicom import dcmread

from bridge.configuration.section import ConfigError
from bridge.configuration.settings import read_settings
from bridge.dicom.deidentify import write_deidentified
from bridge.dicom.identity import SiteKey
from terminal.arguments import CommandLine


class Unnamed(Exception):
    """A file has no SOP Instance UID."""


def copy_files(arguments: list[str]) -> int:
    """Run the command; the exit code: 1 if a file could not be copied.

    Raises ConfigError.
    """
    given = _parser().parse_args(arguments)
    key = SiteKey.load(read_settings(given.config).state / "site.key")
    paths = [path for source in given.files for path in _files(source)]
    try:
        given.out.mkdir(parents=True, exist_ok=True, mode=0o700)
    except OSError as error:
        raise ConfigError(f"the folder of --out cannot be used: {error.strerror}") from None
    failed = 0
    for number, path in enumerate(paths, start=1):
        try:
            name, copy = _copy(path, key, pixels=not given.without_pixels)
            descriptor = os.open(given.out / name, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
            with os.fdopen(descriptor, "wb") as target:
                target.write(copy)
        except FileExistsError:
            problem = "its copy is there already; give an empty folder"
        except OSError as error:
            problem = str(error.strerror)
        except Unnamed:
            problem = "it has no SOP Instance UID, which its copy is named by; the station must export it again"
        except Exception as error:  # noqa: BLE001 - whatever a damaged file raises; its text may quote the header
            problem = f"it cannot be read as DICOM ({type(error).__name__})"
        else:
            print(f"file {number} of {len(paths)}: {name}")
            continue
        print(f"file {number} of {len(paths)}: {problem}", file=sys.stderr)
        failed += 1
    if not given.without_pixels:
        print("Text that is burned into the pixels is still there: look at every image before it leaves the site.")
    return 1 if failed or not paths else 0


def _copy(path: Path, key: SiteKey, *, pixels: bool) -> tuple[str, bytes]:
    """Return the name and the contents of a copy."""
    image = dcmread(path)
    if not image.get("SOPInstanceUID"):
        raise Unnamed
    name = key.pseudonym(str(image.SOPInstanceUID))
    if not pixels and "PixelData" in image:
        del image.PixelData
    return f"{name}.dcm", write_deidentified(image, key)


def _files(source: Path) -> list[Path]:
    """Return a file, or the files of a folder and the folders in it."""
    return sorted(path for path in source.rglob("*") if path.is_file()) if source.is_dir() else [source]


def _parser() -> CommandLine:
    parser = CommandLine(__doc__.partition(": ")[2], prog="python -m bridge deidentify")
    parser.add_argument("config", type=Path, help="the bridge's configuration file; its state folder has the key")
    parser.add_argument("files", type=Path, nargs="+", metavar="FILE", help="DICOM files, or folders of them")
    parser.add_argument("--out", type=Path, required=True, help="folder of the copies")
    parser.add_argument("--without-pixels", action="store_true", help="headers only")
    return parser
