"""Enters every report in the site's audit log, where it has one (docs/decisions/0039-audit-log.md).

PRELIM_AUDIT names the folder of the log and PRELIM_AUDIT_KEY the file of its key. They are variables, because
model-config.yaml belongs to an archive, and updates replace config.properties. With PRELIM_AUDIT_FINDINGS=yes lines
have the findings of reports too, and refusals have lines: for a comparison of versions (docs/decisions/0040-shadow.md).
"""

import dataclasses
import secrets
from collections.abc import Mapping
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from handlers.exchange import Exchange
from handlers.failure import Failure
from handlers.journal import log
from handlers.response import ServedModel, timing_ms
from handlers.settings import Settings
from prelim import __version__
from prelim.audit.key import VARIABLE, AuditKey
from prelim.audit.log import AuditLog
from prelim.audit.machine import describe_processor, library_versions
from prelim.audit.record import record_report
from prelim.errors import AuditError, NotAudited
from prelim.generation.options import GenerationOptions
from prelim.labels.findings import read_findings
from prelim.report import Report
from prelim.report_generator import ReportRequest

FOLDER, KEY, FINDINGS = "PRELIM_AUDIT", VARIABLE, "PRELIM_AUDIT_FINDINGS"


class Auditor:
    """Writes one line for each report.

    audit_log : of the site
    model     : which writes the reports
    defaults  : of the model, for options that a request does not name
    settings, device : how it computes
    findings  : lines have the findings of reports too, and refusals have lines
    """

    def __init__(
        self,
        audit_log: AuditLog,
        model: ServedModel,
        defaults: GenerationOptions,
        settings: Settings,
        device: str,
        *,
        findings: bool = False,
    ) -> None:
        self._log = audit_log
        self._findings = findings
        self._defaults = defaults
        self._writer = {
            "model": {"name": model.name, "version": model.version, "sha256": model.sha256},
            "code": __version__,
            "libraries": library_versions(),
            "processor": describe_processor(device),
            "device": device,
            "threads": settings.threads,
            "share_weights": settings.share_weights,
        }

    @classmethod
    def of_site(
        cls,
        environment: Mapping[str, str],
        model: ServedModel,
        defaults: GenerationOptions,
        settings: Settings,
        device: str,
    ) -> "Auditor | None":
        """The auditor that the variables ask for; None if they are not set. Raises AuditError if it cannot work."""
        folder, key, findings = (environment.get(name) for name in (FOLDER, KEY, FINDINGS))
        if findings not in (None, "yes"):
            raise AuditError(f"{FINDINGS} is {findings!r}; set it to yes, or unset it")
        if (folder, key, findings) == (None, None, None):
            return None
        if not folder or not key:
            raise AuditError(f"{FOLDER} is {folder!r} and {KEY} is {key!r}; set both (a folder and a file) or neither")
        for name, path in ((FOLDER, folder), (KEY, key)):
            # A worker is started in the folder of its archive.
            if not Path(path).is_absolute():
                raise AuditError(f"{name} is {path!r}; it must begin with /")
        audit_log = AuditLog(Path(folder), AuditKey.read(Path(key)))
        return cls(audit_log, model, defaults, settings, device, findings=findings is not None)

    def repeatable(self, request: ReportRequest) -> ReportRequest:
        """The request with the seed that it leaves to chance: without it nobody could write the report again."""
        options = request.options or self._defaults
        if not options.do_sample or options.seed is not None:
            return request
        return dataclasses.replace(request, options=dataclasses.replace(options, seed=secrets.randbits(63)))

    def record(self, report: Report, exchange: Exchange) -> None:
        """Write the line of a report. Raises NotAudited if that is not possible."""
        line = dict(record_report(exchange.request, report, self._defaults, self._log.key))
        line["timing_ms"] = timing_ms(report, exchange)
        if self._findings:
            line["findings"] = read_findings(report.text)
        try:
            self._append(exchange.name, line)
        except AuditError as error:
            log("not_recorded", request=exchange.name, reason=str(error))
            raise NotAudited(
                "the report could not be entered in this site's audit log, and no report is returned without its line; "
                "try again later"
            ) from None

    def refuse(self, name: str, failure: Failure) -> None:
        """Write the line of a request that got no report, where versions are compared."""
        if not self._findings or failure.type == NotAudited.__name__:
            return
        try:
            self._append(name, {"refused": {"code": failure.code, "type": failure.type}})
        except AuditError as error:
            log("not_recorded", request=name, reason=str(error))

    def _append(self, name: str, line: Mapping[str, Any]) -> None:
        now = datetime.now(UTC).isoformat(timespec="milliseconds")
        self._log.append({"time": now, "request": name, **self._writer, **line})
