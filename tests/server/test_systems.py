"""All five systems, LLaVA and Qwen2.5-VL at reduced size: the server answers what library and original write."""

import base64
import dataclasses
import zipfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import openai
import pytest
import torch
from tokenizers import Tokenizer
from torch import Tensor

from export.import_checkpoint import import_checkpoint
from export.package import write_archive
from launcher.local_server import LocalServer
from prelim.archive.archive import TOKENIZER
from prelim.generation.options import GenerationOptions
from prelim.networks.model_folder import Model, read_model_folder, write_model_folder
from prelim.report import Report
from prelim.report_generator import ReportGenerator, ReportRequest
from prelim_client.grpc_client import GrpcClient
from prelim_client.http_client import HttpClient
from tests import tiny_model, tiny_xreport
from tests.forcing import logits_after_each
from tests.model_src.networks.architectures import (
    small_biogpt,
    small_llama,
    small_llava,
    small_qwen2_5_vl,
    small_xraygpt,
)
from tests.server.chest import chest
from tests.server.openai_client import WAYS, open_client, open_way, user
from tests.tiny_model import seen, write_tiny_model
from tests.tiny_xreport import greedy_of_the_original

pytestmark = pytest.mark.server

TOKENS = 20
"""Of a report. One call of the handler decodes fewer, so that every request outlives several."""
QUESTION, ANSWER, SECOND = "Is the heart large?", "No.", "And the lungs?"
Rule = Callable[[Model, Tensor], list[int]]


def greedy_without_cache(model: Model, features: Tensor) -> list[int]:
    """System 1's loop: the whole report through the decoder for every token."""
    tokens = [model.config.tokenizer.bos_token_id]
    image_embeds = model.network.connector(features)
    while len(tokens) <= TOKENS and tokens[-1] != model.config.tokenizer.eos_token_id:
        logits = logits_after_each(model.network.decoder, image_embeds, torch.tensor([tokens]))
        tokens.append(int(logits[0, -1].argmax()))
    return tokens[1:]


@dataclasses.dataclass(frozen=True)
class Case:
    """One request to one system.

    fields : sent with the image
    rule   : what the original would write
    """

    system: str
    fields: dict[str, Any]
    rule: Rule


def turns(*contents: str) -> list[dict[str, str]]:
    """A conversation that the user opens."""
    return [{"role": "user" if i % 2 == 0 else "assistant", "content": text} for i, text in enumerate(contents)]


def biogpt(prompt: str, **changed: Any) -> Rule:
    """System 0's rule."""
    return lambda model, features: small_biogpt.published_rule(model, features, prompt, TOKENS, **changed)


def llama(prompt: str = small_llama.PROMPT, **changed: Any) -> Rule:
    """System 2's rule."""
    return lambda model, features: small_llama.originals_report(model, features, prompt, **changed)


def vicuna(question: str, **changed: Any) -> Rule:
    """System 3's rule."""
    return lambda model, features: small_xraygpt.published_rule(model, features, question, 7, TOKENS, **changed)


FEWER_BEAMS = {"num_beams": 3, "repetition_penalty": 1.0, "no_repeat_ngram_size": 2}
CONVERSATION = f"{QUESTION}###Doctor: {ANSWER}###Patient: {SECOND}"
SHORT = {"max_new_tokens": TOKENS}
CASES = {
    "0, published": Case("system0", SHORT, biogpt("")),
    "0, prompt": Case("system0", {**SHORT, "prompt": "heart"}, biogpt("heart")),
    "0, prompt and three beams": Case(
        "system0", {**SHORT, "prompt": "lungs", **FEWER_BEAMS}, biogpt("lungs", **FEWER_BEAMS)
    ),
    "1, published": Case("system1", SHORT, greedy_without_cache),
    "2, published": Case("system2", {}, llama()),
    "2, prompt and two beams": Case(
        "system2",
        {"prompt": "chest clear", "num_beams": 2, **SHORT},
        llama("chest clear", num_beams=2, max_new_tokens=TOKENS),
    ),
    "3, published": Case("system3", {**SHORT, "messages": turns(QUESTION), "seed": 7}, vicuna(QUESTION)),
    "3, second turn": Case(
        "system3", {**SHORT, "messages": turns(QUESTION, ANSWER, SECOND), "seed": 7}, vicuna(CONVERSATION)
    ),
    # Without the stop text: with beams, the original looks for it in the first one only, which is fixed here.
    "3, four beams": Case(
        "system3",
        {**SHORT, "messages": turns(QUESTION), "do_sample": False, "num_beams": 4, "stop": []},
        vicuna(QUESTION, do_sample=False, num_beams=4, top_p=None, temperature=None, stopping_criteria=None),
    ),
    "4, published": Case("system4", {}, greedy_of_the_original),
}


IMAGES = [chest(seed) for seed in (1, 2, 7)]
IMAGE = IMAGES[0]


PICTURES = [small_qwen2_5_vl.picture(seed, rows, columns) for seed, rows, columns in ((1, 80, 56), (2, 40, 90))]


@pytest.fixture(scope="module")
def qwen(tmp_path_factory: pytest.TempPathFactory) -> tuple[Any, Path]:
    """A Qwen2.5-VL that thinks about the first of PICTURES before it reports, and its folder."""
    checkpoint = tmp_path_factory.mktemp("qwen")
    return small_qwen2_5_vl.save_thinking_qwen(checkpoint, QUESTION, PICTURES[0]), checkpoint


@pytest.fixture(scope="module")
def models(tmp_path_factory: pytest.TempPathFactory, qwen: tuple[Any, Path]) -> dict[str, Path]:
    """A model folder for each system, by its name."""
    folder = tmp_path_factory.mktemp("systems")
    small = {
        "system0": small_biogpt.small_model(),
        "system2": small_llama.small_model(image_size=224),
        "system3": small_xraygpt.small_model(),
        "system4": tiny_xreport.small_model(),
    }
    for name, model in small.items():
        config = dataclasses.replace(model.config, name=name)
        write_model_folder(folder / name, config, model.network.state_dict(), model.tokenizer)
    write_tiny_model(folder / "system1", dataclasses.replace(tiny_model.CONFIG, name="system1"))
    checkpoint = small_llava.save_llava(small_llava.small_llava(), tmp_path_factory.mktemp("llava"))
    import_checkpoint("llava", [checkpoint], checkpoint, folder / "llava", "llava")
    import_checkpoint("qwen2_5_vl", [qwen[1]], qwen[1], folder / "qwen", "qwen")
    return {path.name: path for path in sorted(folder.iterdir())}


@pytest.fixture(scope="module")
def networks(models: dict[str, Path]) -> dict[str, Model]:
    """The networks of the model folders in PyTorch."""
    return {name: read_model_folder(folder) for name, folder in models.items()}


@pytest.fixture(scope="module")
def archives(models: dict[str, Path], tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A store with the archives of all."""
    store = tmp_path_factory.mktemp("store")
    for folder in models.values():
        write_archive(folder, store, batching="in-flight", slots=4)
    return store


@pytest.fixture(scope="module")
def generators(archives: Path, tmp_path_factory: pytest.TempPathFactory) -> dict[str, ReportGenerator]:
    """The library on the same archives, in this process."""
    found = {}
    for path in archives.glob("*.mar"):
        folder = tmp_path_factory.mktemp(path.stem)
        with zipfile.ZipFile(path) as archive:
            archive.extractall(folder)
        found[path.stem] = ReportGenerator.load(folder, slots=4)
    return found


@pytest.fixture(scope="module")
def systems(archives: Path) -> Iterator[LocalServer]:
    """One server with all."""
    with LocalServer(archives) as server:
        for path in archives.glob("*.mar"):
            server.wait_until_ready(path.stem)
        yield server


@pytest.fixture
def ask(systems: LocalServer) -> Callable[..., dict[str, Any]]:
    """What gives a report over HTTP for a system, an image or None, and fields."""

    def report(system: str, image: bytes | None, **fields: Any) -> dict[str, Any]:
        client = HttpClient(systems.url, systems.key(), system)
        return client.report_json(image, **in_options(fields), return_token_ids=True)

    return report


def test_several_images_of_one_request(systems: LocalServer, generators: dict[str, ReportGenerator]) -> None:
    """LLaVA reads two images in their order, however they are sent, over HTTP and gRPC."""
    http = HttpClient(systems.url, systems.key(), "llava")
    files = IMAGES[:2]
    encoded = [base64.b64encode(file).decode() for file in files]
    options: dict[str, Any] = {"max_new_tokens": TOKENS, "return_token_ids": True}

    def in_json(*images: str) -> list[int]:
        ids: list[int] = http.report_json(images=images, options={"max_new_tokens": TOKENS}, return_token_ids=True)[
            "token_ids"
        ]
        return ids

    with GrpcClient(systems.grpc_target, systems.key(), "llava") as client:
        sent = {
            "JSON": in_json(*encoded),
            "form, list": http.report(images=encoded, **options)["token_ids"],
            "form, parts": http.report(files[0], image_2=files[1], **options)["token_ids"],
            "gRPC, list": client.report(images=encoded, **options)["token_ids"],
            "gRPC, inputs": client.report(files[0], image_2=files[1], **options)["token_ids"],
        }

    expected = list(in_process(generators["llava"], images=tuple(files), max_new_tokens=TOKENS).token_ids)
    assert sent == dict.fromkeys(sent, expected)
    others = [in_json(*encoded[::-1]), in_json(encoded[0]), in_json(encoded[1])]
    assert expected not in others
    refused = http.post(files[0], image_2=files[1], image_3=IMAGES[2])
    assert (refused.status_code, "images has 3 entries; this model reads 1 to 2" in refused.text) == (400, True)


def test_pictures_of_any_sides_and_reasoning(systems: LocalServer, qwen: tuple[Any, Path]) -> None:
    """Qwen2.5-VL answers what `generate` writes about a tall and a wide picture, without what it thought before."""
    original, checkpoint = qwen
    http = HttpClient(systems.url, systems.key(), "qwen")
    lengths = {"max_new_tokens": TOKENS, "min_new_tokens": TOKENS}
    asked: dict[str, Any] = {"prompt": QUESTION, "return_token_ids": True, "return_reasoning": True, **lengths}
    expected = []
    for images in (PICTURES[:1], PICTURES[1:], PICTURES):
        read = small_qwen2_5_vl.processed(checkpoint, images)
        ids = small_qwen2_5_vl.prompt_ids(checkpoint, QUESTION, read["image_grid_thw"])
        expected += small_qwen2_5_vl.originals_rows(original, read, ids, GenerationOptions(**lengths))

    answers = [http.report(picture, **asked) for picture in PICTURES]
    answers.append(http.report(PICTURES[0], image_2=PICTURES[1], **asked))
    with GrpcClient(systems.grpc_target, systems.key(), "qwen") as client:
        over_grpc = client.report(PICTURES[0], prompt=QUESTION, **lengths)
    *pieces, last = http.stream(PICTURES[0], prompt=QUESTION, **lengths)

    assert [answer["token_ids"] for answer in answers] == expected
    tokenizer = Tokenizer.from_file(str(checkpoint / TOKENIZER))
    end = expected[0].index(small_qwen2_5_vl.END_OF_THINKING)
    thought, report = (tokenizer.decode(part).strip() for part in (expected[0][:end], expected[0][end:]))
    assert thought
    assert report
    assert (answers[0]["reasoning"].strip(), answers[0]["report"]) == (thought, report)
    assert over_grpc["report"] == last["report"] == "".join(piece["text"] for piece in pieces) == report
    assert "reasoning" not in over_grpc


def in_options(fields: dict[str, Any]) -> dict[str, Any]:
    """Return a JSON body; generation options go into `options`."""
    inputs = ("prompt", "messages", "image_features", "return_attention")
    body = {name: value for name, value in fields.items() if name in inputs}
    return {**body, "options": {name: value for name, value in fields.items() if name not in inputs}}


def in_process(generator: ReportGenerator, image: bytes | None = None, **fields: Any) -> Report:
    """The same request to the library."""
    options = {name: fields.pop(name) for name in list(fields) if hasattr(generator.config.generation, name)}
    if "messages" in fields:
        fields["messages"] = tuple(fields["messages"])
    chosen = GenerationOptions.from_mapping(options, generator.config.generation)
    (report,) = generator.generate([ReportRequest(image=image, options=chosen, **fields)])
    assert isinstance(report, Report), report
    return report


def as_original(system: str, token_ids: list[int]) -> list[int]:
    """System 4's loop leaves the end of text away."""
    return [token for token in token_ids if token != tiny_xreport.EOS] if system == "system4" else token_ids


@pytest.mark.parametrize("name", CASES)
def test_served_tokens_are_those_of_library_and_original(
    name: str,
    ask: Callable[..., dict[str, Any]],
    systems: LocalServer,
    generators: dict[str, ReportGenerator],
    networks: dict[str, Model],
) -> None:
    """HTTP, gRPC, the library in this process and the original's rule write the same token ids."""
    case = CASES[name]
    model, generator = networks[case.system], generators[case.system]
    with GrpcClient(systems.grpc_target, systems.key(), case.system) as client:
        over_grpc = client.report(IMAGE, **case.fields, return_token_ids=True)["token_ids"]

    served = [ask(case.system, image, **case.fields)["token_ids"] for image in IMAGES]

    assert served[0] == over_grpc
    assert served == [list(in_process(generator, image, **case.fields).token_ids) for image in IMAGES]
    with torch.inference_mode():
        expected = [case.rule(model, seen(model, image)) for image in IMAGES]
    assert [as_original(case.system, tokens) for tokens in served] == expected
    assert len({tuple(tokens) for tokens in expected}) > 1


@pytest.mark.parametrize("system", [f"system{i}" for i in range(5)])
def test_features_and_beams_over_http(
    system: str,
    ask: Callable[..., dict[str, Any]],
    generators: dict[str, ReportGenerator],
    networks: dict[str, Model],
) -> None:
    """image_features as JSON get the report of their image, with beams, which two originals have not, as without."""
    features = seen(networks[system], IMAGE)[0].numpy()
    beams = {"num_beams": 3, "do_sample": False, "max_new_tokens": 12, "num_return_sequences": 2}

    by_image, by_features = ask(system, IMAGE, **beams), ask(system, None, image_features=features.tolist(), **beams)

    assert by_features["token_ids"] == by_image["token_ids"]
    assert by_features["token_ids"] == list(in_process(generators[system], image_features=features, **beams).token_ids)
    assert len(by_features["alternatives"]) == 1


def test_second_turn_keeps_the_features(ask: Callable[..., dict[str, Any]]) -> None:
    """The second question about an image is answered without encoding it again."""
    image = chest(3)

    first = ask("system3", image, messages=turns(QUESTION), seed=7, **SHORT)
    second = ask("system3", image, messages=turns(QUESTION, ANSWER, SECOND), seed=7, **SHORT)

    assert first["timing_ms"]["vision"] > 0
    assert second["timing_ms"]["vision"] == 0
    assert second["token_ids"] != first["token_ids"]


def test_attention_maps_are_served(ask: Callable[..., dict[str, Any]], networks: dict[str, Model]) -> None:
    """System 2 answers where it looked for each of 14 diseases, and a score of each, as its network has them."""
    model = networks["system2"]

    answer = ask("system2", IMAGE, return_attention=True)

    attention = np.array(answer["attention"])
    assert attention.shape == (14, 7, 7)
    np.testing.assert_allclose(attention.sum((1, 2)), 1, rtol=1e-4)
    with torch.inference_mode():
        features = seen(model, IMAGE)
        expected = {
            name: getattr(model.network.connector, name)(features)[0] for name in ("attention", "disease_logits")
        }
    np.testing.assert_allclose(attention, expected["attention"].numpy(), rtol=1e-3, atol=1e-5)
    np.testing.assert_allclose(answer["disease_logits"], expected["disease_logits"].numpy(), rtol=1e-2, atol=1e-3)


@pytest.fixture(params=WAYS)
def openai_client(
    request: pytest.FixtureRequest, system: str, systems: LocalServer, models: dict[str, Path], tmp_path: Path
) -> Iterator[openai.OpenAI]:
    """OpenAI's client for the system of the test, to the server and through the gateway."""
    version = read_model_folder(models[system]).config.version
    with open_way(request.param, systems, system, version, tmp_path) as address, open_client(address) as client:
        yield client


@pytest.mark.parametrize(("system", "first"), [("system0", "heart"), ("system3", QUESTION)])
def test_questions_in_openais_format(
    system: str, first: str, openai_client: openai.OpenAI, ask: Callable[..., dict[str, Any]]
) -> None:
    """Prompts, and conversations about one image, have the same answers as on /predictions, whole and streamed."""
    client = openai_client
    (model,) = client.models.list()
    holds = system == "system3"
    assert model.prelim["takes_messages"] is holds
    conversations: list[list[Any]] = [[user(IMAGE, first)]]
    expected = [ask(system, IMAGE, **{"messages": turns(first)} if holds else {"prompt": first}, **SHORT, seed=7)]
    if holds:
        answer = {"role": "assistant", "content": ANSWER}
        conversations.append([user(IMAGE, first), answer, {"role": "user", "content": SECOND}])
        expected.append(ask(system, IMAGE, messages=turns(first, ANSWER, SECOND), **SHORT, seed=7))

    for messages, report in zip(conversations, expected, strict=True):
        parameters: dict[str, Any] = {"model": system, "messages": messages, "max_tokens": TOKENS, "seed": 7}
        completion = client.chat.completions.create(**parameters)
        stream = client.chat.completions.create(**parameters, stream=True)

        assert completion.choices[0].message.content == report["report"]
        assert "".join(chunk.choices[0].delta.content or "" for chunk in stream) == report["report"]
    if not holds:
        with pytest.raises(openai.BadRequestError, match="is single-turn"):
            client.chat.completions.create(model=system, messages=[*conversations[0], {"role": "user", "content": "b"}])
