"""What is frozen does not move, adapters leave their layers as they are, recomputing changes nothing."""

import math
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file
from torch import Tensor

from prelim.decoders.decoder import IMAGE
from prelim.networks.model_folder import read_network
from tests.training.small_systems import MODELS
from training.data.batches import kind_weights
from training.data.examples import Example
from training.network.trainable import plain_weights, train_mode
from training.run.preparation import prepare
from training.settings import Settings, SettingsError, StartSettings
from training.train import Trainer, train

Small = Callable[..., Settings]


def written(settings: Settings) -> dict[str, Tensor]:
    """The weights that a run wrote."""
    return load_file(Path(settings.run.out) / "model.safetensors")


def again(settings: Settings, first: Settings) -> Settings:
    """A run that begins with the model of another, and has no dimensions of its own."""
    return replace(settings, model={}, start=StartSettings(weights=first.run.out))


@pytest.mark.parametrize("part", ["vision", "decoder", "connector.proj", "decoder.token_embedding.weight"])
def test_frozen_parts_do_not_move(small: Small, part: str) -> None:
    """A frozen part keeps its weights and its batch-norm statistics bit for bit; the others move."""
    first = small(folder="first")
    train(first)
    settings = replace(again(small(folder="second"), first), freeze=(part,))
    train(settings)
    before, after = written(first), written(settings)
    for name, value in before.items():
        if value.is_floating_point() and not name.endswith("bias"):
            assert torch.equal(value, after[name]) == name.startswith(part), name


def test_an_unknown_part_lists_those_beside_it(small: Small) -> None:
    """A part that does not exist is an error that says which do."""
    with pytest.raises(SettingsError, match=r"'connector.projection'.*proj, message"):
        prepare(replace(small(), freeze=("connector.projection",)), 1, main=False)


@pytest.mark.parametrize("quantize", ["", "nf4"])
@pytest.mark.parametrize("system", ["biomedclip_qformer_biogpt", "densenet_disease_llama", "xraygpt"])
def test_adapters_leave_the_base_weights(small: Small, system: str, quantize: str) -> None:
    """With adapters nothing of the decoder moves but they; kept or merged, the written model computes the same."""
    first = small(system, "first", optimization={"epochs": 1})
    train(first)
    lora = {"rank": 4, "alpha": 8.0, "quantize": quantize}
    kept, merged = (
        again(small(system, str(keep), lora={**lora, "keep": keep}, optimization={"learning_rate": 0.01}), first)
        for keep in (True, False)
    )
    assert train(kept)
    assert train(merged)
    before, separate, together = written(first), written(kept), written(merged)
    decoder = [name for name in before if name.startswith("decoder.")]
    changed = {name for name in decoder if not torch.equal(before[name], together[name])}
    rounded = {name for name in decoder if not torch.equal(before[name], separate[name])}
    assert changed
    assert bool(rounded) == bool(quantize)  # layers of 4 bits are written with the values that these stand for
    assert all(name.endswith("_proj.weight") for name in changed - rounded)
    for name in {name for name in separate if name.endswith("lora_A.weight")}:
        layer = name.removesuffix(".lora_A.weight")
        update = separate[f"{layer}.lora_B.weight"] @ separate[name]
        assert update.abs().max() > 0
        torch.testing.assert_close(separate[f"{layer}.weight"] + update, together[f"{layer}.weight"])
    given = torch.randn(2, 5, 64), torch.full((2, 1), IMAGE), torch.tensor([[1, 2, 3], [4, 5, 6]])
    logits = [read_network(Path(s.run.out))[1].decoder.teacher_forcing(*given) for s in (kept, merged)]
    torch.testing.assert_close(*logits, atol=1e-4, rtol=1e-4)


def test_training_in_four_bits_lowers_the_loss(small: Small) -> None:
    """QLoRA works on a CPU: its adapters, and the connector, learn."""
    settings = small(
        "densenet_disease_llama",
        lora={"rank": 8, "quantize": "nf4", "alpha": 16.0},
        optimization={"epochs": 15, "learning_rate": 0.01},
    )
    run = Trainer(settings)
    batches = run.batches()
    for _ in range(30):
        run.step([next(batches), next(batches)], stop=False)
    assert run.progress.train[-1][1] < 0.8 * run.progress.train[0][1]


def test_adapters_need_a_large_decoder(small: Small) -> None:
    """Cross-attention decoders are trained whole, and say so."""
    with pytest.raises(SettingsError, match="trained whole"):
        prepare(small("xreport", lora={"rank": 4}), 1, main=False)


def test_unknown_layers_are_refused(small: Small) -> None:
    """A layer that the decoder has not is an error that lists those it has."""
    with pytest.raises(SettingsError, match=r"'qproj'.*k_proj"):
        prepare(small("xraygpt", lora={"rank": 4, "layers": ["qproj"]}), 1, main=False)


@pytest.mark.parametrize("system", MODELS)
def test_recomputing_gives_the_same_gradients(small: Small, system: str) -> None:
    """Gradient checkpointing changes no gradient, dropout included."""
    gradients = []
    for recompute in (False, True):
        prepared = prepare(small(system, optimization={"gradient_checkpointing": recompute}), 1, main=False)
        train_mode(prepared.objective)
        torch.manual_seed(1)
        report, _ = prepared.objective(prepared.train[0])
        report.backward()
        gradients.append({name: p.grad for name, p in prepared.objective.named_parameters() if p.grad is not None})
    assert gradients[0].keys() == gradients[1].keys()
    for name, gradient in gradients[0].items():
        torch.testing.assert_close(gradient, gradients[1][name])


def test_plain_weights_of_a_new_adapter_are_those_below_it(small: Small) -> None:
    """An adapter that has learned nothing adds nothing."""
    plain = prepare(small("xraygpt"), 1, main=False).objective.network.state_dict()
    adapted = prepare(small("xraygpt", lora={"rank": 2}), 1, main=False).objective.network
    found = plain_weights(adapted, keep_adapters=False)
    assert found.keys() == plain.keys()
    assert all(torch.equal(found[name], plain[name]) for name in plain)


def test_a_part_has_a_learning_rate_of_its_own(small: Small) -> None:
    """A part whose rate is next to nothing stays next to where it was; a part that is not trained has no rate."""
    first = small(folder="first")
    train(first)
    slow = {"learning_rate": 1e-2, "weight_decay": 0.0, "part_rates": {"decoder": 1e-6}}
    settings = again(small(folder="second", optimization=slow), first)
    train(settings)
    before, after = written(first), written(settings)
    moved = {name: (after[name] - value).abs().max() for name, value in before.items() if "num_batches" not in name}
    assert max(by for name, by in moved.items() if name.startswith("decoder.")) < 1e-6
    assert moved["connector.proj.weight"] > 1e-3
    with pytest.raises(SettingsError, match="'encoder'"):
        Trainer(small(optimization={"part_rates": {"encoder": 1.0}}))
    with pytest.raises(SettingsError, match="numbers above 0"):
        Trainer(small(optimization={"part_rates": {"vision": 0.0}}))


@pytest.mark.parametrize("renamed", [False, True])
@pytest.mark.parametrize("kind", ["mobilenet_v3_small", "efficientnet_lite0"])
def test_an_encoder_begins_with_weights_from_elsewhere(small: Small, tmp_path: Path, kind: str, renamed: bool) -> None:
    """A state dict gives its weights, under our names or in our order, with a classifier after them or without."""
    width = {"mobilenet_v3_small": 576, "efficientnet_lite0": 1280}[kind]
    model = {"vision": {"kind": kind}, "connector": {"width": 64, "in_width": width}}
    trained = prepare(small(model=model, optimization={"seed": 1}), 1, main=False).model.network.vision.state_dict()
    name = "part{}.{}" if renamed else "{1}"
    file = {
        name.format(i, key if not renamed else key.rpartition(".")[2]): v for i, (key, v) in enumerate(trained.items())
    }
    torch.save(file | {"classifier.weight": torch.zeros(10, 4)}, tmp_path / "vision.pth")
    begun = small(model=model, start={"vision": str(tmp_path / "vision.pth"), "vocab_size": 400})
    found = prepare(begun, 1, main=False).model.network.vision.state_dict()
    assert all(torch.equal(found[key], value) for key, value in trained.items())


def test_weights_of_another_encoder_are_refused(small: Small, tmp_path: Path) -> None:
    """Another network, too few tensors, a file with code in it, no file: each is an error that names the file."""

    class Code:
        def __reduce__(self) -> tuple[object, tuple[str]]:
            return print, ("this must not be run",)

    path = tmp_path / "vision.pth"
    own = prepare(small(), 1, main=False).model.network.vision.state_dict()
    first = next(iter(own))
    for contents, message in (
        ({"stem.weight": torch.zeros(2, 2)}, f"our {first}.*stem.weight"),
        ({f"other.{first}": own[first]}, "has 1 tensors"),
        (Code(), "cannot be read"),
    ):
        torch.save(contents, path)
        with pytest.raises(SettingsError, match=message):
            prepare(small(start={"vision": str(path)}), 1, main=False)
    with pytest.raises(SettingsError, match="cannot be read"):
        prepare(small(start={"vision": str(tmp_path / "none.safetensors")}), 1, main=False)


def test_rare_kinds_come_oftener(small: Small) -> None:
    """An example's weight is the inverse root of its kind's size, at most twice the mean; it is drawn so often."""
    kinds = ["common"] * 90 + ["rare"] * 9 + ["single"]
    examples = [Example(Path(), "text", "", {"kind": kind}) for kind in kinds]
    weights = kind_weights(examples, ["kind"])
    assert weights is not None
    assert weights.mean() == pytest.approx(1)
    assert weights[90] / weights[0] == pytest.approx(weights[99] / weights[0])  # both at the bound
    assert 1 < weights[90] / weights[0] < 90**0.5
    with pytest.raises(SettingsError, match="no study has the labels side"):
        kind_weights(examples, ["side"])

    settings = small(dataset={"balance": ["finding"]}, optimization={"batch_size": 1, "accumulate": 1})
    balanced = prepare(settings, 1, main=False).train
    assert balanced._weights is not None
    for epoch in range(3):
        drawn = balanced._shuffle(epoch)
        for i, weight in enumerate(balanced._weights.tolist()):
            assert math.floor(weight - 1e-9) <= drawn.count(i) <= math.ceil(weight + 1e-9)
