"""Requests that are wrong in random ways: fields, JSON, forms, gRPC maps, options, features and files."""

import base64
import json
from collections.abc import Callable
from dataclasses import dataclass, field
from random import Random
from typing import Any

from handlers.request import INPUTS, OPTIONS
from tests.dicom_files import make_dicom
from tests.handlers.frontend import Frontend, Job
from tests.tiny_model import png

JSON_TYPE = {"body": {"content-type": "application/json"}}
FINITE = [3e38, -3e38, 3.4028234e38, 1e30, -1e20, 1e4, 1e-45, -1e-45, 0.0]
NOT_FINITE = [1e39, -1e308, float("nan"), float("inf")]
NUMBERS = [
    *FINITE,
    *NOT_FINITE,
    1e-40,
    1e-37,
    4e-38,
    1.2e-38,
    1e-6,
    100,
    16,
    17,
    1024,
    1025,
    -1,
    2**31,
    2**63 - 1,
    2**63,
    10**400,
]
EDGES: dict[str, list[Any]] = {
    "temperature": [1e-45, 1e-40, 1e-37, 4e-38, 1.2e-38, 1e-6, 0.01, 100],
    "repetition_penalty": [1e-45, 1e-40, 1e-37, 4e-38, 1.2e-38, 1e-6, 0.01, 100],
    "top_p": [1e-45, 1e-40, 1e-8, 1 - 1e-16, 1],
    "top_k": [0, 1, 10**6, 2**31, 2**63, 10**300],
    "length_penalty": [-10, 10, 1e-45, 0],
    "seed": [0, 2**63 - 1, None],
    "no_repeat_ngram_size": [1, 100],
    "min_new_tokens": [0, 8],
    "num_return_sequences": [1, 2, 16],
    "early_stopping": [True, False, "never"],
    "stop": [".", ["."] * 16, "\U0001f600", "\x00", " "],
}
UNITS = [
    b"[],",
    b'{"":0},',
    b"[0],",
    b'"",',
    b"0,",
    rb"\u4e00",
    b"\\n",
    b"[",
    b'{"a":',
    b" ",
    b'"image":"',
    b"9",
    b"\x00",
]
WORDS = [
    "",
    " ",
    "true",
    "nan",
    "1e5",
    "0x10",
    "1_0",
    "+-1",
    "\ud800",
    "\U0001f600",
    "\u0661",
    "\x00",
    "a" * 300,
    "never",
]


@dataclass
class Request:
    """A request as TorchServe hands it over, and of which kind of fault it is."""

    kind: str
    row: dict[str, Any]
    headers: dict[str, Any] = field(default_factory=dict)
    grpc: bool = False

    def submit(self, frontend: Frontend) -> Job:
        """Send it."""
        return frontend.submit_grpc(**self.row) if self.grpc else frontend.submit(dict(self.row), self.headers)


def size(random: Random, largest: int) -> int:
    """A size of any magnitude, so that large ones are rare."""
    return int(largest ** random.random())


def anything(random: Random, depth: int = 3) -> Any:
    """A JSON value."""
    kind = random.randrange(7 if depth else 5)
    if kind == 5:
        return [anything(random, depth - 1) for _ in range(random.randrange(5))]
    if kind == 6:
        return {random.choice([*INPUTS, *OPTIONS, *WORDS]): anything(random, depth - 1) for _ in range(4)}
    return [None, True, random.choice(WORDS), random.choice(NUMBERS), random.choice(WORDS) * 50][kind]


def text_of(random: Random) -> bytes:
    """The bytes of a form part."""
    value = random.choice([random.choice(WORDS), str(random.choice(NUMBERS)), json.dumps(anything(random))])
    return random.choice(
        [value.encode("utf-8", "surrogatepass"), value.encode("utf-16", "surrogatepass"), random.randbytes(20)]
    )


def damage(random: Random, file: bytes) -> bytes:
    """The file with a few bytes changed, removed, doubled or cut off."""
    damaged = bytearray(file)
    for _ in range(random.randint(1, 4)):
        at, length = random.randrange(len(damaged) + 1), random.randrange(1, 40)
        kind = random.randrange(4)
        if kind == 0:
            damaged[at : at + 1] = random.randbytes(1)
        elif kind == 1:
            del damaged[at : at + length]
        elif kind == 2:
            damaged[at:at] = damaged[at : at + length] * random.randint(1, 3)
        else:
            del damaged[max(at, 16) :]
    return bytes(damaged)


def image_file(random: Random) -> bytes:
    """An image that can be read."""
    return make_dicom() if random.random() < 0.3 else png(random.randrange(50), 64)


def body(contents: Any) -> dict[str, Any]:
    """A row whose body is JSON."""
    return {"body": bytearray(json.dumps(contents).encode("utf-8", "surrogatepass"))}


def unknown_fields(random: Random, shape: tuple[int, ...]) -> Request:
    """Too many fields, fields without meaning, and fields under two names."""
    names = [random.choice([f"{i}", f"field{i}", *WORDS, *OPTIONS, *INPUTS]) for i in range(size(random, 3000))]
    row = {name: text_of(random) for name in names} | {"image": image_file(random)}
    if random.random() < 0.3:
        row |= {"data": b"x", "body": b"{}"}
    return Request("fields", row)


def many_fields(random: Random, shape: tuple[int, ...]) -> Request:
    """A form or a gRPC map of very many fields."""
    return Request("many fields", {f"{i}": b"" for i in range(33 + size(random, 100_000))}, grpc=random.random() < 0.5)


def form_values(random: Random, shape: tuple[int, ...]) -> Request:
    """Wrong values of known fields."""
    names = random.sample([*OPTIONS, *INPUTS], random.randint(1, 6))
    return Request("form", {"image": image_file(random)} | {name: text_of(random) for name in names})


def json_values(random: Random, shape: tuple[int, ...]) -> Request:
    """Wrong values and wrong places of known names in JSON."""
    contents = {"image": base64.b64encode(image_file(random)).decode()} if random.random() < 0.7 else {}
    contents |= {name: anything(random) for name in random.sample([*OPTIONS, *INPUTS], random.randint(1, 5))}
    return Request("JSON values", body(contents if random.random() < 0.9 else anything(random)), JSON_TYPE)


def damaged_json(random: Random, shape: tuple[int, ...]) -> Request:
    """A JSON body in which bytes are missing, changed or doubled."""
    contents = {"image": base64.b64encode(image_file(random)).decode(), "options": {"num_beams": 2, "stop": ["."]}}
    return Request("damaged JSON", {"body": bytearray(damage(random, json.dumps(contents).encode()))}, JSON_TYPE)


def large_json(random: Random, shape: tuple[int, ...]) -> Request:
    """JSON that repeats something small, up to the largest body."""
    unit = random.choice(UNITS)
    filling = unit * (1 + int(60_000_000 * random.random() ** 3) // len(unit))
    place = random.choice(
        [
            *(b"%s", b"[%s0]", b'{"options": [%s0]}', b'{"image": "%s"}', b'{"messages": %s', b'{"stop": "%s"}'),
            *(b'{"images": [%s""]}', b'{"messages": [{"role": "user", "content": [%s0]}]}'),
        ]
    )
    headers = random.choice([{}, {"url_path": "v1/chat/completions"}])
    return Request("large JSON", {"body": bytearray(place % filling)}, JSON_TYPE | headers)


def completions(random: Random, shape: tuple[int, ...]) -> Request:
    """Completions with wrong members, wrong messages, or damaged bytes."""
    uri = f"data:image/png;base64,{base64.b64encode(image_file(random)).decode()}"
    part = {"type": "image_url", "image_url": {"url": uri if random.random() < 0.8 else anything(random)}}
    content = [part, anything(random)] if random.random() < 0.3 else [part, {"type": "text", "text": "a"}]
    contents = {"messages": [{"role": "user", "content": content}, *([anything(random)] * random.randrange(2))]}
    names = ["model", "messages", "n", "max_tokens", "logprobs", "stream", "stream_options", *WORDS, *OPTIONS]
    contents |= {name: anything(random) for name in random.sample(names, random.randrange(4))}
    row = body(contents)
    if random.random() < 0.3:
        row = {"body": bytearray(damage(random, bytes(row["body"])))}
    return Request("completion", row, JSON_TYPE | {"url_path": "v1/chat/completions"})


def edge_options(random: Random, shape: tuple[int, ...]) -> Request:
    """Numbers at the edges of float32 and of the allowed ranges, in any combination."""
    names = random.sample(list(EDGES), random.randint(1, 4))
    options = {name: random.choice(EDGES[name] if random.random() < 0.9 else NUMBERS) for name in names}
    for name, values in {"num_beams": [1, 2, 16], "do_sample": [True, False], "max_new_tokens": [1, 8, 30]}.items():
        if random.random() < 0.5:
            options[name] = random.choice(values)
    contents = {"image": base64.b64encode(image_file(random)).decode(), "options": options}
    return Request("options", body(contents), JSON_TYPE)


def extreme_features(random: Random, shape: tuple[int, ...]) -> Request:
    """Features of the right shape with some values that no encoder gives, among small ones."""
    width = shape[-1]
    values = FINITE if random.random() < 0.8 else NOT_FINITE
    rows = [[random.gauss(0, 1) for _ in range(width)] for _ in range(shape[0] if len(shape) > 1 else 1)]
    for _ in range(size(random, width * len(rows))):
        rows[random.randrange(len(rows))][random.randrange(width)] = random.choice(values)
    return Request("features", body({"image_features": rows if len(shape) > 1 else rows[0]}), JSON_TYPE)


def other_features(random: Random, shape: tuple[int, ...]) -> Request:
    """Features of another shape, of other types, or together with an image."""
    features = random.choice(
        [anything(random), [[1.0] * 7] * size(random, 2000), [[1], [1, 2]], [["1"] * shape[-1]] * shape[0], [[[0]]]]
    )
    contents = {"image_features": features} | ({"image": "aGk="} if random.random() < 0.2 else {})
    return Request("feature shapes", body(contents), JSON_TYPE)


def damaged_image(random: Random, shape: tuple[int, ...]) -> Request:
    """A damaged file, or something else than an image."""
    other = random.choice([b"", b"%PDF-1.7", b"PK\x03\x04" + bytes(99), random.randbytes(size(random, 100_000))])
    file = damage(random, image_file(random)) if random.random() < 0.8 else other
    return Request("image", {random.choice(["body", "image"]): bytearray(file)})


def grpc_map(random: Random, shape: tuple[int, ...]) -> Request:
    """A gRPC map with wrong values, names of headers, and both names of a body."""
    names = random.sample([*OPTIONS, *INPUTS, "url_path", "Host", "explain", "data", "body", *WORDS], 4)
    return Request("gRPC", {"image": image_file(random)} | {name: text_of(random) for name in names}, grpc=True)


FAULTS: list[Callable[[Random, tuple[int, ...]], Request]] = [
    *(unknown_fields, form_values, json_values, damaged_json, edge_options, extreme_features, other_features),
    *(damaged_image, grpc_map, completions),
]
LARGE_FAULTS: list[Callable[[Random, tuple[int, ...]], Request]] = [many_fields, large_json]


def malformed_request(random: Random, shape: tuple[int, ...]) -> Request:
    """A request of a random kind of fault; one in fifty is large.

    shape : of the model's image_features
    """
    return random.choice(LARGE_FAULTS if random.random() < 0.02 else FAULTS)(random, shape)
