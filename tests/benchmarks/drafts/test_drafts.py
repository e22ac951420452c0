"""The benchmark of draft tokens, with models that are trained for one step."""

import csv
import json
from collections.abc import Mapping
from dataclasses import replace
from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest
import torch

from benchmarks.drafts import __main__ as command
from benchmarks.drafts import report_model as training
from benchmarks.drafts import turns
from benchmarks.drafts.heavy_decoder import HeavyDecoder
from benchmarks.drafts.report_model import TaggedReport, loss, read_studies, report_model
from benchmarks.drafts.turns import Decoded, decode, tokens_a_step
from benchmarks.models.shapes import BOS, EOS, PAD, SHAPES, Shape
from prelim.generation.drafts import count_drafts
from prelim.networks.trained_decoder import build_decoder, serving_decoder

# Of the sizes in tests/model_src/generation/test_batch_invariance.py, so that kernels are compiled once.
TINY = {"hidden_size": 128, "num_hidden_layers": 2, "num_attention_heads": 4, "intermediate_size": 192}
LARGER = Shape("biogpt", {**SHAPES["biogpt"].section, **TINY, "vocab_size": 400, "max_position_embeddings": 128})
STUDIES = [TaggedReport((10 + i % 3, BOS), (20, 21, 22, 23, 30 + i, 24, EOS)) for i in range(12)]


@pytest.fixture(autouse=True)
def tiny(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """Small networks, kept nowhere else."""
    monkeypatch.setattr(training, "SECTION", training.SECTION | TINY | {"vocab_size": 300, "num_key_value_heads": 2})
    monkeypatch.setitem(SHAPES, "biogpt", LARGER)
    monkeypatch.setattr(command, "STORE", tmp_path / "store")
    monkeypatch.setattr(command, "HELD_OUT", 3)
    monkeypatch.setattr(command, "NEW_TOKENS", 12)
    monkeypatch.setattr(turns, "STEP_ROUNDS", 1)


@pytest.fixture
def data(tmp_path: Path) -> list[str]:
    """Options that name a table as that of IU X-Ray, and a tokenizer of letters in BioGPT's format."""
    with (tmp_path / "reports.csv").open("w", newline="", encoding="utf-8") as file:
        table = csv.writer(file)
        table.writerow(["uid", "MeSH", "findings", "impression"])
        table.writerows([i, "ab", "ba ab", f"b{'a' * i}"] for i in range(9))
        table.writerows([[96, "", "ab", "ab"], [97, "ab", "", "ab"], [98, "ab", "ab", " "]])
    special = ("<s>", "<pad>", "</s>", "<unk>")
    vocabulary = {token: i for i, token in enumerate((*special, "unseen", "a", "b", "a</w>", "b</w>"))}
    (tmp_path / "vocab.json").write_text(json.dumps(vocabulary), encoding="utf-8")
    (tmp_path / "merges.txt").write_text("#version: 0.2\n", encoding="utf-8")
    return ["--reports", str(tmp_path / "reports.csv"), "--tokenizer", str(tmp_path)]


def test_studies_have_tags_findings_and_impression(data: list[str]) -> None:
    """Others are left out. Tokens have numbers in the order in which they occur, after those that begin and end."""
    studies = read_studies(*map(Path, data[1::2]))

    b, last_a, a, last_b = range(max(BOS, PAD, EOS) + 1, max(BOS, PAD, EOS) + 5)
    assert len(studies) == 9
    assert studies[2] == TaggedReport((a, last_b, BOS), (b, last_a, a, last_b, b, a, last_a, EOS))


def test_an_epoch_reads_each_study_once() -> None:
    """In batches of similar lengths, whose order is random."""
    studies = [TaggedReport((BOS,), (7,) * (1 + i % 41)) for i in range(70)]

    batches = list(training._batches(studies))

    assert sorted(map(len, batches)) == [6, 32, 32]
    assert sorted(study.report for batch in batches for study in batch) == sorted(study.report for study in studies)
    ranges = sorted((len(batch[0].report), len(batch[-1].report)) for batch in batches)
    assert all(last <= first for (_, last), (first, _) in pairwise(ranges))


def test_loss_counts_the_report_only() -> None:
    """Padding and the tags add nothing: the loss of two studies is the mean over their tokens."""
    network = report_model(STUDIES, 1, command.STORE)
    pair = [STUDIES[0], TaggedReport((11, 12, BOS), (20, 21, EOS))]

    alone = [loss(network, [study]) * len(study.report) for study in pair]

    torch.testing.assert_close(loss(network, pair), sum(alone) / sum(len(study.report) for study in pair))


def test_the_command(data: list[str], tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: Any) -> None:
    """It writes page and figures; a model is trained once; texts that differ are said, and fail."""
    options = [*data, "--precisions", "fp32", "--epochs", "1", "--rounds", "1", "--texts", "2", "--out", str(tmp_path)]

    assert command.main(options) == 0

    record = json.loads((tmp_path / "drafts.json").read_text(encoding="utf-8"))
    greedy = [row for row in record["rows"] if row["mode"] == "greedy"]
    assert [(row["decoder"], row["together"]) for row in greedy] == [
        (name, n) for name in command.DECODERS for n in turns.TOGETHER
    ]
    assert len(record["rows"]) == 3 * len(greedy)
    assert all(row["same"] and row["texts"] == 2 and row["proposed"] >= row["accepted"] for row in record["rows"])
    assert [(cost["together"], cost["rows"]) for cost in record["steps"][:10]] == [
        (together, rows) for together in turns.TOGETHER for rows in range(1, 6)
    ]
    assert capsys.readouterr().out.strip() == (tmp_path / "drafts.md").read_text(encoding="utf-8").strip()

    def differing(*arguments: Any) -> Decoded:
        return replace(decode(*arguments), written={}) if arguments[-1] is not None else decode(*arguments)

    monkeypatch.setattr(training, "_train", None)
    monkeypatch.setattr(turns, "decode", differing)
    assert command.main([*options, "--decoders", "trained"]) == 1
    assert "| **no** |" in capsys.readouterr().out


def test_a_heavy_decoder_writes_the_texts_of_the_small_one() -> None:
    """With drafts and without, several together; its logits are as many as those of the larger one."""
    network = report_model(STUDIES, 1, command.STORE)
    small = serving_decoder(network)
    heavy = HeavyDecoder(small, serving_decoder(build_decoder(LARGER.section)), LARGER.section["hidden_size"])
    requests = command.requests_of(network, STUDIES[:3], "greedy")
    own = tokens_of(decode(small, requests, 1, None))

    for drafts in (None, count_drafts([*own.values(), *own.values()])):
        assert tokens_of(decode(heavy, requests, 2, drafts)) == own


def tokens_of(run: Decoded) -> Mapping[str, tuple[int, ...]]:
    """Of each request."""
    return {name: written[0].token_ids for name, written in run.written.items()}


def test_steps_of_given_reports() -> None:
    """As many as the engine takes for its own text; without drafts one for each token after the first."""
    network = report_model(STUDIES, 1, command.STORE)
    requests = command.requests_of(network, STUDIES[:1], "greedy")
    decoder = serving_decoder(network)
    text = tokens_of(decode(decoder, requests, 1, None))["0"]
    drafts = count_drafts([text, text, [*text[:7], BOS]])

    run = decode(decoder, requests, 1, drafts)

    assert tokens_a_step([text], drafts) == len(text) / run.steps
    assert tokens_a_step([text], count_drafts([])) == len(text) / (len(text) - 1)
