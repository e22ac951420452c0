"""Edits of a folder's config.json: each is refused by the setting's name, or computed as transformers computes it.

A family joins with an entry of FAMILIES, and its edits.
"""

import json
import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor
from transformers import BlipForConditionalGeneration, LlavaForConditionalGeneration, VisionEncoderDecoderModel

from export.import_checkpoint import import_checkpoint
from prelim.errors import ArchiveError
from prelim.networks.model_folder import read_network
from tests.model_src.networks.architectures import small_blip as blip
from tests.model_src.networks.architectures import small_encoder_decoder as ved
from tests.model_src.networks.architectures import small_llava as llava

Edit = tuple[str, Any]
"""Path of a setting in config.json, its parts joined by dots, and its new value; DROP leaves it out."""

DROP = object()


@dataclass(frozen=True)
class Family:
    """Folders of one kind.

    save     : writes a folder
    original : reads it with transformers
    logits   : of that model and of the imported network, for some fixed inputs
    refused  : edits that must be refused by the setting's name
    computed : edits after which both models must give the same logits
    """

    save: Callable[[Path], Any]
    original: Callable[[Path], Any]
    logits: Callable[[Any, Any], tuple[Tensor, Tensor]]
    refused: tuple[Edit, ...]
    computed: tuple[Edit, ...]


def ved_logits(original: Any, network: Any) -> tuple[Tensor, Tensor]:
    """By teacher forcing."""
    torch.manual_seed(1)
    pixels, ids = torch.randn(2, 3, ved.SIDE, ved.SIDE), torch.randint(3, ved.VOCABULARY, (2, 9))
    embeds = network.connector(network.vision(pixels))
    found = network.decoder.teacher_forcing(embeds, ids[:, :1], torch.cat([ids[:, 1:], ids[:, :1]], dim=1))
    return original(**ved.image_inputs(original, pixels), decoder_input_ids=ids).logits, found


def blip_logits(original: Any, network: Any) -> tuple[Tensor, Tensor]:
    """By teacher forcing, in 64 bits: BLIP's own attention sums in another order."""
    torch.manual_seed(1)
    original, network = original.double(), network.double()
    pixels, ids = torch.randn(2, 3, blip.SIDE, blip.SIDE).double(), torch.randint(3, blip.VOCABULARY, (2, 9))
    embeds = network.connector(network.vision(pixels))
    found = network.decoder.teacher_forcing(embeds, ids[:, :1], torch.cat([ids[:, 1:], ids[:, :1]], dim=1))
    return original(pixel_values=pixels, input_ids=ids).logits, found


def llava_logits(original: Any, network: Any) -> tuple[Tensor, Tensor]:
    """Image embeddings, and logits of a text without an image, in one."""
    torch.manual_seed(1)
    pixels, ids = torch.randn(2, 3, llava.SIDE, llava.SIDE), torch.arange(3, 15)[None]
    images = torch.stack(list(original.model.get_image_features(pixels).pooler_output))
    found = network.decoder.logits(network.decoder.body(input_ids=ids).last_hidden_state)
    pairs = ((images, network.connector(network.vision(pixels))), (original(input_ids=ids).logits, found))
    expected, actual = (torch.cat([part.flatten() for part in parts]) for parts in zip(*pairs, strict=True))
    return expected, actual


FAMILIES: Mapping[str, Family] = {
    "encoder_decoder": Family(
        save=lambda path: ved.save_encoder_decoder(ved.small_encoder_decoder("swinv2", "bert"), path),
        original=lambda path: VisionEncoderDecoderModel.from_pretrained(path).eval(),
        logits=ved_logits,
        refused=(
            ("model_type", "blip"),
            ("vision_scale", 2),
            ("tie_encoder_decoder", True),
            ("encoder.model_type", "beit"),
            ("encoder.use_mask_token", True),
            ("encoder.num_channels", 1),
            ("encoder.image_size", [32, 64]),
            ("encoder.hidden_size", 99),
            ("encoder.pretrained_window_sizes", [0]),
            ("encoder.window_shift", 2),
            ("decoder.model_type", "roberta"),
            ("decoder.hidden_act", "quick_gelu"),
            ("decoder.num_attention_heads", 5),
            ("decoder.cross_attention_hidden_size", 16),
            ("decoder.add_cross_attention", False),
            ("decoder.position_embedding_type", "relative_key"),
            ("decoder.layer_scale", 0.1),
            ("decoder.rope_theta", 10000.0),
            ("decoder.pruned_heads", {"0": [1]}),
        ),
        computed=(
            ("decoder.layer_norm_eps", 1e-3),
            ("decoder.hidden_act", "relu"),
            ("decoder.num_attention_heads", 2),
            ("decoder.layer_norm_eps", DROP),
            ("decoder.attention_probs_dropout_prob", 0.4),
            ("encoder.layer_norm_eps", 1e-3),
            ("encoder.window_size", 2),
            ("encoder.hidden_act", "relu"),
            ("encoder.pretrained_window_sizes", [8, 8]),
            ("encoder.drop_path_rate", 0.5),
        ),
    ),
    "blip": Family(
        save=lambda path: blip.save_blip(blip.small_blip(), path),
        original=lambda path: BlipForConditionalGeneration.from_pretrained(path).eval(),
        logits=blip_logits,
        refused=(
            ("model_type", "blip-2"),
            ("itm_weight", 0.5),
            ("tie_encoder_decoder", True),
            ("vision_config.model_type", "clip_vision_model"),
            ("vision_config.image_size", [32, 64]),
            ("vision_config.hidden_act", "none"),
            ("vision_config.rope_theta", 100.0),
            ("text_config.model_type", "bert"),
            ("text_config.hidden_act", "quick_gelu"),
            ("text_config.num_attention_heads", 5),
            ("text_config.is_decoder", False),
            ("text_config.chunk_size_feed_forward", 2),
            ("text_config.position_embedding_type", "relative_key"),
            ("text_config.layer_scale", 0.1),
        ),
        computed=(
            ("text_config.layer_norm_eps", 1e-3),
            ("text_config.num_attention_heads", 4),
            ("text_config.hidden_dropout_prob", 0.4),
            ("vision_config.layer_norm_eps", 1e-3),
            ("vision_config.num_attention_heads", 4),
            ("vision_config.hidden_act", "relu"),
        ),
    ),
    "llava": Family(
        save=lambda path: llava.save_llava(llava.small_llava(), path),
        original=lambda path: LlavaForConditionalGeneration.from_pretrained(path).eval(),
        logits=llava_logits,
        refused=(
            ("vision_config.model_type", "beit"),
            ("vision_feature_layer", 9),
            ("vision_feature_select_strategy", "cls"),
            ("text_config.model_type", "gemma"),
            ("text_config.num_hidden_layers", 3),
            ("text_config.num_attention_heads", 5),
        ),
        computed=(
            ("text_config.rms_norm_eps", 1e-3),
            ("text_config.rope_parameters", {"rope_type": "default", "rope_theta": 500.0}),
            ("vision_config.num_attention_heads", 4),
            ("vision_config.hidden_act", "gelu"),
            ("vision_feature_layer", -1),
            ("projector_hidden_act", "relu"),
        ),
    ),
}


def edited(family: str, edit: Edit, folder: Path) -> Path:
    """A folder with this edit of its config.json."""
    FAMILIES[family].save(folder)
    path, value = edit
    config = json.loads((folder / "config.json").read_text(encoding="utf-8"))
    *parts, name = path.split(".")
    section = config
    for part in parts:
        section = section[part]
    if value is DROP:
        del section[name]
    else:
        assert section.get(name) != value
        section[name] = value
    (folder / "config.json").write_text(json.dumps(config), encoding="utf-8")
    return folder


def cases(outcome: str) -> list[Any]:
    """Family and edit, of all families."""
    return [
        pytest.param(name, edit, id=f"{name} {edit[0]} {number}")
        for name, family in FAMILIES.items()
        for number, edit in enumerate(getattr(family, outcome))
    ]


@pytest.mark.parametrize(("family", "edit"), cases("refused"))
def test_edits_that_are_not_computed_are_refused_by_name(family: str, edit: Edit, tmp_path: Path) -> None:
    """Whatever would be computed otherwise than transformers does is not imported."""
    folder = edited(family, edit, tmp_path / "checkpoint")

    with pytest.raises(ArchiveError, match=rf"\b{re.escape(edit[0].rpartition('.')[2])}\b"):
        import_checkpoint(family, [folder], None, tmp_path / "model", "edited")


@pytest.mark.parametrize(("family", "edit"), cases("computed"))
def test_other_edits_are_computed_as_transformers_does(family: str, edit: Edit, tmp_path: Path) -> None:
    """The logits of the imported network are those of the folder that was edited."""
    folder = edited(family, edit, tmp_path / "checkpoint")

    import_checkpoint(family, [folder], None, tmp_path / "model", "edited")

    _, network = read_network(tmp_path / "model")
    with torch.inference_mode():
        expected, found = FAMILIES[family].logits(FAMILIES[family].original(folder), network)
    assert (found - expected).abs().max() < 1e-9
