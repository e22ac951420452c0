"""Ask a server for the report on one image.

python -m prelim_client chest.png                                   # the server of config.properties
python -m prelim_client chest.dcm --grpc num_beams=3 max_new_tokens=80
"""

import argparse
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import grpc
import requests

from prelim_client.answers import Answer, ReportError, read_key
from prelim_client.grpc_client import GrpcClient
from prelim_client.http_client import HttpClient

HTTP_URL = "http://127.0.0.1:8080"
GRPC_TARGET = "127.0.0.1:7070"


def main() -> int:
    """Print one report, or the reason why there is none."""
    # Options may stand on either side of the flags.
    arguments = _parser().parse_intermixed_args()
    fields: dict[str, Any] = dict(arguments.options)
    if arguments.prompt is not None:
        fields["prompt"] = arguments.prompt
    image = arguments.image.read_bytes()
    address, key = _server(arguments)
    started = time.monotonic()
    try:
        if arguments.grpc:
            with GrpcClient(address, key, arguments.model) as client:
                answer = client.report(image, **fields)
        elif arguments.stream:
            answer = _print_stream(HttpClient(address, key, arguments.model).stream(image, **fields))
        else:
            answer = HttpClient(address, key, arguments.model).report(image, **fields)
    except ReportError as error:
        print(error, file=sys.stderr)
        return 1
    except requests.RequestException as error:
        print(f"no answer from {address}: {error}", file=sys.stderr)
        return 1
    except grpc.RpcError as error:
        print(f"no answer from {address}: {error.code().name} {error.details()}", file=sys.stderr)
        return 1
    _print_report(answer, time.monotonic() - started)
    return 0


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="prelim-report", description=__doc__, formatter_class=argparse.RawTextHelpFormatter
    )
    parser.add_argument("image", type=Path, help="DICOM, PNG, JPEG, WebP or TIFF")
    parser.add_argument("options", nargs="*", type=_option, metavar="NAME=VALUE", help="a generation option")
    parser.add_argument("--prompt", help="question or instruction, for models that take one")
    parser.add_argument("--model", default="demo", help="name of the served model (demo)")
    parser.add_argument("--grpc", action="store_true", help="ask over gRPC instead of HTTP")
    parser.add_argument("--stream", action="store_true", help="print the text as it is decided")
    parser.add_argument("--url", help=f"address of the server ({HTTP_URL}, for gRPC {GRPC_TARGET})")
    parser.add_argument("--key-file", type=Path, default=Path("key_file.json"), help="of the server (key_file.json)")
    return parser


def _option(given: str) -> tuple[str, str]:
    name, separator, value = given.partition("=")
    if not separator:
        raise argparse.ArgumentTypeError(f"{given!r} is not NAME=VALUE")
    return name, value


def _server(arguments: argparse.Namespace) -> tuple[str, str]:
    """Address and inference key of the server to ask."""
    if not arguments.key_file.is_file():
        sys.exit(f"{arguments.key_file} is not here; the server writes it into the folder where it is started")
    return arguments.url or (GRPC_TARGET if arguments.grpc else HTTP_URL), read_key(arguments.key_file)


def _print_stream(lines: Iterator[Answer]) -> Answer:
    answer: Answer = {}
    for answer in lines:
        print(answer.get("text", "\n"), end="", flush=True)
    return answer


def _print_report(answer: Answer, seconds: float) -> None:
    model, timing = answer["model"], answer["timing_ms"]
    print(f"{answer['status']}: preliminary report by {model['name']} {model['version']} ({model['architecture']})\n")
    print(answer["report"])
    for number, alternative in enumerate(answer["alternatives"], start=2):
        print(f"\nalternative {number}: {alternative['report']}")
    for warning in answer["warnings"]:
        print(f"\nwarning: {warning}")
    parts = ", ".join(f"{name} {milliseconds:.0f} ms" for name, milliseconds in timing.items())
    print(f"\n{answer['num_tokens']} tokens, {answer['finish_reason']}; {parts}; {1000 * seconds:.0f} ms in all")


if __name__ == "__main__":
    sys.exit(main())
