"""The real TorchServe, started once for all tests of this folder."""

import dataclasses
from collections.abc import Iterator
from pathlib import Path

import pytest

from export.package import write_archive
from launcher.local_server import LocalServer
from prelim.archive.archive import read_archive
from prelim.report_generator import ReportGenerator
from prelim_client.grpc_client import GrpcClient
from prelim_client.http_client import HttpClient
from tests.tiny_model import CONFIG, write_tiny_model

SLOTS = 8
MODEL = CONFIG.name


@pytest.fixture(scope="session")
def store(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A model store with the archive of the tiny model, which here may write a thousand tokens."""
    config = dataclasses.replace(CONFIG, decoder={**CONFIG.decoder, "max_positions": 1030})
    model = write_tiny_model(tmp_path_factory.mktemp("models") / MODEL, config)
    folder = tmp_path_factory.mktemp("store")
    write_archive(model, folder, batching="in-flight", slots=SLOTS)
    return folder


@pytest.fixture(scope="session")
def running_server(store: Path) -> Iterator[LocalServer]:
    """The server, for as long as the session lasts."""
    with LocalServer(store) as server:
        yield server


@pytest.fixture
def server(running_server: LocalServer) -> LocalServer:
    """The server with a worker that is ready, also after a test that has killed it."""
    running_server.wait_until_ready(MODEL)
    return running_server


@pytest.fixture
def http(server: LocalServer) -> HttpClient:
    """A client over HTTP."""
    return HttpClient(server.url, server.key(), MODEL)


@pytest.fixture
def grpc_client(server: LocalServer) -> Iterator[GrpcClient]:
    """A client over gRPC."""
    with GrpcClient(server.grpc_target, server.key(), MODEL) as client:
        yield client


@pytest.fixture(scope="session")
def in_process(store: Path, tmp_path_factory: pytest.TempPathFactory) -> ReportGenerator:
    """A generator from the same archive, in this process."""
    import zipfile

    folder = tmp_path_factory.mktemp("unpacked")
    with zipfile.ZipFile(store / f"{MODEL}.mar") as archive:
        archive.extractall(folder)
    return ReportGenerator(read_archive(folder), slots=SLOTS)
