"""VisionEncoderDecoderModel: a folder of `transformers` is imported exactly, or refused by name."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file
from transformers import VisionEncoderDecoderModel

from export.import_checkpoint import import_checkpoint
from export.tokenizers.read import read_tokenizer
from prelim.decoders.weights_file import materialize
from prelim.errors import ArchiveError
from prelim.networks.model_folder import read_network
from prelim.networks.trained_decoder import for_serving
from tests.model_src.networks.architectures.imported_folder import import_folder
from tests.model_src.networks.architectures.small_encoder_decoder import (
    ENCODERS,
    SIDE,
    START,
    VOCABULARY,
    image_inputs,
    save_encoder_decoder,
    small_encoder_decoder,
)


def import_model(model: Any, folder: Path) -> Path:
    """The model folder of the import of a model."""
    return import_folder("encoder_decoder", save_encoder_decoder(model, folder / "checkpoint"))


def all_logits(network: Any, decoder: Any, pixel_values: torch.Tensor, ids: torch.Tensor) -> torch.Tensor:
    """Logits after each of the ids by teacher forcing."""
    embeds = network.connector(network.vision(pixel_values))
    reports = torch.cat([ids[:, 1:], ids[:, :1]], dim=1)
    logits: torch.Tensor = decoder.teacher_forcing(embeds, ids[:, :1], reports)
    return logits


OTHERS: dict[str, dict[str, Any]] = {
    "gpt2": {"tie_word_embeddings": False, "activation_function": "gelu", "n_inner": 40, "layer_norm_epsilon": 1e-4},
    "bert": {"tie_word_embeddings": False, "hidden_act": "gelu_new", "type_vocab_size": 1, "layer_norm_eps": 1e-6},
}
"""What fine-tunes change of a decoder: a head of its own, the other GELU."""


@pytest.mark.parametrize("other", [False, True])
@pytest.mark.parametrize("decoder", OTHERS)
@pytest.mark.parametrize("encoder", ENCODERS)
def test_folder_is_imported_exactly(encoder: str, decoder: str, other: bool, tmp_path: Path) -> None:
    """Logits differ by 0 from those of `transformers`; those of the served decoder by rounding alone."""
    save_encoder_decoder(
        small_encoder_decoder(encoder, decoder, **(OTHERS[decoder] if other else {})), tmp_path / "checkpoint"
    )
    import_checkpoint("encoder_decoder", [tmp_path / "checkpoint"], None, tmp_path / "model", "small")

    original: Any = VisionEncoderDecoderModel.from_pretrained(tmp_path / "checkpoint").eval()
    _, network = read_network(tmp_path / "model")
    pixel_values, ids = torch.randn(2, 3, SIDE, SIDE), torch.randint(3, VOCABULARY, (2, 9))
    with torch.inference_mode():
        expected = original(**image_inputs(original, pixel_values), decoder_input_ids=ids).logits
        assert torch.equal(all_logits(network, network.decoder, pixel_values, ids), expected)
        # In 64 bits, because float32 rounds sums in another order, which the norms of random weights amplify.
        network, original = network.double(), original.double()
        expected = original(**image_inputs(original, pixel_values.double()), decoder_input_ids=ids).logits
        found = all_logits(network, served_decoder(network), pixel_values.double(), ids)
        assert (found - expected).abs().max() < 1e-9


def test_the_other_gelu_is_seen(tmp_path: Path) -> None:
    """Equal logits mean something: those of the two GELUs differ by more than what is tolerated."""
    original = small_encoder_decoder("vit", "gpt2")
    network = read_network(import_model(original, tmp_path))[1]
    pixel_values, ids = torch.randn(2, 3, SIDE, SIDE), torch.randint(3, VOCABULARY, (2, 9))
    for layer in original.decoder.transformer.h:
        layer.mlp.act = torch.nn.GELU()

    with torch.inference_mode():
        expected = original(pixel_values=pixel_values, decoder_input_ids=ids).logits
        assert (all_logits(network, network.decoder, pixel_values, ids) - expected).abs().max() > 3e-4


def served_decoder(network: Any) -> Any:
    """The decoder that is served, with the weights as they are."""
    _, decoder, weights = for_serving(network.decoder, "fp32")
    weights = {name: materialize(network.decoder.served()[1][name]) for name in weights}
    decoder.load_state_dict(weights, assign=True)
    return decoder.eval()


def test_special_tokens_are_those_of_generate(tmp_path: Path) -> None:
    """A report begins with decoder_start_token_id, and ends as generation_config.json says."""
    model = small_encoder_decoder("vit", "gpt2", bos_token_id=7, eos_token_id=8)

    tokens = read_network(import_model(model, tmp_path))[0].tokenizer

    assert (tokens.bos_token_id, tokens.eos_token_id) == (START, 2)


def old_tied_keys(weights: dict[str, Any]) -> dict[str, Any]:
    """As version 4 of transformers saved a GPT-2: with its head and its masks."""
    words = weights["decoder.transformer.wte.weight"].clone()
    masks = {
        f"decoder.transformer.h.{i}.attn.{name}": torch.ones(1) for i in range(2) for name in ("bias", "masked_bias")
    }
    return {**weights, "decoder.lm_head.weight": words, **masks}


def without_words(weights: dict[str, Any]) -> dict[str, Any]:
    """Saved once, under the head's name."""
    renamed = {**weights, "decoder.lm_head.weight": weights["decoder.transformer.wte.weight"]}
    del renamed["decoder.transformer.wte.weight"]
    return renamed


@pytest.mark.parametrize("change", [old_tied_keys, without_words])
def test_tied_embeddings_under_each_name(change: Callable[[dict[str, Any]], dict[str, Any]], tmp_path: Path) -> None:
    """One table is found under either of its names, and a copy is left out."""
    save_encoder_decoder(small_encoder_decoder("vit", "gpt2"), tmp_path / "checkpoint")
    path = tmp_path / "checkpoint" / "model.safetensors"
    weights = load_file(path)
    save_file(change(dict(weights)), path)

    import_checkpoint("encoder_decoder", [tmp_path / "checkpoint"], None, tmp_path / "model", "small")

    state = read_network(tmp_path / "model")[1].state_dict()
    assert torch.equal(state["decoder.body.wte.weight"], weights["decoder.transformer.wte.weight"])


def test_a_head_that_differs_from_tied_embeddings_is_refused(tmp_path: Path) -> None:
    """Two tables cannot be one."""
    save_encoder_decoder(small_encoder_decoder("vit", "gpt2"), tmp_path / "checkpoint")
    path = tmp_path / "checkpoint" / "model.safetensors"
    weights = old_tied_keys(load_file(path))
    save_file({**weights, "decoder.lm_head.weight": weights["decoder.lm_head.weight"] + 1}, path)

    with pytest.raises(ArchiveError, match="head differs from its token embeddings"):
        import_checkpoint("encoder_decoder", [tmp_path / "checkpoint"], None, tmp_path / "model", "small")


@pytest.mark.parametrize(
    ("part", "changes", "message"),
    [
        ("decoder", {"model_type": "trocr"}, "decoder is of model_type 'trocr'"),
        ("encoder", {"model_type": "beit"}, "encoder is of model_type 'beit'"),
        ("decoder", {"scale_attn_by_inverse_layer_idx": True}, "scale_attn_by_inverse_layer_idx is True"),
        ("decoder", {"reorder_and_upcast_attn": True}, "reorder_and_upcast_attn is True"),
        ("decoder", {"add_cross_attention": False}, "add_cross_attention is False"),
        ("decoder", {"cross_attention_hidden_size": 24}, "cross_attention_hidden_size is 24"),
        ("decoder", {"activation_function": "quick_gelu"}, "activation_function is 'quick_gelu'"),
        ("decoder", {"n_head": 5}, "n_head is 5"),
        ("decoder", {"n_layer": 3}, "n_layer is 3, but the weights have 2"),
        ("decoder", {"rotary_dim": 8}, "decoder.rotary_dim is 8"),
        ("encoder", {"use_mask_token": True}, "encoder.use_mask_token is True"),
        ("encoder", {"hidden_act": "none"}, "none"),
        ("encoder", {"image_size": [32, 48]}, "must be squares"),
        ("decoder", {"n_head": 0}, "decoder.n_head is 0"),
        ("encoder", {"num_channels": 1}, "num_channels is 1"),
        ("encoder", {"qkv_bias": False}, "unknown: .*attention.attention"),
        (None, {"tie_encoder_decoder": True}, "tie_encoder_decoder is True"),
        (None, {"encoder": None}, "no section encoder"),
        (None, {"vision_scale": 2}, "vision_scale is 2"),
        (None, {"model_type": "speech-encoder-decoder"}, "model_type is 'speech-encoder-decoder'"),
    ],
)
def test_other_networks_are_refused_by_name(
    part: str | None, changes: dict[str, Any], message: str, tmp_path: Path
) -> None:
    """A network that this project does not have is not taken for another."""
    path = save_encoder_decoder(small_encoder_decoder("vit", "gpt2"), tmp_path / "checkpoint") / "config.json"
    config = json.loads(path.read_text(encoding="utf-8"))
    (config if part is None else config[part]).update(changes)
    path.write_text(json.dumps(config), encoding="utf-8")

    with pytest.raises(ArchiveError, match=message):
        import_checkpoint("encoder_decoder", [tmp_path / "checkpoint"], None, tmp_path / "model", "small")


def test_without_a_config_it_is_refused(tmp_path: Path) -> None:
    """Heads, activations and norms are in no shape."""
    save_encoder_decoder(small_encoder_decoder("vit", "gpt2"), tmp_path / "checkpoint")
    file = tmp_path / "other" / "weights.safetensors"
    file.parent.mkdir()
    (tmp_path / "checkpoint" / "model.safetensors").rename(file)

    with pytest.raises(ArchiveError, match=r"needs the config\.json"):
        import_checkpoint("encoder_decoder", [file], None, tmp_path / "model", "small")


GPT2_WORDS = ["a", "b", "\u0120", "\u0120a", "ab", "<|endoftext|>"]
BERT_WORDS = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", "No", "no", "effusion", "##s", "."]


def gpt2_files(folder: Path) -> None:
    """Vocabulary and merges of a small GPT-2."""
    (folder / "vocab.json").write_text(json.dumps({word: i for i, word in enumerate(GPT2_WORDS)}), encoding="utf-8")
    (folder / "merges.txt").write_text("#version: 0.2\na b\n\u0120 a\n", encoding="utf-8")


def bert_files(folder: Path, **settings: Any) -> None:
    """Vocabulary of a small BERT."""
    (folder / "vocab.txt").write_text("\n".join(BERT_WORDS) + "\n", encoding="utf-8")
    (folder / "tokenizer_config.json").write_text(json.dumps(settings), encoding="utf-8")


def test_tokenizers_of_old_folders(tmp_path: Path) -> None:
    """GPT-2's and BERT's own files are read; a BERT that keeps capitals keeps them."""
    for name in ("gpt2", "bert", "cased"):
        (tmp_path / name).mkdir()
    gpt2_files(tmp_path / "gpt2")
    bert_files(tmp_path / "bert")
    bert_files(tmp_path / "cased", do_lower_case=False)
    gpt2, lower, cased = (read_tokenizer("encoder_decoder", tmp_path / name) for name in ("gpt2", "bert", "cased"))

    assert gpt2.encode("ab a").tokens == ["ab", "\u0120a"]
    assert gpt2.decode([4, 3, 5]) == "ab a"
    assert lower.encode("No effusions.", add_special_tokens=False).tokens == ["no", "effusion", "##s", "."]
    assert cased.encode("No effusions.", add_special_tokens=False).tokens == ["No", "effusion", "##s", "."]
    assert cased.decode([5, 7, 8, 9]) == "No effusions."
    lower.save(str(tmp_path / "gpt2" / "tokenizer.json"))
    assert read_tokenizer("encoder_decoder", tmp_path / "gpt2").decode([6, 7, 8, 9]) == "no effusions."
