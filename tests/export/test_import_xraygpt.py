"""The four files of system 3 are imported as one model folder."""

import json
from pathlib import Path

import pytest
import torch
from torch import Tensor, nn

from export.import_checkpoint import import_checkpoint
from prelim.errors import ArchiveError
from prelim.networks.architectures import ARCHITECTURES
from prelim.networks.model_folder import read_network
from prelim.networks.vision.eva_clip import resize_positions

PARTS = {
    "vision": {"width": 32, "layers": 2, "heads": 16, "feedforward": 48},
    "connector": {
        "in_width": 32,
        "out_width": 32,
        "queries": 4,
        "width": 24,
        "layers": 4,
        "heads": 12,
        "feedforward": 40,
    },
    "decoder": {
        "kind": "transformers",
        "model_type": "llama",
        "vocab_size": 20,
        "hidden_size": 32,
        "intermediate_size": 48,
        "num_hidden_layers": 2,
        "num_attention_heads": 4,
        "tie_word_embeddings": False,
    },
}
FILES = ("xraygpt.pth", "vicuna", "blip2_pretrained_flant5xxl.pth", "eva_vit_g.pth")


def published(network: nn.Module, part: str, ours: str, theirs: str) -> dict[str, Tensor]:
    """Half-precision weights of a part, with the key prefix `ours` replaced by `theirs`."""
    weights = getattr(network, part).state_dict()
    return {theirs + key[len(ours) :]: value.half() for key, value in weights.items() if key.startswith(ours)}


def write_published(folder: Path) -> tuple[list[Path], nn.Module]:
    """Write the published files of a small random model; returns the files and the model."""
    torch.manual_seed(0)
    network = ARCHITECTURES["xraygpt"].build(PARTS)
    position_ids = {"Qformer.bert.embeddings.position_ids": torch.arange(512)[None]}
    inv_freq = {"llama_model.model.layers.0.self_attn.rotary_emb.inv_freq": torch.ones(4)}
    own = published(network, "connector", "proj.", "llama_proj.") | position_ids | inv_freq
    torch.save({"model": own, "epoch": 3, "scaler": {"scale": 65536.0}}, folder / FILES[0])

    language_model = published(network, "decoder", "body.", "model.") | published(
        network, "decoder", "lm_head", "lm_head"
    )
    (folder / "vicuna").mkdir()
    config = {"model_type": "llama", "num_attention_heads": 4, "max_position_embeddings": 96, "rms_norm_eps": 1e-5}
    (folder / "vicuna" / "config.json").write_text(json.dumps(config))
    names = ("pytorch_model-00001-of-00002.bin", "pytorch_model-00002-of-00002.bin")
    places = {key: names[i % 2] for i, key in enumerate(language_model)}
    for name in names:
        torch.save({key: language_model[key] for key in places if places[key] == name}, folder / "vicuna" / name)
    (folder / "vicuna" / "pytorch_model.bin.index.json").write_text(json.dumps({"weight_map": places}))

    encoder = published(network, "connector", "qformer.encoder.", "Qformer.bert.encoder.")
    encoder = {key.replace("attention.attention.", "attention.self."): value for key, value in encoder.items()}
    blip2 = published(network, "connector", "query_tokens", "query_tokens") | encoder | position_ids
    blip2 |= published(network, "connector", "qformer.layernorm.", "Qformer.bert.embeddings.LayerNorm.")
    blip2 |= published(network, "vision", "ln_vision.", "ln_vision.")
    blip2 |= {"Qformer.cls.predictions.bias": torch.zeros(8), "t5_proj.weight": torch.zeros(4, 24)}
    blip2 |= {"Qformer.bert.encoder.layer.0.output.dense.weight": torch.zeros(24, 40)}
    torch.save({"model": blip2}, folder / FILES[2])

    eva = published(network, "vision", "vit.", "")
    eva |= {"blocks.39.norm1.weight": torch.zeros(32), "norm.weight": torch.zeros(32), "head.bias": torch.zeros(9)}
    eva["pos_embed"] = torch.randn(1, 1 + 8**2, 32).half()
    torch.save(eva, folder / FILES[3])
    return [folder / name for name in FILES], network


def test_four_files_become_one_model(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Every weight is imported, half precision is kept, positions are resized, and ignored keys are printed."""
    paths, network = write_published(tmp_path)

    import_checkpoint("xraygpt", paths, None, tmp_path / "model", "small")

    config, read = read_network(tmp_path / "model")
    positions = "vision.vit.pos_embed"
    expected = {key: value.half().float() for key, value in network.state_dict().items()}
    found = read.state_dict()
    assert [key for key in expected if key != positions and not torch.equal(found[key], expected[key])] == []
    assert found[positions].shape == (1, 257, 32)
    assert config.decoder["max_position_embeddings"] == 96
    assert config.decoder["num_attention_heads"] == 4
    printed = capsys.readouterr().out
    assert "resized vision.vit.pos_embed from (1, 65, 32) to (1, 257, 32)" in printed
    for key in ("t5_proj.weight", "blocks.39.norm1.weight", "head.bias", "Qformer.cls.predictions.bias"):
        assert f"ignored {key}: " in printed


def test_trained_weights_have_priority_over_their_base(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """For weights in several files the first file is used, also with another key, and a message says so."""
    paths, _ = write_published(tmp_path)
    trained = torch.load(paths[0], weights_only=True)
    trained["model"]["query_tokens"] = torch.full((1, 4, 24), 2.0)
    trained["model"]["visual_encoder.cls_token"] = torch.full((1, 1, 32), 3.0)
    torch.save(trained, paths[0])

    import_checkpoint("xraygpt", paths, None, tmp_path / "model", "small")

    _, read = read_network(tmp_path / "model")
    assert (read.connector.query_tokens == 2).all()
    assert (read.vision.vit.cls_token == 3).all()
    assert capsys.readouterr().out.count("1 of them were taken from a file given earlier") == 2


@pytest.mark.parametrize(
    ("left_out", "lacking"),
    [
        ("xraygpt.pth", r"size: llama_proj\.weight, llama_proj\.bias$"),
        ("vicuna", r"llama_model\.model\.embed_tokens\.weight, llama_model\.model\.layers\.\{0\.\.31\}\.self_attn"),
        ("blip2_pretrained_flant5xxl.pth", r"size: query_tokens, .*Qformer\.bert\.encoder\.layer\.\{0\.\.11\}"),
        ("eva_vit_g.pth", r"visual_encoder\.blocks\.\{0\.\.38\}\.norm1\.weight"),
    ],
)
def test_missing_file_is_found(tmp_path: Path, left_out: str, lacking: str) -> None:
    """An import without one of the four files is an error with the missing weights."""
    paths, _ = write_published(tmp_path)

    with pytest.raises(ArchiveError, match=lacking):
        import_checkpoint("xraygpt", [p for p in paths if p.name != left_out], None, tmp_path / "model", "small")


def test_medclip_does_not_fit_the_public_qformer(tmp_path: Path) -> None:
    """MedCLIP instead of EVA-CLIP is an error with the two widths."""
    paths, _ = write_published(tmp_path)
    tower = ARCHITECTURES["xraygpt"].vision(tower="medclip_resnet").state_dict()
    torch.save({f"vision_model.{key}": value for key, value in tower.items()}, tmp_path / "medclip.bin")

    with pytest.raises(
        ArchiveError, match="medclip_resnet returns image features of width 2048, this Q-Former expects 32"
    ):
        import_checkpoint("xraygpt", [*paths[:3], tmp_path / "medclip.bin"], None, tmp_path / "model", "small")


def test_resized_positions_keep_place_and_values() -> None:
    """The class token's position and constant tables are unchanged, and resizing up and down restores the table."""
    table = torch.cat([torch.full((1, 1, 4), 7.0), torch.full((1, 16, 4), 3.0)], dim=1)

    larger = resize_positions(table, (1, 1 + 64, 4))

    assert larger.shape == (1, 65, 4)
    assert torch.equal(larger[:, 0], table[:, 0])
    assert torch.allclose(larger[:, 1:], torch.tensor(3.0))
    ramp = torch.linspace(0, 1, 4).expand(4, 4).reshape(1, 16, 1)
    grown = resize_positions(torch.cat([torch.zeros(1, 1, 1), ramp], dim=1), (1, 65, 1))[0, 1:, 0].view(8, 8)
    assert (grown.diff(dim=1) > 0).all()
    assert torch.allclose(grown, grown[:1].expand(8, 8), atol=1e-6)
