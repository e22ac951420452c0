"""A small language model trained on real reports: its texts repeat each other as reports do.

It is for measurement only, and kept in an ignored folder.
"""

import csv
import dataclasses
import hashlib
import json
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file, save_file
from torch import Tensor, nn
from torch.nn.utils.rnn import pad_sequence
from tqdm import tqdm
from transformers import BioGptTokenizer

from benchmarks.models.shapes import BOS, EOS, PAD, WEIGHTS
from prelim.decoders.decoder import PADDING
from prelim.networks.transformers_lm import TransformersLM

SECTION: dict[str, Any] = {
    "model_type": "llama",
    "vocab_size": 4096,
    "hidden_size": 256,
    "num_hidden_layers": 4,
    "num_attention_heads": 4,
    "intermediate_size": 1024,
    "max_position_embeddings": 512,
    "tie_word_embeddings": True,
}
"""As in model.yaml; IU X-Ray has 3,000 different tokens."""

LONGEST_REPORT = 160
LONGEST_TAGS = 64
_BATCH = 32
_RATE = 2e-3
_WARM_UP = 0.05


@dataclass(frozen=True)
class TaggedReport:
    """Token ids of a study, whose tags replace the image here.

    prompt : the tags, and BOS
    report : findings and impression, and EOS
    """

    prompt: tuple[int, ...]
    report: tuple[int, ...]


def read_studies(table: Path, tokenizer: Path) -> list[TaggedReport]:
    """The studies in IU X-Ray's `indiana_reports.csv` that have tags, findings and impression.

    tokenizer : folder of BioGPT's tokenizer; the tokens that occur are numbered in the order of the table
    """
    published: Any = BioGptTokenizer.from_pretrained(tokenizer)
    numbers: dict[int, int] = {}

    def ids(text: str, longest: int) -> list[int]:
        found = published(text, add_special_tokens=False).input_ids[:longest]
        return [numbers.setdefault(i, len(numbers) + max(BOS, PAD, EOS) + 1) for i in found]

    studies = []
    with table.open(encoding="utf-8", newline="") as file:
        for row in csv.DictReader(file):
            tags, findings, impression = (row[name].strip() for name in ("MeSH", "findings", "impression"))
            if tags and findings and impression:
                report = ids(f"{findings} {impression}", LONGEST_REPORT)
                studies.append(TaggedReport((*ids(tags, LONGEST_TAGS), BOS), (*report, EOS)))
    return studies


def loss(network: TransformersLM, studies: Sequence[TaggedReport]) -> Tensor:
    """Mean negative log-likelihood of the reports given the tags, in nats per token; a scalar."""
    texts = [torch.tensor([*study.prompt, *study.report[:-1]]) for study in studies]
    wanted = [torch.tensor([*[PADDING] * (len(study.prompt) - 1), *study.report]) for study in studies]
    ids = pad_sequence(texts, batch_first=True, padding_value=PAD)
    labels = pad_sequence(wanted, batch_first=True, padding_value=PADDING)
    logits = network.logits(network.body(input_ids=ids).last_hidden_state).float()
    return nn.functional.cross_entropy(logits.flatten(0, 1), labels.flatten(), ignore_index=PADDING)


def report_model(studies: Sequence[TaggedReport], epochs: int, store: Path) -> TransformersLM:
    """The model trained on these reports; read from `store` if it is there, else trained and written to it."""
    described = json.dumps([SECTION, epochs, list(map(dataclasses.astuple, studies))])
    file = store / f"reports-{hashlib.sha256(described.encode()).hexdigest()[:8]}" / WEIGHTS
    if file.is_file():
        network = TransformersLM(SECTION)
        network.load_state_dict(load_file(file))
    else:
        network = _train(studies, epochs)
        file.parent.mkdir(parents=True, exist_ok=True)
        save_file(network.state_dict(), file)
    return network.eval().requires_grad_(False)


def _train(studies: Sequence[TaggedReport], epochs: int) -> TransformersLM:
    """Train a network, with products in bfloat16."""
    torch.manual_seed(0)
    network = TransformersLM(SECTION)
    batches = [batch for _ in range(epochs) for batch in _batches(studies)]
    optimizer = torch.optim.AdamW(network.parameters(), lr=_RATE, weight_decay=0.01)
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, _RATE, total_steps=len(batches), pct_start=_WARM_UP)
    with tqdm(batches, desc="training", unit="step") as bar:
        for batch in bar:
            optimizer.zero_grad()
            with torch.autocast("cpu", torch.bfloat16):
                nats = loss(network, batch)
            nats.backward()  # type: ignore[no-untyped-call]
            nn.utils.clip_grad_norm_(network.parameters(), 1.0)
            optimizer.step()
            schedule.step()
            bar.set_postfix_str(f"{nats.item():.2f} nats a token", refresh=False)
    return network


def _batches(studies: Sequence[TaggedReport]) -> Iterator[list[TaggedReport]]:
    """The batches of an epoch in random order; reports of similar lengths are together, so there is little padding."""
    order = sorted(torch.randperm(len(studies)).tolist(), key=lambda i: len(studies[i].report))
    for first in torch.randperm(-(-len(order) // _BATCH)).tolist():
        yield [studies[i] for i in order[first * _BATCH : (first + 1) * _BATCH]]
