"""Request reports from a server.

python -m prelim_client chest.png                                   # the server whose key is in key_file.json
python -m prelim_client chest.dcm --grpc --option num_beams=3 --option max_new_tokens=80
python -m prelim_client studies/ --out reports/                     # every file below a folder
"""

import argparse
import json
import os
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import grpc
import requests

from prelim_client import __version__
from prelim_client.answers import Answer, KeyFileError, ReportError, read_key
from prelim_client.grpc_client import GrpcClient
from prelim_client.http_client import HttpClient

HTTP_URL = "http://127.0.0.1:8080"
GRPC_TARGET = "127.0.0.1:7070"
CONFIG = "config.properties"
"""The server's settings, which lie next to its keys."""

Ask = Callable[[bytes, dict[str, Any]], Answer]
"""Sends an image and fields; returns the answer."""


def main() -> int:
    """Print one report, or write many; the exit code is 1 if any is missing."""
    arguments = _parser().parse_args()
    fields = dict(arguments.options)
    if arguments.prompt is not None:
        fields["prompt"] = arguments.prompt
    images = list(_files(arguments.images))
    if not images:
        sys.exit("no image: give a file, several files, or a folder")
    single = len(images) == 1 and not arguments.images[0].is_dir()
    with _connect(arguments) as ask:
        if single and arguments.out is None:
            return _ask_one(ask, images[0], fields)
        return _ask_many(ask, images, fields, arguments.out)


def _ask_one(ask: Ask, image: Path, fields: dict[str, Any]) -> int:
    started = time.monotonic()
    answer = _attempt(ask, image, fields)
    if isinstance(answer, str):
        print(answer, file=sys.stderr)
        return 1
    _print_report(answer, time.monotonic() - started)
    return 0


def _ask_many(ask: Ask, images: list[Path], fields: dict[str, Any], out: Path | None) -> int:
    """Request one report after another; a file that fails does not stop the rest.

    Files of one name in several folders keep their folders, in `out` as well.
    """
    failed = 0
    names = _names(images)
    for number, (image, name) in enumerate(zip(images, names, strict=True), start=1):
        answer = _attempt(ask, image, fields)
        failed += isinstance(answer, str)
        text = answer if isinstance(answer, str) else f"{answer['status']}: {answer['report']}"
        print(f"[{number}/{len(images)}] {name}: {text}", flush=True)
        if out is not None and not isinstance(answer, str):
            try:
                _write(answer, out / name)
            except OSError as error:
                sys.exit(f"{out} cannot be written: {error.strerror}; give another folder")
    if failed:
        print(f"{failed} of {len(images)} images have no report", file=sys.stderr)
    return 1 if failed else 0


def _names(images: list[Path]) -> list[Path]:
    """The paths of images below the folder that they have in common."""
    whole = [image.absolute() for image in images]
    common = os.path.commonpath([image.parent for image in whole])
    return [image.relative_to(common) for image in whole]


def _write(answer: Answer, path: Path) -> None:
    """Write an answer as .json and its report as .txt. Raises OSError."""
    path.parent.mkdir(parents=True, exist_ok=True)
    path.with_name(f"{path.name}.json").write_text(json.dumps(answer, indent=1, ensure_ascii=False), encoding="utf-8")
    path.with_name(f"{path.name}.txt").write_text(f"{answer['status']}\n{answer['report']}\n", encoding="utf-8")


def _attempt(ask: Ask, image: Path, fields: dict[str, Any]) -> Answer | str:
    """The answer, or an error message of one line."""
    try:
        return ask(image.read_bytes(), fields)
    except ReportError as error:
        return str(error)
    except requests.RequestException as error:
        return f"no answer from the server: {error}"
    except grpc.RpcError as error:
        return f"no answer from the server: {error.code().name} {error.details()}"
    except OSError as error:
        return f"{image} cannot be read: {error.strerror}"


@contextmanager
def _connect(arguments: argparse.Namespace) -> Iterator[Ask]:
    """Open the connection given by the arguments; yields a function that requests a report."""
    address, key = _server(arguments)
    if arguments.grpc:
        with GrpcClient(address, key, arguments.model) as client:
            yield lambda image, fields: client.report(image, **fields)
        return
    http = HttpClient(address, key, arguments.model)
    if arguments.stream:
        yield lambda image, fields: _print_stream(http.stream(image, **fields))
    else:
        yield lambda image, fields: http.report(image, **fields)


def _files(paths: list[Path]) -> Iterator[Path]:
    """Yield the given files, each once, and the files below the given folders, except hidden ones."""
    seen: set[Path] = set()
    for path in paths:
        for file in _below(path) if path.is_dir() else (path,):
            if file.absolute() not in seen:
                seen.add(file.absolute())
                yield file


def _below(folder: Path) -> Iterator[Path]:
    for path in sorted(folder.rglob("*")):
        if path.is_file() and not any(part.startswith(".") for part in path.relative_to(folder).parts):
            yield path


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="prelim-report", description=__doc__, formatter_class=argparse.RawTextHelpFormatter
    )
    parser.add_argument("--version", action="version", version=f"Prelim {__version__}")
    parser.add_argument("images", nargs="+", type=Path, help="files (DICOM, PNG, JPEG, WebP, TIFF) or folders of them")
    parser.add_argument(
        "--option",
        dest="options",
        action="append",
        default=[],
        type=_option,
        metavar="NAME=VALUE",
        help="generation option; can be repeated",
    )
    parser.add_argument("--out", type=Path, help="folder for the reports, one .json and one .txt for each image")
    parser.add_argument("--prompt", help="question or instruction, for models that take one")
    parser.add_argument("--model", default="demo", help="name of the served model (demo)")
    parser.add_argument("--grpc", action="store_true", help="use gRPC instead of HTTP")
    parser.add_argument("--stream", action="store_true", help="print the text as it is generated")
    parser.add_argument(
        "--url",
        help=f"address of the server ($PRELIM_URL, or that of {CONFIG} next to the key file, or {HTTP_URL}; "
        f"for gRPC {GRPC_TARGET})",
    )
    parser.add_argument("--key-file", type=Path, default=Path("key_file.json"), help="of the server (key_file.json)")
    return parser


def _option(given: str) -> tuple[str, str]:
    name, separator, value = given.partition("=")
    if not separator:
        raise argparse.ArgumentTypeError(f"{given!r} is not NAME=VALUE")
    return name, value


def _server(arguments: argparse.Namespace) -> tuple[str, str]:
    """Address and inference key of the server."""
    if not arguments.key_file.is_file():
        sys.exit(f"{arguments.key_file} does not exist: start the server with `make start`, or use --key-file")
    settings = _read_properties(arguments.key_file.absolute().parent / CONFIG)
    if arguments.grpc:
        host, _, port = GRPC_TARGET.rpartition(":")
        usual = f"{settings.get('grpc_inference_address', host)}:{settings.get('grpc_inference_port', port)}"
    else:
        usual = os.environ.get("PRELIM_URL") or settings.get("inference_address", HTTP_URL)
    try:
        return arguments.url or usual, read_key(arguments.key_file)
    except KeyFileError as error:
        sys.exit(str(error))


def _read_properties(path: Path) -> dict[str, str]:
    """The settings of a server; none where there is no such file."""
    if not path.is_file():
        return {}
    lines = (line.partition("=") for line in path.read_text(encoding="utf-8").splitlines() if line[:1] not in "#!")
    return {name.strip(): value.strip() for name, separator, value in lines if separator}


def _print_stream(lines: Iterator[Answer]) -> Answer:
    answer: Answer = {}
    for answer in lines:
        print(answer.get("text", "\n"), end="", flush=True)
    return answer


def _print_report(answer: Answer, seconds: float) -> None:
    model, timing = answer["model"], answer["timing_ms"]
    by = f"{model['name']} {model['version']} ({model['architecture']}, use: {model.get('use', 'not stated')})"
    print(f"{answer['status']}: preliminary report by {by}\n")
    print(answer["report"])
    for number, alternative in enumerate(answer["alternatives"], start=2):
        print(f"\nalternative {number}: {alternative['report']}")
    for sentence in answer.get("sentences", ()):
        if sentence["confirm"]:
            print(f"\nto confirm, confidence {sentence['confidence']:.0%}: {sentence['text']}")
    for warning in answer["warnings"]:
        print(f"\nwarning: {warning}")
    parts = ", ".join(f"{name} {milliseconds:.0f} ms" for name, milliseconds in timing.items())
    print(f"\n{answer['num_tokens']} tokens, {answer['finish_reason']}; {parts}; {1000 * seconds:.0f} ms in total")
