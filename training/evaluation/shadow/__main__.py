"""Compare two versions by what they answered to the same requests, and drafts with signed reports, on one page.

$ python -m training.evaluation.shadow OLD NEW --out build/shadow.html
$ python -m training.evaluation.shadow --signed agreement.json --out build/shadow.html

OLD and NEW are folders of audit logs with findings (PRELIM_AUDIT_FINDINGS=yes), of the server that serves and of the
one that gets copies of its requests (docs/gateway.md). Requests are paired by their ids. The key is that of
PRELIM_AUDIT_KEY, or --key; a second --key is for NEW, whose other wordings of the same findings are not seen then. The
file of --signed is what the bridge writes (docs/pacs.md).
"""

import argparse
import os
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from prelim.audit.check import Line, read_log
from prelim.audit.key import VARIABLE, AuditKey
from prelim.errors import AuditError
from terminal.arguments import CommandLine
from training.evaluation.shadow.control import ALARM
from training.evaluation.shadow.page import describe_versions, write_page
from training.evaluation.shadow.pairs import differences, pair
from training.evaluation.shadow.signed import Signed, SignedError
from training.evaluation.shadow.signed_page import describe_agreement


def read_records(folder: Path, key: AuditKey) -> list[Line]:
    """The lines of a log, which are checked. Raises AuditError."""
    return [line for line, _ in read_log(folder, key)]


def describe(lines: Sequence[Line]) -> str:
    """The versions that wrote the lines."""
    models: dict[str, Mapping[str, Any]] = {line["model"]["sha256"]: line["model"] for line in lines}
    return ", ".join(f"{model['name']} {model['version']} ({sha256[:16]})" for sha256, model in models.items())


def compare_versions(old_folder: Path, new_folder: Path, keys: Sequence[Path]) -> list[str]:
    """The part of the page on two versions. Raises AuditError."""
    old_key, new_key = (AuditKey.read(key) for key in (keys[0], keys[-1]))
    old, new = read_records(old_folder, old_key), read_records(new_folder, new_key)
    pairs = pair(old, new)
    if not pairs:
        raise AuditError("no request is in both logs: give both servers the same X-Request-Id, as the gateway does")
    one_key = old_key.is_same(new_key)
    found = [difference for one in pairs for difference in differences(one, one_key=one_key)]
    print(f"{len(pairs)} requests, {len(found)} differences")
    alone = (len(old) - len(pairs), len(new) - len(pairs))
    return describe_versions((describe(old), describe(new)), pairs, found, alone, one_key=one_key)


def parse_arguments() -> argparse.Namespace:
    """The command line."""
    parser = CommandLine(__doc__)
    parser.add_argument("old", type=Path, nargs="?", help="audit log of the version that serves")
    parser.add_argument("new", type=Path, nargs="?", help="audit log of the version that is tried out")
    parser.add_argument("--key", type=Path, action="append", help="file of the key; twice, if the logs have two")
    parser.add_argument("--signed", type=Path, help="what `python -m bridge agreement --out` wrote")
    parser.add_argument("--every", type=int, help="studies of a point of the control charts; without it, a week")
    parser.add_argument("--baseline", type=int, default=8, help="points that the control limits are from")
    parser.add_argument("--alarm", type=float, default=ALARM, help="share of points out of control by chance, at most")
    parser.add_argument("--out", type=Path, default=Path("build/shadow.html"))
    arguments = parser.parse_args()
    arguments.key = arguments.key or [Path(key) for key in [os.environ.get(VARIABLE)] if key]
    if (arguments.old is None) != (arguments.new is None) or (arguments.old is None and arguments.signed is None):
        parser.error("give OLD and NEW, --signed, or both")
    if arguments.old is not None and not arguments.key:
        parser.error(f"there is no key: set {VARIABLE}, or give --key")
    if min(arguments.baseline, arguments.every or 1) < 1 or not 0 < arguments.alarm < 1:
        parser.error("--baseline and --every must be at least 1, --alarm between 0 and 1")
    return arguments


def main() -> None:
    """Write the page."""
    arguments = parse_arguments()
    parts: list[str] = []
    try:
        if arguments.old is not None:
            parts += compare_versions(arguments.old, arguments.new, arguments.key)
        if arguments.signed is not None:
            signed = Signed.read(arguments.signed)
            parts += describe_agreement(signed, arguments.baseline, arguments.every, arguments.alarm)
    except (AuditError, SignedError) as error:
        sys.exit(f"{error}")
    write_page(arguments.out, "Reports compared", parts)
    print(f"written: {arguments.out}")


if __name__ == "__main__":
    main()
