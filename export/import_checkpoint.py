"""Make a model folder from a published checkpoint.

    python -m export.import_checkpoint mobilenet_graph pytorch_model.bin --tokenizer bert/ --out models/txttyt

Every key of the checkpoint is used or named as ignored with its reason; a missing or mis-shaped key is an error.
"""

import argparse
import re
import shutil
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path

from torch import Tensor

from export.checkpoint import read_checkpoint
from model_src.architectures import ARCHITECTURES
from model_src.architectures.architecture import Published
from model_src.archive import CONFIG, TOKENIZER, WEIGHTS, load_weights, write_weights
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
    paths     : its checkpoint files
    tokenizer : folder or file of its tokenizer; None leaves it to be copied later
    name      : of the model

    Raises ArchiveError: unknown system, unreadable file, or the list of missing and mis-shaped keys.
    """
    if system not in ARCHITECTURES:
        raise ArchiveError(f"system is {system!r}; known: {', '.join(ARCHITECTURES)}")
    published = ARCHITECTURES[system].published
    tensors: dict[str, Tensor] = {}
    for path in paths:
        found = read_checkpoint(path)
        print(f"{path}: {len(found)} tensors")
        tensors |= found
    weights, ignored = our_weights(published, tensors)
    for key, reason in ignored.items():
        print(f"ignored {key}: {reason}")
    out.mkdir(parents=True, exist_ok=True)
    try:
        sections = published.dimensions({key: tuple(value.shape) for key, value in weights.items()})
    except KeyError as error:
        raise ArchiveError(f"the checkpoint is no {system}: it lacks {error.args[0]}") from error
    config = ModelConfig.from_mapping(
        {"name": name, "version": "1.0", "architecture": system, **published.defaults, **sections}, f"{system}"
    )
    network = build_network(config)
    shapes = {key: value.shape for key, value in network.state_dict().items()}
    weights = {key: _shaped(published, key, value, shapes.get(key)) for key, value in weights.items()}
    load_weights(network, weights, paths[0])
    config.write(out / CONFIG)
    write_weights(out / WEIGHTS, weights)
    if tokenizer is not None:
        shutil.copy(tokenizer / TOKENIZER if tokenizer.is_dir() else tokenizer, out / TOKENIZER)
    print(f"{out}: {len(weights)} tensors used, {len(ignored)} ignored")


def _shaped(published: Published, key: str, tensor: Tensor, shape: tuple[int, ...] | None) -> Tensor:
    """The tensor without dimensions of size 1 that ours has not, as in position tables of shape (1, n, width).

    Tables that the original resizes are resized as well.
    """
    if shape is None or tensor.shape == shape:
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
    parser.add_argument("--tokenizer", type=Path, help="folder with tokenizer.json")
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
