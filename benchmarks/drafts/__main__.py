"""Time that draft tokens from known reports save in a decoder trained on report text.

    python -m benchmarks.drafts                                         # trains for some minutes, and measures for ten
    python -m benchmarks.drafts --decoders biogpt --texts 16 --rounds 2    # docs/decisions/0061-draft-tokens.md
    python -m benchmarks.drafts --decoders trained --epochs 1 --texts 8    # a quick look

A small causal language model is trained on reports of IU X-Ray (../shared/data/iu_xray), with the tags of a study
instead of an image, and kept in build/bench. It writes reports for studies it was not trained on, with the table of
draft tokens that packaging would make of its training reports, and without. Texts and log-probabilities must be the
same, bit for bit; otherwise the exit code is 1.

A model that can be trained here has few weights to read in a step. "biogpt" stands for a decoder of BioGPT's size: with
every step of the trained decoder, one of that size, with random weights, takes a step of the same rows. Tokens are
chosen by the logits of the trained decoder, from a vocabulary as large as BioGPT's, and the time is that of both.

Times are CPU seconds of one thread; runs with drafts and without take turns. Writes drafts.json and drafts.md into
--out.
"""

import dataclasses
import json
import platform
import random
import sys
from collections.abc import Mapping, Sequence
from functools import partial
from itertools import product
from pathlib import Path
from typing import Any

import torch
from tqdm import tqdm

from benchmarks.drafts.heavy_decoder import HeavyDecoder
from benchmarks.drafts.report_model import TaggedReport, loss, read_studies, report_model
from benchmarks.drafts.table import markdown
from benchmarks.drafts.turns import TOGETHER, DraftRow, StepCost, step_costs, take_turns, tokens_a_step
from benchmarks.machine import ROOT, commit, describe_machine, show_turn
from benchmarks.models.imported import import_checkpoint
from benchmarks.models.real_models import DATA, IU_REPORTS
from benchmarks.models.shapes import SHAPES, checkpoint
from prelim.decoders.precision import PRECISIONS
from prelim.generation.decode_request import DecodeRequest
from prelim.generation.drafts import Drafts, count_drafts
from prelim.generation.options import GenerationOptions
from prelim.networks.trained_decoder import serving_decoder
from prelim.networks.transformers_lm import TransformersLM
from terminal.arguments import CommandLine, positive
from terminal.program import sign_of_life

TOKENIZER = DATA / "tokenizers" / "biogpt"
STORE = ROOT / "build" / "bench"
HELD_OUT = 500
"""Studies that are left out of the training."""

MODES: Mapping[str, Mapping[str, Any]] = {
    "greedy": {},
    "temperature 0.7": {"do_sample": True, "temperature": 0.7},
    "sampled": {"do_sample": True},
}
TRAINED = "trained"
DECODERS = (TRAINED, "biogpt")
NEW_TOKENS = 120


def requests_of(network: TransformersLM, studies: Sequence[TaggedReport], mode: str) -> dict[str, DecodeRequest]:
    """A request for each study, whose prompt is the tags; sampling is seeded."""
    nothing = torch.empty(0, network.config.hidden_size)
    found = {}
    for i, study in enumerate(studies):
        seed = i if MODES[mode] else None
        options = GenerationOptions(max_new_tokens=NEW_TOKENS, seed=seed, **MODES[mode])
        found[f"{i}"] = DecodeRequest(nothing, study.prompt, options)
    return found


def build(name: str, network: TransformersLM, precision: str) -> tuple[Any, Any]:
    """The decoder that writes, and the one whose steps take the time."""
    trained = serving_decoder(network, precision)
    if name == TRAINED:
        return trained, trained
    shape = SHAPES[name]
    larger = serving_decoder(import_checkpoint(checkpoint(shape, STORE / "checkpoints"), shape), precision)
    return HeavyDecoder(trained, larger, shape.section["hidden_size"]), larger


def bench(
    network: TransformersLM,
    studies: Sequence[TaggedReport],
    drafts: Drafts,
    kinds: Sequence[tuple[str, str]],
    rounds: int,
) -> tuple[list[DraftRow], list[StepCost]]:
    """Measure all modes, one request at a time and several, and steps.

    kinds : names of decoders, and precisions
    """
    rows, costs = [], []
    points = [(mode, together) for mode in MODES for together in TOGETHER]
    for name, precision in kinds:
        names = {"decoder": name, "precision": precision}
        with sign_of_life(f"{name}, {precision}: preparing, and measuring steps"):
            decoder, timed = build(name, network, precision)
            costs += step_costs(timed, **names)
        with tqdm(total=len(points) * rounds, unit="round") as bar:
            for mode, together in points:
                progress = partial(show_turn, bar, f"{name}, {precision}, {mode}, {together} together")
                requests = requests_of(network, studies, mode)
                row = take_turns(
                    decoder, requests, drafts, together=together, rounds=rounds, progress=progress, mode=mode, **names
                )
                rows.append(row)
    return rows, costs


def main(arguments: Sequence[str] | None = None) -> int:
    """Command line."""
    parser = CommandLine(__doc__)
    parser.add_argument("--reports", type=Path, default=IU_REPORTS, help="IU X-Ray's indiana_reports.csv (%(default)s)")
    parser.add_argument("--tokenizer", type=Path, default=TOKENIZER, help="folder of BioGPT's (%(default)s)")
    parser.add_argument("--decoders", nargs="+", choices=DECODERS, default=DECODERS, help="(all)")
    parser.add_argument(
        "--precisions", nargs="+", choices=PRECISIONS, default=["int8_dynamic"], help="of all decoders (int8_dynamic)"
    )
    parser.add_argument("--epochs", type=positive, default=6, help="of the training (%(default)s)")
    parser.add_argument("--texts", type=positive, default=40, help=f"at most {HELD_OUT} (%(default)s)")
    parser.add_argument("--rounds", type=positive, default=3, help="(%(default)s)")
    parser.add_argument("--date", help="date to write into the results")
    parser.add_argument("--out", type=Path, default=Path("out/bench"), help="folder of the results (%(default)s)")
    given = parser.parse_args(arguments)
    for path in (given.reports, given.tokenizer):
        if not path.exists():
            sys.exit(f"{path} is missing; --reports and --tokenizer name files of IU X-Ray and BioGPT")
    with sign_of_life("reading the reports"):
        studies = read_studies(given.reports, given.tokenizer)
    random.Random(0).shuffle(studies)  # noqa: S311 - the same studies are left out every time
    others, known = studies[:HELD_OUT], studies[HELD_OUT:]
    some = others[: given.texts]
    network = report_model(known, given.epochs, STORE)
    with sign_of_life("counting the known reports"):
        drafts = count_drafts(study.report for study in known)
    kinds = list(product(given.decoders, given.precisions))
    rows, costs = bench(network, some, drafts, kinds, given.rounds)
    record = {
        "date": given.date,
        "commit": commit(),
        "machine": describe_machine(),
        "versions": {"python": platform.python_version(), "torch": torch.__version__},
        "studies": len(known),
        "epochs": given.epochs,
        "rounds": given.rounds,
        "entries": len(drafts.contexts),
        "held_out": len(others),
        "loss": loss(network, some).item(),
        "radiologists": tokens_a_step((study.report for study in others), drafts),
        "rows": [dataclasses.asdict(row) | {"gain": row.gain} for row in rows],
        "steps": list(map(dataclasses.asdict, costs)),
    }
    page = markdown(record, rows, costs)
    given.out.mkdir(parents=True, exist_ok=True)
    (given.out / "drafts.json").write_text(json.dumps(record, indent=1), encoding="utf-8")
    (given.out / "drafts.md").write_text(page, encoding="utf-8")
    print(page)
    return 0 if all(row.same for row in rows) else 1


if __name__ == "__main__":
    sys.exit(main())
