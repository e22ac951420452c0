"""A small LLaVA-Rad with random weights, in the files in which it is published; transformers has no class for it."""

import json
from pathlib import Path
from typing import Any

import timm
import torch
from peft import LoraConfig, get_peft_model
from torch import Tensor, nn
from transformers import LlamaForCausalLM
from transformers.modeling_outputs import BaseModelOutputWithPooling

from tests.model_src.networks.architectures.small_llava import SIDE, TEXT, llava_tokenizer, small_llava

WIDTH, LAYERS = 48, 4
LONG = {"max_position_embeddings": 512}
"""The prompt has a token for each character."""

CONFIG: dict[str, Any] = {
    **{name: value for name, value in TEXT.items() if name != "model_type"},
    **LONG,
    "model_type": "llava",
    "architectures": ["LlavaLlamaForCausalLM"],
    "mm_vision_tower": "biomedclip_cxr_518",
    "mm_vision_tower_config": "biomedclipcxr_518.json",
    "mm_vision_tower_checkpoint": "biomedclipcxr_518_checkpoint.pt",
    "mm_vision_select_layer": -2,
    "mm_vision_select_feature": "patch",
    "mm_projector_type": "mlp2x_gelu",
    "mm_hidden_size": WIDTH,
    "mm_use_im_start_end": False,
    "mm_use_im_patch_token": False,
    "image_aspect_ratio": "square",
    "use_mm_proj": True,
    "freeze_mm_mlp_adapter": False,
    "tune_mm_mlp_adapter": False,
}


class SmallLlavaRad:
    """The four parts, and the whole as a LLaVA of transformers with timm's tower.

    base    : language model without the adapter
    adapted : that with it, of `peft`
    whole   : has the weights of `adapted` merged
    """

    def __init__(self, layer: int = -2) -> None:
        self.whole = small_llava(LONG)
        text = self.whole.config.text_config
        self.base = LlamaForCausalLM(text)
        self.base.model.load_state_dict(self.whole.model.language_model.state_dict())
        self.base.lm_head.load_state_dict(self.whole.lm_head.state_dict())
        self.tower = timm.create_model(
            "vit_base_patch14_dinov2", num_classes=0, img_size=SIDE, embed_dim=WIDTH, depth=LAYERS, num_heads=12
        ).eval()
        self.projector = nn.Sequential(
            nn.Linear(WIDTH, text.hidden_size), nn.GELU(), nn.Linear(text.hidden_size, text.hidden_size)
        )
        torch.manual_seed(2)
        for part in (self.tower, self.projector):
            for parameter in part.parameters():
                nn.init.normal_(parameter, std=1.2 / max(parameter.shape[-1], 4) ** 0.5)
        self.whole.model.get_image_features = lambda pixels, **_: self._features(pixels, layer)

    def _features(self, pixel_values: Tensor, layer: int) -> BaseModelOutputWithPooling:
        hidden = self.tower.norm_pre(self.tower._pos_embed(self.tower.patch_embed(pixel_values)))
        states = [hidden]
        for block in self.tower.blocks:
            states.append(block(states[-1]))
        return BaseModelOutputWithPooling(pooler_output=list(self.projector(states[layer][:, 1:])))

    def save(self, folder: Path, **changes: Any) -> list[Path]:
        """Write the four parts, with a trained adapter, which is merged into the whole; returns what an import gets."""
        base, adapter = folder / "vicuna", folder / "llava-rad"
        self.base.save_pretrained(base)
        llava_tokenizer().save(str(base / "tokenizer.json"))
        settings = LoraConfig(r=2, lora_alpha=6, target_modules=["q_proj", "v_proj", "down_proj"])
        adapted = get_peft_model(self.base, settings)
        for parameter in adapted.parameters():
            if parameter.requires_grad:
                parameter.data += torch.randn_like(parameter) * 0.2
        adapted.save_pretrained(adapter, safe_serialization=False)
        merged = adapted.merge_and_unload()
        self.whole.model.language_model.load_state_dict(merged.model.state_dict())
        (adapter / "config.json").write_text(json.dumps({**CONFIG, **changes}), encoding="utf-8")
        others = {f"base_model.model.model.mm_projector.{key}": v for key, v in self.projector.state_dict().items()}
        torch.save(others, adapter / "non_lora_trainables.bin")
        trained = {f"module.visual.trunk.{key}": value for key, value in self.tower.state_dict().items()}
        trained |= {
            "module.visual.head.proj.weight": torch.randn(16, WIDTH),
            "module.text.transformer.embeddings.word_embeddings.weight": torch.randn(9, 16),
            "module.logit_scale": torch.tensor(2.6),
        }
        checkpoint = adapter / "biomedclipcxr_518_checkpoint.pt"
        torch.save({"epoch": 3, "name": "small", "state_dict": trained, "optimizer": {"state": {}}}, checkpoint)
        return [adapter, adapter / "non_lora_trainables.bin", checkpoint, base]
