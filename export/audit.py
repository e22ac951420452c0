"""Check an audit log, and write a report of it again.

    python -m export.audit verify /var/lib/prelim/audit
    python -m export.audit verify /var/lib/prelim/audit --noted 1200:3f9a0c...   # a line and its hash, noted earlier
    python -m export.audit replay /var/lib/prelim/audit ID chest.dcm model_store/demo.mar

The key is that of PRELIM_AUDIT_KEY or of --key. `replay` runs the code of the archive in a process of its own, and says
whether the report is equal in all bits. A request with texts needs --texts, a JSON file with those of its fields that
are texts, as they were sent: {"prompt": "...", "indication": "...", "messages": [...], "stop": ["..."], ...}.
"""

import argparse
import json
import os
import re
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from prelim.archive.archive import unpack_archive
from prelim.audit.check import Line, read_log
from prelim.audit.key import VARIABLE, AuditKey
from prelim.audit.machine import describe_processor, library_versions
from prelim.errors import AuditError, InvalidOption, PrelimError
from prelim.generation.clinical_context import CONTEXT, read_context
from prelim.generation.options import TEXTS, GenerationOptions
from terminal.arguments import CommandLine, positive
from terminal.program import sign_of_life

_PROGRAM = """
import json, sys
from pathlib import Path
asked = json.load(sys.stdin)
sys.path.insert(0, asked["folder"])
import numpy as np, torch
from prelim.audit.key import AuditKey
from prelim.audit.record import TEXTS, image_digests, numbers_of, record_report, text_digests
from prelim.generation.image_roles import default_options
from prelim.generation.options import GenerationOptions
from prelim.report_generator import ReportGenerator, ReportRequest
key = AuditKey.read(Path(asked["key"]))
torch.set_num_threads(asked["threads"])
generator = ReportGenerator.load(
    Path(asked["folder"]), device=asked["device"], threads=asked["threads"], share_weights=asked["share_weights"]
)
defaults = generator.config.generation

def write_again(one):
    files = [Path(file) for file in one["images"]]
    if one["features"]:
        images = {"image_features": np.load(files[0], allow_pickle=False)}
    elif len(files) == 1:
        images = {"image": files[0].read_bytes()}
    else:
        images = {"images": tuple(file.read_bytes() for file in files)}
    texts = {name: tuple(value) if isinstance(value, list) else value for name, value in one["texts"].items()}
    usual = default_options(defaults, texts.get("roles"))
    given = {name: texts.pop(name) for name in TEXTS if name in texts}
    numbers = GenerationOptions(**one["options"], **{name: getattr(usual, name) for name in TEXTS})
    request = ReportRequest(**images, **texts, options=GenerationOptions.from_mapping(given, numbers))
    yield {
        "images": image_digests(request, key),
        "options": numbers_of(request, defaults),
        "texts": text_digests(request, defaults, key),
    }
    (report,) = generator.generate([request])
    if isinstance(report, Exception):
        raise report
    yield record_report(request, report, defaults, key)

for one in asked["reports"]:
    written = {}
    try:
        for part in write_again(one):
            written |= part
    except Exception as error:
        written["error"] = f"{type(error).__name__}: {error}"
    print(json.dumps(written))
"""


@dataclass(frozen=True)
class Original:
    """What a report is written from again.

    images : files, in the order of the request; one .npy file for image_features
    texts  : prompt, messages and other texts of the request, by the names of their fields
    """

    images: Sequence[Path]
    texts: Mapping[str, Any]


@dataclass(frozen=True)
class Replayed:
    """What became of a report that was written again.

    difference : what differs first: "token_ids", "text", "logprobs", or an error; None if all bits are equal
    causes     : what differs in what it was written from, in words
    """

    difference: str | None
    causes: tuple[str, ...]

    def __str__(self) -> str:
        causes = "; ".join(self.causes)
        if self.difference is None:
            return f"equal in all bits, although there is {causes}" if causes else "equal in all bits"
        return f"{self.difference} differ: {causes or 'archive, processor, image and options are the same'}"


def verify(folder: Path, key: AuditKey, first: int = 1, noted: Mapping[int, str] | None = None) -> tuple[int, str]:
    """Check a log from end to end; returns the number of its last line and its hash.

    first : number of the first line, where older files were put away
    noted : beginnings of the hashes of lines, by number, that were noted when the log ended there

    Raises AuditError for whatever was changed.
    """
    number, last = first - 1, ""
    missing = dict(noted or {})
    for fields, last in read_log(folder, key, first):
        number = fields["line"]
        expected = missing.pop(number, "")
        if not last.startswith(expected):
            way = "somebody with the key wrote the log once more"
            raise AuditError(f"line {number} has the hash {last}; {expected} was noted: {way}")
    if missing:
        raise AuditError(f"the log ends after line {number}; line {min(missing)} was noted")
    return number, last


def find_line(lines: Iterable[Line], request: str, number: int | None = None) -> Line:
    """The line of a request. Raises AuditError if it has none, or several and `number` does not say which."""
    found = [line for line in lines if line["request"] == request and number in (None, line["line"])]
    if len(found) != 1:
        which = ", ".join(f"{line['line']}" for line in found)
        raise AuditError(f"{request} has the lines {which}; choose by --line" if found else f"{request} has no line")
    if "digests" not in found[0]:
        raise AuditError(f"{request} got no report ({found[0]['refused']['type']})")
    return found[0]


def replay(lines: Sequence[Line], originals: Sequence[Original], archive: Path, key_file: Path) -> list[Replayed]:
    """Write reports again, all in one new process with the code of the archive.

    lines : of reports by one model on one machine with the same settings

    Raises AuditError if texts of a request are not given, or the process fails; ArchiveError for a damaged archive.
    """
    with tempfile.TemporaryDirectory(prefix="prelim-") as folder:
        sha256 = unpack_archive(archive, Path(folder)).sha256
        asked = {
            **{name: lines[0][name] for name in ("device", "threads", "share_weights")},
            "folder": folder,
            "key": str(key_file.resolve()),
            "reports": [_prepare(line, original) for line, original in zip(lines, originals, strict=True)],
        }
        command = [sys.executable, "-I", "-c", _PROGRAM]
        done = subprocess.run(command, input=json.dumps(asked), capture_output=True, text=True, check=False)
    if done.returncode:
        raise AuditError(f"{archive} does not work here: {done.stderr.strip()[-2000:]}")
    written = [json.loads(line) for line in done.stdout.splitlines()]
    return [_compare(line, again, sha256) for line, again in zip(lines, written, strict=True)]


def _prepare(line: Line, original: Original) -> dict[str, Any]:
    missing = sorted(line["texts"].keys() - original.texts.keys())
    if missing:
        names = ", ".join(" or ".join(CONTEXT) if name == "context" else name for name in missing)
        raise AuditError(f"{line['request']} was made with {names}; give them in the file of --texts")
    images = [str(file.resolve()) for file in original.images]
    return {"images": images, "texts": original.texts, **{name: line[name] for name in ("features", "options")}}


def _compare(line: Line, again: Mapping[str, Any], sha256: str) -> Replayed:
    recorded, processor = line["model"]["sha256"], describe_processor(line["device"])
    libraries = library_versions()
    changed = [
        f"{name} {line['libraries'].get(name, 'none')} was {libraries.get(name, 'none')} here"
        for name in sorted(libraries.keys() | line["libraries"].keys())
        if libraries.get(name) != line["libraries"].get(name)
    ]
    found = {
        # Files from which no request can be made are not those of the report.
        "another image": again.get("images") != line["images"],
        "other options": any(again.get(name, line[name]) != line[name] for name in ("options", "texts")),
        f"another archive: {sha256}, recorded {recorded}": sha256 != recorded,
        f"another processor: {processor}, recorded {line['processor']}": processor != line["processor"],
        f"other libraries: {', '.join(changed)}": bool(changed),
    }
    causes = tuple(cause for cause, applies in found.items() if applies)
    if "error" in again:
        return Replayed(f"no report now ({again['error']}), so all bits", causes)
    digests = line["digests"]
    return Replayed(next((name for name in digests if again["digests"][name] != digests[name]), None), causes)


def main() -> None:
    """Command line."""
    parser = CommandLine(__doc__)
    commands = parser.add_subparsers(dest="command", required=True)
    verifying = commands.add_parser("verify", help="find whatever was changed in a log")
    replaying = commands.add_parser("replay", help="write a report again")
    for command in (verifying, replaying):
        command.add_argument("log", type=Path, help="folder of the log")
        command.add_argument("--key", type=Path, default=os.environ.get(VARIABLE), help="file of the key")
        command.add_argument("--first", type=positive, default=1, help="first line, where older files were put away")
    verifying.add_argument(
        "--noted", type=_note, action="append", default=[], metavar="LINE:HASH", help="noted earlier"
    )
    replaying.add_argument("id", help="request_id of the answer")
    replaying.add_argument("images", type=Path, nargs="+", metavar="image", help="its files; .npy for image_features")
    replaying.add_argument("archive", type=Path)
    replaying.add_argument("--texts", type=Path, help="JSON with the fields of the request that are texts")
    replaying.add_argument("--line", type=positive, help="number of the line, for a request with several")
    arguments = parser.parse_args()
    if arguments.key is None:
        parser.error(f"there is no key: set {VARIABLE}, or give --key")
    try:
        run = _verify if arguments.command == "verify" else _replay
        sys.exit(run(arguments))
    except PrelimError as error:
        sys.exit(f"{error}")


def _verify(arguments: argparse.Namespace) -> int:
    noted = dict(arguments.noted)
    if len(noted) < len(set(arguments.noted)):
        raise AuditError("--noted has two hashes for one line; check the log with each")
    number, last = verify(arguments.log, AuditKey.read(Path(arguments.key)), arguments.first, noted)
    print(f"nothing was changed up to line {number}. To be able to show that later, note {number}:{last}")
    return 0


def _note(given: str) -> tuple[int, str]:
    """Number and hash of a line; a few digits of the hash would say little."""
    found = re.fullmatch(r"0*([1-9][0-9]{0,17}):([0-9a-f]{8,64})", given.strip())
    if found is None:
        raise argparse.ArgumentTypeError(
            f"{given!r} is not LINE:HASH, the number of a line and at least 8 digits of its hash, such as 1200:3f9a0c11"
        )
    return int(found[1]), found[2]


def _read_texts(file: Path) -> dict[str, Any]:
    """The texts of a request by the names of their fields. Raises AuditError for a file without them."""
    try:
        texts = json.loads(file.read_text(encoding="utf-8"))
    except OSError as error:
        raise AuditError(f"{file}, of --texts, cannot be read: {error.strerror}") from None
    except (ValueError, RecursionError) as error:
        raise AuditError(f"{file}, of --texts, is not JSON in UTF-8: {error}") from None
    known = (*_KINDS, *CONTEXT, *sorted(TEXTS))
    if not isinstance(texts, dict) or (unknown := sorted(texts.keys() - set(known))):
        found = f"has the field {unknown[0]!r}" if isinstance(texts, dict) else "is not an object"
        raise AuditError(f"{file}, of --texts, {found}; allowed are the fields {', '.join(known)}")
    context = {name: texts.pop(name) for name in CONTEXT if name in texts}
    try:
        read_context(context)
        GenerationOptions.from_mapping({name: texts[name] for name in TEXTS & texts.keys()})
    except InvalidOption as error:
        raise AuditError(f"{file}, of --texts: {error}") from None
    for name, (is_kind, what) in _KINDS.items():
        if name in texts and not is_kind(texts[name]):
            raise AuditError(f"{file}, of --texts: {name} must be {what}")
    return texts | ({"context": context} if context else {})


def _is_list_of_texts(value: Any) -> bool:
    return isinstance(value, list) and all(isinstance(entry, str) for entry in value)


def _are_messages(value: Any) -> bool:
    return isinstance(value, list) and all(
        isinstance(one, dict) and one.keys() == {"role", "content"} and _is_list_of_texts([*one.values()])
        for one in value
    )


_KINDS: Mapping[str, tuple[Callable[[Any], bool], str]] = {
    "prompt": (lambda value: isinstance(value, str), "a text"),
    "messages": (_are_messages, "a list of objects with role and content"),
    "roles": (_is_list_of_texts, "a list of texts"),
}
"""Texts of a request that are neither context nor options, what each is, and that in words."""


def _replay(arguments: argparse.Namespace) -> int:
    lines = (line for line, _ in read_log(arguments.log, AuditKey.read(Path(arguments.key)), arguments.first))
    line = find_line(lines, arguments.id, arguments.line)
    texts = _read_texts(arguments.texts) if arguments.texts else {}
    if unreadable := [image for image in arguments.images if not image.is_file()]:
        raise AuditError(f"{unreadable[0]} is not a file; give every image of the request")
    with sign_of_life(f"writing the report of {arguments.id} again"):
        (replayed,) = replay([line], [Original(arguments.images, texts)], arguments.archive, Path(arguments.key))
    print(replayed)
    return 0 if replayed.difference is None else 1


if __name__ == "__main__":
    main()
