"""`python -m bridge queue CONFIG`: look at the queue, retry, pause, purge, back up; also while the bridge runs."""

import contextlib
import math
import time
from pathlib import Path

from bridge.configuration.settings import read_settings
from bridge.dicom.identity import SiteKey
from bridge.store.queue import OUTCOMES, STATES, Queue
from bridge.store.schema import QueueError
from terminal.arguments import CommandLine


def administer(arguments: list[str]) -> int:
    """Run one command; the exit code: 1 if `retry` found nothing or studies are dead in `status`.

    Raises ConfigError, QueueError.
    """
    given = _parser().parse_args(arguments)
    settings = read_settings(given.config)
    path = settings.state / "queue.sqlite"
    try:
        found = path.is_file()
    except (OSError, ValueError):
        raise QueueError(f"{path} cannot be read; run this as the bridge's user") from None
    if not found:
        raise QueueError(f"there is no queue in {settings.state}; start the bridge once")
    key = SiteKey.load(settings.state / "site.key")
    with contextlib.closing(Queue(path)) as queue:
        if given.command == "list":
            _list(queue, key, given.state, uids=given.uids)
        elif given.command == "retry":
            return _retry(queue, key, given.state, given.study)
        elif given.command in ("pause", "resume"):
            queue.paused = given.command == "pause"
            print("paused: events are recorded, nothing is worked on" if queue.paused else "working")
        elif given.command == "purge":
            print(f"{queue.purge(given.days)} finished studies removed")
        elif given.command == "backup":
            queue.back_up(given.file)
            print(f"written: {given.file}")
        else:
            return _show_status(queue)
    return 0


def _show_status(queue: Queue) -> int:
    counts = queue.counts()
    for state, count in counts.items():
        print(f"{state:9} {count}")
    if queue.paused:
        print("paused; `resume` continues")
    return 1 if counts["dead"] else 0


def _list(queue: Queue, key: SiteKey, state: str | None, *, uids: bool) -> None:
    """Print one line a study: by its name in the log, or, for a person who must find it in the PACS, by its UID."""
    for entry in queue.list(state):
        when = time.strftime("%Y-%m-%d %H:%M:%S", time.localtime(entry.updated))
        name = entry.study if uids else key.pseudonym(entry.study)
        print(
            f"{name}  {entry.state:8}  {when}  {entry.reason}" + (f"  failures: {entry.tries}" if entry.tries else "")
        )


def _retry(queue: Queue, key: SiteKey, state: str, study: str | None) -> int:
    if study is not None:
        known = {name: entry.study for entry in queue.list(state) for name in (entry.study, key.pseudonym(entry.study))}
        if study not in known:
            print(f"no {state} study has this name; see `list`")
            return 1
        study = known[study]
    count = queue.revive(state, study)
    print(f"{count} studies wait again")
    return 0 if count else 1


def _days(text: str) -> float:
    """Return a number of days; less than none would remove what is finished just now."""
    days = float(text)
    if not 0 <= days < math.inf:
        raise ValueError
    return days


def _parser() -> CommandLine:
    parser = CommandLine(__doc__, prog="python -m bridge queue")
    parser.add_argument("config", type=Path, help="the bridge's configuration file")
    commands = parser.add_subparsers(dest="command", metavar="COMMAND")
    commands.add_parser("status", help="count the studies in each state (default)")
    listing = commands.add_parser("list", help="list studies, the latest change first")
    listing.add_argument("--state", choices=STATES)
    listing.add_argument("--uids", action="store_true", help="Study Instance UIDs instead of the names in the log")
    retry = commands.add_parser("retry", help="make studies wait again")
    retry.add_argument("study", nargs="?", help="one study, by its name in `list`; without it, all in the state")
    retry.add_argument("--state", choices=OUTCOMES, default="dead")
    commands.add_parser("pause", help="work on nothing until `resume`; events are still recorded")
    commands.add_parser("resume", help="work again")
    purge = commands.add_parser("purge", help="forget finished studies")
    purge.add_argument("--days", type=_days, required=True, help="those that have not changed for so many days")
    backup = commands.add_parser("backup", help="write a consistent copy of the queue")
    backup.add_argument("file", type=Path)
    return parser
