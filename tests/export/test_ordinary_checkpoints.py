"""Checkpoints in the forms in which training scripts save them are imported, or refused for the true reason."""

import argparse
import datetime
import decimal
import fractions
import json
import pathlib
import uuid
from collections import OrderedDict, defaultdict, deque
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.torch import save_file
from torch import Tensor, nn

from export.checkpoints.checkpoint import read_checkpoint
from export.import_checkpoint import import_checkpoint, main
from export.tokenizers.read import read_tokenizer
from export.verify import main as verify
from prelim.archive.archive import CONFIG, TOKENIZER, WEIGHTS
from prelim.archive.model_config import ModelConfig
from prelim.decoders.weights_file import read_weights
from prelim.errors import ArchiveError
from prelim.networks.architectures import ARCHITECTURES
from prelim.networks.model_folder import MODEL_CARD
from tests.export.test_import_checkpoint import PARTS, published
from tests.model_src.networks.architectures.small_biogpt import PARTS as BIOGPT_PARTS
from tests.model_src.networks.architectures.small_biogpt import small_network

__all__ = ["published"]

SYSTEM = "mobilenet_graph"
State = dict[str, Tensor]


class Values(dict[str, Any]):
    """A class of a training script."""


def averaged(state: State) -> Any:
    """The state of torch.optim.swa_utils.AveragedModel."""
    return {"n_averaged": torch.tensor(7), **{f"module.{key}": value for key, value in state.items()}}


FORMS: dict[str, Callable[[State], Any]] = {
    "compiled": lambda state: {f"_orig_mod.{key}": value for key, value in state.items()},
    "compiled part": lambda state: {key.replace("encoder.", "encoder._orig_mod."): v for key, v in state.items()},
    "sharded": lambda state: {
        key.replace("encoder.", "encoder._fsdp_wrapped_module._checkpoint_wrapped_module."): value
        for key, value in state.items()
    },
    "parallel and compiled": lambda state: {f"module._orig_mod.{key}": value for key, value in state.items()},
    "lightning": lambda state: {
        "state_dict": {f"model.{key}": value for key, value in state.items()},
        "epoch": 3,
        "pytorch-lightning_version": "2.2.0",
        "hyper_parameters": {"lr": 1e-4},
        "callbacks": {"ModelCheckpoint": {"best_model_score": torch.tensor(0.5)}},
    },
    "lightning, net": lambda state: {"state_dict": {f"net.{key}": value for key, value in state.items()}},
    "module": lambda state: {"module": state, "optimizer": {}},
    "net": lambda state: {"net": OrderedDict(state), "acc": 0.9, "epoch": 2},
    "model_state": lambda state: {"model_state": state},
    "weights": lambda state: {"weights": state},
    "params": lambda state: {"params": state, "epoch": 1},
    "average alone": lambda state: {"model_ema": state, "optimizer": {"state": {}, "param_groups": []}},
    "a name of their own": lambda state: {"best": {"captioner": state}, "callbacks": {"best": torch.ones(1)}},
    "nested": lambda state: {"model": {"state_dict": state}},
    "average": averaged,
    "average in a container": lambda state: {"state_dict": averaged(state)},
    "numpy scalars": lambda state: {
        "model": state,
        "loss": np.float64(0.5),
        "best": np.float32(1),
        "step": np.int64(3),
    },
    "numpy array": lambda state: {"model": state, "history": np.arange(4.0)},
    "arguments": lambda state: {"model": state, "args": argparse.Namespace(lr=0.1, out=Path("a"))},
}


def import_file(path: Path, **options: Any) -> State:
    """Import a checkpoint of system 1; returns the imported weights."""
    import_checkpoint(SYSTEM, [path], None, path.parent / "model", "small", **options)
    return read_weights(path.parent / "model" / WEIGHTS)


@pytest.fixture
def expected(published: State, tmp_path: Path) -> State:
    """What a bare state_dict is imported as."""
    (tmp_path / "bare").mkdir()
    torch.save(published, tmp_path / "bare" / "a.pth")
    return import_file(tmp_path / "bare" / "a.pth")


def assert_equal(found: State, expected: State) -> None:
    """Raise AssertionError if keys or values differ."""
    assert found.keys() == expected.keys()
    assert [key for key in expected if not torch.equal(found[key], expected[key])] == []


@pytest.mark.parametrize("form", FORMS)
def test_ordinary_forms_are_imported(form: str, published: State, expected: State, tmp_path: Path) -> None:
    """Wrappers, containers and harmless extras change nothing."""
    torch.save(FORMS[form](published), tmp_path / "a.ckpt")

    assert_equal(import_file(tmp_path / "a.ckpt"), expected)


@pytest.mark.parametrize(
    ("others", "named"),
    [
        (lambda state: {"ema": state}, "'ema'"),
        (lambda state: {"model_ema": {"state_dict": averaged(state)}, "epoch": 3}, "'model_ema'"),
        (lambda state: {"weights": state, "teacher": state}, "'teacher', 'weights'"),
        (
            lambda _: {
                "optimizer": {"state": {0: {"exp_avg": torch.ones(2)}}},
                "callbacks": {"a": {"b": torch.ones(1)}},
            },
            "",
        ),
    ],
)
def test_second_set_of_weights_is_named(
    others: Callable[[State], Any], named: str, published: State, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Where a file has the weights of a moving average too, the ones taken are printed and on the card."""
    torch.save({"model": published, **others(published)}, tmp_path / "a.ckpt")
    import_file(tmp_path / "a.ckpt")

    card = (tmp_path / "model" / "MODEL_CARD.md").read_text(encoding="utf-8")
    assumption = f"assumed: the weights under 'model' of a.ckpt; it has others under {named}"
    for text in (capsys.readouterr().out, card):
        assert (assumption in text) == bool(named)
        assert ("it has others" in text) == bool(named)


def test_two_sets_without_a_usual_name_are_refused(published: State, tmp_path: Path) -> None:
    """None of them is taken by chance."""
    torch.save({"student": published, "teacher": published}, tmp_path / "a.ckpt")

    with pytest.raises(ArchiveError, match="weights under 'student', 'teacher', and none of these is a usual name"):
        import_file(tmp_path / "a.ckpt")


@pytest.mark.parametrize(
    "prefix",
    [
        *("module.", "_orig_mod.", "model.", "module._orig_mod.", "module.module.", "model.module.", "model.model."),
        *("_forward_module.", "_forward_module.model.", "network._orig_mod.module."),
    ],
)
def test_wrappers_in_safetensors_are_removed(prefix: str, published: State, expected: State, tmp_path: Path) -> None:
    """Prefixes are removed whatever the file format is."""
    save_file({f"{prefix}{key}": value.contiguous() for key, value in published.items()}, tmp_path / "a.safetensors")

    assert_equal(import_file(tmp_path / "a.safetensors"), expected)


@pytest.mark.parametrize("name", ["a.pth", "a.bin", "a.safetensors"])
@pytest.mark.parametrize("kind", ["torch", "old", "safetensors"])
def test_kind_of_a_file_is_that_of_its_contents(
    kind: str, name: str, published: State, expected: State, tmp_path: Path
) -> None:
    """Files are often renamed."""
    if kind == "safetensors":
        save_file({key: value.contiguous() for key, value in published.items()}, tmp_path / name)
    else:
        torch.save(published, tmp_path / name, _use_new_zipfile_serialization=kind == "torch")

    assert_equal(import_file(tmp_path / name), expected)


def test_checksums_can_be_absent(published: State, expected: State, tmp_path: Path) -> None:
    """PyTorch has an option to leave them out."""
    torch.serialization.set_crc32_options(compute_crc32=False)
    try:
        torch.save(published, tmp_path / "a.pth")
    finally:
        torch.serialization.set_crc32_options(compute_crc32=True)

    assert_equal(import_file(tmp_path / "a.pth"), expected)


EXTRAS: dict[str, Any] = {
    "defaultdict": defaultdict(list, {"loss": [0.5]}),
    "deque": deque([1.0], maxlen=5),
    "date": datetime.date(2026, 1, 2),
    "time": datetime.datetime(2026, 1, 2, tzinfo=datetime.UTC),
    "path": pathlib.PureWindowsPath("C:/data"),
    "decimal": decimal.Decimal("0.1"),
    "fraction": fractions.Fraction(1, 3),
    "uuid": uuid.UUID(int=1),
    "range": range(3),
    "frozenset": frozenset({1}),
    "type": int,
    "ellipsis": ...,
}


@pytest.mark.parametrize("extra", EXTRAS)
def test_harmless_extras_are_skipped(extra: str, tmp_path: Path) -> None:
    """Values of the standard library next to the weights."""
    torch.save({"model": {"a": torch.ones(2)}, "extra": {"inner": EXTRAS[extra]}}, tmp_path / "a.pth")

    assert read_checkpoint(tmp_path / "a.pth").keys() == {"a"}


@pytest.mark.parametrize("value", [float("nan"), float("inf"), -float("inf")])
def test_weights_that_are_not_finite_are_refused(value: float, published: State, tmp_path: Path) -> None:
    """A single one is enough to make every report a failure."""
    key = next(key for key, tensor in published.items() if tensor.is_floating_point() and tensor.ndim > 1)
    damaged = published[key].clone()
    damaged.view(-1)[-1] = value
    torch.save(published | {key: damaged}, tmp_path / "a.pth")

    with pytest.raises(ArchiveError, match="has NaN or infinite values"):
        import_file(tmp_path / "a.pth")


def test_old_file_format_is_read(published: State, expected: State, tmp_path: Path) -> None:
    """The format of PyTorch before 1.6, which is not a zip file, is read."""
    torch.save(published, tmp_path / "a.pth", _use_new_zipfile_serialization=False)

    assert_equal(import_file(tmp_path / "a.pth"), expected)


def test_index_can_be_given_as_a_file(published: State, expected: State, tmp_path: Path) -> None:
    """An index of shards stands for its folder, and a missing shard is named."""
    shards = ["model-00001-of-00002.safetensors", "model-00002-of-00002.safetensors"]
    places = {key: shards[i % 2] for i, key in enumerate(published)}
    for shard in shards:
        save_file({k: v.contiguous() for k, v in published.items() if places[k] == shard}, tmp_path / shard)
    index = tmp_path / "model.safetensors.index.json"
    index.write_text(json.dumps({"weight_map": places}), encoding="utf-8")

    assert_equal(import_file(index), expected)
    assert shards[1] in (tmp_path / "model" / MODEL_CARD).read_text(encoding="utf-8")
    (tmp_path / shards[1]).unlink()
    with pytest.raises(ArchiveError, match=f"lists shards that are missing: {shards[1]}"):
        import_file(index)


def cut(path: Path, share: float = 0.6) -> None:
    """Cut off the end of a file."""
    path.write_bytes(path.read_bytes()[: int(path.stat().st_size * share)])


def cut_safetensors(path: Path, state: State, share: float = 0.6) -> None:
    """Save as safetensors, and cut off the end."""
    save_file({key: value.contiguous() for key, value in state.items()}, path)
    cut(path, share)


def cut_zip(path: Path, state: State) -> None:
    """Save by torch.save, and cut off the end."""
    torch.save(state, path)
    cut(path)


def cut_old(path: Path, state: State) -> None:
    """Save in the old format, and cut off the end."""
    torch.save(state, path, _use_new_zipfile_serialization=False)
    cut(path)


def flip_middle(path: Path, state: State) -> None:
    """Save by torch.save, and change one bit of a tensor."""
    torch.save(state, path)
    contents = bytearray(path.read_bytes())
    contents[len(contents) // 2] ^= 0x40
    path.write_bytes(contents)


def containing(contents: Any) -> Callable[[Path, State], object]:
    """Save other contents."""
    return lambda path, _: torch.save(contents, path)


def reading(text: str) -> Callable[[Path, State], object]:
    """Write a text instead of weights."""
    return lambda path, _: path.write_text(text)


POINTER = "version https://git-lfs.github.com/spec/v1\noid sha256:0\nsize 9\n"
FAULTS: dict[str, tuple[str, Callable[[Path, State], object], str]] = {
    "empty": ("a.pth", reading(""), "is empty"),
    "empty safetensors": ("a.safetensors", reading(""), "is empty"),
    "pointer": ("a.bin", reading(POINTER), "pointer of Git LFS"),
    "pointer to safetensors": ("a.safetensors", reading(POINTER), "pointer of Git LFS"),
    "pointer to keras": ("a.keras", reading(POINTER), "pointer of Git LFS"),
    "web page": ("a.pth", reading("<!DOCTYPE html><title>Sign in</title>"), "web page"),
    "cut zip": ("a.pth", cut_zip, "is cut off"),
    "cut safetensors": ("a.safetensors", cut_safetensors, "is cut off"),
    "cut header": ("a.safetensors", lambda path, state: cut_safetensors(path, state, 0.0001), "is cut off"),
    "cut old format": ("a.pth", cut_old, "damaged|cannot be read"),
    "module": (
        "a.pth",
        containing(nn.Linear(2, 2)),
        r"torch\.nn\.modules\.linear\.Linear, which is not loaded because that could run code",
    ),
    "own class": ("a.pth", containing({"args": Values(lr=1)}), r"\.Values, which is not loaded"),
    "flipped bit": ("a.pth", flip_middle, "is damaged: Bad CRC-32 for file"),
    "zeros": ("a.pth", lambda path, _: path.write_bytes(bytes(1000)), "not a file of torch.save, or it is damaged"),
    "protocol 4": (
        "a.pth",
        lambda path, state: torch.save(state, path, pickle_protocol=4),
        "pickled with protocol 4 or later",
    ),
    "protocol 5, old format": (
        "a.pth",
        lambda path, state: torch.save(state, path, pickle_protocol=5, _use_new_zipfile_serialization=False),
        "pickled with protocol 4 or later",
    ),
    "sparse": ("a.pth", containing({"a": torch.eye(2).to_sparse()}), "a is stored as torch.sparse_coo"),
    "meta": ("a.pth", containing({"a": torch.zeros(2, device="meta")}), "a has no values"),
    "objects": (
        "a.pth",
        containing({"model": {"a": torch.ones(1)}, "x": np.array([{}, None], dtype=object)}),
        "a value next to the weights needs numpy",
    ),
    "no weights": ("a.pth", containing({"epoch": 3}), "does not contain a state_dict"),
    "script": (
        "a.pt",
        lambda path, _: torch.jit.save(torch.jit.script(nn.Linear(2, 2)), path),  # type: ignore[no-untyped-call]
        "TorchScript",
    ),
}


@pytest.mark.parametrize("fault", FAULTS)
@pytest.mark.filterwarnings("ignore::DeprecationWarning", "ignore::FutureWarning")
def test_faulty_files_are_refused_for_the_true_reason(fault: str, published: State, tmp_path: Path) -> None:
    """The message says what the file is, names it, and never advises to load it with its code."""
    name, write, reason = FAULTS[fault]
    write(tmp_path / name, published)

    with pytest.raises(ArchiveError, match=reason) as raised:
        read_checkpoint(tmp_path / name)

    assert name in str(raised.value)
    assert "weights_only" not in str(raised.value)


def system_0() -> State:
    """A state_dict of system 0 in its published names."""
    about = ARCHITECTURES["biomedclip_qformer_biogpt"].published
    return {about.published_key(key): value for key, value in small_network().state_dict().items()}


def test_checkpoint_of_another_system_is_named(published: State, tmp_path: Path) -> None:
    """The message says which system the keys are those of."""
    torch.save(system_0(), tmp_path / "a.pth")

    with pytest.raises(ArchiveError, match="is a checkpoint of biomedclip_qformer_biogpt, not of mobilenet_graph"):
        import_file(tmp_path / "a.pth")


@pytest.mark.parametrize("system", ARCHITECTURES)
def test_published_keys_and_ours_are_inverse(system: str) -> None:
    """Every key of the published size has a published name, which is converted back to it."""
    about = ARCHITECTURES[system].published
    with torch.device("meta"):
        ours = ARCHITECTURES[system].build(about.size).state_dict()

    names = {key: about.published_key(key) for key in ours if "num_batches_tracked" not in key or system != "xreport"}
    assert len(set(names.values())) == len(names)
    joined = {key for key in names if system == "xreport" and "in_proj" in key}
    assert {key: about.our_key(name) for key, name in names.items() if key not in joined} == {
        key: key for key in names if key not in joined
    }


def test_missing_part_lists_its_keys_in_the_checkpoints_names(published: State, tmp_path: Path) -> None:
    """Everything that is missing is listed, layers of one kind on one line."""
    torch.save({key: value for key, value in published.items() if not key.startswith("embedding.")}, tmp_path / "a.pth")
    with pytest.raises(ArchiveError, match=r"missing, in the published size: embedding\.weight$"):
        import_file(tmp_path / "a.pth")

    state = {key: value for key, value in system_0().items() if "visual" not in key}
    torch.save(state, tmp_path / "a.pth")
    with pytest.raises(ArchiveError) as raised:
        import_checkpoint("biomedclip_qformer_biogpt", [tmp_path / "a.pth"], None, tmp_path / "model", "small")
    message = str(raised.value)
    assert "biomedclip_encoder.model.visual.trunk.blocks.{0..11}.norm1.weight" in message
    assert "biomedclip_encoder.model.visual.head.proj.weight" in message
    assert "qformer." not in message


def test_system_0_without_projection(tmp_path: Path) -> None:
    """Queries of the decoder's width need no projection."""
    parts = {**BIOGPT_PARTS, "connector": {**BIOGPT_PARTS["connector"], "width": 64, "heads": 1, "out_width": None}}
    about = ARCHITECTURES["biomedclip_qformer_biogpt"]
    torch.manual_seed(0)
    state = {about.published.published_key(k): v for k, v in about.build(parts).state_dict().items()}
    torch.save(state, tmp_path / "a.pth")

    import_checkpoint("biomedclip_qformer_biogpt", [tmp_path / "a.pth"], None, tmp_path / "model", "small")

    assert ModelConfig.read(tmp_path / "model" / CONFIG).connector["out_width"] is None
    assert not any("proj" in key for key in state if key.startswith("qformer_output"))


@pytest.mark.parametrize("saved_under", ["output_projection", "embed_tokens"])
def test_tied_weights_saved_once(saved_under: str, tmp_path: Path) -> None:
    """BioGPT's one table is found under either of its two names."""
    state = system_0()
    words = state.pop("biogpt_decoder.biogpt.embed_tokens.weight")
    key = "output_projection" if saved_under == "output_projection" else "biogpt.embed_tokens"
    torch.save({**state, f"biogpt_decoder.{key}.weight": words}, tmp_path / "a.pth")

    import_checkpoint("biomedclip_qformer_biogpt", [tmp_path / "a.pth"], None, tmp_path / "model", "small")

    assert torch.equal(read_weights(tmp_path / "model" / WEIGHTS)["decoder.body.embed_tokens.weight"], words)


def test_image_size_of_a_fork_is_that_of_its_positions(tmp_path: Path) -> None:
    """A system 0 for other images is served with their size."""
    torch.save(system_0(), tmp_path / "a.pth")

    import_checkpoint("biomedclip_qformer_biogpt", [tmp_path / "a.pth"], None, tmp_path / "model", "small")

    assert ModelConfig.read(tmp_path / "model" / CONFIG).preprocess.size == BIOGPT_PARTS["vision"]["size"] == 32


def write_words(folder: Path, added: int = 0) -> Path:
    """BERT's tokenizer with 15 made-up words, and added ones in added_tokens.json."""
    folder.mkdir()
    words = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", *"abcdefghijklmno"]
    (folder / "vocab.txt").write_text("\n".join(words), encoding="utf-8")
    if added:
        listed = {f"<word{i}>": len(words) + i for i in range(added)}
        (folder / "added_tokens.json").write_text(json.dumps(listed), encoding="utf-8")
    return folder


def test_added_words_are_kept(tmp_path: Path) -> None:
    """Words of added_tokens.json and of tokenizer_config.json have their ids; contradicting ids are refused."""
    folder = write_words(tmp_path / "words", added=2)
    listed = {"22": {"content": "<finding>", "special": True}, "2": {"content": "[CLS]", "special": True}}
    (folder / "tokenizer_config.json").write_text(json.dumps({"added_tokens_decoder": listed}), encoding="utf-8")

    tokenizer = read_tokenizer("bert-base-uncased", folder)

    assert tokenizer.encode("a<word1>b<finding>", add_special_tokens=False).ids == [5, 21, 6, 22]
    (folder / "tokenizer_config.json").unlink()
    (folder / "added_tokens.json").write_text(json.dumps({"<word0>": 30}), encoding="utf-8")
    with pytest.raises(ArchiveError, match="added word '<word0>' has the id 30"):
        read_tokenizer("bert-base-uncased", folder)


@pytest.mark.parametrize(
    ("kind", "name", "text", "message"),
    [
        ("llama2", "tokenizer.model", POINTER, "pointer of Git LFS"),
        ("llama2", "tokenizer.model", "not a model of SentencePiece", "cannot be read as a tokenizer"),
        ("bert-base-uncased", "vocab.txt", "", "is empty"),
        ("bert-base-uncased", "vocab.txt", "a\nb\nand more words", "lacks"),
        ("biogpt", "vocab.json", "{not JSON}", "cannot be read as a tokenizer"),
    ],
)
def test_faulty_tokenizers_are_refused(kind: str, name: str, text: str, message: str, tmp_path: Path) -> None:
    """A file that is not a tokenizer is named with the reason."""
    (tmp_path / name).write_text(text, encoding="utf-8")
    (tmp_path / "merges.txt").write_text("a b 1\n", encoding="utf-8")

    with pytest.raises(ArchiveError, match=message):
        read_tokenizer(kind, tmp_path)


@pytest.mark.parametrize(
    ("added", "message"), [(0, None), (3, "the tokenizer has 23 tokens, the decoder 20"), (-1, None)]
)
def test_tokenizer_must_fit_the_decoder(
    added: int, message: str | None, published: State, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """A tokenizer with more tokens than the decoder is refused; rows without a token are assumed to be padding."""
    folder = write_words(tmp_path / "words", added=max(added, 0))
    if added < 0:
        text = (folder / "vocab.txt").read_text(encoding="utf-8")
        (folder / "vocab.txt").write_text(text.removesuffix("\no"), encoding="utf-8")
    torch.save(published, tmp_path / "a.pth")
    arguments = (SYSTEM, [tmp_path / "a.pth"], folder, tmp_path / "model", "small")
    if message:
        with pytest.raises(ArchiveError, match=message):
            import_checkpoint(*arguments)
        assert not (tmp_path / "model").exists()
        return

    import_checkpoint(*arguments)

    assert ("assumed: the decoder's last 1 rows are padding" in capsys.readouterr().out) == (added < 0)
    assert (tmp_path / "model" / TOKENIZER).is_file()


def test_assumptions_of_every_system_are_in_its_card(published: State, tmp_path: Path) -> None:
    """Heads, graph steps and the form of the layers are assumed, and an option replaces an assumption."""
    torch.save(published, tmp_path / "a.pth")
    import_file(tmp_path / "a.pth", options={"decoder.heads": 4})

    card = (tmp_path / "model" / MODEL_CARD).read_text(encoding="utf-8")
    config = ModelConfig.read(tmp_path / "model" / CONFIG)
    assert "- assumed: connector.steps = 3" in card
    assert "post-norm" in card
    assert "decoder.heads" not in card.split("## What was fixed")[0]
    assert (config.decoder["heads"], config.connector["steps"]) == (4, PARTS["connector"].get("steps", 3))


def test_edited_settings_are_not_lost(published: State, tmp_path: Path) -> None:
    """A second import refuses to replace an edited model.yaml, unless asked to; an unchanged one is replaced."""
    path, file = tmp_path / "a.pth", tmp_path / "model" / CONFIG
    torch.save(published, path)
    import_file(path)
    import_file(path)
    original = file.read_text(encoding="utf-8")
    file.write_text(original.replace("precision: fp32", "precision: bf16"), encoding="utf-8")

    with pytest.raises(
        ArchiveError, match=r"model\.yaml exists and differs from this import in precision; .*--overwrite"
    ):
        import_file(path)

    assert "bf16" in file.read_text(encoding="utf-8")
    import_file(path, overwrite=True)
    assert file.read_text(encoding="utf-8") == original


@pytest.mark.parametrize("out", ["file", "file/below"])
def test_out_on_a_file_is_refused(out: str, published: State, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """One line instead of a traceback."""
    torch.save(published, tmp_path / "a.pth")
    (tmp_path / "file").write_text("mine")
    monkeypatch.setattr("sys.argv", ["x", SYSTEM, str(tmp_path / "a.pth"), "--out", str(tmp_path / out)])

    with pytest.raises(SystemExit, match=r"file is a file; give a new or existing folder"):
        main()

    assert (tmp_path / "file").read_text() == "mine"


@pytest.mark.parametrize(
    ("arguments", "named"),
    [(["none.mar", "there.png"], "none.mar"), ([".", "there.png"], "."), (["a.mar", "b.png"], "b.png")],
)
def test_verify_without_an_archive_or_image_is_one_line(
    arguments: list[str], named: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A missing file is named, without a traceback."""
    monkeypatch.chdir(tmp_path)
    (tmp_path / "there.png").write_bytes(b"")
    monkeypatch.setattr("sys.argv", ["verify", *arguments])

    with pytest.raises(SystemExit) as raised:
        verify()

    assert named in str(raised.value)
    assert "Traceback" not in str(raised.value)
