"""Fuzz one reader, led by the branches that it takes (atheris, which needs x86 Linux).

    python -m tests.fuzz.coverage dicom --seconds 600

Inputs that fail go to tests/fuzz/corpus, where a test replays them for ever; the exit code is then not 0. Inputs that
take new branches are kept in out/fuzz, and are where the next run begins.
"""

import argparse
import hashlib
import resource
import sys
from pathlib import Path

import atheris

# Ours, and not pydicom, whose exceptions are all caught: instrumented it is so slow that seeds take minutes.
with atheris.instrument_imports(include=["handlers", "prelim.images", "bridge", "multipart"]):
    from tests.fuzz.targets import CORPUS, SMALL, TARGETS

MAX_SECONDS = 20
"""Of one input: instrumented code takes up to ten times as long as in the server, where 2 s are allowed."""

MAX_MB = 4096


def main() -> None:
    """Command line; libFuzzer ends the process."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("target", choices=TARGETS)
    parser.add_argument("--seconds", type=int, default=600, help="(%(default)s)")
    parser.add_argument("--out", type=Path, default=Path("out/fuzz"), help="folder of what was found (%(default)s)")
    given = parser.parse_args()
    target, failed = TARGETS[given.target], CORPUS / given.target
    found, seeds = given.out / given.target / "found", given.out / given.target / "seeds"
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
    limits = [f"-max_total_time={given.seconds}", f"-timeout={MAX_SECONDS}", f"-rss_limit_mb={max_mb}"]
    options = [*limits, f"-max_len={SMALL}", f"-artifact_prefix={failed}/", "-print_final_stats=1"]
    atheris.Setup([sys.argv[0], *options, str(found), str(seeds), str(failed)], read)
    atheris.Fuzz()


if __name__ == "__main__":
    main()
