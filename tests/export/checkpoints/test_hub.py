"""Models are imported from the hub by name; on a failure the message says what to do."""

import hashlib
import json
import socket
from collections.abc import Iterator
from pathlib import Path

import huggingface_hub
import pytest
import torch
from huggingface_hub import constants
from safetensors.torch import save_file

from export.checkpoints import hub
from export.checkpoints.import_source import checkpoint_source
from export.import_checkpoint import import_checkpoint, main
from export.tokenizers.tokenizer_source import tokenizer_source
from prelim.archive.archive import WEIGHTS as WEIGHTS_FILE
from prelim.decoders.weights_file import read_weights
from prelim.errors import ArchiveError
from prelim.networks.model_folder import MODEL_CARD
from tests.export.checkpoints.hub_server import COMMIT, Hub, serve_hub
from tests.export.tokenizers.test_biogpt_tokenizer import small_vocabulary
from tests.model_src.networks.architectures.small_biogpt import DECODER
from tests.model_src.networks.architectures.test_biomedclip_qformer_biogpt import (
    SYSTEM,
    published_checkpoint,
    split_components,
)

WEIGHTS = {"layer.weight": torch.ones(2, 2)}


@pytest.fixture
def hub_server(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Hub]:
    """A hub without models, and an empty cache."""
    with serve_hub() as server:
        use_endpoint(server.url, monkeypatch)
        monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path / "cache"))
        yield server
    huggingface_hub.close_session()


def use_endpoint(url: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Set the endpoint as HF_ENDPOINT does on import; without token and proxy."""
    monkeypatch.setattr(constants, "ENDPOINT", url)
    monkeypatch.setattr(constants, "HUGGINGFACE_CO_URL_TEMPLATE", url + "/{repo_id}/resolve/{revision}/{filename}")
    monkeypatch.setattr(constants, "HF_HUB_DISABLE_IMPLICIT_TOKEN", True)
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", False)
    monkeypatch.setenv("NO_PROXY", "127.0.0.1")
    huggingface_hub.close_session()


@pytest.fixture
def model(hub_server: Hub, tmp_path: Path) -> Path:
    """The folder of owner/model, with weights in two formats, a tokenizer, and unneeded files."""
    folder = tmp_path / "files"
    folder.mkdir()
    save_file(WEIGHTS, folder / "model.safetensors")
    torch.save(WEIGHTS, folder / "pytorch_model.bin")
    (folder / "config.json").write_text('{"model_type": "any"}')
    for name in ("vocab.json", "merges.txt", "README.md", "LICENSE", "training_args.bin"):
        (folder / name).write_text(f"contents of {name}")
    hub_server.models["owner/model"] = folder
    return folder


@pytest.mark.parametrize("name", ["owner/model", "hf-hub:owner/model", "owner/model@main", f"owner/model@{COMMIT}"])
def test_name_gives_the_files_of_the_folder(hub_server: Hub, model: Path, name: str) -> None:
    """With or without prefix and revision, exactly the files that the import reads are downloaded, with its terms."""
    source = checkpoint_source(name)

    assert source.label == f"owner/model@{COMMIT}"
    assert [file.name for file in source.files] == ["model.safetensors", "config.json"]
    assert all(file.read_bytes() == (model / file.name).read_bytes() for file in source.files)
    names = ("LICENSE", "README.md", "config.json", "model.safetensors")
    assert sorted(hub_server.downloaded) == [f"owner/model/{name}" for name in names]


def test_shards_are_downloaded_with_their_index(hub_server: Hub, model: Path) -> None:
    """All shards are downloaded, and none of the other format."""
    for name in ("model.safetensors", "pytorch_model.bin"):
        stem, ending = name.split(".")
        shards = [f"{stem}-0000{i}-of-00002.{ending}" for i in (1, 2)]
        for shard in shards:
            (model / name).rename(model / shard) if shard == shards[0] else (model / shard).write_bytes(b"")
        index = {"weight_map": {"a": shards[0], "b": shards[1]}}
        (model / f"{name}.index.json").write_text(json.dumps(index))

    source = checkpoint_source("owner/model")

    shards = ["model-00001-of-00002.safetensors", "model-00002-of-00002.safetensors"]
    assert [file.name for file in source.files] == ["model.safetensors.index.json", *shards, "config.json"]
    assert not [name for name in hub_server.downloaded if name.endswith(".bin")]


def test_tokenizer_is_downloaded_without_weights(hub_server: Hub, model: Path) -> None:
    """For a tokenizer only the tokenizer files are downloaded, with the documents that must travel."""
    source = tokenizer_source("biogpt", "owner/model")

    assert [file.name for file in source.files] == ["vocab.json", "merges.txt"]
    assert sorted(hub_server.downloaded) == [f"owner/model/{name}" for name in ("LICENSE", "merges.txt", "vocab.json")]


def test_local_folder_has_priority_over_a_name(
    hub_server: Hub, model: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """If a folder with that name exists, the hub is not contacted."""
    monkeypatch.chdir(tmp_path)
    (tmp_path / "owner").mkdir()
    model.rename(tmp_path / "owner" / "model")
    hub_server.models.clear()

    source = checkpoint_source("owner/model")

    assert source.label == "model"
    assert hub_server.downloaded == []


@pytest.mark.parametrize("way", ["offline", "closed"])
def test_cached_files_need_no_hub(
    hub_server: Hub, model: Path, way: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """With an unreachable hub cached files are used, with a message; files that are not cached are an error."""
    before = checkpoint_source("owner/model")
    if way == "offline":
        monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)
    else:
        use_endpoint(closed_endpoint(), monkeypatch)

    assert checkpoint_source("owner/model") == before
    assert f"owner/model@{COMMIT}: using the cache" in capsys.readouterr().out
    with pytest.raises(ArchiveError, match="could not be downloaded"):
        tokenizer_source("biogpt", "owner/model")


def closed_endpoint() -> str:
    """A loopback address without a server."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        return f"http://127.0.0.1:{free.getsockname()[1]}"


def test_unreachable_hub_is_an_error_with_a_solution(
    hub_server: Hub, model: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A closed port and HF_HUB_OFFLINE are errors that name the model, the cause, and the files to download."""
    use_endpoint(closed_endpoint(), monkeypatch)
    with pytest.raises(ArchiveError) as closed:
        checkpoint_source("owner/model")
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)
    with pytest.raises(ArchiveError) as offline:
        checkpoint_source("owner/model")

    assert "cannot be reached (ConnectError" in str(closed.value)
    assert "HF_HUB_OFFLINE is set" in str(offline.value)
    for message in (str(closed.value), str(offline.value)):
        assert message.startswith("owner/model is not a local file or folder")
        assert "model.safetensors, pytorch_model.bin" in message
        assert "pass their folder" in message


@pytest.mark.parametrize(
    ("name", "refusal", "message"),
    [
        ("owner/model", (403, "GatedRepo"), r"denies access \(403\); accept the license .* HF_TOKEN"),
        ("owner/model", (401, "GatedRepo"), r"denies access \(401\); accept the license .* HF_TOKEN"),
        ("owner/model", (403, "Other"), r"denies access \(403\); accept the license .* HF_TOKEN"),
        ("owner/other", None, r"no such model, or it is private \(404\); check the name, or set HF_TOKEN"),
        ("owner/model@v2", None, "has no such revision; give an existing branch, tag or commit"),
    ],
)
def test_denied_access_is_an_error_with_a_solution(
    hub_server: Hub, model: Path, name: str, refusal: tuple[int, str] | None, message: str
) -> None:
    """An unaccepted license, an unknown name and an unknown revision have different messages."""
    if refusal:
        hub_server.refused["owner/model"] = refusal

    with pytest.raises(ArchiveError, match=rf"{name} is not a local file or folder, and could not .* {message}"):
        checkpoint_source(name)


def test_model_without_the_files_is_refused(hub_server: Hub, model: Path) -> None:
    """A model without weights, or with another tokenizer, is an error that lists its files."""
    for name in ("model.safetensors", "pytorch_model.bin"):
        (model / name).unlink()

    with pytest.raises(
        ArchiveError, match=r"does not contain weights \(model\.safetensors.* it contains LICENSE, README\.md, config"
    ):
        checkpoint_source("owner/model")
    with pytest.raises(ArchiveError, match=r"does not contain tokenizer files \(tokenizer\.model"):
        tokenizer_source("llama2", "owner/model")
    assert hub_server.downloaded == []


def test_endpoint_that_is_not_a_hub_is_refused(hub_server: Hub, model: Path) -> None:
    """A server that is not a hub, such as a network's login page, is an error."""
    hub_server.answer = b"<html>Please log in</html>"

    with pytest.raises(ArchiveError, match="could not be downloaded"):
        checkpoint_source("owner/model")


@pytest.mark.parametrize("name", ["model.pth", "a/b/model.pth", "../owner/model", "/owner/model", "owner/model@"])
def test_invalid_name_is_refused(name: str) -> None:
    """A missing path that is not a valid model name is not requested from the hub."""
    assert not hub.is_name(name)
    with pytest.raises(ArchiveError, match=r"neither a local file or folder nor a valid model name \(OWNER/NAME"):
        checkpoint_source(name)


def test_names_and_files_can_be_combined(hub_server: Hub, tmp_path: Path) -> None:
    """BiomedCLIP and BioGPT by name plus a file with the rest equal one whole file; the card has the commits."""
    checkpoint = published_checkpoint()
    components = split_components(checkpoint)
    torch.save(checkpoint, tmp_path / "final_model.pth")
    torch.save(components["rest.pth"], tmp_path / "rest.pth")
    clip, biogpt = "microsoft/BiomedCLIP-PubMedBERT_256-vit_base_patch16_224", "microsoft/biogpt"
    for name in (clip, biogpt):
        hub_server.models[name] = tmp_path / name
        hub_server.models[name].mkdir(parents=True)
    torch.save(components["biomedclip_finetuned.pth"], tmp_path / clip / "open_clip_pytorch_model.bin")
    torch.save(components["biogpt_finetuned.pth"], tmp_path / biogpt / "pytorch_model.bin")
    small_vocabulary(tmp_path / biogpt)
    path = tmp_path / biogpt / "vocab.json"
    pieces = json.loads(path.read_text())
    path.write_text(json.dumps({piece: i for piece, i in pieces.items() if i < DECODER["vocab_size"]}))
    import_checkpoint(SYSTEM, [tmp_path / "final_model.pth"], None, tmp_path / "whole", "small")

    import_checkpoint(SYSTEM, [tmp_path / "rest.pth", f"hf-hub:{clip}", biogpt], biogpt, tmp_path / "parts", "small")

    whole, parts = (read_weights(tmp_path / model / WEIGHTS_FILE) for model in ("whole", "parts"))
    assert whole.keys() == parts.keys()
    assert [key for key in whole if not torch.equal(whole[key], parts[key])] == []
    card = (tmp_path / "parts" / MODEL_CARD).read_text(encoding="utf-8")
    for file in (f"{clip}@{COMMIT}/open_clip_pytorch_model.bin", f"{biogpt}@{COMMIT}/merges.txt"):
        contents = (tmp_path / file.replace(f"@{COMMIT}", "")).read_bytes()
        assert f"| {file} | {len(contents):,} | {hashlib.sha256(contents).hexdigest()} |" in card


def test_trained_file_has_priority_over_its_base_model(hub_server: Hub, tmp_path: Path) -> None:
    """BioGPT by name after the whole checkpoint changes nothing."""
    checkpoint = published_checkpoint()
    torch.save(checkpoint, tmp_path / "final_model.pth")
    hub_server.models["microsoft/biogpt"] = tmp_path / "biogpt"
    (tmp_path / "biogpt").mkdir()
    base = {key: value + 1 for key, value in split_components(checkpoint)["biogpt_finetuned.pth"].items()}
    torch.save(base, tmp_path / "biogpt" / "pytorch_model.bin")
    import_checkpoint(SYSTEM, [tmp_path / "final_model.pth"], None, tmp_path / "whole", "small")

    import_checkpoint(SYSTEM, [tmp_path / "final_model.pth", "microsoft/biogpt"], None, tmp_path / "model", "small")

    whole, found = (read_weights(tmp_path / model / WEIGHTS_FILE) for model in ("whole", "model"))
    assert [key for key in whole if not torch.equal(whole[key], found[key])] == []


def test_command_ends_with_the_message(hub_server: Hub, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The command accepts names, and exits with only the message on a failure."""
    arguments = ["biomedclip_qformer_biogpt", "owner/none", "--out", str(tmp_path / "model")]
    monkeypatch.setattr("sys.argv", ["import_checkpoint", *arguments])

    with pytest.raises(SystemExit, match="owner/none is not a local file or folder, and could not be downloaded"):
        main()

    assert not (tmp_path / "model").exists()
