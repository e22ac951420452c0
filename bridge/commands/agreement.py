"""`python -m bridge agreement CONFIG [--out FILE]`: how drafts and signed reports agree, as counts."""

import contextlib
import json
from pathlib import Path

from bridge.configuration.section import ConfigError
from bridge.configuration.settings import read_settings
from bridge.dicom.identity import SiteKey
from bridge.store.agreement import SignedStore
from terminal.arguments import CommandLine


def show_agreement(arguments: list[str]) -> int:
    """Print the counts, and write what `training.evaluation.shadow --signed` reads; the exit code.

    Raises ConfigError, QueueError.
    """
    given = _parser().parse_args(arguments)
    state = read_settings(given.config).state
    path = state / "agreement.sqlite"
    if not path.is_file():
        raise ConfigError(f"there are no signed reports in {state}: add the section signed, and start the bridge once")
    with contextlib.closing(SignedStore(path, SiteKey.load(state / "site.key"))) as agreement:
        summary = agreement.summary()
    for name, count in summary["counts"].items():
        print(f"{name:22} {count}")
    if given.out is not None:
        try:
            given.out.write_text(json.dumps(summary) + "\n", encoding="utf-8")
        except OSError as error:
            raise ConfigError(f"{given.out} cannot be written: {error.strerror}") from None
        print(f"written: {given.out}")
    return 0


def _parser() -> CommandLine:
    parser = CommandLine(__doc__, prog="python -m bridge agreement")
    parser.add_argument("config", type=Path, help="the bridge's configuration file")
    parser.add_argument("--out", type=Path, help="file for python -m training.evaluation.shadow --signed")
    return parser
