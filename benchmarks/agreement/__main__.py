"""How much the texts of trained decoders change at precisions below fp32.

    python -m benchmarks.agreement                                # the demo model and SmolLM2-135M, all precisions
    python -m benchmarks.agreement models/mine --precisions int8  # a model folder of your own
    python -m benchmarks.agreement smollm2 --precisions int4_dynamic q4_0 q8_0 --rounded

Writes agreement.json and agreement.md into --out. A precision that changes more than 2 % of the tokens of any
model under greedy decoding cannot be a default. Images and reports come from ../shared if it exists.
"""

import dataclasses
import itertools
import json
import platform
import sys
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from statistics import median
from typing import Any

import torch

from benchmarks.agreement.llama_cpp import FORMATS, rounded_decoder
from benchmarks.decode.table import number
from benchmarks.machine import commit, describe_machine
from benchmarks.models.real_models import SMOLLM2, load_model
from prelim.decoders.decoder import Decoder
from prelim.decoders.precision import PRECISIONS
from prelim.errors import ArchiveError
from prelim.networks.agreement import LIMIT, Prefix, Reading, RealModel, read, write
from prelim.networks.moments import input_moments
from prelim.networks.trained_decoder import serving_decoder
from terminal.arguments import CommandLine
from terminal.program import sign_of_life

BEAMS = (1, 3)
SLOW = {"nf4": 4}
"""Precision -> n: only every n-th prefix is read, because it is many times slower than the others on a CPU."""


@dataclass(frozen=True)
class Text:
    """The text that fp32 generates after a prefix, and its own scores for it."""

    prefix: Prefix
    token_ids: tuple[int, ...]
    reading: Reading


@dataclass(frozen=True)
class Agreement:
    """A precision compared with fp32 on one model.

    beams          : 1 is greedy
    texts, tokens  : numbers of texts and tokens that fp32 generated
    changed        : tokens for which the precision's choice differs from that of fp32 after the same text
    margin, margins : median nats by which fp32 prefers its choice to its second-best: of changed tokens (None if there
                      are none), and of all tokens
    identical      : texts that are identical when the precision decodes freely
    until_unlike   : tokens before the first difference when the precision decodes freely
    logprob_mean, logprob_max : increase in a text's log-probability from fp32 to the precision, in nats: mean, and the
                     largest by absolute value
    logprob_token  : the mean per token
    """

    precision: str
    beams: int
    texts: int
    tokens: int
    changed: int
    margin: float | None
    margins: float
    identical: int
    until_unlike: int
    logprob_mean: float
    logprob_max: float
    logprob_token: float

    @property
    def share(self) -> float:
        """Share of changed tokens."""
        return self.changed / self.tokens


def compare(
    precision: str, beams: int, texts: Sequence[Text], readings: Sequence[Reading], written: Sequence[Sequence[int]]
) -> Agreement:
    """Compare texts of fp32 with a precision's `readings` of them and with its own generated token ids, `written`."""
    margins, changed = torch.cat([text.reading.margins for text in texts]), []
    identical = until_unlike = 0
    differences = []
    for text, reading, own in zip(texts, readings, written, strict=True):
        changed.append(reading.choices != text.reading.choices)
        identical += tuple(own) == text.token_ids
        pairs = enumerate(zip(own, text.token_ids, strict=False))
        until_unlike += next((i for i, (a, b) in pairs if a != b), min(len(own), len(text.token_ids)))
        differences.append(float((reading.logprobs - text.reading.logprobs).sum()))
    where = torch.cat(changed)
    return Agreement(
        precision=precision,
        beams=beams,
        texts=len(texts),
        tokens=len(margins),
        changed=int(where.sum()),
        margin=median(margins[where].tolist()) if where.any() else None,
        margins=median(margins.tolist()),
        identical=identical,
        until_unlike=until_unlike,
        logprob_mean=sum(differences) / len(texts),
        logprob_max=max(differences, key=abs),
        logprob_token=sum(differences) / len(margins),
    )


def measure(model: RealModel, precisions: Sequence[str], *, rounded: bool = False) -> list[Agreement]:
    """Compare every precision with fp32, greedy and with beams; `rounded` as in `_decoders`."""
    exact = serving_decoder(model.decoder, "fp32")
    texts: dict[int, list[Text]] = {}
    for beams in BEAMS:
        with sign_of_life(f"{model.name}, fp32, beams {beams}"):
            written = write(exact, model, model.prefixes, beams)
            readings = read(exact, model, model.prefixes, written)
        texts[beams] = list(map(Text, model.prefixes, written, readings))
    table = []
    for precision, beams in itertools.product(precisions, BEAMS):
        with sign_of_life(f"{model.name}, {precision}, beams {beams}"):
            some: list[Text] = []
            readings, written = [], []
            for decoder, part in _decoders(model, precision, texts[beams][:: SLOW.get(precision, 1)], rounded=rounded):
                prefixes = [text.prefix for text in part]
                some += part
                readings += read(decoder, model, prefixes, [text.token_ids for text in part])
                written += write(decoder, model, prefixes, beams)
            table.append(compare(precision, beams, some, readings, written))
    return table


def _decoders(
    model: RealModel, precision: str, texts: Sequence[Text], *, rounded: bool
) -> Iterator[tuple[Decoder[Any], Sequence[Text]]]:
    """Decoders, and the texts that each is compared by.

    rounded : weights of few bits are rounded by what layers read; each decoder by one half of the texts, for the other
    """
    if precision in FORMATS:
        yield rounded_decoder(model.decoder, precision), texts
        return
    if not rounded:
        yield serving_decoder(model.decoder, precision), texts
        return
    halves = texts[::2], texts[1::2]
    for own, other in (halves, halves[::-1]):
        moments = input_moments(model.decoder, [text.prefix for text in other], [text.token_ids for text in other])
        yield serving_decoder(model.decoder, precision, moments=moments), own


def worst(tables: Mapping[str, Sequence[Agreement]]) -> dict[str, float]:
    """Precision -> the largest share of tokens that it changes under greedy decoding, over all models."""
    greedy = [row for table in tables.values() for row in table if row.beams == 1]
    return {
        p: max(row.share for row in greedy if row.precision == p) for p in dict.fromkeys(r.precision for r in greedy)
    }


def markdown(record: Mapping[str, Any], tables: Mapping[str, Sequence[Agreement]]) -> str:
    """The whole page; `record` is the content of the JSON file without the rows."""
    lines = [
        "# Agreement with fp32",
        "",
        f"Date: {record['date'] or 'not given'}; commit: {record['commit'] or 'unknown'}; torch "
        f"{record['versions']['torch']}; {record['machine']['cpu']}",
        "",
        f"| precision | tokens changed, greedy, worst of the models | may be a default (at most {LIMIT:.0%}) |",
        "|---|---|---|",
        *(f"| {p} | {share:.2%} | {'yes' if share <= LIMIT else 'no'} |" for p, share in worst(tables).items()),
    ]
    for name, table in tables.items():
        lines += ["", f"## {name}", "", record["models"][name]["about"], "", *_HEAD, *map(_line, table)]
    lines += ["", *(f"Left out: {reason}\n" for reason in record["left_out"]), _LEGEND]
    return "\n".join(lines) + "\n"


_HEAD = (
    "| precision | beams | texts | tokens changed | | margin there, nats | everywhere | texts identical "
    "| tokens until unlike | logprob of fp32's text, nats a token | a text, mean | largest |",
    "|---|---|---|---|---|---|---|---|---|---|---|---|",
)
_LEGEND = """- Tokens changed: after the same text, written by fp32, another token is the most likely.
- Margin: by how much fp32 prefers its choice to its second-best, median; small where tokens are nearly equally good.
- Texts identical, tokens until unlike: free decoding; after the first different token the texts diverge.
- Logprob: how much more the precision gives to fp32's text than fp32 does; below 0 the text is less likely."""


def _line(row: Agreement) -> str:
    cells = [
        row.precision,
        f"{row.beams}",
        f"{row.texts}",
        f"{row.changed} of {row.tokens}",
        f"{row.share:.2%}",
        number(row.margin),
        number(row.margins),
        f"{row.identical / row.texts:.1%}",
        f"{row.until_unlike / row.tokens:.1%}",
        *(number(value) for value in (row.logprob_token, row.logprob_mean, row.logprob_max)),
    ]
    return f"| {' | '.join(cells)} |"


def main(arguments: Sequence[str] | None = None) -> int:
    """Command line."""
    parser = CommandLine(__doc__)
    parser.add_argument(
        "models", nargs="*", default=["models/demo", SMOLLM2], help=f"model folders, and {SMOLLM2} (%(default)s)"
    )
    contenders = (*PRECISIONS, *FORMATS)
    parser.add_argument(
        "--precisions",
        nargs="+",
        choices=contenders,
        default=contenders,
        help=f"(all, and {' and '.join(FORMATS)} of llama.cpp)",
    )
    parser.add_argument("--images", type=int, default=300, help="number of images for a model folder (%(default)s)")
    parser.add_argument("--prompts", type=int, default=48, help=f"number of prompts for {SMOLLM2} (%(default)s)")
    parser.add_argument(
        "--tokens", type=int, default=48, help=f"maximum length of a text of {SMOLLM2} in tokens (%(default)s)"
    )
    parser.add_argument(
        "--rounded",
        action="store_true",
        help="round weights of few bits by what layers read, as packaging does with --images",
    )
    parser.add_argument("--date", help="date to write into the results")
    parser.add_argument("--out", type=Path, default=Path("out/bench"), help="folder of the results (%(default)s)")
    given = parser.parse_args(arguments)
    for name in ("images", "prompts", "tokens"):
        if getattr(given, name) < 1:
            parser.error(f"--{name} is {getattr(given, name)}; it must be 1 or more")
    record: dict[str, Any] = {
        "date": given.date,
        "commit": commit(),
        "machine": describe_machine(),
        "versions": {"python": platform.python_version(), "torch": torch.__version__},
        "models": {},
        "left_out": [],
        "rounded": given.rounded,
    }
    tables: dict[str, list[Agreement]] = {}
    for name in given.models:
        try:
            model = load_model(name, given.images, given.prompts, given.tokens)
        except FileNotFoundError as error:
            record["left_out"].append(str(error))
            continue
        except ArchiveError as error:
            sys.exit(str(error))
        tables[model.name] = measure(model, given.precisions, rounded=given.rounded)
        rows = [dataclasses.asdict(row) | {"share": row.share} for row in tables[model.name]]
        record["models"][model.name] = {"about": model.about, "rows": rows}
    if not tables:
        sys.exit("nothing was measured: " + "; ".join(record["left_out"]))
    record["may_be_default"] = {precision: share <= LIMIT for precision, share in worst(tables).items()}
    page = markdown(record, tables)
    given.out.mkdir(parents=True, exist_ok=True)
    (given.out / "agreement.json").write_text(json.dumps(record, indent=1), encoding="utf-8")
    (given.out / "agreement.md").write_text(page, encoding="utf-8")
    print(page)
    return 0


if __name__ == "__main__":
    sys.exit(main())
