"""Checkpoints of published size with random weights, as the original code of a system saves them.

python -m benchmarks.models.random_checkpoint biomedclip_qformer_biogpt final_model.pth
python -m benchmarks.models.random_checkpoint vit_gpt2 folder
"""

import json
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import torch
from tokenizers import Tokenizer, models, pre_tokenizers
from torch import Tensor

from prelim.archive.archive import TOKENIZER
from prelim.networks.architectures import ARCHITECTURES
from terminal.arguments import CommandLine

BIOGPT_SPECIAL = ("<s>", "<pad>", "</s>", "<unk>")

_SYSTEM0_KEYS = (
    ("vision.trunk.", "biomedclip_encoder.model.visual.trunk."),
    ("vision.proj.", "biomedclip_encoder.model.visual.head.proj."),
    ("connector.proj.", "qformer_output_to_biogpt_input_projection."),
    ("connector.encoder.layer.", "qformer.bert_encoder.layer."),
    ("connector.", "qformer."),
    ("attention.attention.", "attention.self."),
)
"""Part of our key -> part of the published key, applied in order."""


def biomedclip_qformer_biogpt() -> dict[str, Tensor]:
    """System 0's final_model.pth: 626,173,185 parameters, including those needed only for text."""
    from transformers import BioGptConfig, BioGptForCausalLM

    system = ARCHITECTURES["biomedclip_qformer_biogpt"]
    checkpoint = {}
    for part, network in (("vision", system.vision()), ("connector", system.connector())):
        for key, value in network.state_dict().items():
            name = f"{part}.{key}"
            for ours, published in _SYSTEM0_KEYS:
                name = name.replace(ours, published)
            checkpoint[name] = value
    for key, value in BioGptForCausalLM(BioGptConfig()).state_dict().items():
        checkpoint[f"biogpt_decoder.{key}"] = value
    for key, value in _biomedclip_text_tower().items():
        checkpoint[f"biomedclip_encoder.model.text.{key}"] = value
    checkpoint["biomedclip_encoder.model.logit_scale"] = torch.tensor(2.6593)
    for key in [key for key in checkpoint if key.startswith("qformer.") and "_query." in key]:
        # The feed-forward layer for text has the shape of the one for queries.
        checkpoint[key.replace("_query.", ".")] = torch.randn(checkpoint[key].shape) * 0.02
    return checkpoint


def _biomedclip_text_tower() -> dict[str, Tensor]:
    """BERT-base without a pooler, and the projection after it."""
    from open_clip.hf_model import HFTextEncoder
    from transformers import BertConfig

    tower = HFTextEncoder(
        "bert",
        output_dim=512,
        config=BertConfig(),
        pooler_type="cls_last_hidden_state_pooler",
        proj_type="mlp",
        pretrained=False,
    )
    tower.transformer.pooler = None
    return dict(tower.state_dict())


CHECKPOINTS: Mapping[str, Callable[[], dict[str, Tensor]]] = {"biomedclip_qformer_biogpt": biomedclip_qformer_biogpt}
"""Name of the system -> function that builds its checkpoint."""


def write_random_checkpoint(system: str, path: Path) -> int:
    """Save a checkpoint of a system in CHECKPOINTS as the original does; returns the number of its parameters."""
    torch.manual_seed(0)
    checkpoint = CHECKPOINTS[system]()
    torch.save(checkpoint, path)
    # Tensors that share a storage count once.
    return sum({value.data_ptr(): value.numel() for value in checkpoint.values()}.values())


_VIT_GPT2: Mapping[str, Any] = {
    "encoder": {"model_type": "vit"},
    "decoder": {"model_type": "gpt2", "bos_token_id": 0, "eos_token_id": 2},
}
# CheXpert Plus: Swin V2-base, and a BERT of two layers.
_SWINV2_BERT: Mapping[str, Any] = {
    "encoder": {
        "model_type": "swinv2",
        "image_size": 256,
        "embed_dim": 128,
        "depths": [2, 2, 18, 2],
        "num_heads": [4, 8, 16, 32],
        "window_size": 8,
    },
    "decoder": {"model_type": "bert", "num_hidden_layers": 2, "bos_token_id": 0, "eos_token_id": 2},
}
ENCODER_DECODERS: Mapping[str, Mapping[str, Any]] = {"vit_gpt2": _VIT_GPT2, "swinv2_bert": _SWINV2_BERT}
"""Name -> settings of a VisionEncoderDecoderModel, without the defaults of transformers."""


def write_encoder_decoder(settings: Mapping[str, Any], folder: Path) -> int:
    """Save a VisionEncoderDecoderModel with processor and tokenizer; returns the number of its parameters."""
    from transformers import AutoConfig, VisionEncoderDecoderConfig, VisionEncoderDecoderModel

    torch.manual_seed(0)
    parts = [AutoConfig.for_model(**settings[part]) for part in ("encoder", "decoder")]
    config: Any = VisionEncoderDecoderConfig.from_encoder_decoder_configs(*parts)
    config.decoder_start_token_id, config.pad_token_id = 0, 1
    model: Any = VisionEncoderDecoderModel(config=config)
    model.generation_config.update(decoder_start_token_id=0, pad_token_id=1, eos_token_id=2)
    model.save_pretrained(folder)
    side = config.encoder.image_size
    processor = {"image_processor_type": "ViTImageProcessor", "size": {"height": side, "width": side}, "resample": 2}
    processor |= {"image_mean": [0.5] * 3, "image_std": [0.5] * 3}
    (folder / "preprocessor_config.json").write_text(json.dumps(processor), encoding="utf-8")
    write_random_tokenizer(folder, config.decoder.vocab_size)
    return sum(parameter.numel() for parameter in model.parameters())


def write_random_tokenizer(folder: Path, vocab_size: int = 42384) -> None:
    """Write a tokenizer.json with made-up tokens, as many as the published vocabulary has."""
    words = [*BIOGPT_SPECIAL, *(f"w{i}" for i in range(len(BIOGPT_SPECIAL), vocab_size))]
    tokenizer = Tokenizer(models.WordLevel({word: i for i, word in enumerate(words)}, unk_token=BIOGPT_SPECIAL[3]))
    tokenizer.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    tokenizer.add_special_tokens(list(BIOGPT_SPECIAL))
    tokenizer.save(str(folder / TOKENIZER))


def main() -> None:
    """Command line."""
    parser = CommandLine(__doc__)
    parser.add_argument("system", choices=[*CHECKPOINTS, *ENCODER_DECODERS])
    parser.add_argument("path", type=Path)
    arguments = parser.parse_args()
    if arguments.system in CHECKPOINTS:
        parameters = write_random_checkpoint(arguments.system, arguments.path)
    else:
        parameters = write_encoder_decoder(ENCODER_DECODERS[arguments.system], arguments.path)
    print(f"{arguments.path}: {parameters:,} parameters")


if __name__ == "__main__":
    main()
