"""Fuzz readers, led by the branches that they take (atheris, which needs x86 Linux).

    python -m tests.fuzz.coverage dicom --seconds 600
    python -m tests.fuzz.coverage dicom form          # one after the other; the first that fails ends it

Inputs that fail go to tests/fuzz/corpus, where a test replays them for ever; the exit code is then not 0. Inputs that
take new branches are kept in out/fuzz, and are where the next run begins.
"""

import hashlib
import resource
import sys
from multiprocessing import get_context
from pathlib import Path

import atheris

from terminal.arguments import CommandLine

# Ours, and not pydicom, whose exceptions are all caught: instrumented it is so slow that seeds take minutes.
with atheris.instrument_imports(include=["handlers", "prelim.images", "bridge", "multipart"]):
    from tests.fuzz.targets import CORPUS, SMALL, TARGETS

MAX_SECONDS = 20
"""Of one input: instrumented code takes up to ten times as long as in the server, where 2 s are allowed."""

MAX_MB = 4096


def main() -> int:
    """Command line; the exit code."""
    parser = CommandLine(__doc__)
    parser.add_argument("targets", nargs="+", choices=TARGETS, metavar="TARGET", help=", ".join(TARGETS))
    parser.add_argument("--seconds", type=int, default=600, help="of each (%(default)s)")
    parser.add_argument("--out", type=Path, default=Path("out/fuzz"), help="folder of what was found (%(default)s)")
    given = parser.parse_args()
    for name in given.targets:
        # libFuzzer ends its process: each has one of its own, in which the instrumented code is there already.
        process = get_context("fork").Process(target=fuzz, args=(name, given.seconds, given.out))
        process.start()
        process.join()
        if process.exitcode:
            return 1
    return 0


def fuzz(name: str, seconds: int, out: Path) -> None:
    """Fuzz one reader; libFuzzer ends the process."""
    target, failed = TARGETS[name], CORPUS / name
    found, seeds = out / name / "found", out / name / "seeds"
    for folder in (found, seeds, failed):
        folder.mkdir(parents=True, exist_ok=True)
    for number, seed in enumerate(target.seeds()):
        (seeds / f"{number}").write_bytes(seed)

    def read(data: bytes) -> None:
        try:
            target.read(data)
        except BaseException:
            # libFuzzer writes it only when the process ends, and Python's threads may keep it from that.
            (failed / f"crash-{hashlib.sha256(data).hexdigest()[:16]}").write_bytes(data)
            raise

    # The peak that libFuzzer looks at begins with the memory of the process that started this one.
    max_mb = MAX_MB + resource.getrusage(resource.RUSAGE_SELF).ru_maxrss // 1024
    limits = [f"-max_total_time={seconds}", f"-timeout={MAX_SECONDS}", f"-rss_limit_mb={max_mb}"]
    options = [*limits, f"-max_len={SMALL}", f"-artifact_prefix={failed}/", "-print_final_stats=1"]
    atheris.Setup([sys.argv[0], *options, str(found), str(seeds), str(failed)], read)
    atheris.Fuzz()


if __name__ == "__main__":
    sys.exit(main())
