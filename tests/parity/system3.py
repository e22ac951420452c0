"""System 3 through import, ONNX-ready networks, prompts and engine."""

import hashlib
import json
from collections.abc import Iterator
from pathlib import Path

import torch
from tokenizers import Tokenizer, models, pre_tokenizers
from torch import Tensor, nn
from torch.nn.functional import cross_entropy

from export.checkpoints.checkpoint import read_checkpoint
from export.checkpoints.published_weights import our_weights
from export.import_checkpoint import import_checkpoint
from prelim.decoders.decoder import IMAGE
from prelim.decoders.weights_file import load_weights
from prelim.generation.decode_request import DecodeRequest
from prelim.generation.engine import Engine
from prelim.generation.options import GenerationOptions
from prelim.generation.prompt import Prompter
from prelim.generation.prompt_config import PromptConfig
from prelim.images.preprocess import PreprocessConfig, preprocess_image
from prelim.networks.architectures import ARCHITECTURES
from prelim.networks.model_folder import read_network
from prelim.networks.trained_decoder import serving_decoder
from tests.parity.fixture import Fixture, Value, pil_pattern

SECTIONS = (
    "outputs_depth2",
    "outputs_depth2_fanin",
    "medclip.outputs",
    "medclip.outputs_fanin",
    "preprocess",
    "chat_prompt",
    "train_prompts",
)
FULL_SECTIONS = ("outputs_full", "outputs_full_fanin")
_LINES = "the 15 prompt lines are not recorded, and our system has its own default prompt"
SKIPPED = {"train_prompts: n": _LINES, "train_prompts: sha256_joined_newline": _LINES}
"""Recorded outputs without a counterpart here -> the reason."""

PUBLISHED = ARCHITECTURES["xraygpt"].published
BOS, PAD = 1, 2
BEFORE, AFTER = (10, 11, 12), (13, 14, 15, 16)


def outputs(fixture: Fixture, section: str, folder: Path) -> Iterator[tuple[str, Value]]:
    """Yield every output of one section with its recorded name."""
    if section.startswith("medclip."):
        return _medclip(fixture, section.endswith("fanin"), folder)
    if section == "preprocess":
        return _preprocess()
    if section == "chat_prompt":
        return _chat_prompt()
    if section == "train_prompts":
        return _train_prompts()
    module = "model_full" if "full" in section else "model_depth2"
    return _xraygpt(fixture, module, section.endswith("fanin"), folder)


def _published_files(fixture: Fixture, module: str, fan_in: bool, folder: Path) -> list[Path]:
    """Write the published files: XrayGPT's checkpoint, Vicuna's folder in two shards, Q-Former, ViT-g."""

    def weights(prefix: str) -> dict[str, Tensor]:
        return fixture.weights(module, fan_in=fan_in, prefix=prefix)

    own = {entry["key"] for entry in fixture.contents["checkpoint_model_keys_after_runner_filter"]}
    trained = {key: weights(key)[key] for key in own}
    torch.save({"model": trained, "epoch": 3, "config": {"run": {"seed": 42}}}, folder / "xraygpt.pth")
    _write_vicuna(fixture, weights("llama_model."), folder / "vicuna")
    qformer = weights("query_tokens") | weights("Qformer.") | weights("ln_vision.")
    text_branch = {"Qformer.cls.predictions.bias": torch.zeros(8), "t5_proj.weight": torch.zeros(4, 768)}
    torch.save({"model": qformer | text_branch}, folder / "blip2_pretrained_flant5xxl.pth")
    last_block = {"blocks.39.norm1.weight": torch.zeros(1408), "norm.weight": torch.zeros(1408)}
    vit = {key.removeprefix("visual_encoder."): value for key, value in weights("visual_encoder.").items()}
    torch.save(vit | last_block, folder / "eva_vit_g.pth")
    names = ("xraygpt.pth", "vicuna", "blip2_pretrained_flant5xxl.pth", "eva_vit_g.pth")
    return [folder / name for name in names]


def _write_vicuna(fixture: Fixture, weights: dict[str, Tensor], folder: Path) -> None:
    """Write a sharded `save_pretrained` folder."""
    folder.mkdir()
    config = fixture.contents["tiny_llm_config"]
    (folder / "config.json").write_text(json.dumps(config), encoding="utf-8")
    keys = [key.removeprefix("llama_model.") for key in weights]
    shards = {key: f"pytorch_model-0000{1 + i % 2}-of-00002.bin" for i, key in enumerate(keys)}
    for shard in set(shards.values()):
        torch.save({key: weights[f"llama_model.{key}"] for key in keys if shards[key] == shard}, folder / shard)
    index = {"metadata": {}, "weight_map": shards}
    (folder / "pytorch_model.bin.index.json").write_text(json.dumps(index), encoding="utf-8")


def _xraygpt(fixture: Fixture, module: str, fan_in: bool, folder: Path) -> Iterator[tuple[str, Value]]:
    files = _published_files(fixture, module, fan_in, folder)
    import_checkpoint("xraygpt", files, None, folder / "model", "parity")
    _, network = read_network(folder / "model")
    vision, connector, decoder = network.vision, network.connector, network.decoder
    images = fixture.normal("input/image", (2, 3, 224, 224))
    yield "vit_out", vision.vit.forward_features(images)
    features = vision(images)
    yield "ln_vision", features
    yield "qformer", connector.query(features)
    standalone = connector.query(fixture.normal("input/vit_tokens", (2, 257, 1408)))
    yield "qformer_standalone", standalone
    true_size = nn.ModuleDict({"connector": nn.ModuleDict({"proj": nn.Linear(768, 4096)})})
    weights, _ = our_weights(PUBLISHED, fixture.weights("true_projection", fan_in=fan_in))
    load_weights(true_size, weights, folder)
    yield "llama_proj_true_4096", true_size["connector"]["proj"](standalone)
    image_embeds = connector(features)
    yield "encode_img_tiny", image_embeds
    yield "prompt_wrap", decoder.embed(image_embeds, torch.tensor([[*BEFORE, IMAGE, *AFTER]] * 2))
    captions = torch.tensor([[20, 21, 22, 23], [24, 25, PAD, PAD]])
    prompt = torch.tensor([[BOS, *BEFORE, IMAGE, *AFTER]] * 2)
    embeds = decoder.embed(image_embeds, torch.cat([prompt, captions], dim=1))
    mask = torch.ones(embeds.shape[:2], dtype=torch.int64)
    mask[:, -captions.shape[1] :] = captions != PAD
    # The record has logits after padding too, so it needs the original's mask.
    logits = decoder.logits(decoder.body(inputs_embeds=embeds, attention_mask=mask).last_hidden_state)
    written = logits[:, -captions.shape[1] - 1 : -1]
    yield "tiny_loss", cross_entropy(written.flatten(0, 1), captions.flatten(), ignore_index=PAD).item()
    yield "tiny_logits", logits
    engine = Engine(serving_decoder(decoder), slots=1, eos_token_ids=[-1], pad_token_id=PAD, detokenize=str)
    options = GenerationOptions(max_new_tokens=8)
    done = engine.decode({"": DecodeRequest(image_embeds[0], (BOS, *BEFORE, IMAGE, *AFTER), options)})
    yield "tiny_greedy8", list(done[""][0].token_ids)


def _medclip(fixture: Fixture, fan_in: bool, folder: Path) -> Iterator[tuple[str, Value]]:
    images = fixture.normal("input/image", (2, 3, 224, 224))
    gray = fixture.normal("input/gray", (2, 1, 224, 224))
    swin = _medclip_tower(fixture, "medclip_vit", "medclip_swin", fan_in, folder)
    tokens = swin(images)
    yield "swin_last_hidden_state", tokens
    yield "swin_pooler_output", tokens.mean(1)
    yield "medclip_vit_embed", swin.embed(images)
    yield "medclip_vit_embed_gray", swin.embed(gray)
    resnet = _medclip_tower(fixture, "medclip_resnet", "medclip_resnet", fan_in, folder)
    yield "medclip_resnet_embed", resnet.embed(images)


def _medclip_tower(fixture: Fixture, module: str, tower: str, fan_in: bool, folder: Path) -> nn.Module:
    """Load one of MedCLIP's towers from a file with the published keys, including the text encoder."""
    contents = {f"vision_model.{key}": value for key, value in fixture.weights(module, fan_in=fan_in).items()}
    contents |= {"text_model.projection_head.weight": torch.zeros(512, 768), "logit_scale": torch.zeros(())}
    torch.save(contents, folder / f"{tower}.bin")
    weights, _ = our_weights(PUBLISHED, read_checkpoint(folder / f"{tower}.bin"))
    holder = nn.ModuleDict({"vision": ARCHITECTURES["xraygpt"].vision(tower=tower)}).eval()
    load_weights(holder, weights, folder / f"{tower}.bin")
    return holder["vision"]


def _preprocess() -> Iterator[tuple[str, Value]]:
    config = PreprocessConfig(**PUBLISHED.defaults["preprocess"])
    for width, height in ((300, 260), (640, 480)):
        image = preprocess_image(pil_pattern(width, height), config)
        yield f"blip2_image_eval_{width}x{height}", torch.from_numpy(image)


def _prompter() -> Prompter:
    """The published prompts with a byte vocabulary, whose ids start at 3."""
    letters = {letter: 3 + i for i, letter in enumerate(sorted(pre_tokenizers.ByteLevel.alphabet()))}
    tokenizer = Tokenizer(models.WordLevel({"?": 0, **letters}, unk_token="?"))  # noqa: S106
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence(
        [pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False), pre_tokenizers.Split("", "isolated")]
    )
    return Prompter(PromptConfig(**PUBLISHED.defaults["prompt"]), tokenizer)


def _chat_prompt() -> Iterator[tuple[str, Value]]:
    question = [{"role": "user", "content": "QUESTION"}]
    segments = ["".join(parts) for parts in _prompter().parts(None, question)]
    text = "<ImageHere>".join(segments)
    yield "text_for_question_QUESTION", text
    yield "sha256", hashlib.sha256(text.encode()).hexdigest()
    yield "segments_split_at_<ImageHere>", len(segments)
    ids = _prompter().ids(None, question)
    only_first = ids[0] == BOS and BOS not in ids[1:] and ids.count(IMAGE) == 1
    yield "bos", "only on segment 0 (add_special_tokens=i==0)" if only_first else "elsewhere"


def _train_prompts() -> Iterator[tuple[str, Value]]:
    instruction = "WORDS"
    text = "<ImageHere>".join("".join(parts) for parts in _prompter().parts(instruction, None))
    yield "template", text.replace(f"<Img><ImageHere></Img> {instruction}", "{}")
