"""What documents take from an answer of the server, checked: it may come from a browser, or from a changed server."""

import re
from collections.abc import Iterable, Mapping
from typing import Any

from bridge.documents.draft import NOT_STATED, plain
from prelim_client.answers import Answer

MODEL = ("name", "version", "architecture")
MAX_REPORT = 20_000
"""Characters of a report and its sections: a dozen pages. A PDF takes about a second of a processor for them."""
MAX_WORDS = 1000
MAX_LOGPROB = 1e6
MAX_SENTENCES = 2000
"""A model that repeats itself can write one for each token."""
MAX_IMAGES, MAX_SIDE = 100, 1e6
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
    model, sections = _read_model(given.get("model")), given.get("sections") or {}
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
    regions = given.get("regions") or []
    if not isinstance(regions, list) or len(regions) > MAX_SENTENCES or not all(map(_is_region, regions)):
        raise _bad(
            f"report.regions must be a list of at most {MAX_SENTENCES} objects with text, image (from 1) and box (four "
            "numbers, or null)"
        )
    return {
        "report": given["report"],
        "sections": dict(zip(("findings", "impression"), texts, strict=True)),
        "model": model,
        "warnings": warnings,
        "avg_logprob": float(probability),
        "sentences": [{name: one[name] for name in ("text", "confidence", "confirm")} for one in sentences],
        "regions": [{name: one[name] for name in ("text", "image", "box")} for one in regions],
    }


def _read_model(model: object) -> dict[str, str]:
    """Return what documents say of the model. Raises HttpError naming the field."""
    if not isinstance(model, Mapping) or not all(_is_text(model.get(name)) and plain(model[name]) for name in MODEL):
        raise _bad("report.model must have name, version and architecture, as strings that are not blank")
    if not isinstance(model.get("sha256"), str) or not SHA256.fullmatch(model["sha256"]):
        raise _bad("report.model.sha256 must have 64 hexadecimal digits")
    use = model.get("use", NOT_STATED)
    if not _is_text(use) or not plain(use):
        raise _bad("report.model.use must be a string that is not blank")
    return {name: model[name] for name in (*MODEL, "sha256")} | {"use": use}


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


def _is_region(given: object) -> bool:
    if not isinstance(given, Mapping) or not isinstance(given.get("text"), str):
        return False
    image, box = given.get("image"), given.get("box")
    if not isinstance(image, int) or isinstance(image, bool) or not 1 <= image <= MAX_IMAGES:
        return False
    return box is None or (isinstance(box, list) and len(box) == 4 and all(map(_is_side, box)))


def _is_side(value: object) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool) and 0 <= value <= MAX_SIDE


def _is_text(value: object) -> bool:
    return isinstance(value, str) and len(value) <= MAX_WORDS


def _bad(message: str) -> HttpError:
    return HttpError(400, "BadRequest", message)
