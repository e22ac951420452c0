"""One real chest radiograph, as DICOM and as PNG, over HTTP and over gRPC, to a temporary server.

python -m launcher.demo --store model_store --model demo
"""

import signal
import sys
import time
from collections.abc import Callable, Mapping
from pathlib import Path

from launcher.errors import LaunchError
from launcher.local_server import LocalServer
from launcher.sample_radiograph import as_png, sample_radiograph
from prelim_client.answers import Answer
from prelim_client.grpc_client import GrpcClient
from prelim_client.http_client import HttpClient
from terminal.arguments import CommandLine
from terminal.program import sign_of_life


def main() -> None:
    """Command line."""
    parser = CommandLine(__doc__)
    parser.add_argument("--store", type=Path, default=Path("model_store"), help="folder with the archive")
    parser.add_argument("--model", default="demo", help="name of the archive")
    arguments = parser.parse_args()
    # So that a termination leaves no server behind.
    signal.signal(signal.SIGTERM, signal.default_int_handler)
    try:
        dicom = sample_radiograph()
    except FileNotFoundError as error:
        sys.exit(f"{error}")
    images = {"DICOM": dicom, "PNG": as_png(dicom)}
    print("starting TorchServe on free ports ...", flush=True)
    try:
        show_reports(arguments.store, arguments.model, images)
    except LaunchError as error:
        sys.exit(f"{error}")
    except KeyboardInterrupt:
        sys.exit("interrupted; the server has been stopped")
    print("\nthe server has been stopped")


def show_reports(store: Path, model: str, images: Mapping[str, bytes]) -> None:
    """Start a server, ask for the report on each image over HTTP and gRPC, stop it."""
    with LocalServer(store) as server:
        with sign_of_life("loading the model"):
            server.wait_until_ready(model)
        with GrpcClient(server.grpc_target, server.key(), model) as over_grpc:
            ways: dict[str, Callable[[bytes], Answer]] = {
                "HTTP": HttpClient(server.url, server.key(), model).report,
                "gRPC": over_grpc.report,
            }
            for way, ask in ways.items():
                for kind, image in images.items():
                    _show(way, kind, image, ask)


def _show(way: str, kind: str, image: bytes, ask: Callable[[bytes], Answer]) -> None:
    """Ask and print one report with its timings."""
    began = time.perf_counter()
    answer = ask(image)
    took = 1000 * (time.perf_counter() - began)
    parts = ", ".join(f"{name} {milliseconds:.0f}" for name, milliseconds in answer["timing_ms"].items())
    print(f"\n{kind} ({len(image) / 1e6:.1f} MB) over {way}: {took:.0f} ms ({parts})")
    print(f"{answer['status']}: {answer['report']}")
    for warning in answer["warnings"]:
        print(f"  {warning}")


if __name__ == "__main__":
    main()
