"""LLaVA-Med 1.5 in the form of LLaVA's own code: imported exactly, and served reports equal `generate`."""

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import save_file

from export.import_checkpoint import import_checkpoint
from prelim.errors import ArchiveError
from prelim.generation.options import GenerationOptions
from prelim.networks.model_folder import read_network
from prelim.report import Report
from prelim.report_generator import ReportGenerator, ReportRequest
from tests.model_src.generation.reference import generate_arguments, without_filling
from tests.model_src.networks.architectures.imported_folder import import_folder, pixel_values, serve
from tests.model_src.networks.architectures.small_llava import (
    EOS_TOKEN,
    PAD_TOKEN,
    SIDE,
    TEXT,
    llava_tokenizer,
    small_llava,
)
from tests.tiny_model import png

PROMPT = "Is the heart enlarged?"


@pytest.fixture(scope="module")
def original() -> Any:
    """The same network of `transformers`."""
    return small_llava({"model_type": "mistral", "sliding_window": None}, vision_config=_clip())


def _clip() -> Any:
    from transformers import CLIPVisionConfig

    return CLIPVisionConfig(
        hidden_size=32, intermediate_size=40, num_hidden_layers=4, num_attention_heads=16, image_size=SIDE, patch_size=7
    )


def save_original(model: Any, folder: Path, **changes: Any) -> Path:
    """Save it as LLaVA's code does."""
    folder.mkdir()
    weights = {}
    for key, value in model.state_dict().items():
        saved = key.replace("model.language_model.", "model.")
        saved = saved.replace("model.vision_tower.", "model.vision_tower.vision_tower.vision_model.")
        for i, name in enumerate(("linear_1", "linear_2")):
            saved = saved.replace(f"multi_modal_projector.{name}", f"mm_projector.{2 * i}")
        weights[saved] = value.contiguous()
    save_file(weights, folder / "model.safetensors")
    config = {
        **{name: value for name, value in TEXT.items() if name != "model_type"},
        "model_type": "llava_mistral",
        "architectures": ["LlavaMistralForCausalLM"],
        "sliding_window": None,
        "mm_vision_select_layer": -2,
        "mm_vision_select_feature": "patch",
        "mm_projector_type": "mlp2x_gelu",
        "mm_use_im_start_end": False,
        "mm_use_im_patch_token": False,
        "image_aspect_ratio": "pad",
        **changes,
    }
    (folder / "config.json").write_text(json.dumps(config), encoding="utf-8")
    llava_tokenizer().save(str(folder / "tokenizer.json"))
    return folder


@pytest.fixture(scope="module")
def folder(original: Any, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The model folder of its import."""
    path = tmp_path_factory.mktemp("llava_mistral")
    save_original(original, path / "checkpoint")
    return import_folder("llava_mistral", path / "checkpoint")


@pytest.fixture(scope="module")
def generator(folder: Path) -> ReportGenerator:
    """Its archive, served."""
    return serve(folder)


def test_folder_is_imported_exactly(original: Any, folder: Path) -> None:
    """Image features and logits differ by 0 from those of `transformers`; images are padded to a square."""
    config, network = read_network(folder)
    pixel_values = torch.randn(2, 3, SIDE, SIDE)
    ids = torch.arange(3, 15)[None]
    with torch.inference_mode():
        expected = torch.stack(list(original.model.get_image_features(pixel_values).pooler_output))
        assert (network.connector(network.vision(pixel_values)) - expected).abs().max() == 0
        logits = network.decoder.logits(network.decoder.body(input_ids=ids).last_hidden_state)
        assert (logits - original(input_ids=ids).logits).abs().max() == 0
    assert (config.preprocess.resize, config.preprocess.size) == ("pad_mean", SIDE)
    assert config.prompt is not None
    assert (config.prompt.before, config.prompt.after) == ("[INST] ", "\n{prompt} [/INST]")


@pytest.mark.parametrize(
    "changed",
    [
        {"no_repeat_ngram_size": 3, "min_new_tokens": 25},
        {"num_beams": 3, "no_repeat_ngram_size": 2, "min_new_tokens": 20},
        {"repetition_penalty": 1.3, "do_sample": True, "seed": 2, "min_new_tokens": 20},
    ],
)
def test_served_reports_equal_generate(
    original: Any, folder: Path, generator: ReportGenerator, changed: dict[str, Any]
) -> None:
    """LLaVA's code gives `generate` embeddings, so that the prompt does not count in penalties."""
    options = GenerationOptions(max_new_tokens=30, **changed)

    (report,) = generator.generate([ReportRequest(image=png(3), prompt=PROMPT, options=options)])

    seen = pixel_values(folder, [png(3)])
    tokenizer = llava_tokenizer()
    texts = (tokenizer.encode(text, add_special_tokens=False).ids for text in ("[INST] ", f"\n{PROMPT} [/INST]"))
    before, after = (torch.tensor([ids]) for ids in texts)
    embed = original.get_input_embeddings()
    if options.seed is not None:
        torch.manual_seed(options.seed)
    with torch.inference_mode():
        image = original.model.get_image_features(seen).pooler_output[0][None]
        embeds = torch.cat([embed(torch.tensor([[1]])), embed(before), image, embed(after)], dim=1)
        found = original.generate(
            inputs_embeds=embeds,
            attention_mask=torch.ones(embeds.shape[:2], dtype=torch.int64),
            **generate_arguments(options),
        )
    assert isinstance(report, Report)
    assert list(report.token_ids) == without_filling(found[0].tolist(), EOS_TOKEN, PAD_TOKEN)
    assert len({*report.token_ids}) >= 10


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"mm_vision_select_feature": "cls_patch"}, "mm_vision_select_feature is 'cls_patch'; supported: 'patch'"),
        ({"mm_use_im_start_end": True}, "mm_use_im_start_end is True"),
        ({"mm_use_im_patch_token": True}, "mm_use_im_patch_token is True"),
        ({"mm_patch_merge_type": "spatial"}, "mm_patch_merge_type is 'spatial'"),
        ({"mm_resampler_type": "perceiver"}, "mm_resampler_type is 'perceiver'; supported: null"),
        ({"mm_projector_type": "identity"}, "mm_projector_type is 'identity'"),
        ({"mm_projector_type": 3}, "mm_projector_type is 3"),
        ({"mm_vision_select_layer": -9}, "vision_feature_layer is -9"),
        ({"image_aspect_ratio": "anyres"}, "image_aspect_ratio is 'anyres'"),
        ({"model_type": "llava_llama"}, "model_type is 'llava_llama'"),
        ({"architectures": ["LlavaLlamaForCausalLM"]}, "architectures contains 'LlavaLlamaForCausalLM'"),
        ({"num_hidden_layers": 3}, "num_hidden_layers = 3"),
    ],
)
def test_other_settings_are_refused_by_name(
    original: Any, changes: dict[str, Any], message: str, tmp_path: Path
) -> None:
    """A network that this project does not have is not taken for another."""
    save_original(original, tmp_path / "checkpoint", **changes)
    with pytest.raises(ArchiveError, match=message):
        import_checkpoint("llava_mistral", [tmp_path / "checkpoint"], None, tmp_path / "model", "med")
