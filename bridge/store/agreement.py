"""What drafts and signed reports say of the same studies: labels under digests for some weeks, then counts.

Texts come in and are labeled here; none is kept, and no identifier either: digests with the site's key tell which
report belongs to which draft (docs/decisions/0044-signed-reports.md).
"""

import datetime
import json
import time
from collections import Counter, defaultdict
from collections.abc import Callable, Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any

from bridge.dicom.identity import Identifiers, SiteKey
from bridge.store.database import Database
from bridge.store.labels import FINDINGS, list_findings
from bridge.store.schema import AGREEMENT

KINDS = ("study", "accession", "placer")
"""Identifiers, the most certain first."""

CELLS = ("both", "draft", "signed", "neither")
"""Who says that a finding is there."""

StoredRow = Mapping[str, str]
Tally = dict[tuple[str, str, str], Counter[str]]
"""(day, weights, finding) -> number of studies in each of CELLS."""

A_DAY_S = 86400.0


class SignedStore(Database):
    """Drafts and signed reports in one SQLite file.

    clock : returns the time in seconds since 1970

    Raises QueueError for a file that cannot be used, NotRecorded.
    """

    migrations = AGREEMENT

    def __init__(self, path: Path, key: SiteKey, clock: Callable[[], float] = time.time) -> None:
        super().__init__(path, clock)
        self._key = key

    def add_draft(self, known: Identifiers, weights: str, text: str) -> None:
        """Record what the current draft of a study says. Raises NotRecorded.

        weights : sha256 of the model
        """
        values = (*self._digests(known), weights, json.dumps(list_findings(text)), self._clock())
        with self._transaction() as base:
            base.execute("INSERT OR REPLACE INTO drafted VALUES (?, ?, ?, ?, ?, ?)", values)

    def withdraw_draft(self, known: Identifiers) -> None:
        """Record that a study has no draft any longer. Raises NotRecorded."""
        with self._transaction() as base:
            base.execute("DELETE FROM drafted WHERE study = ?", (self._digests(known)[0],))

    def add_report(self, known: Identifiers, reported: datetime.datetime, text: str | None) -> bool:
        """Record what a signed report says, instead of an earlier one on the study. Raises NotRecorded.

        reported : when it was signed or corrected, with a time zone
        text     : None for a report that was taken back
        returns  : False if a later one is there already
        """
        digests = self._digests(known)
        name = next(filter(None, digests))
        moment = reported.astimezone(datetime.UTC).isoformat(timespec="seconds")
        with self._transaction() as base:
            row = base.execute("SELECT reported FROM signed WHERE name = ?", (name,)).fetchone()
            if row is not None and row[0] > moment:
                return False
            if text is None:
                base.execute("DELETE FROM signed WHERE name = ?", (name,))
            else:
                values = (name, *digests, moment, json.dumps(list_findings(text)), self._clock())
                base.execute("INSERT OR REPLACE INTO signed VALUES (?, ?, ?, ?, ?, ?, ?)", values)
        return True

    def count(self, name: str, number: int = 1) -> None:
        """Count something that happened. Raises NotRecorded."""
        with self._transaction() as base:
            base.execute(
                "INSERT INTO counted VALUES (?, ?) ON CONFLICT (name) DO UPDATE SET count = count + excluded.count",
                (name, number),
            )

    def purge(self, pair_days: float, keep_days: float) -> int:
        """Turn old pairs into counts, and forget what has found no partner; the number of rows removed."""
        now = self._clock()
        removed = 0
        with self._transaction() as base:
            pairs, alone = self._pair()
            old = [pair for pair in pairs if float(pair[1]["updated"]) < now - keep_days * A_DAY_S]
            for (day, weights, finding), cells in _tally(old).items():
                base.execute("INSERT OR IGNORE INTO agreed VALUES (?, ?, ?, 0, 0, 0, 0)", (day, weights, finding))
                base.execute(
                    "UPDATE agreed SET both = both + ?, draft = draft + ?, signed = signed + ?, neither = neither + ? "
                    "WHERE day = ? AND weights = ? AND finding = ?",
                    (*(cells[name] for name in CELLS), day, weights, finding),
                )
            for row in (row for pair in old for row in pair):
                self._forget(row)
                removed += 1
            for kind, rows in alone.items():
                gone = [row for row in rows if float(row["updated"]) < now - pair_days * A_DAY_S]
                for row in gone:
                    self._forget(row)
                if gone:
                    self.count(kind, len(gone))
                removed += len(gone)
        return removed

    def summary(self) -> dict[str, Any]:
        """Return what may leave the bridge: counts, without a digest.

        `counts` has the numbers of pairs, of what has no partner and of what was counted. `days` has a row for each day
        and model: {"day", "model", "studies", "findings": {finding: numbers of CELLS}}.
        """
        with self._lock:
            pairs, alone = self._pair()
            tally = _tally(pairs)
            for day, weights, finding, *numbers in self._base.execute("SELECT * FROM agreed"):
                tally[day, weights, finding].update(dict(zip(CELLS, numbers, strict=True)))
            counted = Counter(dict(self._base.execute("SELECT name, count FROM counted")))
        counted.update({kind: len(rows) for kind, rows in alone.items()})
        rows: dict[tuple[str, str], dict[str, list[int]]] = defaultdict(dict)
        for (day, weights, finding), cells in sorted(tally.items()):
            rows[day, weights][finding] = [cells[name] for name in CELLS]
        days: list[dict[str, Any]] = [
            {"day": day, "model": weights[:16], "studies": max(map(sum, findings.values())), "findings": findings}
            for (day, weights), findings in rows.items()
        ]
        return {"counts": {"pairs": sum(row["studies"] for row in days), **dict(sorted(counted.items()))}, "days": days}

    def _digests(self, known: Identifiers) -> tuple[str, ...]:
        """Return a digest of each identifier, "" for what is not known."""
        return tuple(
            self._key.digest(f"signed-{kind}", getattr(known, kind)).hex()[:32] if getattr(known, kind) else ""
            for kind in KINDS
        )

    def _forget(self, row: StoredRow) -> None:
        if "name" in row:
            self._base.execute("DELETE FROM signed WHERE name = ?", (row["name"],))
        else:
            self._base.execute("DELETE FROM drafted WHERE study = ?", (row["study"],))

    def _rows(self, query: str) -> list[StoredRow]:
        cursor = self._base.execute(query)
        names = [column[0] for column in cursor.description]
        return [dict(zip(names, row, strict=True)) for row in cursor]

    def _pair(self) -> tuple[list[tuple[StoredRow, StoredRow]], dict[str, list[StoredRow]]]:
        """Return pairs of draft and signed report, and what is left: drafts, reports, and reports that fit several."""
        drafts = self._rows("SELECT * FROM drafted")
        places: dict[tuple[str, str], list[StoredRow]] = defaultdict(list)
        for draft, kind in ((draft, kind) for draft in drafts for kind in KINDS):
            places[kind, draft[kind]].append(draft)
        pairs: dict[str, tuple[StoredRow, StoredRow]] = {}
        alone: dict[str, list[StoredRow]] = {"reports_alone": [], "reports_of_several": []}
        for report in self._rows("SELECT * FROM signed ORDER BY reported, updated"):
            found = next(filter(None, (places.get((kind, report[kind])) for kind in KINDS if report[kind])), [])
            if len(found) == 1:
                # Of two reports on one study, such as one by UID and one by accession number, the later one counts.
                pairs[found[0]["study"]] = (found[0], report)
            else:
                alone["reports_of_several" if found else "reports_alone"].append(report)
        alone["drafts_alone"] = [draft for draft in drafts if draft["study"] not in pairs]
        return list(pairs.values()), alone


def _tally(pairs: Iterable[tuple[StoredRow, StoredRow]]) -> Tally:
    tally: Tally = defaultdict(Counter)
    for draft, report in pairs:
        said = [set(json.loads(row["findings"])) for row in (draft, report)]
        for finding, cell in _compare(*said):
            tally[report["reported"][:10], draft["weights"], finding][cell] += 1
    return tally


def _compare(draft: set[str], signed: set[str]) -> Iterator[tuple[str, str]]:
    """Yield each finding with one of CELLS."""
    for finding in FINDINGS:
        yield finding, CELLS[2 * (finding not in draft) + (finding not in signed)]
