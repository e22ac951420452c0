"""Checkpoints of published size with random weights, as the original code of a system saves them.

python -m benchmarks.models.random_checkpoint biomedclip_qformer_biogpt final_model.pth
"""

from collections.abc import Callable, Mapping
from pathlib import Path
from types import MappingProxyType

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


def write_random_tokenizer(
    folder: Path,
    vocab_size: int = 42384,
    special: Mapping[int, str] = MappingProxyType(dict(enumerate(BIOGPT_SPECIAL))),
) -> None:
    """Write a tokenizer.json with made-up tokens, as many as the published vocabulary has.

    special : id -> token, for those whose names matter; one of them is <unk>
    """
    words = [special.get(i, f"w{i}") for i in range(vocab_size)]
    tokenizer = Tokenizer(models.WordLevel({word: i for i, word in enumerate(words)}, unk_token=BIOGPT_SPECIAL[3]))
    tokenizer.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    tokenizer.add_special_tokens(list(special.values()))
    tokenizer.save(str(folder / TOKENIZER))


def main() -> None:
    """Command line."""
    parser = CommandLine(__doc__)
    parser.add_argument("system", choices=CHECKPOINTS)
    parser.add_argument("path", type=Path)
    arguments = parser.parse_args()
    parameters = write_random_checkpoint(arguments.system, arguments.path)
    print(f"{arguments.path}: {parameters:,} parameters")


if __name__ == "__main__":
    main()
