"""Language models that use one tensor for their token embeddings and their head."""

import re
from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor

from export.checkpoints.lora import adapted_layers
from export.checkpoints.published_weights import Gathered, our_weights
from export.checkpoints.record import ImportRecord
from prelim.decoders.weights_file import LazyTensor, Weights, materialize
from prelim.errors import ArchiveError
from prelim.networks.architectures.architecture import Published
from prelim.networks.architectures.facts import Facts

HEAD, EMBEDDINGS = "decoder.lm_head.weight", "decoder.body.embed_tokens.weight"


def untie_embeddings(
    published: Published, gathered: Gathered, config: Mapping[str, Any], record: ImportRecord
) -> Mapping[str, Any]:
    """Give both tables to a model whose adapter trained only one of two tied ones; `peft` leaves the other as it was.

    config  : config.json, in which they may be tied
    returns : config.json, in which they are not tied if they were separated

    Raises ArchiveError if the system's decoder cannot have two.
    """
    trained = {key for key in gathered.tensors if key in gathered.adapters or ".modules_to_save." in key}
    ours = {published.our_key(key) for key in trained}
    base = our_weights(published, {key: value for key, value in gathered.tensors.items() if key not in trained})[0]
    found = our_weights(published, gathered.tensors)[0]
    adapted = HEAD.removesuffix(".weight") in adapted_layers(found)
    tied = [key for key in trained for pattern in published.tied if re.search(pattern, key)]
    if gathered.adapter_config.get("ensure_weight_tying") or not (adapted or tied or ours & {HEAD, EMBEDDINGS}):
        return config
    head, embeddings = (found.get(name, base.get(other)) for name, other in ((HEAD, EMBEDDINGS), (EMBEDDINGS, HEAD)))
    if published.tied and embeddings is not None and EMBEDDINGS in base and not _equal(embeddings, base[EMBEDDINGS]):
        raise ArchiveError(
            "the adapter trained the token embeddings or lm_head, which are one tensor in this system, and peft keeps "
            "the other as it was; train it with ensure_weight_tying"
        )
    if published.tied or head is None or embeddings is None or (not adapted and _equal(head, embeddings)):
        return config
    missing = {name: value for name, value in ((HEAD, head), (EMBEDDINGS, embeddings)) if name not in found}
    if not missing and not (config.get("text_config") or config).get("tie_word_embeddings"):
        return config
    gathered.tensors.update({published.published_key(name): value for name, value in missing.items()})
    record.note("the adapter trained one of two tied tables, token embeddings and lm_head: the model has both")
    untied = {"tie_word_embeddings": False}
    if text := config.get("text_config"):
        whole = untied if config.get("tie_word_embeddings") else {}
        return {**config, **whole, "text_config": {**text, **untied}}
    return {**config, **untied} if config else config


def _equal(one: Tensor | LazyTensor, other: Tensor | LazyTensor) -> bool:
    return one is other or torch.equal(materialize(one), materialize(other))


def tie_embeddings(weights: Weights, facts: Facts, record: ImportRecord) -> dict[str, Tensor | LazyTensor]:
    """Give a language model with tied embeddings its one tensor, whichever of the two names it was saved under.

    Raises ArchiveError if the two are different tensors.
    """
    parts = (facts.config, facts.config.get("text_config") or {})
    tied = facts.options.get("decoder.tie_word_embeddings", any(part.get("tie_word_embeddings") for part in parts))
    found = dict(weights)
    if not tied or HEAD not in found:
        return found
    if EMBEDDINGS not in found:
        found[EMBEDDINGS] = found.pop(HEAD)
        record.note("lm_head.weight is also used for the token embeddings, because config.json ties them")
        return found
    if not torch.equal(materialize(found[HEAD]), materialize(found[EMBEDDINGS])):
        raise ArchiveError(
            "tie_word_embeddings is true in config.json, but lm_head.weight differs from embed_tokens.weight; give the "
            "config.json of this checkpoint, or --set decoder.tie_word_embeddings=false"
        )
    del found[HEAD]
    record.note("lm_head.weight is a copy of the token embeddings, as config.json says")
    return found
