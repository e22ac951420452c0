"""What documents take from an answer of the server, checked: it may come from a browser, or from a changed server."""

import re
from collections.abc import Iterable, Mapping
from typing import Any

from bridge.documents.draft import plain
from prelim_client.answers import Answer

MODEL = ("name", "version", "architecture")
MAX_REPORT = 20_000
"""Characters of a report and its sections: a dozen pages. A PDF takes about a second of a processor for them."""
MAX_WORDS = 1000
MAX_LOGPROB = 1e6
MAX_SENTENCES = 2000
"""A model that repeats itself can write one for each token."""
SHA256 = re.compile(r"[0-9a-f]{64}")


class HttpError(Exception):
    """The request is answered with an error; the message names the part and never quotes it."""

    def __init__(self, code: int, kind: str, message: str) -> None:
        super().__init__(message)
        self.code = code
        self.kind = kind
        self.message = message


def read_report(given: Mapping[str, Any]) -> Answer:
    """Return what documents take from an answer of the server, checked.

    Raises HttpError naming the field.
    """
    if given.get("status") != "UNVERIFIED":
        raise _bad('report.status must be "UNVERIFIED": send the answer of the server as it is')
    model, sections = given.get("model"), given.get("sections") or {}
    if not isinstance(model, Mapping) or not all(_is_text(model.get(name)) and plain(model[name]) for name in MODEL):
        raise _bad("report.model must have name, version and architecture, as strings that are not blank")
    if not isinstance(model.get("sha256"), str) or not SHA256.fullmatch(model["sha256"]):
        raise _bad("report.model.sha256 must have 64 hexadecimal digits")
    if not isinstance(given.get("report"), str):
        raise _bad("report.report must be a string")
    texts = [sections.get(name) for name in ("findings", "impression")] if isinstance(sections, Mapping) else [0]
    if not all(text is None or isinstance(text, str) for text in texts):
        raise _bad("report.sections must have findings and impression, each a string or null")
    if max(len(given["report"]), _total(texts)) > MAX_REPORT:
        raise HttpError(413, "TooLarge", f"report.report and report.sections may have {MAX_REPORT} characters")
    warnings = given.get("warnings", [])
    if not isinstance(warnings, list) or len(warnings) > 100 or not all(map(_is_text, warnings)):
        raise _bad(f"report.warnings must be a list of at most 100 strings of at most {MAX_WORDS} characters")
    probability = given.get("avg_logprob")
    # Python's integers may be larger than any float.
    if isinstance(probability, bool) or not isinstance(probability, int | float) or not abs(probability) < MAX_LOGPROB:
        raise _bad("report.avg_logprob must be a number")
    sentences = given.get("sentences") or []
    if not isinstance(sentences, list) or len(sentences) > MAX_SENTENCES or not all(map(_is_sentence, sentences)):
        raise _bad(
            f"report.sentences must be a list of at most {MAX_SENTENCES} objects with text, confidence (0 to 1) and "
            "confirm"
        )
    if _total(one["text"] for one in sentences) > MAX_REPORT:
        raise HttpError(413, "TooLarge", f"report.sentences may have {MAX_REPORT} characters")
    return {
        "report": given["report"],
        "sections": dict(zip(("findings", "impression"), texts, strict=True)),
        "model": {name: model[name] for name in (*MODEL, "sha256")},
        "warnings": warnings,
        "avg_logprob": float(probability),
        "sentences": [{name: one[name] for name in ("text", "confidence", "confirm")} for one in sentences],
    }


def _is_sentence(given: object) -> bool:
    if not isinstance(given, Mapping) or not isinstance(given.get("text"), str):
        return False
    if not isinstance(given.get("confirm"), bool):
        return False
    confidence = given.get("confidence")
    return isinstance(confidence, int | float) and not isinstance(confidence, bool) and 0 <= confidence <= 1


def _total(texts: Iterable[object]) -> int:
    """Return how many characters the texts have together."""
    return sum(len(text) for text in texts if isinstance(text, str))


def _is_text(value: object) -> bool:
    return isinstance(value, str) and len(value) <= MAX_WORDS


def _bad(message: str) -> HttpError:
    return HttpError(400, "BadRequest", message)
