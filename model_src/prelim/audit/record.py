"""What a line says of one report: enough to write it again and compare, and nothing that tells what it says.

Texts of the request and of the report are keyed digests: reports of one model are so alike that a plain hash could be
guessed. Numbers of the options are as they were given.
"""

import dataclasses
import json
import re
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from prelim.audit.key import AuditKey
from prelim.encoding.report_request import ReportRequest
from prelim.generation.image_roles import default_options
from prelim.generation.options import TEXTS, GenerationOptions
from prelim.report import Alternative, Report

_IMAGES = ("image", "images", "image_features")
_ABOUT_THE_ANSWER = "return_"
_WARNING = re.compile(r"(?:image \d+: )?(\w+)")


def image_digests(request: ReportRequest, key: AuditKey) -> list[str]:
    """Keyed digest of each image file, or of image_features as float32 with their shape."""
    if request.image_features is not None:
        features = np.ascontiguousarray(request.image_features, dtype="<f4")
        return [key.digest("image_features", f"{features.shape}".encode() + features.tobytes())]
    images = (request.image,) if request.images is None else request.images
    return [key.digest("image", image) for image in images if image is not None]


def text_digests(request: ReportRequest, defaults: GenerationOptions, key: AuditKey) -> dict[str, str]:
    """Keyed digests of the texts of a request by the names of their fields, options that are texts included.

    defaults : of the model; a text that is the same there is left out
    """
    given = {field.name: getattr(request, field.name) for field in dataclasses.fields(ReportRequest)}
    given["context"] = request.context_words
    texts = {
        name: value
        for name, value in given.items()
        if name not in (*_IMAGES, "options") and not name.startswith(_ABOUT_THE_ANSWER) and value not in (None, {})
    }
    usual = default_options(defaults, request.roles)
    for name, value in dataclasses.asdict(_options(request, defaults)).items():
        if name in TEXTS and value != getattr(usual, name):
            texts[name] = value
    return {name: key.digest(name, _json(value)) for name, value in texts.items()}


def numbers_of(request: ReportRequest, defaults: GenerationOptions) -> dict[str, Any]:
    """The options that are not texts."""
    options = dataclasses.asdict(_options(request, defaults))
    return {name: value for name, value in options.items() if name not in TEXTS}


def report_digests(report: Report, key: AuditKey) -> dict[str, str]:
    """Keyed digests of all sequences of an answer: token ids, texts, and log-probabilities to the last bit."""
    sequences: list[Report | Alternative] = [report, *report.alternatives]
    return {
        "token_ids": key.digest("token_ids", _json([sequence.token_ids for sequence in sequences])),
        "text": key.digest("text", _json([sequence.text for sequence in sequences])),
        # Python writes a number with as many digits as tell it from every other.
        "logprobs": key.digest("logprobs", _json([sequence.logprobs for sequence in sequences])),
    }


def warning_names(warnings: Sequence[str]) -> list[str]:
    """The first word of each warning, which names it; the rest may have numbers of the file."""
    return [found[1] for warning in warnings if (found := _WARNING.match(warning))]


def record_report(
    request: ReportRequest, report: Report, defaults: GenerationOptions, key: AuditKey
) -> Mapping[str, Any]:
    """What a line says of a request and of its report."""
    return {
        "images": image_digests(request, key),
        "features": request.image_features is not None,
        "options": numbers_of(request, defaults),
        "texts": text_digests(request, defaults, key),
        "tokens": report.num_tokens,
        "finish_reason": report.finish_reason,
        "digests": report_digests(report, key),
        "warnings": warning_names(report.warnings),
    }


def _options(request: ReportRequest, defaults: GenerationOptions) -> GenerationOptions:
    return default_options(defaults, request.roles) if request.options is None else request.options


def _json(value: Any) -> bytes:
    # A message is the same whichever of its members was sent first.
    return json.dumps(value, sort_keys=True).encode()
