"""Recognizes weights in forms that are not read: quantized by other libraries, or in parts, as trainings save them."""

import re
from collections.abc import Collection, Iterable
from fnmatch import fnmatch
from pathlib import Path

from prelim.errors import ArchiveError

QUANTIZED = {
    r"\.g_idx$": "GPTQ",
    r"\.(qweight|qzeros)$": "GPTQ or AWQ",
    r"(^|\.)W_q$": "HQQ",
    r"\.(codebooks|codes)$": "AQLM",
    r"\.Qidxs(_\w+)?$": "QuIP#",
    r"\.(res_)?centroids\.weight$": "VPTQ",
    r"\.weight_packed$": "compressed-tensors",
    r"\.weight\._(data|scale|shift)$": "quanto",
    r"\.weight_scales?(_inv)?$": "FP8, EETQ or a similar method",
    r"\._packed_params(\._packed_params)?$": "PyTorch's own quantization",
}
"""Pattern of a key that belongs to a quantized layer -> the library, the most specific first."""

FLAT = re.compile(r"(^|\.)_?flat_param(_\d+)?$")
"""Key of the weights that FSDP has joined, of which each process has a part."""

_DISTRIBUTED = (
    "a distributed checkpoint of PyTorch, as FSDP saves; join it with `python -m torch.distributed.checkpoint."
    "format_utils dcp_to_torch FOLDER weights.pth` and give weights.pth. Do so only with your own: this runs "
    "code that is in it"
)
_DEEPSPEED = (
    "a checkpoint of DeepSpeed; join it with the zero_to_fp32.py that DeepSpeed puts next to it, and give the result. "
    "Of one that was trained below ZeRO's stage 3 give mp_rank_00_model_states.pt"
)
FILES = {
    "*.distcp": f"a part of {_DISTRIBUTED}",
    "*_optim_states.pt": "the state of an optimizer, or a part of it. Its folder is " + _DEEPSPEED,
}
"""Pattern of a file's name -> what it is."""

FOLDERS = {
    "*.distcp": _DISTRIBUTED,
    "pytorch_model_fsdp_*": f"a folder of accelerate; its pytorch_model_fsdp_0 is {_DISTRIBUTED}",
    "zero_to_fp32.py": _DEEPSPEED,
    "*_optim_states.pt": _DEEPSPEED,
    "mp_rank_*_model_states.pt": _DEEPSPEED,
    "global_step*": _DEEPSPEED,
    "latest_checkpointed_iteration.txt": "a checkpoint of Megatron; convert it to a folder of transformers",
    "consolidated.*.pth": "a Llama in Meta's layout; convert it with transformers' convert_llama_weights_to_hf.py",
    "saved_model.pb": "a SavedModel of TensorFlow; save the Keras model as saved_model.keras",
    "*.ckpt.index": "a checkpoint of TensorFlow; save the Keras model as saved_model.keras",
    "tf_model.h5": "a model of TensorFlow; save it with transformers as model.safetensors",
    "flax_model.msgpack": "a model of Flax; load it with transformers' from_flax=True and save it as model.safetensors",
}
"""Pattern of a name in a folder without weights of its own -> what the folder is."""

SINGLE = ("*.safetensors", "*.pth", "*.pt", "*.bin", "*.ckpt", "*.gguf", "*.keras")


def check_keys(path: Path, keys: Iterable[str]) -> None:
    """Raise ArchiveError for quantized weights that are not read here, and for a process's part of weights."""
    names = list(keys)
    for pattern, library in QUANTIZED.items():
        if key := next((name for name in names if re.search(pattern, name)), None):
            raise ArchiveError(
                f"{path}: {key} is a part of weights quantized by {library}, which are not read here; load the model "
                "with its library, dequantize it, and save it in 16 or 32 bits"
            )
    if key := next((name for name in names if FLAT.search(name)), None):
        raise ArchiveError(
            f"{path}: {key} is one process's part of weights that FSDP has joined; save them with "
            "StateDictType.FULL_STATE_DICT"
        )


def check_name(path: Path) -> None:
    """Raise ArchiveError for a file that has no weights, or only a part of them, as its name says."""
    for pattern, kind in FILES.items():
        if fnmatch(path.name, pattern):
            raise ArchiveError(f"{path} is {kind}")


def no_weights(folder: Path, names: Collection[str], expected: Iterable[str]) -> ArchiveError:
    """The error for a folder without weights under a usual name: what it is, or which of its files to give.

    names    : of what the folder has
    expected : usual names
    """
    for pattern, kind in FOLDERS.items():
        if any(fnmatch(name, pattern) for name in names):
            return ArchiveError(f"{folder} is {kind}")
    single = sorted(name for name in names if any(fnmatch(name, pattern) for pattern in SINGLE))
    way_out = f"; give one of its files: {', '.join(single[:5])}" if single else ""
    return ArchiveError(f"{folder} has no weights: expected one of {', '.join(expected)}, or its index{way_out}")
