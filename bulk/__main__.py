"""Write reports for many studies.

    python -m bulk images/ reports/ --model model_store/demo.mar
    python -m bulk studies.csv reports/ --model model_store/demo.mar --images images/ --option num_beams=3
    python -m bulk s3://bucket/studies.parquet s3://bucket/reports --model s3://bucket/demo.mar --address ray://head:10001

INPUT is a folder (every file below it is a study), a .csv or .parquet file with a column of ids and one of images, or
ReXrank's .json. OUTPUT becomes a folder of Parquet files. A stopped job continues where it was when it is started
again.
"""

import argparse
import sys

from bulk.storage import Location
from prelim import __version__
from prelim.errors import PrelimError
from terminal.arguments import CommandLine, positive


def main(arguments: list[str] | None = None) -> int:
    """Run a job; the exit code is 0 even where studies got no report, which is in the output."""
    given = _parser().parse_args(arguments)
    # Imported here because Ray takes seconds to import, which `--help` need not wait for.
    from bulk.job import run_job
    from bulk.settings import Job
    from bulk.studies import StudyList

    try:
        job = Job(
            source=StudyList(
                Location.of(given.input),
                images=Location.of(given.images) if given.images else None,
                id_column=given.id_column,
                image_column=given.image_column,
            ),
            archive=Location.of(given.model),
            output=Location.of(given.output),
            options=dict(given.options),
            prompt=given.prompt,
            slots=given.slots,
            threads=given.threads,
            workers=given.workers,
            limit=given.limit,
            retry_errors=given.retry_errors,
            address=given.address,
        )
        summary = run_job(job)
    except PrelimError as error:
        print(error, file=sys.stderr)
        return 2
    except OSError as error:
        print(f"{error}; what has been written to {given.output} is kept", file=sys.stderr)
        return 2
    outcomes = ", ".join(f"{count} {kind}" for kind, count in summary["outcomes"].items())
    done = "nothing was left to do"
    if summary["new"]:
        done = f"{summary['new']} in {summary['seconds']} s, {summary['reports_per_s_and_core']} reports/s/core"
    print(f"{summary['studies']} studies: {outcomes or 'none'}; {done}; {given.output}/reports")
    return 0


def _parser() -> CommandLine:
    parser = CommandLine(__doc__)
    parser.add_argument("--version", action="version", version=f"Prelim {__version__}")
    parser.add_argument("input", metavar="INPUT", help="folder, .csv, .parquet or .json; a path or a URL")
    parser.add_argument("output", metavar="OUTPUT", help="folder for the reports; a path or a URL")
    parser.add_argument("--model", required=True, help="archive (.mar); a path or URL that every node can read")
    parser.add_argument("--images", help="folder that image names are relative to (that of INPUT)")
    parser.add_argument("--id-column", help="of a table (study_id, id or uid)")
    parser.add_argument("--image-column", help="of a table (images, image, image_path, path or file)")
    parser.add_argument(
        "--option",
        dest="options",
        action="append",
        default=[],
        type=_option,
        metavar="NAME=VALUE",
        help="generation option; can be repeated",
    )
    parser.add_argument("--prompt", help="question or instruction, for models that take one")
    parser.add_argument("--slots", type=positive, default=8, help="reports that a worker decodes together (8)")
    parser.add_argument("--threads", type=positive, default=1, help="of a worker (1)")
    parser.add_argument("--workers", type=positive, help="processes (as many as there are processors for)")
    parser.add_argument("--limit", type=positive, help="look at the first so many studies only")
    parser.add_argument("--retry-errors", action="store_true", help="try studies again that got no report")
    parser.add_argument("--address", help="of a Ray cluster, such as ray://head:10001 (this machine)")
    return parser


def _option(given: str) -> tuple[str, str]:
    name, separator, value = given.partition("=")
    if not separator:
        raise argparse.ArgumentTypeError(f"{given!r} is not NAME=VALUE")
    return name, value


if __name__ == "__main__":
    sys.exit(main())
