"""The gRPC messages of TorchServe's inference API.

Its Python package has no generated code, but the server's jar holds the .proto file. protoc makes descriptors of it
once, into build/grpc.
"""

import importlib.util
import zipfile
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

from google.protobuf import descriptor_pb2, descriptor_pool, message_factory
from grpc_tools import protoc

CACHE = Path(__file__).resolve().parent.parent / "build" / "grpc" / "inference.binpb"
PACKAGE = "org.pytorch.serve.grpc.inference"
SERVICE = f"/{PACKAGE}.InferenceAPIsService"


def message_classes() -> dict[str, Any]:
    """Classes of the messages PredictionsRequest, PredictionResponse and TorchServeHealthResponse, by name."""
    if not CACHE.is_file():
        _compile()
    pool = descriptor_pool.DescriptorPool()
    for file in descriptor_pb2.FileDescriptorSet.FromString(CACHE.read_bytes()).file:
        pool.Add(file)
    names = ("PredictionsRequest", "PredictionResponse", "TorchServeHealthResponse")
    return {name: message_factory.GetMessageClass(pool.FindMessageTypeByName(f"{PACKAGE}.{name}")) for name in names}


def _compile() -> None:
    """Write the descriptors of inference.proto and of all that it imports."""
    jar = _package("ts", "torchserve") / "frontend" / "model-server.jar"
    CACHE.parent.mkdir(parents=True, exist_ok=True)
    with TemporaryDirectory(dir=CACHE.parent) as folder:
        with zipfile.ZipFile(jar) as archive:
            archive.extract("inference.proto", folder)
        # inference.proto imports google/rpc/status.proto, and this one google/protobuf/any.proto.
        googleapis = _package("google.rpc", "googleapis-common-protos").parent.parent
        includes = [f"-I{folder}", f"-I{googleapis}", f"-I{_package('grpc_tools', 'grpcio-tools') / '_proto'}"]
        descriptors = Path(folder) / CACHE.name
        arguments = ["protoc", *includes, "--include_imports", f"--descriptor_set_out={descriptors}", "inference.proto"]
        if protoc.main(arguments) != 0:
            raise RuntimeError(f"protoc cannot compile inference.proto of {jar}")
        # Renamed as a whole, so that a process beside this one never reads half a file.
        descriptors.replace(CACHE)


def _package(name: str, distribution: str) -> Path:
    """Folder of an installed package."""
    spec = importlib.util.find_spec(name)
    if spec is None or not spec.submodule_search_locations:
        raise RuntimeError(f"{distribution} is not installed, and the gRPC messages need it; install requirements.lock")
    return Path(next(iter(spec.submodule_search_locations)))
