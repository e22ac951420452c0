"""Compare two versions by what they answered to the same requests, before the new one serves (docs/gateway.md).

$ python -m training.evaluation.shadow OLD NEW --out build/shadow.html

OLD and NEW are folders of audit logs with findings (PRELIM_AUDIT_FINDINGS=yes), of the server that serves and of the
one that gets copies of its requests. Requests are paired by their ids. The key is that of PRELIM_AUDIT_KEY, or --key;
a second --key is for NEW.
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
from training.evaluation.shadow.page import write_page
from training.evaluation.shadow.pairs import differences, pair


def read_records(folder: Path, key: Path) -> list[Line]:
    """The lines of a log, which are checked. Raises AuditError."""
    return [line for line, _ in read_log(folder, AuditKey.read(key))]


def describe(lines: Sequence[Line]) -> str:
    """The versions that wrote the lines."""
    models: dict[str, Mapping[str, Any]] = {line["model"]["sha256"]: line["model"] for line in lines}
    return ", ".join(f"{model['name']} {model['version']} ({sha256[:16]})" for sha256, model in models.items())


def main() -> None:
    """Command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("old", type=Path, help="audit log of the version that serves")
    parser.add_argument("new", type=Path, help="audit log of the version that is tried out")
    parser.add_argument("--key", type=Path, action="append", help="file of the key; twice, if the logs have two")
    parser.add_argument("--out", type=Path, default=Path("build/shadow.html"))
    arguments = parser.parse_args()
    keys = arguments.key or [Path(key) for key in [os.environ.get(VARIABLE)] if key]
    if not keys:
        parser.error(f"there is no key: set {VARIABLE}, or give --key")
    try:
        old, new = (read_records(folder, key) for folder, key in ((arguments.old, keys[0]), (arguments.new, keys[-1])))
        pairs = pair(old, new)
    except AuditError as error:
        sys.exit(f"{error}")
    if not pairs:
        sys.exit("no request is in both logs: give both servers the same X-Request-Id, as the gateway does")
    found = [difference for one in pairs for difference in differences(one)]
    names = (describe(old), describe(new))
    alone = (len(old) - len(pairs), len(new) - len(pairs))
    write_page(arguments.out, names, pairs, found, alone)
    print(f"{len(pairs)} requests, {len(found)} differences: {arguments.out}")


if __name__ == "__main__":
    main()
