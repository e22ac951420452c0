"""What training begins with: model.yaml, the network with its first weights, and the tokenizer."""

import copy
import pickle
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
import yaml
from tokenizers import Tokenizer
from torch import nn

from prelim.archive.archive import CONFIG, TOKENIZER, load_tokenizer
from prelim.archive.model_config import ModelConfig
from prelim.decoders.weights_file import read_weights
from prelim.errors import ArchiveError, reason_of
from prelim.networks.architectures import ARCHITECTURES
from prelim.networks.architectures.architecture import Network
from prelim.networks.model_folder import build_network, read_network
from prelim.networks.terms import check_documents, check_use, list_documents, widest_use
from training.network.wordpiece import BOS, EOS, PAD, make_tokenizer
from training.settings import Settings, SettingsError

NO_LICENSE = "GAP: not stated; it depends on the data and on the weights that training began with (model.licence)"
"""Of trained weights, unless the user gives model.licence."""

CHANGE = "Training changed the weights: MODEL_CARD.md says from which ones it began."
"""For terms that ask for a mark of modification."""


@dataclass(frozen=True)
class StartingModel:
    """A model before its training.

    description : what model.yaml of the trained model will say
    """

    description: dict[str, Any]
    config: ModelConfig
    network: Network
    tokenizer: Tokenizer


def starting_model(settings: Settings, texts: Iterable[str]) -> StartingModel:
    """The model that settings describe; `texts` are the reports, of which word pieces are made where that is asked for.

    Raises SettingsError for settings that contradict each other, ArchiveError for a file that is at fault.
    """
    if settings.start.weights and settings.start.vision:
        raise SettingsError("start.weights has a vision encoder, and start.vision is another; leave one of them out")
    if settings.dataset.features and not settings.start.weights:
        raise SettingsError(
            "dataset.features is set, but start.weights is not: features come from an encoder that is trained already; "
            "give the model folder whose archive they were extracted with"
        )
    description = _description(settings)
    tokenizer, made_here = _tokenizer(settings, [*texts, *_prompt_texts(settings, description)])
    if made_here:
        _set_special_tokens(description, settings.model.get("generation", {}))
    decoder = description.setdefault("decoder", {})
    decoder.setdefault("vocab_size", tokenizer.get_vocab_size())
    if decoder.get("kind") == "cross_attention":
        decoder.setdefault("pad_token_id", description["tokenizer"]["pad_token_id"])
    if tokenizer.get_vocab_size() > decoder["vocab_size"]:
        raise SettingsError(
            f"the tokenizer has {tokenizer.get_vocab_size()} tokens, model.decoder.vocab_size is "
            f"{decoder['vocab_size']}; give the decoder as many tokens, or another start.tokenizer"
        )
    config = ModelConfig.from_mapping(description, "model")
    if settings.start.weights:
        if "adapter" in decoder:
            raise SettingsError(
                f"{settings.start.weights} keeps an adapter; import it merged, or train another from it"
            )
        if settings.model.keys() & {"vision", "connector", "decoder", "architecture"}:
            raise SettingsError(
                "model has dimensions of the network, and start.weights a network of its own; leave one of them out"
            )
        _, network = read_network(Path(settings.start.weights), decoder_as_stored=bool(settings.lora.quantize))
    else:
        network = build_network(config)
    if settings.start.vision:
        load_pretrained(network.vision, Path(settings.start.vision))
    network.requires_grad_(True)
    for module in network.modules():
        if isinstance(module, nn.BatchNorm1d | nn.BatchNorm2d) and settings.optimization.batch_norm_momentum:
            module.momentum = settings.optimization.batch_norm_momentum
    return StartingModel(description, config, network, tokenizer)


def load_pretrained(vision: nn.Module, path: Path) -> None:
    """Give a vision encoder the weights of a file.

    They have our names, or those of another implementation whose tensors come in our order and shapes; a classifier
    after them is left out. No code in the file is run.

    Raises SettingsError for a file that cannot be read or holds another network.
    """
    try:
        # A state dict keeps the order in which its network made it; a safetensors file does not, and needs our names.
        found = read_weights(path) if path.suffix == ".safetensors" else torch.load(path, "cpu", weights_only=True)
    except ArchiveError as error:
        raise SettingsError(f"start.vision: {error}") from error
    except (OSError, pickle.UnpicklingError, RuntimeError) as error:
        raise SettingsError(f"start.vision: {path} cannot be read: {reason_of(error)}") from error
    own = vision.state_dict()
    if not own.keys() <= found.keys():
        for ours, (theirs, value) in zip(own, found.items(), strict=False):
            kind = ours.rpartition(".")[2]
            if theirs.rpartition(".")[2] != kind or value.shape != own[ours].shape:
                raise SettingsError(
                    f"start.vision: {path} is of another network: instead of our {ours}, of shape "
                    f"{tuple(own[ours].shape)}, it has {theirs}, {tuple(value.shape)}"
                )
        if len(found) < len(own):
            raise SettingsError(f"start.vision: {path} has {len(found)} tensors, the encoder {len(own)}")
        found = dict(zip(own, found.values(), strict=False))
    vision.load_state_dict({name: found[name] for name in own})


def _description(settings: Settings) -> dict[str, Any]:
    """Contents of model.yaml, from the least to the most particular."""
    given = dict(settings.model)
    if settings.start.weights:
        path = Path(settings.start.weights) / CONFIG
        ModelConfig.read(path)  # it reports errors more precisely
        known: Mapping[str, Any] = yaml.safe_load(path.read_text(encoding="utf-8"))
    else:
        name = given.get("architecture")
        if name not in ARCHITECTURES:
            raise SettingsError(
                f"model.architecture is {name!r}; known: {', '.join(ARCHITECTURES)}; or give a model folder as "
                "start.weights"
            )
        known = {"version": "1.0", **ARCHITECTURES[name].published.defaults}
    name = Path(settings.run.out).resolve().name
    # The license of what training began with says nothing about the licenses of the data that it learned from, but
    # what it limits is limited.
    began = f"{NO_LICENSE}; that of these weights: {known['licence']}" if settings.start.weights else NO_LICENSE
    license_name = str(given.get("licence", began))
    merged = _merge({**known, "name": name, "licence": license_name, "use": widest_use(license_name)}, given)
    try:
        check_use(license_name, merged["use"], "model.use")
        # Not after hours of training.
        check_documents(Path(settings.run.out), starting_documents(settings))
    except ArchiveError as error:
        raise SettingsError(str(error)) from error
    first = {key: merged[key] for key in ("name", "version", "licence", "use", "architecture") if key in merged}
    return copy.deepcopy(first | merged)


def starting_documents(settings: Settings) -> list[Path]:
    """The documents that travel with the weights that training began with."""
    return list_documents(Path(settings.start.weights)) if settings.start.weights else []


def _merge(known: Mapping[str, Any], given: Mapping[str, Any]) -> dict[str, Any]:
    merged = dict(known)
    for key, value in given.items():
        old = merged.get(key)
        both = isinstance(old, Mapping) and isinstance(value, Mapping)
        merged[key] = _merge(old, value) if both else value  # type: ignore[arg-type]
    return merged


def _tokenizer(settings: Settings, texts: Iterable[str]) -> tuple[Tokenizer, bool]:
    """The tokenizer, and whether it was made of the reports."""
    given = Path(settings.start.tokenizer or settings.start.weights or "")
    if settings.start.tokenizer or settings.start.weights:
        return load_tokenizer(given.parent if given.name == TOKENIZER else given), False
    return make_tokenizer(texts, settings.start.vocab_size), True


def _prompt_texts(settings: Settings, description: Mapping[str, Any]) -> list[str]:
    """What the model reads besides reports."""
    prompt = description.get("prompt") or {}
    return [*settings.dataset.prompts, *(str(prompt[key]) for key in ("before", "after", "default") if prompt.get(key))]


def _set_special_tokens(description: dict[str, Any], generation: Mapping[str, Any]) -> None:
    """Ids of the published tokenizer mean other tokens in one made here, and its stop text is not one token.

    generation : as settings give it, whose stop text stays
    """
    if "stop" not in generation:
        description["generation"] = {k: v for k, v in description.get("generation", {}).items() if k != "stop"}
    description["tokenizer"] = {"bos_token_id": BOS, "eos_token_id": EOS, "pad_token_id": PAD}
    if description.get("prompt"):
        prompt = dict(description["prompt"])
        if prompt.get("bos_token_id") is not None:
            prompt["bos_token_id"] = BOS
        if prompt.get("start_ids"):
            prompt["start_ids"] = [BOS]
        description["prompt"] = prompt
