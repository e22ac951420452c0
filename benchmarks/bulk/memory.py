"""Memory of a bulk job over its rows: that of the driver must not grow with them.

    python -m benchmarks.bulk.memory --rows 100000
    python -m benchmarks.bulk.memory --rows 100000 --archive model_store/demo.mar --chart docs/images/bulk-memory.png

The rows name one small image, and reports have two tokens: the job has as many rows as a large one, and takes minutes.
Prints the memory after each tenth of the rows, and draws it into --chart.
"""

import tempfile
from collections.abc import Sequence
from pathlib import Path

from benchmarks.bulk.job_watch import JobSample, read_summary, watch_job
from loadtests.chart import draw_panels
from loadtests.payloads import make_small_image
from terminal.arguments import CommandLine

SETTLED = 0.1
"""Share of the rows after which everything that does not grow with them is in memory."""


def run_rows(archive: Path, rows: int, folder: Path, *options: str, every: float = 1.0) -> list[JobSample]:
    """Run a job over rows that name one image; returns samples.

    Raises JobFailed, and RuntimeError unless every row got a report.
    """
    (folder / "image.png").write_bytes(make_small_image(0).data)
    lines = ["id,image", *(f"{number},image.png" for number in range(rows))]
    (folder / "studies.csv").write_text("\n".join(lines), encoding="utf-8")
    work: list[str | Path] = [folder / "studies.csv", folder / "out", "--model", archive]
    samples = watch_job([*work, "--option", "max_new_tokens=2", *options], folder / "out", every)
    outcomes = read_summary(folder / "out")["outcomes"]
    if outcomes != {"report": rows}:
        raise RuntimeError(f"of {rows} rows {outcomes}")
    return samples


def growth(samples: Sequence[JobSample]) -> int:
    """Bytes by which the driver has grown since it had settled."""
    later = [sample.driver for sample in samples if sample.rows >= SETTLED * samples[-1].rows]
    return max(later) - later[0]


def table(samples: Sequence[JobSample]) -> str:
    """A Markdown table of the memory after each tenth of the rows."""
    lines = ["| rows | seconds | driver, MB | Ray and workers, MB |", "|---|---|---|---|"]
    for tenth in range(1, 11):
        at = next(sample for sample in samples if sample.rows >= tenth / 10 * samples[-1].rows)
        lines.append(f"| {at.rows} | {at.seconds:.0f} | {at.driver / 2**20:.0f} | {at.others / 2**20:.0f} |")
    return "\n".join(lines)


def draw(samples: Sequence[JobSample], path: Path) -> None:
    """Draw memory over rows."""
    with draw_panels(path) as (panel,):
        rows = [sample.rows for sample in samples]
        panel.plot(rows, [sample.driver / 2**20 for sample in samples], label="driver")
        panel.plot(rows, [sample.others / 2**20 for sample in samples], label="Ray's processes and workers, RSS")
        panel.set_xlabel("rows in the output")
        panel.set_ylabel("MB")
        panel.set_xlim(left=0)
        panel.set_ylim(bottom=0)
        panel.grid(alpha=0.25)
        panel.legend()


def main(arguments: Sequence[str] | None = None) -> None:
    """Command line."""
    parser = CommandLine(__doc__)
    parser.add_argument("--archive", type=Path, default=Path("model_store/demo.mar"), help="(%(default)s)")
    parser.add_argument("--rows", type=int, default=100_000, help="(%(default)s)")
    parser.add_argument("--chart", type=Path, default=Path("out/bench/bulk-memory.png"), help="the PNG (%(default)s)")
    given = parser.parse_args(arguments)
    if given.rows < 1:
        parser.error("--rows must be 1 or more")
    with tempfile.TemporaryDirectory(prefix="prelim-") as folder:
        samples = run_rows(given.archive.absolute(), given.rows, Path(folder))
    draw(samples, given.chart)
    print(table(samples))
    print(f"the driver grew by {growth(samples) / 2**20:.0f} MB after the first tenth")


if __name__ == "__main__":
    main()
