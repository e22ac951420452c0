"""Create a model folder from a published checkpoint.

    python -m export.import_checkpoint mobilenet_graph pytorch_model.bin --tokenizer bert/ --out models/txttyt
    python -m export.import_checkpoint biomedclip_qformer_biogpt final_model.pth --tokenizer microsoft/biogpt \
        --out models/report_generator

Every key of the checkpoint is used, or printed as ignored with the reason; a missing or mis-shaped key is an error.
What the files do not show is given by an option (--set decoder.heads=8), or printed and written to the card as assumed.
An argument that is not a local file or folder is the name of a model on the hub: OWNER/NAME or OWNER/NAME@REVISION.

    --license "Llama 2 Community License" --use research --terms LICENSE.txt USE_POLICY.md

states the terms of the weights, where the folder does not. Missing ones are a GAP on the model card.
"""

import argparse
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch
import yaml
from tokenizers import Tokenizer

from export.checkpoints.fit import check_fit, check_system, missing_part, wrong_rank
from export.checkpoints.generation_defaults import generation_defaults
from export.checkpoints.import_source import ImportSource, checkpoint_source
from export.checkpoints.model_card import write_card
from export.checkpoints.published_weights import convert_weights, fit_shapes, gather_weights
from export.checkpoints.record import ImportRecord
from export.checkpoints.settings import model_config, preprocessor_config
from export.checkpoints.special_tokens import check_vocabulary, special_tokens
from export.checkpoints.terms import GivenTerms, find_documents, settle_terms
from export.checkpoints.tied_embeddings import tie_embeddings, untie_embeddings
from export.tokenizers.chat_template import ImageWords, templated_prompt
from export.tokenizers.output_marks import find_output
from export.tokenizers.read import read_tokenizer, vocabulary_size
from export.tokenizers.tokenizer_source import tokenizer_source
from prelim.archive.archive import CONFIG, TOKENIZER, WEIGHTS
from prelim.archive.model_config import ModelConfig
from prelim.archive.terms import USES
from prelim.decoders.weights_file import Weights, write_weights
from prelim.errors import ArchiveError
from prelim.networks.architectures import ARCHITECTURES
from prelim.networks.architectures.architecture import Network, Published, Section
from prelim.networks.architectures.facts import Facts
from prelim.networks.model_folder import build_network
from prelim.networks.terms import find_gaps, write_terms
from terminal.arguments import CommandLine


def import_checkpoint(
    system: str,
    checkpoint: Sequence[str | Path],
    tokenizer: str | Path | None,
    out: Path,
    name: str,
    *,
    keep_adapter: bool = False,
    overwrite: bool = False,
    options: Mapping[str, Any] | None = None,
    terms: GivenTerms | None = None,
) -> None:
    """Write the model folder of a published checkpoint; an existing model card is not overwritten.

    system     : a name in ARCHITECTURES
    checkpoint : files, folders and names of models on the hub, the most specific first: for a weight that is in
                 several of them the first one is used; a config.json alone adds settings that shapes do not show
    tokenizer  : folder or file of the tokenizer, or the name of a model on the hub; None writes no tokenizer
    name       : of the model
    keep_adapter : keep low-rank adapters separate instead of merging them into their layers
    overwrite    : replace a model.yaml that differs from the one of this import
    options      : name in model.yaml, such as `decoder.heads` -> value that the files do not show
    terms        : of the weights, where the folder does not state them or others hold

    Raises ArchiveError for an unknown system, a file that is unavailable or unreadable, missing or mis-shaped keys, a
    model that is not the system's, and a use that the license does not allow.
    """
    if system not in ARCHITECTURES:
        raise ArchiveError(f"system is {system!r}; known: {', '.join(ARCHITECTURES)}")
    _check_out(out)
    published = ARCHITECTURES[system].published
    vocabulary = None if tokenizer is None else tokenizer_source(published.tokenizer, tokenizer)
    sources = [checkpoint_source(given) for given in checkpoint]
    everything = [*sources, *([] if vocabulary is None else [vocabulary])]
    _check_sources(out, everything)
    terms = terms or GivenTerms()
    labeled = [(source.label, source.folder) for source in sources if source.folder is not None]
    license_name, use, assumed_terms = settle_terms(published, terms, labeled)
    folders = [source.folder for source in everything if source.folder is not None]
    record = ImportRecord()
    described = describe(system, sources, name, record, keep_adapter=keep_adapter, options=options)
    config, weights = described.config, described.weights
    served, templated = None, config
    if vocabulary is not None:
        served = _read_tokenizer(published, vocabulary, config, record)
        if described.by_template:
            templated = _with_template(published, vocabulary, config, served, record)
        if published.whole_config:
            templated = replace(templated, output=find_output(folders, served, templated.prompt, record))
    record.assume_published(
        published, described.facts, described.stored | ({"prompt"} if templated.prompt is not config.prompt else set())
    )
    for text in assumed_terms:
        record.assume(text)
    config = replace(templated, licence=license_name, use=use)
    _check_edited(out / CONFIG, config, overwrite=overwrite)
    _write(out, config, weights, served)
    write_terms(out, license_name, find_documents(terms, folders), CHANGE)
    write_card(out, published, weights, record, everything)
    for gap in find_gaps(license_name, use, out):
        print(f"GAP: {gap}")
    print(f"{out}: {len(weights)} tensors used, {len(record.ignored)} ignored, {len(record.assumed)} assumptions")


CHANGE = (
    "The import of Prelim changed the published files: names, layout and file format of the weights. MODEL_CARD.md has "
    "the details."
)
"""For terms that ask for a mark of modification."""


@dataclass(frozen=True)
class Described:
    """A model as the files of its checkpoint describe it.

    config  : contents of model.yaml
    network : without weights
    weights : under our keys, in the layout that is written; nothing of them is read yet
    facts   : what was asked about the checkpoint
    stored  : sections of model.yaml that its settings files gave
    by_template : the prompt is that of the tokenizer's chat template
    """

    config: ModelConfig
    network: Network
    weights: Weights
    facts: Facts
    stored: set[str]
    by_template: bool


def describe(
    system: str,
    sources: Sequence[ImportSource],
    name: str,
    record: ImportRecord,
    *,
    keep_adapter: bool = False,
    options: Mapping[str, Any] | None = None,
) -> Described:
    """Find out what model the sources contain; arguments and errors are those of `import_checkpoint`."""
    published = ARCHITECTURES[system].published
    gathered = gather_weights(published, sources, record)
    check_system(system, gathered.tensors)
    config_json = untie_embeddings(published, gathered, model_config(published, system, gathered.settings), record)
    facts = Facts(options or {}, config_json, preprocessor_config(gathered.settings, published.own_code))
    converted, adapter = convert_weights(published, gathered, facts, record, keep_adapter=keep_adapter)
    weights: Weights = tie_embeddings(converted, facts, record)
    sections, weights = _sections(system, weights, facts)
    own_tokens = special_tokens(published, sections["decoder"], facts, gathered.settings, record)
    by_template = "image_token_id" in sections["decoder"] and facts.value("prompt.chat_template", True, stored=True)
    own_generation = generation_defaults(published, sections["decoder"], facts, gathered.settings, record)
    sections = {**sections, "decoder": {**sections["decoder"], **adapter}, **own_tokens, **own_generation}
    if unknown := facts.unknown_options():
        raise ArchiveError(f"--set {unknown[0]}: {system} has no such value; known: {', '.join(sorted(facts.asked))}")
    config = ModelConfig.from_mapping(
        {"name": name, "version": "1.0", "architecture": system, **published.defaults, **sections}, f"{system}"
    )
    network = empty_network(config)
    weights = fit_shapes(published, weights, {key: value.shape for key, value in network.state_dict().items()}, record)
    check_fit(published, network, weights)
    stored = {*own_tokens, *own_generation} - {"prompt"}
    return Described(config, network, weights, facts, stored, by_template=bool(by_template))


def _sections(system: str, weights: Weights, facts: Facts) -> tuple[Mapping[str, Section], Weights]:
    """The sections of model.yaml that the shapes of weights show, and the weights in the layout that is served.

    Raises ArchiveError with all the keys that are missing if one of them gives a dimension, and for one of
    another rank.
    """
    published = ARCHITECTURES[system].published
    sections: Mapping[str, Section] = {}
    missing = None
    try:
        sections = published.dimensions({key: tuple(value.shape) for key, value in weights.items()}, facts)
    except KeyError as error:
        missing = str(error.args[0])
    except (IndexError, ValueError) as error:
        raise wrong_rank(system, weights, error) from error
    if published.layout is not None:
        weights = published.layout(weights, facts)
    if missing is not None:
        raise missing_part(system, weights, missing)
    return sections, weights


def _read_tokenizer(
    published: Published, vocabulary: ImportSource, config: ModelConfig, record: ImportRecord
) -> Tokenizer:
    """Read the tokenizer. Raises ArchiveError if the decoder has fewer tokens."""
    foreign = published.vocabulary not in (None, config.decoder["vocab_size"])
    tokenizer = read_tokenizer(published.tokenizer, vocabulary.path, () if foreign else published.added_tokens)
    size = vocabulary_size(published.tokenizer, vocabulary.path, tokenizer)
    check_vocabulary(size, config.decoder["vocab_size"], record)
    return tokenizer


def _with_template(
    published: Published, vocabulary: ImportSource, config: ModelConfig, served: Tokenizer, record: ImportRecord
) -> ModelConfig:
    """The prompt of the folder's chat template, if it has one. Raises ArchiveError if it cannot be served."""
    if config.prompt is None:
        return config
    prompt = templated_prompt(
        config.prompt,
        vocabulary.path if vocabulary.path.is_dir() else vocabulary.path.parent,
        served,
        image_token_id=config.decoder["image_token_id"],
        vocab_size=config.decoder["vocab_size"],
        image=None if published.image_words is None else ImageWords(*published.image_words),
        record=record,
    )
    return config if prompt is None else replace(config, prompt=prompt)


def _check_out(out: Path) -> None:
    """Raise ArchiveError if no folder can be written there."""
    blocked = next((path for path in (out, *out.absolute().parents) if path.exists()), None)
    if blocked is not None and not blocked.is_dir():
        raise ArchiveError(f"--out {out}: {blocked} is a file; give a new or existing folder")


def _check_sources(out: Path, sources: Sequence[ImportSource]) -> None:
    """Raise ArchiveError if the model folder would replace a file that it is imported from."""
    written = {(out / name).resolve() for name in (CONFIG, WEIGHTS, TOKENIZER)}
    replaced = next((file for source in sources for file in source.files if file.resolve() in written), None)
    if replaced is not None:
        raise ArchiveError(f"--out {out} would replace {replaced}, which is imported; give another folder")


def empty_network(config: ModelConfig) -> Network:
    """The network without weights. Raises ArchiveError if it cannot be built or served."""
    # Only the shapes are needed; the meta device allocates nothing.
    with torch.device("meta"):
        network = build_network(config)
        served = getattr(network.decoder, "served", None)
        if callable(served):
            try:
                served()
            except ValueError as error:
                raise ArchiveError(f"the decoder cannot be served: {error}") from error
    return network


def _check_edited(path: Path, config: ModelConfig, *, overwrite: bool) -> None:
    """Raise ArchiveError if a model.yaml with other contents would be lost."""
    if overwrite or not path.exists():
        return
    try:
        there = ModelConfig.read(path)
    except ArchiveError as error:
        raise ArchiveError(f"{error}; remove the file, or pass --overwrite to replace it") from error
    contents = there.to_mapping()
    differing = [name for name, value in config.to_mapping().items() if contents[name] != value]
    if differing:
        raise ArchiveError(
            f"{path} exists and differs from this import in {', '.join(differing)}; pass --overwrite to replace it, or "
            "another --out"
        )


def _is_same(path: Path, config: ModelConfig) -> bool:
    try:
        return ModelConfig.read(path).to_mapping() == config.to_mapping()
    except ArchiveError:
        return False


def _write(out: Path, config: ModelConfig, weights: Mapping[str, Any], tokenizer: Tokenizer | None) -> None:
    out.mkdir(parents=True, exist_ok=True)
    # One that says the same may have comments.
    if not _is_same(out / CONFIG, config):
        config.write(out / CONFIG)
    write_weights(out / WEIGHTS, weights)
    if tokenizer is not None:
        tokenizer.save(str(out / TOKENIZER))


def read_option(text: str) -> tuple[str, Any]:
    """NAME=VALUE of the command line; the value is read as YAML."""
    name, separator, value = text.partition("=")
    if not separator:
        raise argparse.ArgumentTypeError(f"{text!r} is not NAME=VALUE")
    try:
        return name, yaml.safe_load(value)
    except (yaml.YAMLError, ValueError, RecursionError) as error:
        raise argparse.ArgumentTypeError(f"the value of {name} is not valid YAML") from error


def main() -> None:
    """Command line."""
    parser = CommandLine(__doc__)
    parser.add_argument("system", choices=ARCHITECTURES)
    parser.add_argument("checkpoint", nargs="+")
    parser.add_argument(
        "--tokenizer", help="folder with the published files, a tokenizer.json, a GGUF file, or a model on the hub"
    )
    parser.add_argument("--out", type=Path, required=True, help="the model folder to write")
    parser.add_argument(
        "--keep-adapter", action="store_true", help="keep low-rank adapters separate instead of merging them"
    )
    parser.add_argument("--overwrite", action="store_true", help="replace a model.yaml that differs from this import's")
    parser.add_argument(
        "--set",
        action="append",
        type=read_option,
        default=[],
        dest="options",
        metavar="NAME=VALUE",
        help="a value that the files do not show, such as decoder.heads=8; without it the published model's is assumed",
    )
    parser.add_argument("--name", help="name of the model; default: the name of the folder")
    parser.add_argument("--license", help="of the weights, by its name")
    parser.add_argument(
        "--use", choices=USES, help="what the license allows; default: its limit, if it has a known one"
    )
    parser.add_argument(
        "--terms", type=Path, nargs="+", default=[], metavar="FILE", help="documents that must travel with the weights"
    )
    arguments = parser.parse_args()
    try:
        import_checkpoint(
            arguments.system,
            arguments.checkpoint,
            arguments.tokenizer,
            arguments.out,
            arguments.name or arguments.out.resolve().name,
            keep_adapter=arguments.keep_adapter,
            overwrite=arguments.overwrite,
            options=dict(arguments.options),
            terms=GivenTerms(arguments.license, arguments.use, tuple(arguments.terms)),
        )
    except ArchiveError as error:
        sys.exit(f"{error}")


if __name__ == "__main__":
    main()
