"""LLaVA-Rad in its four published parts: imported exactly, and served reports equal `generate`."""

import re
from pathlib import Path
from typing import Any

import pytest
import torch

from export.import_checkpoint import import_checkpoint
from prelim.errors import ArchiveError
from prelim.generation.options import GenerationOptions
from prelim.networks.architectures.llava_rad import ARCHITECTURE
from prelim.networks.model_folder import read_network
from prelim.report import Report
from prelim.report_generator import ReportGenerator, ReportRequest
from tests.model_src.networks.architectures.imported_folder import serve
from tests.model_src.networks.architectures.small_llava import SIDE
from tests.model_src.networks.architectures.small_llava_mistral import SEARCHES, ids_of_embeddings
from tests.model_src.networks.architectures.small_llava_rad import SmallLlavaRad
from tests.tiny_model import png

# peft 0.21 uses a name that transformers has renamed.
pytestmark = pytest.mark.filterwarnings("ignore:.is_gradient_checkpointing:FutureWarning")

BEFORE = (
    "A chat between a curious user and an artificial intelligence assistant. The assistant gives helpful, detailed, "
    "and polite answers to the user's questions. USER: "
)
"""The published words, as are those of the question."""


@pytest.fixture(scope="module")
def small(tmp_path_factory: pytest.TempPathFactory) -> tuple[SmallLlavaRad, Path]:
    """The original, with its adapter merged, and the model folder of its import."""
    original, path = SmallLlavaRad(), tmp_path_factory.mktemp("llava_rad")
    given = original.save(path)
    import_checkpoint("llava_rad", given, given[-1], path / "model", "small")
    return original, path / "model"


@pytest.fixture(scope="module")
def generator(small: tuple[SmallLlavaRad, Path]) -> ReportGenerator:
    """Its archive, served."""
    return serve(small[1])


def test_parts_are_imported_exactly(small: tuple[SmallLlavaRad, Path]) -> None:
    """Image embeddings and logits are those of timm's tower and of the language model with its adapter merged."""
    original, folder = small
    config, network = read_network(folder)
    pixel_values, ids = torch.randn(2, 3, SIDE, SIDE), torch.arange(3, 15)[None]
    with torch.inference_mode():
        expected = torch.stack(original.whole.model.get_image_features(pixel_values).pooler_output)
        assert (network.connector(network.vision(pixel_values)) - expected).abs().max() <= 1e-5
        logits = network.decoder.logits(network.decoder.body(input_ids=ids).last_hidden_state)
        assert (logits - original.whole(input_ids=ids).logits).abs().max() <= 1e-5
    assert (config.preprocess.resize, config.preprocess.size, config.use) == ("shortest_edge", SIDE, "research")
    assert config.vision["layers"] == 3


@SEARCHES
def test_served_reports_equal_generate(
    small: tuple[SmallLlavaRad, Path], generator: ReportGenerator, changed: dict[str, Any]
) -> None:
    """With the published words, by a request that has none of its own."""
    options = GenerationOptions(max_new_tokens=30, **changed)

    (report,) = generator.generate([ReportRequest(image=png(3), options=options)])

    after = "\nProvide a description of the findings in the radiology image. ASSISTANT:"
    expected = ids_of_embeddings(small[0].whole, small[1], png(3), (BEFORE, after), options)
    assert isinstance(report, Report)
    assert list(report.token_ids) == expected
    assert len({*expected}) >= 10


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"image_aspect_ratio": "pad"}, "image_aspect_ratio is 'pad'"),
        ({"mm_vision_select_feature": "cls_patch"}, "mm_vision_select_feature is 'cls_patch'"),
        ({"mm_projector_type": "linear"}, "mm_projector_type is 'linear'"),
        ({"num_hidden_layers": 3}, "num_hidden_layers"),
        ({"model_type": "llama"}, "architectures contains 'LlavaLlamaForCausalLM'"),
        ({"architectures": ["LlavaForConditionalGeneration"]}, "model_type is 'llava'"),
    ],
)
def test_other_settings_are_refused_by_name(changes: dict[str, Any], message: str, tmp_path: Path) -> None:
    """As those of every folder."""
    given = SmallLlavaRad().save(tmp_path, **changes)

    with pytest.raises(ArchiveError, match=message):
        import_checkpoint("llava_rad", given, None, tmp_path / "model", "small")


def test_another_layer_is_that_of_the_original(tmp_path: Path) -> None:
    """Layers after it are not imported."""
    original = SmallLlavaRad(layer=2)
    import_checkpoint("llava_rad", original.save(tmp_path, mm_vision_select_layer=2), None, tmp_path / "model", "small")

    network = read_network(tmp_path / "model")[1]
    pixel_values = torch.randn(1, 3, SIDE, SIDE)
    with torch.inference_mode():
        expected = torch.stack(original.whole.model.get_image_features(pixel_values).pooler_output)
        assert (network.connector(network.vision(pixel_values)) - expected).abs().max() <= 1e-5


def test_a_missing_part_is_named(tmp_path: Path) -> None:
    """In the words of the published files."""
    adapter, others, _, base = SmallLlavaRad().save(tmp_path)

    with pytest.raises(ArchiveError, match=r"visual\.trunk\."):
        import_checkpoint("llava_rad", [adapter, others, base], None, tmp_path / "model", "small")


@pytest.mark.parametrize(
    ("file", "key", "shape"),
    [
        (2, "visual.trunk.blocks.0.attn.qkv.bias", ()),
        (2, "visual.trunk.patch_embed.proj.weight", (48, 588)),
        (1, "model.mm_projector.0.weight", (48,)),
    ],
)
def test_a_weight_of_another_rank_is_named(file: int, key: str, shape: tuple[int, ...], tmp_path: Path) -> None:
    """Dimensions are inferred from its shape."""
    given = SmallLlavaRad().save(tmp_path)
    saved = torch.load(given[file])
    weights = saved.get("state_dict", saved)
    weights[next(name for name in weights if name.endswith(key))] = torch.ones(shape)
    torch.save(saved, given[file])

    with pytest.raises(ArchiveError, match=rf"^{re.escape(f'{key} has shape {shape}, expected')}"):
        import_checkpoint("llava_rad", given, None, tmp_path / "model", "small")


@pytest.mark.parametrize("with_config", [True, False])
def test_without_its_adapter_it_is_refused(with_config: bool, tmp_path: Path) -> None:
    """Vicuna alone is a whole language model, and another one."""
    adapter, *rest = SmallLlavaRad().save(tmp_path)
    given = [adapter / "config.json", *rest] if with_config else rest

    with pytest.raises(ArchiveError, match=r"adapter is missing.* adapter_model\.bin and adapter_config\.json"):
        import_checkpoint("llava_rad", given, None, tmp_path / "model", "small")


def test_merged_weights_are_imported_if_they_are_said_to_be(tmp_path: Path) -> None:
    """Nothing in them shows it."""
    original = SmallLlavaRad()
    adapter, *rest = original.save(tmp_path)
    merged = {f"model.{key}": value for key, value in original.whole.model.language_model.state_dict().items()}
    merged["lm_head.weight"] = original.whole.lm_head.weight.detach()
    torch.save(merged, tmp_path / "merged.bin")
    given, options = [adapter / "config.json", *rest[:2], tmp_path / "merged.bin"], {"adapter.merged": True}
    import_checkpoint("llava_rad", given, None, tmp_path / "model", "small", options=options)

    network, ids = read_network(tmp_path / "model")[1], torch.arange(3, 15)[None]
    with torch.inference_mode():
        logits = network.decoder.logits(network.decoder.body(input_ids=ids).last_hidden_state)
        assert (logits - original.whole(input_ids=ids).logits).abs().max() <= 1e-5


def test_published_size() -> None:
    """37 x 37 patches of a ViT-B/14 without its last layer."""
    vision = ARCHITECTURE.published.size["vision"]
    assert ((vision["image_size"] // 14) ** 2, vision["layers"]) == (1369, 11)
