"""Create a model folder from a published checkpoint.

    python -m export.import_checkpoint mobilenet_graph pytorch_model.bin --tokenizer bert/ --out models/txttyt
    python -m export.import_checkpoint biomedclip_qformer_biogpt final_model.pth --tokenizer microsoft/biogpt \
        --out models/report_generator

Every key of the checkpoint is used, or printed as ignored with the reason; a missing or mis-shaped key is an error. An
argument that is not a local file or folder is the name of a model on the hub: OWNER/NAME or OWNER/NAME@REVISION.
"""

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path

import torch

from export.checkpoints.model_card import write_card
from export.checkpoints.published_weights import (
    ImportRecord,
    convert_weights,
    decoder_section,
    fit_shapes,
    gather_weights,
    special_tokens,
)
from export.checkpoints.source import checkpoint_source, tokenizer_source
from export.tokenizers.read import read_tokenizer
from prelim.archive.archive import CONFIG, TOKENIZER, WEIGHTS
from prelim.archive.model_config import ModelConfig
from prelim.decoders.weights_file import check_weights, write_weights
from prelim.errors import ArchiveError
from prelim.networks.architectures import ARCHITECTURES
from prelim.networks.model_folder import build_network


def import_checkpoint(
    system: str,
    checkpoint: Sequence[str | Path],
    tokenizer: str | Path | None,
    out: Path,
    name: str,
    *,
    keep_adapter: bool = False,
) -> None:
    """Write the model folder of a published checkpoint; an existing model card is not overwritten.

    system     : a name in ARCHITECTURES
    checkpoint : files, folders and names of models on the hub, the most specific first: for a weight that is in
                 several of them the first one is used; a config.json alone adds settings that shapes do not show
    tokenizer  : folder or file of the tokenizer, or the name of a model on the hub; None writes no tokenizer
    name       : of the model
    keep_adapter : keep low-rank adapters separate instead of merging them into their layers

    Raises ArchiveError for an unknown system, a file that is unavailable or unreadable, and missing or mis-shaped keys.
    """
    if system not in ARCHITECTURES:
        raise ArchiveError(f"system is {system!r}; known: {', '.join(ARCHITECTURES)}")
    published = ARCHITECTURES[system].published
    vocabulary = None if tokenizer is None else tokenizer_source(published.tokenizer, tokenizer)
    sources = [checkpoint_source(given) for given in checkpoint]
    record = ImportRecord()
    tensors, settings = gather_weights(published, sources, record)
    weights, adapter = convert_weights(published, tensors, settings, record, keep_adapter=keep_adapter)
    try:
        sections = published.dimensions({key: tuple(value.shape) for key, value in weights.items()})
    except KeyError as error:
        raise ArchiveError(f"not a checkpoint of {system}: it lacks {error.args[0]}") from error
    if published.layout is not None:
        weights = published.layout(weights)
    sections = {**sections, "decoder": {**decoder_section(published, sections["decoder"], settings), **adapter}}
    own_tokens = special_tokens(published, sections["decoder"], settings)
    sections |= own_tokens
    config = ModelConfig.from_mapping(
        {"name": name, "version": "1.0", "architecture": system, **published.defaults, **sections}, f"{system}"
    )
    # Only the shapes are needed; the meta device allocates nothing.
    with torch.device("meta"):
        network = build_network(config)
    weights = fit_shapes(published, weights, {key: value.shape for key, value in network.state_dict().items()}, record)
    check_weights(network, weights, sources[0].path)
    out.mkdir(parents=True, exist_ok=True)
    config.write(out / CONFIG)
    write_weights(out / WEIGHTS, weights)
    if vocabulary is not None:
        added = () if own_tokens else published.added_tokens
        read_tokenizer(published.tokenizer, vocabulary.path, added).save(str(out / TOKENIZER))
    write_card(out, published, weights, record, [*sources, *([] if vocabulary is None else [vocabulary])])
    print(f"{out}: {len(weights)} tensors used, {len(record.ignored)} ignored")


def main() -> None:
    """Command line."""
    parser = argparse.ArgumentParser(
        description="Create a model folder from a published checkpoint. Checkpoint and tokenizer are files, folders or "
        "names of models on the hub (OWNER/NAME or OWNER/NAME@REVISION)."
    )
    parser.add_argument("system", choices=ARCHITECTURES)
    parser.add_argument("checkpoint", nargs="+")
    parser.add_argument(
        "--tokenizer", help="folder with the published files, a tokenizer.json, a GGUF file, or a model on the hub"
    )
    parser.add_argument("--out", type=Path, required=True, help="the model folder to write")
    parser.add_argument(
        "--keep-adapter", action="store_true", help="keep low-rank adapters separate instead of merging them"
    )
    parser.add_argument("--name", help="name of the model; default: the name of the folder")
    arguments = parser.parse_args()
    try:
        import_checkpoint(
            arguments.system,
            arguments.checkpoint,
            arguments.tokenizer,
            arguments.out,
            arguments.name or arguments.out.resolve().name,
            keep_adapter=arguments.keep_adapter,
        )
    except ArchiveError as error:
        sys.exit(f"{error}")


if __name__ == "__main__":
    main()
