"""A folder of Gemma3ForConditionalGeneration in MedGemma 4B's shape with random weights in bf16: 8.6 GB.

    python -m benchmarks.models.random_gemma3 out/gemma3
    python -m export.import_checkpoint gemma3 out/gemma3 --tokenizer out/gemma3 --out out/medgemma
    python -m benchmarks.memory --model out/medgemma --precision int8_dynamic --workers 1

With --layers and --vision-layers it is smaller.
"""

from pathlib import Path

import torch
from tokenizers import Tokenizer, models, pre_tokenizers

from prelim.archive.archive import TOKENIZER
from terminal.arguments import CommandLine

VOCABULARY, BEGIN, END, IMAGE_TOKEN = 262208, 255999, 256000, 262144
SPECIAL = {
    0: "<pad>",
    1: "<eos>",
    2: "<bos>",
    3: "<unk>",
    105: "<start_of_turn>",
    106: "<end_of_turn>",
    BEGIN: "<start_of_image>",
    END: "<end_of_image>",
    IMAGE_TOKEN: "<image_soft_token>",
}


def write_random_gemma3(folder: Path, *, layers: int, vision_layers: int) -> int:
    """Write the folder; returns the number of parameters."""
    # Imported here because `transformers` takes seconds to import.
    from transformers import Gemma3Config, Gemma3ForConditionalGeneration

    torch.manual_seed(0)
    text = {
        "vocab_size": VOCABULARY,
        "hidden_size": 2560,
        "intermediate_size": 10240,
        "num_hidden_layers": layers,
        "num_attention_heads": 8,
        "num_key_value_heads": 4,
        "head_dim": 256,
        "sliding_window": 1024,
        "rope_scaling": {"rope_type": "linear", "factor": 8.0},
    }
    vision = {
        "model_type": "siglip_vision_model",
        "hidden_size": 1152,
        "intermediate_size": 4304,
        "image_size": 896,
        "num_hidden_layers": vision_layers,
        "num_attention_heads": 16,
        "patch_size": 14,
        "vision_use_head": False,
    }
    config = Gemma3Config(text_config=text, vision_config=vision, image_token_index=IMAGE_TOKEN)
    torch.set_default_dtype(torch.bfloat16)
    model = Gemma3ForConditionalGeneration(config)
    torch.set_default_dtype(torch.float32)
    model.save_pretrained(folder)
    words = [SPECIAL.get(i, f"w{i}") for i in range(IMAGE_TOKEN + 1)]
    tokenizer = Tokenizer(models.WordLevel({word: i for i, word in enumerate(words)}, unk_token=SPECIAL[3]))
    tokenizer.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    tokenizer.add_special_tokens(list(SPECIAL.values()))
    tokenizer.save(str(folder / TOKENIZER))
    return sum(parameter.numel() for parameter in model.parameters())


def main() -> None:
    """Command line."""
    parser = CommandLine(__doc__)
    parser.add_argument("folder", type=Path)
    parser.add_argument("--layers", type=int, default=34, help="of the decoder")
    parser.add_argument("--vision-layers", type=int, default=27)
    arguments = parser.parse_args()
    count = write_random_gemma3(arguments.folder, layers=arguments.layers, vision_layers=arguments.vision_layers)
    print(f"{arguments.folder}: {count:,} parameters")


if __name__ == "__main__":
    main()
