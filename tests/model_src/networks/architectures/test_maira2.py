"""MAIRA-2: a folder in its published form is imported exactly, and served reports equal `generate`."""

import json
from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import save_file
from tokenizers import processors
from torch import nn
from transformers import Dinov2Backbone, Dinov2Config
from transformers.modeling_outputs import BaseModelOutputWithPooling

from export.import_checkpoint import import_checkpoint
from prelim.errors import ArchiveError, InputError
from prelim.generation.options import GenerationOptions
from prelim.networks.architectures.maira2 import ARCHITECTURE
from prelim.networks.model_folder import read_network
from prelim.report import Report
from prelim.report_generator import ReportGenerator, ReportRequest
from tests.model_src.networks.architectures.imported_folder import import_folder, pixel_values, serve
from tests.model_src.networks.architectures.small_llava import (
    IMAGE_TOKEN,
    PROCESSOR,
    SIDE,
    TEXT,
    VISION,
    llava_tokenizer,
    originals_rows,
    small_llava,
)
from tests.tiny_model import png

RAD_DINO: dict[str, Any] = {
    **{name: value for name, value in VISION.items() if name != "intermediate_size"},
    "mlp_ratio": 2,
    "out_features": ["stage4"],
    "reshape_hidden_states": False,
}
LONG = {"max_position_embeddings": 1024, "rope_parameters": {"rope_type": "linear", "factor": 1.5, "rope_theta": 1e4}}
LAYERS = 4
TEMPLATE = (
    "You are an assistant. {% for m in messages %}{{ m['role'] | upper }}: {% for c in m['content'] %}"
    "{% if c['type'] == 'image' %}<image>{% else %}{{ c['text'] }}{% endif %}{% endfor %} {% endfor %}"
    "{% if add_generation_prompt %}ASSISTANT: {% endif %}"
)
ASKED = "Provide a description of the findings in the radiology study in comparison to the prior frontal image."
"""The published question."""


def small_maira2() -> Any:
    """A LLaVA whose image features are the feature map of a backbone, with more layers between."""
    config = Dinov2Config(**RAD_DINO)
    model = small_llava(LONG, vision_config=config)
    torch.manual_seed(1)
    tower = Dinov2Backbone(config)
    widths = [config.hidden_size, *[TEXT["hidden_size"]] * LAYERS]
    linear = [nn.Linear(a, b) for a, b in pairwise(widths)]
    projector = nn.Sequential(*[layer for one in linear for layer in (one, nn.GELU())][:-1])
    for part in (tower, projector):
        for parameter in part.parameters():
            nn.init.normal_(parameter, std=1.2 / parameter.shape[-1] ** 0.5)
    inner = model.model
    inner.vision_tower, inner.multi_modal_projector = tower.eval(), nn.ModuleDict({"layers": projector})

    def features(pixel_values: torch.Tensor, **_: Any) -> BaseModelOutputWithPooling:
        tokens = projector(tower(pixel_values, output_hidden_states=True).feature_maps[-1][:, 1:])
        return BaseModelOutputWithPooling(pooler_output=list(tokens))

    inner.get_image_features = features
    return model


def save_maira2(model: Any, folder: Path) -> Path:
    """Save model, image processor and tokenizer in the published form."""
    folder.mkdir()
    weights = {}
    for key, value in model.state_dict().items():
        saved = key.replace("model.language_model.", "language_model.model.").replace(
            "lm_head.", "language_model.lm_head."
        )
        saved = saved.removeprefix("model.").replace("attention.o_proj", "attention.output.dense")
        for name in ("query", "key", "value"):
            if "vision_tower" in saved:
                saved = saved.replace(f"attention.{name[0]}_proj", f"attention.attention.{name}")
        weights[saved] = value.contiguous()
    save_file(weights, folder / "model.safetensors")
    config = {
        "model_type": "maira2",
        "architectures": ["Maira2ForConditionalGeneration"],
        "image_token_index": IMAGE_TOKEN,
        "projector_hidden_act": "gelu",
        "projector_n_layers": LAYERS,
        "vision_feature_layer": -1,
        "vision_feature_select_strategy": "default",
        "vision_config": {"model_type": "dinov2", **RAD_DINO},
        "text_config": {**TEXT, **LONG},
    }
    (folder / "config.json").write_text(json.dumps(config), encoding="utf-8")
    processor = {**PROCESSOR, "image_processor_type": "BitImageProcessor"}
    (folder / "preprocessor_config.json").write_text(json.dumps(processor), encoding="utf-8")
    (folder / "chat_template.json").write_text(json.dumps({"chat_template": TEMPLATE}), encoding="utf-8")
    tokenizer = llava_tokenizer()
    tokenizer.post_processor = processors.TemplateProcessing(single="<s> $A", special_tokens=[("<s>", 1)])
    tokenizer.save(str(folder / "tokenizer.json"))
    return folder


@pytest.fixture(scope="module")
def original() -> Any:
    """The model."""
    return small_maira2()


@pytest.fixture(scope="module")
def folder(original: Any, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The model folder of its import."""
    path = tmp_path_factory.mktemp("maira2")
    save_maira2(original, path / "checkpoint")
    return import_folder("maira2", path / "checkpoint")


@pytest.fixture(scope="module")
def generator(folder: Path) -> ReportGenerator:
    """Its archive, served."""
    return serve(folder)


def test_folder_is_imported_exactly(original: Any, folder: Path) -> None:
    """Image features and logits are those of the original."""
    _, network = read_network(folder)
    pixel_values = torch.randn(2, 3, SIDE, SIDE)
    ids = torch.arange(3, 15)[None]
    with torch.inference_mode():
        expected = torch.stack(original.model.get_image_features(pixel_values).pooler_output)
        assert (network.connector(network.vision(pixel_values)) - expected).abs().max() <= 1e-5
        logits = network.decoder.logits(network.decoder.body(input_ids=ids).last_hidden_state)
        assert (logits - original(input_ids=ids).logits).abs().max() == 0


CASES: list[tuple[tuple[str, ...], dict[str, str], dict[str, Any], list[str]]] = [
    (
        ("frontal",),
        {},
        {},
        ["Given the current frontal image only", " %s INDICATION: N/A TECHNIQUE: N/A COMPARISON: N/A"],
    ),
    (
        ("frontal", "lateral"),
        {"indication": "Cough."},
        {"num_beams": 3, "repetition_penalty": 1.3},
        [
            "Given the current frontal image",
            " and the current lateral image",
            " %s INDICATION: Cough. TECHNIQUE: N/A COMPARISON: N/A",
        ],
    ),
    (
        ("frontal", "prior"),
        {"technique": "PA.", "comparison": "None."},
        {"no_repeat_ngram_size": 2},
        [
            "Given the current frontal image",
            " and the prior frontal image",
            " PRIOR_REPORT: N/A %s INDICATION: N/A TECHNIQUE: PA. COMPARISON: None.",
        ],
    ),
    (
        ("frontal", "lateral", "prior"),
        {},
        {"do_sample": True, "seed": 3, "num_beams": 2},
        [
            "Given the current frontal image",
            " the current lateral image",
            " and the prior frontal image",
            " PRIOR_REPORT: N/A %s INDICATION: N/A TECHNIQUE: N/A COMPARISON: N/A",
        ],
    ),
]


def test_served_reports_equal_generate(original: Any, folder: Path, generator: ReportGenerator) -> None:
    """With the words that MAIRA-2 has for its one, two or three images, in the turns of the folder's template."""
    requests, expected = [], []
    for seed, (roles, context, changed, texts) in enumerate(CASES):
        images = tuple(png(seed + i) for i in range(len(roles)))
        options = GenerationOptions(max_new_tokens=40, min_new_tokens=20, **changed)
        requests.append(ReportRequest(images=images, roles=roles, context=context, options=options))
        around = [f"You are an assistant. USER: {texts[0]}", *texts[1:-1], f"{texts[-1] % ASKED} ASSISTANT: "]
        expected.append(originals_rows(original, pixel_values(folder, images), around, options)[0])

    reports = generator.generate(requests)

    assert [list(report.token_ids) for report in reports if isinstance(report, Report)] == expected
    assert min(len({*ids}) for ids in expected) >= 10


def test_images_that_the_prompt_has_no_words_for(generator: ReportGenerator) -> None:
    """Several images need roles, and no others than the published ones."""
    assert generator.accepts == ("indication", "technique", "comparison", "lateral", "prior")
    (unnamed, named) = generator.generate(
        [ReportRequest(images=(png(0), png(1))), ReportRequest(images=(png(0),), context={"age": "64"})]
    )
    assert isinstance(unnamed, InputError)
    assert isinstance(named, InputError)
    assert "reads 1, or frontal, lateral, prior by their roles" in str(unnamed)


@pytest.mark.parametrize(
    ("part", "changes", "message"),
    [
        (None, {"projector_n_layers": 3}, "projector_n_layers is 3, but the weights have 4"),
        (None, {"vision_feature_layer": -2}, "vision_feature_layer is -2"),
        (None, {"image_token_index": "x"}, "image_token_index is 'x'"),
        (None, {"image_token_index": 10_000}, "image_token_id is 10000"),
        (None, {"vision_feature_select_strategy": "none"}, "vision_feature_select_strategy is 'none'"),
        ("vision_config", {"model_type": "clip_vision_model"}, "model_type 'clip_vision_model'"),
        ("vision_config", {"out_features": ["stage2", "stage4"]}, "out_features is "),
        ("vision_config", {"out_features": ["stem"]}, "out_features is "),
        ("vision_config", {"reshape_hidden_states": True}, "reshape_hidden_states"),
        ("vision_config", {"apply_layernorm": False}, "apply_layernorm"),
        ("vision_config", {"use_swiglu_ffn": True}, "use_swiglu_ffn is True"),
        ("text_config", {"model_type": "phi3"}, "language model of model_type 'phi3'"),
    ],
)
def test_other_parts_are_refused_by_name(
    original: Any, part: str | None, changes: dict[str, Any], message: str, tmp_path: Path
) -> None:
    """A network that this project does not have is not taken for another."""
    path = save_maira2(original, tmp_path / "checkpoint") / "config.json"
    config = json.loads(path.read_text(encoding="utf-8"))
    (config if part is None else config[part]).update(changes)
    path.write_text(json.dumps(config), encoding="utf-8")

    with pytest.raises(ArchiveError, match=message):
        import_checkpoint("maira2", [tmp_path / "checkpoint"], None, tmp_path / "model", "maira2")


def test_template_can_be_left_out(original: Any, tmp_path: Path) -> None:
    """Then the prompt is the published one."""
    save_maira2(original, tmp_path / "checkpoint")
    arguments = ("maira2", [tmp_path / "checkpoint"], tmp_path / "checkpoint", tmp_path / "model", "maira2")

    import_checkpoint(*arguments, options={"prompt.chat_template": False})

    prompt = read_network(tmp_path / "model")[0].prompt
    assert prompt is not None
    assert (prompt.before, prompt.after, prompt.bos_token_id) == ("", " {prompt}", 1)


def test_published_size() -> None:
    """37 x 37 patches, three images of which leave room for prompt and report."""
    vision = ARCHITECTURE.published.size["vision"]
    tokens = (vision["image_size"] // 14) ** 2
    assert tokens == 1369
