"""Make a model folder from a published checkpoint.

    python -m export.import_checkpoint mobilenet_graph pytorch_model.bin --tokenizer bert/ --out models/txttyt

Every key of the checkpoint is used or named as ignored with its reason; a missing or mis-shaped key is an error.
"""

import argparse
import re
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from export.checkpoint import read_checkpoint, read_settings
from export.lora import merge_adapters
from export.tokenizers import read_tokenizer
from model_src.architectures import ARCHITECTURES
from model_src.architectures.architecture import Published, Section
from model_src.archive import CONFIG, TOKENIZER, WEIGHTS, LazyTensor, check_weights, write_weights
from model_src.errors import ArchiveError
from model_src.model_config import ModelConfig
from model_src.model_folder import build_network


def our_weights(published: Published, tensors: Mapping[str, Tensor]) -> tuple[dict[str, Tensor], dict[str, str]]:
    """The checkpoint under our keys, and the published keys that are ignored with the reason."""
    ignored = {key: reason for key in tensors if (reason := published.why_ignored(key))}
    return {published.our_key(key): value for key, value in tensors.items() if key not in ignored}, ignored


def import_checkpoint(system: str, paths: Sequence[Path], tokenizer: Path | None, out: Path, name: str) -> None:
    """Write the model folder of a published checkpoint.

    system    : a name in ARCHITECTURES
    paths     : its checkpoint files and folders, the most specific first: of weights that are in several of them the
                first counts; a config.json by itself says what shapes do not
    tokenizer : folder or file of its tokenizer; None leaves it to be copied later
    name      : of the model

    Raises ArchiveError: unknown system, unreadable file, or the list of missing and mis-shaped keys.
    """
    if system not in ARCHITECTURES:
        raise ArchiveError(f"system is {system!r}; known: {', '.join(ARCHITECTURES)}")
    published = ARCHITECTURES[system].published
    tensors, settings = _gathered(published, paths)
    adapted, ignored = our_weights(published, tensors)
    _check_tied(published, tensors, adapted)
    adapter = next((contents for contents in settings if "lora_alpha" in contents), {})
    weights = merge_adapters(adapted, adapter, published.lora_alpha)
    for key, reason in ignored.items():
        print(f"ignored {key}: {reason}")
    out.mkdir(parents=True, exist_ok=True)
    try:
        sections = published.dimensions({key: tuple(value.shape) for key, value in weights.items()})
    except KeyError as error:
        raise ArchiveError(f"the checkpoint is no {system}: it lacks {error.args[0]}") from error
    if published.layout is not None:
        weights = published.layout(weights)
    sections = {**sections, "decoder": _as_configured(published, sections["decoder"], settings)}
    config = ModelConfig.from_mapping(
        {"name": name, "version": "1.0", "architecture": system, **published.defaults, **sections}, f"{system}"
    )
    # Only the shapes are of interest: on the meta device nothing is allocated.
    with torch.device("meta"):
        network = build_network(config)
    shapes = {key: value.shape for key, value in network.state_dict().items()}
    weights = {key: _shaped(published, key, value, shapes.get(key)) for key, value in weights.items()}
    check_weights(network, weights, paths[0])
    config.write(out / CONFIG)
    write_weights(out / WEIGHTS, weights)
    if tokenizer is not None:
        read_tokenizer(published.tokenizer, tokenizer, published.added_tokens).save(str(out / TOKENIZER))
    print(f"{out}: {len(weights)} tensors used, {len(ignored)} ignored")


def _gathered(published: Published, paths: Sequence[Path]) -> tuple[dict[str, Tensor], list[dict[str, Any]]]:
    """All tensors of the files, and what the config files among them say."""
    tensors: dict[str, Tensor] = {}
    settings: list[dict[str, Any]] = []
    for path in paths:
        settings += read_settings(path) if path.is_dir() or path.suffix == ".json" else []
        found = {} if path.suffix == ".json" else read_checkpoint(path)
        print(f"{path}: {len(found)} tensors")
        repeated = our_weights(published, found)[0].keys() & our_weights(published, tensors)[0].keys()
        if repeated:
            print(f"{path}: {len(repeated)} of them are in a file named before it, which counts")
        # What stands later counts, also where two names mean one weight.
        tensors = {**{key: value for key, value in found.items() if key not in tensors}, **tensors}
    return tensors, settings


def _as_configured(published: Published, section: Section, settings: Sequence[Mapping[str, Any]]) -> Section:
    """Section `decoder` with the values of a config.json of the same model type; null there means the default."""
    for contents in settings:
        if contents.get("model_type") == section.get("model_type") is not None:
            found = {name: contents[name] for name in published.decoder_config if contents.get(name) is not None}
            section = {**section, **found}
    return section


def _check_tied(published: Published, tensors: Mapping[str, Tensor], weights: Mapping[str, Tensor]) -> None:
    """Raise ArchiveError where a key that is left out for repeating another holds other values."""
    for pattern, ours in published.tied.items():
        for key in tensors:
            if re.search(pattern, key) and ours in weights and not torch.equal(tensors[key], weights[ours]):
                raise ArchiveError(f"{key} is not equal to {ours}, but the model uses one for both")


def _shaped(
    published: Published, key: str, tensor: Tensor | LazyTensor, shape: tuple[int, ...] | None
) -> Tensor | LazyTensor:
    """The tensor without dimensions of size 1 that ours has not, as in position tables of shape (1, n, width).

    Tables that the original resizes are resized as well.
    """
    if shape is None or tensor.shape == shape or isinstance(tensor, LazyTensor):
        return tensor
    if tensor.squeeze().shape == tuple(side for side in shape if side != 1):
        return tensor.reshape(shape)
    resize = next((resize for pattern, resize in published.resized.items() if re.search(pattern, key)), None)
    if resize is None or tensor.ndim != len(shape):
        return tensor
    print(f"resized {key} from {tuple(tensor.shape)} to {tuple(shape)}")
    return resize(tensor, tuple(shape))


def main() -> None:
    """Command line."""
    parser = argparse.ArgumentParser(description="Make a model folder from a published checkpoint.")
    parser.add_argument("system", choices=ARCHITECTURES)
    parser.add_argument("checkpoint", type=Path, nargs="+")
    parser.add_argument("--tokenizer", type=Path, help="folder with its published files, or a tokenizer.json")
    parser.add_argument("--out", type=Path, required=True, help="the model folder to write")
    parser.add_argument("--name", help="of the model; default: the name of the folder")
    arguments = parser.parse_args()
    try:
        import_checkpoint(
            arguments.system,
            arguments.checkpoint,
            arguments.tokenizer,
            arguments.out,
            arguments.name or arguments.out.resolve().name,
        )
    except ArchiveError as error:
        sys.exit(f"{error}")


if __name__ == "__main__":
    main()
