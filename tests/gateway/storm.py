"""Mixed requests through the gateway while workers are killed, and what each of them must be answered."""

import base64
import dataclasses
import itertools
import os
import random
import signal
import threading
import time
import zipfile
from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import requests

from launcher.gateway.gateway import Gateway
from launcher.local_server import LocalServer
from prelim.archive.archive import read_archive
from prelim.report_generator import ReportGenerator, ReportRequest
from prelim_client.answers import ReportError
from prelim_client.grpc_client import GrpcClient
from prelim_client.http_client import HttpClient
from tests.tiny_model import CONFIG, png

MODEL = CONFIG.name
USERS = 16
TIMEOUT_S = 120

OPTIONS: Sequence[Mapping[str, Any]] = (
    {"max_new_tokens": 16},
    {"max_new_tokens": 24, "num_beams": 3},
    {"max_new_tokens": 40, "do_sample": True, "top_p": 0.9, "seed": 7},
    # Long enough to be killed while it is decoded.
    {"max_new_tokens": 120, "min_new_tokens": 120},
)

WAYS = ("form", "json", "chat", "stream", "gRPC", "broken")
"""How a request is sent. The client repeats one over HTTP only if its answer broke off after heartbeats, on a machine
that is so slow: the gateway's log tells what the gateway has repeated."""


@dataclass
class Storm:
    """Users who ask without pause, each for the next answer once they have one.

    answers : by number of the request: the text, and its token ids where the way has them; or what came instead
    """

    server: LocalServer
    gateway: Gateway
    key: str
    answers: dict[int, tuple[Any, ...]] = field(default_factory=dict)

    def rage(self, count: int, kills: int, seed: int) -> list[tuple[str, int, Mapping[str, Any]]]:
        """Send requests and kill workers, evenly spread; returns way, image and options of each request."""
        draw = random.Random(seed)
        plan = [(draw.choice(WAYS), draw.randrange(6), draw.choice(OPTIONS)) for _ in range(count)]
        done = threading.Event()
        others = [
            threading.Thread(target=self._kill, args=(count, kills, draw, done)),
            threading.Thread(target=self._follow, args=(done,)),
        ]
        for thread in others:
            thread.start()
        try:
            with GrpcClient(self.gateway.settings.listen_grpc, self.key, MODEL, TIMEOUT_S) as over_grpc:
                with ThreadPoolExecutor(USERS) as users:
                    list(users.map(lambda number: self._ask(number, *plan[number], over_grpc), range(count)))
        finally:
            done.set()
            for thread in others:
                thread.join()
        return plan

    def _ask(self, number: int, way: str, image: int, options: Mapping[str, Any], over_grpc: GrpcClient) -> None:
        picture = png(image)
        asking = {"return_token_ids": True, **options}
        http = HttpClient(self.gateway.url, self.key, MODEL, TIMEOUT_S)
        answer: tuple[Any, ...] = ()
        try:
            if way == "stream":
                *pieces, last = http.stream(picture, **asking)
                streamed = "".join(piece["text"] for piece in pieces)
                assert streamed == last["report"], "pieces differ"
                answer = (last["report"], last["token_ids"])
            elif way == "gRPC":
                report = over_grpc.report(picture, **asking)
                answer = (report["report"], report["token_ids"])
            elif way in ("form", "json"):
                report = http.report(picture, **asking) if way == "form" else http.report_json(picture, options=asking)
                answer = (report["report"], report["token_ids"])
            elif way == "broken":
                http.report(b"The heart is not enlarged.")
            else:
                answer = self._chat(picture, options)
        except ReportError as error:
            answer = (error.code, error.type)
        except Exception as error:  # noqa: BLE001 - it is compared with what should have come
            answer = (type(error).__name__, str(error))
        assert number not in self.answers
        self.answers[number] = answer

    def _chat(self, image: bytes, options: Mapping[str, Any]) -> tuple[Any, ...]:
        """The text of a completion, asked for without our client."""
        uri = f"data:image/png;base64,{base64.b64encode(image).decode()}"
        message = {"role": "user", "content": [{"type": "image_url", "image_url": {"url": uri}}]}
        given = {("max_tokens" if name == "max_new_tokens" else name): value for name, value in options.items()}
        with requests.Session() as session:
            session.trust_env = False
            response = session.post(
                f"{self.gateway.url}/v1/chat/completions",
                json={"messages": [message], **given},
                headers={"Authorization": f"Bearer {self.key}"},
                timeout=TIMEOUT_S,
            )
        contents = response.json()
        if response.status_code != 200:
            return response.status_code, contents["error"]
        return (contents["choices"][0]["message"]["content"],)

    def _kill(self, count: int, kills: int, draw: random.Random, done: threading.Event) -> None:
        """Kill the worker so often, at random moments of its work; never the next one before it has answered."""
        for number in range(kills):
            while len(self.answers) < (number + 0.5) * count / kills and not done.wait(0.01):
                pass
            time.sleep(draw.random() / 2)
            ready = [worker["pid"] for worker in self.server.workers(MODEL) if worker["status"] == "READY"]
            if not ready:
                raise RuntimeError("answers came without a worker")
            os.kill(ready[0], signal.SIGKILL)

    def _follow(self, done: threading.Event) -> None:
        while not done.wait(0.5):
            self.gateway.follow()


class Offline:
    """What the same archive says in this process."""

    def __init__(self, store: Path, folder: Path) -> None:
        with zipfile.ZipFile(store / f"{MODEL}.mar") as archive:
            archive.extractall(folder)
        generator = ReportGenerator(read_archive(folder), slots=4)
        self._said: dict[tuple[int, int], tuple[str, list[int]]] = {}
        for image, (number, options) in itertools.product(range(6), enumerate(OPTIONS)):
            asked = dataclasses.replace(generator.config.generation, **options)
            (report,) = generator.generate([ReportRequest(image=png(image), options=asked)])
            self._said[image, number] = report.text, list(report.token_ids)

    def answer(self, way: str, image: int, options: Mapping[str, Any]) -> tuple[Any, ...]:
        """The right answer."""
        if way == "broken":
            return 415, "NotAnImage"
        said = self._said[image, OPTIONS.index(options)]
        return said[:1] if way == "chat" else said
