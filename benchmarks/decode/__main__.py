"""Time of a decoding step, ours and that of other engines on the same weights.

    make bench                                                   # everything; makes the peers' environment first
    python -m benchmarks.decode --shapes biogpt --points 1x3 4x3 --rounds 5 --peers generate ctranslate2 openvino
    python -m benchmarks.decode --shapes demo --peers generate --precisions fp32
    python -m benchmarks.decode --shapes demo xreport --points 1x1 1x3 --peers a9f9d9b --precisions fp32 --steps 56
    python -m benchmarks.decode --processor avx2 --shapes biogpt --peers generate openvino   # as on an older processor

Writes decode.json and decode.md into --out. All contenders are processes that take turns, A B C, A B C, ..., so that
other load affects all of them alike. Run it on an otherwise idle machine; rows measured under other load are marked.
The exit code is 1 when ours and `generate` decode different token ids in fp32.
"""

import contextlib
import dataclasses
import json
import os
import platform
import sys
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

from tqdm import tqdm

from benchmarks.decode.contender import EARLIER, OURS, PEERS, Contender, PeerFailed
from benchmarks.decode.floor import COSTS, first_token_floor, floor
from benchmarks.decode.point import Point
from benchmarks.decode.restricted import BUILT_FOR_THIS_PROCESSOR, RESTRICTED
from benchmarks.decode.rounds import measure
from benchmarks.decode.table import DecodeRow, markdown, markdown_table, rows
from benchmarks.machine import IDLE, ROOT, commit, describe_machine, measure_machine, show_turn
from benchmarks.models.shapes import SHAPES, Shape, checkpoint, work
from prelim.networks.machine import family
from terminal.arguments import CommandLine

STORE = ROOT / "build" / "bench" / "checkpoints"
POINTS = ("1x1", "1x3", "4x3", "8x3", "1x5")


@dataclass(frozen=True)
class Settings:
    """Settings of a run.

    peers      : engines to compare with, names in PEERS
    precisions : families such as "int8"; each contender runs those it supports
    steps      : decoding steps after the first token
    threads    : number of threads of each contender
    processor  : the one of RESTRICTED whose instructions are used, None for those of the one at hand
    """

    shapes: tuple[Shape, ...]
    points: tuple[Point, ...]
    peers: tuple[str, ...]
    precisions: tuple[str, ...]
    rounds: int
    steps: int
    threads: int
    processor: str | None = None

    @property
    def restricted(self) -> Mapping[str, str]:
        """Environment that restricts the contenders."""
        return {} if self.processor is None else RESTRICTED[self.processor]


def bench(settings: Settings, out: Path, store: Path, date: str | None = None) -> dict[str, Any]:
    """Measure, and write decode.json and decode.md after every point, so that an interrupted run keeps its results.

    returns : content of decode.json

    Raises PeerFailed if ours does not start; peers that do not start are left out with the reason.
    """
    out.mkdir(parents=True, exist_ok=True)
    machine = measure_machine(settings.threads, settings.restricted)
    record: dict[str, Any] = {
        "date": date,
        "commit": commit(),
        "machine": describe_machine(),
        "settings": {
            "threads": settings.threads,
            "rounds": settings.rounds,
            "steps": settings.steps,
            "restricted": settings.restricted,
            "environment": {name: os.environ.get(name, value) for name, value in IDLE.items()},
        },
        "floor": dataclasses.asdict(machine),
        "versions": {"python": platform.python_version()},
        "shapes": {},
    }
    tables: dict[tuple[str, Point], list[DecodeRow]] = {}
    for shape in settings.shapes:
        amount = work(shape)
        section: dict[str, Any] = {"parameters": amount.parameters, "section": shape.section, "notes": {}, "points": {}}
        record["shapes"][shape.name] = section
        print(f"{shape.name}: {amount.parameters / 1e6:.1f} M parameters")
        with _contenders(shape, settings, out, store, section["notes"]) as contenders:
            for contender in contenders:
                record["versions"].update(contender.versions)
                section["notes"][contender.name] = contender.note
            turns = [(c, p) for c in contenders for p in c.precisions if family(p) in settings.precisions]
            for point in settings.points:
                with tqdm(total=(settings.rounds + 1) * len(turns), unit="turn", leave=False) as bar:
                    series = measure(
                        turns,
                        shape,
                        point,
                        rounds=settings.rounds,
                        steps=settings.steps,
                        progress=partial(show_turn, bar),
                    )
                floors = {
                    p: floor(shape, amount, machine, p, images=point.images, beams=point.beams, steps=settings.steps)
                    for p in {precision for _, precision in turns}
                }
                first_floors = {p: first_token_floor(shape, amount, machine, p, images=point.images) for p in floors}
                table = rows(series, floors, first_floors)
                tables[shape.name, point] = table
                section["points"][str(point)] = [
                    dataclasses.asdict(row) | {"first_s": one.first, "last_s": one.last}
                    for row, one in zip(table, series, strict=True)
                ]
                print(f"\n{shape.name} {point}\n{markdown_table(table)}")
                _write(out, record, tables)
    return record


def unlike_generate(record: dict[str, Any]) -> list[str]:
    """Points at which ours and `generate` decode different token ids in fp32, which makes their figures meaningless."""
    return [
        f"{name} {point}"
        for name, shape in record["shapes"].items()
        for point, table in shape["points"].items()
        for row in table
        if (row["peer"], row["precision"]) == ("generate", "fp32") and row["differing"]
    ]


@contextlib.contextmanager
def _contenders(
    shape: Shape, settings: Settings, out: Path, store: Path, notes: dict[str, str]
) -> Iterator[list[Contender]]:
    """Start ours and the peers as processes; the reason why one is missing goes into `notes`."""
    folder = checkpoint(shape, store)
    with contextlib.ExitStack() as stack:
        started = []
        for name in (OURS, *(peer for peer in (*PEERS, *EARLIER) if peer in settings.peers)):
            if settings.processor and name in BUILT_FOR_THIS_PROCESSOR:
                notes[name] = "left out: it is built for this processor, and cannot be restricted"
                continue
            try:
                contender = Contender(
                    name, folder, settings.threads, out / f"{shape.name}-{name}.log", settings.restricted
                )
            except PeerFailed as failed:
                if name == OURS:
                    raise
                notes[name] = f"left out: {failed}"
                print(f"{name} is left out: {failed}", file=sys.stderr)
                continue
            started.append(stack.enter_context(contender))
        yield started


def _write(out: Path, record: dict[str, Any], tables: dict[tuple[str, Point], list[DecodeRow]]) -> None:
    (out / "decode.json").write_text(json.dumps(record, indent=1), encoding="utf-8")
    (out / "decode.md").write_text(markdown(record, tables), encoding="utf-8")


def main(arguments: Sequence[str] | None = None) -> int:
    """Command line."""
    parser = CommandLine(__doc__)
    parser.add_argument("--shapes", nargs="+", choices=SHAPES, default=["biogpt", "llama135m", "demo"])
    parser.add_argument("--points", nargs="+", default=POINTS, help="images x beams (%(default)s)")
    parser.add_argument(
        "--peers",
        nargs="*",
        choices=(*PEERS[1:], *EARLIER),
        default=PEERS[1:],
        help="engines to compare with (all but earlier commits of this one)",
    )
    parser.add_argument("--precisions", nargs="+", choices=COSTS, default=tuple(COSTS), help="(all)")
    parser.add_argument("--rounds", type=int, default=5, help="that count (%(default)s)")
    parser.add_argument("--steps", type=int, default=24, help="decoding steps per round (%(default)s)")
    parser.add_argument("--image-tokens", type=int, help="embeddings per image (default: that of the shape)")
    parser.add_argument("--prompt", type=int, help="prompt tokens after the image (default: that of the shape)")
    parser.add_argument("--threads", type=int, default=len(os.sched_getaffinity(0)), help="of each (%(default)s)")
    parser.add_argument("--processor", choices=RESTRICTED, help="restrict all to its instructions (default: none)")
    parser.add_argument("--date", help="date to write into the results")
    parser.add_argument("--out", type=Path, default=Path("out/bench"), help="folder of the results (%(default)s)")
    given = parser.parse_args(arguments)
    for name in ("rounds", "steps", "threads"):
        if getattr(given, name) < 1:
            parser.error(f"--{name} is {getattr(given, name)}; it must be 1 or more")
    prefix = {"image_tokens": given.image_tokens, "prompt": given.prompt}
    changes: dict[str, Any] = {name: value for name, value in prefix.items() if value is not None}
    try:
        points = tuple(Point.parse(text) for text in given.points)
    except ValueError as error:
        parser.error(str(error))
    settings = Settings(
        shapes=tuple(dataclasses.replace(SHAPES[name], **changes) for name in given.shapes),
        points=points,
        peers=tuple(given.peers),
        precisions=tuple(given.precisions),
        rounds=given.rounds,
        steps=given.steps,
        threads=given.threads,
        processor=given.processor,
    )
    record = bench(settings, given.out, STORE, given.date)
    print(f"full results: {given.out / 'decode.md'} and decode.json")
    unlike = unlike_generate(record)
    for place in unlike:
        print(f"token ids differ from those of generate in fp32: {place}", file=sys.stderr)
    return 1 if unlike else 0


if __name__ == "__main__":
    sys.exit(main())
