"""What a request says: the fields of an HTTP body or of a gRPC input map, checked and converted.

An image comes as raw body, as multipart part `image`, as base64 in JSON, or as gRPC input `image` or `data`. Several
come as `images`, a JSON list of base64, or as parts or inputs `image`, `image_2`, ...; `roles` says what each is.
Options have their own fields, or are together in `options`. The same fields mean the same everywhere.
"""

import dataclasses
import time
from collections.abc import Mapping
from typing import Any

import numpy as np

from handlers.exchange import Exchange
from handlers.fields import (
    MAX_IMAGES,
    boolean,
    collect_fields,
    json_object,
    json_value,
    list_of_images,
    list_of_texts,
    max_features_bytes,
    sanitized,
    text,
)
from handlers.route import REQUEST_ID, check_route, fields_of_route, is_grpc
from prelim.errors import InvalidOption, Refused, TooLarge, UnreadableInput
from prelim.generation.clinical_context import CONTEXT
from prelim.generation.image_roles import default_options
from prelim.generation.options import MAX_BANNED_PHRASES, MAX_STOP_STRINGS, GenerationOptions
from prelim.report_generator import ReportRequest

MAX_PROMPT_CHARACTERS = 8000
MAX_MESSAGES = 64
MAX_OPTION_CHARACTERS = 256
"""But for a grammar, the longest option is a stop text or a banned phrase, of at most 64."""
LISTS = {"stop": MAX_STOP_STRINGS, "banned_phrases": MAX_BANNED_PHRASES}
"""Options that can be lists, of at most so many texts."""
MAX_QUEUE_S = 3600.0

NUMBERED = tuple(f"image_{i}" for i in range(2, MAX_IMAGES + 1))
"""Form parts and gRPC inputs with further images; TorchServe passes on only the last of several parts of one name."""

FLAGS = ("stream", "return_token_ids", "return_logprobs", "return_attention", "return_image", "return_reasoning")
"""What else a request may ask for: true or false, as a field or in `options`."""

SENT = 'the body, as a part `image` of a form, or as JSON {"image": base64} or {"image_features": [[...]]}'
"""The ways to send an image, for messages."""

INPUTS = ("image", "images", *NUMBERED, "roles", "image_features", "prompt", "messages", *CONTEXT, "options", *FLAGS)
OPTIONS = tuple(option.name for option in dataclasses.fields(GenerationOptions))


def read_request(
    row: Mapping[str, Any], headers: Mapping[str, Any], defaults: GenerationOptions, num_features: int
) -> Exchange:
    """One item of a batch as TorchServe hands it over.

    row          : field name -> bytes, text or parsed JSON; a raw body is called `body`
    headers      : request headers, and for each field its content type
    defaults     : of the model, for options that the request does not name
    num_features : numbers in the model's image_features

    Raises InputError when a field is unknown, missing, doubled or malformed.
    """
    if headers.get("explain") == "True":
        raise Refused("explanations are not offered; send the request to /predictions")
    check_route(row, headers)
    grpc = is_grpc(headers)
    given = {name: value for name, value in row.items() if not (grpc and name == REQUEST_ID)}
    fields = collect_fields(fields_of_route(given, headers), headers, max_features_bytes(num_features))
    unknown = min(fields.keys() - {*INPUTS, *OPTIONS}, default=None)
    if unknown is not None:
        known = ", ".join((*INPUTS, *OPTIONS))
        raise UnreadableInput(f"unknown field {sanitized(unknown)}; known: {known}")
    roles = read_roles(fields.get("roles"))
    options = options_of(_options(fields), default_options(defaults, roles))
    flags = {name: boolean(name, fields.get(name, False)) for name in FLAGS}
    if flags["stream"] and grpc:
        raise InvalidOption("stream is true, but gRPC answers whole reports; use HTTP or leave stream out")
    images = _images(fields)
    request = ReportRequest(
        image=_image(fields) if images is None else None,
        images=images,
        roles=roles,
        image_features=_features(fields.get("image_features"), num_features),
        prompt=read_prompt(fields.get("prompt")),
        messages=read_messages(fields.get("messages")),
        context=context_of(fields),
        options=options,
        return_attention=flags["return_attention"],
        return_logprobs=flags["return_logprobs"],
        return_image=flags["return_image"],
        return_reasoning=flags["return_reasoning"],
    )
    request.check(SENT)
    return Exchange(
        request=request,
        grpc=grpc,
        stream=flags["stream"],
        return_token_ids=flags["return_token_ids"],
        queued_ms=queued_ms(headers),
    )


def _options(fields: dict[str, Any]) -> dict[str, Any]:
    """All generation options of a request; keys of `options` that are not generation options are moved to `fields`."""
    given = fields.get("options")
    together = {} if given is None else json_object("options", given)
    for name in FLAGS:
        if name in together:
            if name in fields:
                raise InvalidOption(f"{name} is given twice, in options and as a field")
            fields[name] = together.pop(name)
    apart = {name: fields[name] for name in OPTIONS if name in fields}
    doubled = min(together.keys() & apart.keys(), default=None)
    if doubled is not None:
        raise InvalidOption(f"{doubled} is given twice, in options and as a field")
    unknown = min(together.keys() - set(OPTIONS), default=None)
    if unknown is not None:
        known = ", ".join((*OPTIONS, *FLAGS))
        raise InvalidOption(f"unknown option {sanitized(unknown)}; known: {known}")
    return together | apart


def context_of(fields: Mapping[str, Any]) -> dict[str, Any]:
    """What a request says of the patient and the examination. Raises InputError."""
    return {name: text(name, fields[name]) for name in CONTEXT if name in fields}


def options_of(given: Mapping[str, Any], defaults: GenerationOptions) -> GenerationOptions:
    """Generation options of their values in JSON, a form or gRPC. Raises InvalidOption."""
    return GenerationOptions.from_mapping({name: _option(name, value) for name, value in given.items()}, defaults)


def _option(name: str, value: Any) -> Any:
    """The value of an option, which is small, so that it can be parsed and shown in a message whatever it is.

    In a form, in gRPC and in a query string, a JSON list of texts is a list; anything else that begins with a bracket,
    such as "[END]", is a text.
    """
    given = text(name, value)
    if name == "grammar":
        return given  # its own length and kind are checked with it
    if isinstance(value, bytes | bytearray) and given.startswith("[") and (texts := list_of_texts(given)) is not None:
        given = texts
    if isinstance(given, str) and len(given) > MAX_OPTION_CHARACTERS:
        raise InvalidOption(f"{name} has {len(given)} characters; at most {MAX_OPTION_CHARACTERS} are read", name)
    most = LISTS.get(name, MAX_STOP_STRINGS)
    if isinstance(given, list) and len(given) > most:
        raise InvalidOption(f"{name} has {len(given)} entries; at most {most} are read", name)
    if isinstance(given, list) and all(isinstance(entry, str) for entry in given):
        return [_option(name, entry) for entry in given]
    if isinstance(given, list | dict):
        raise InvalidOption(
            f"{name} is of type {type(given).__name__}; only {' and '.join(LISTS)} can be lists, of texts",
            name,
        )
    return given


def _images(fields: Mapping[str, Any]) -> tuple[bytes, ...] | None:
    """Several images: the field `images`, or `image`, `image_2`, ...; None if there is at most one."""
    numbered = [name for name in NUMBERED if name in fields]
    given = fields.get("images")
    if given is not None:
        if together := [name for name in ("image", *numbered) if name in fields]:
            raise UnreadableInput(f"images and {together[0]} are both given; send one of them")
        # In a JSON body the texts were decoded where they were cut out.
        decoded = isinstance(given, list) and all(isinstance(image, bytes) for image in given)
        return tuple(given if decoded else list_of_images(given))
    if not numbered:
        return None
    names = ("image", *NUMBERED[: NUMBERED.index(numbered[-1]) + 1])
    if missing := [name for name in names if name not in fields]:
        raise UnreadableInput(f"{numbered[-1]} is given without {missing[0]}")
    if not all(isinstance(fields[name], bytes | bytearray) for name in names):
        raise UnreadableInput(f"{numbered[0]} is not a file; in JSON send images, a list of base64 texts")
    return tuple(bytes(fields[name]) for name in names)


def read_roles(value: Any) -> tuple[str, ...] | None:
    """What each image is, of a JSON list of texts; None where nothing is said. Raises InvalidOption."""
    if value is None:
        return None
    given = text("roles", value)
    roles = list_of_texts(given) if isinstance(given, str) else given
    if not isinstance(roles, list) or not all(isinstance(role, str) for role in roles):
        raise InvalidOption("roles must be a JSON list of texts, one for each image", "roles")
    return tuple(roles)


def _image(fields: Mapping[str, Any]) -> bytes | None:
    image = fields.get("image")
    return None if image is None else image.encode() if isinstance(image, str) else bytes(image)


def _features(value: Any, num_features: int) -> np.ndarray | None:
    """float32, shape (num_tokens, width), (rows, columns, width) or (width,); None where there are none."""
    if value is None:
        return None
    try:
        contents = json_value("image_features", value, max_features_bytes(num_features))
        with np.errstate(over="ignore"):  # becomes infinite, which is refused
            numbers = np.asarray(contents)
            if numbers.dtype.kind not in "iuf":  # NumPy would read texts and booleans as numbers
                raise TypeError(f"values of kind {numbers.dtype.kind}")
            features = numbers.astype(np.float32)
    except (ValueError, TypeError, OverflowError) as error:
        raise UnreadableInput("image_features is not an array of numbers of shape (num_tokens, width)") from error
    if features.ndim not in (1, 2, 3) or features.size == 0 or not np.isfinite(features).all():
        raise UnreadableInput(
            f"image_features has shape {features.shape}; it must hold finite numbers of shape "
            "(num_tokens, width), (rows, columns, width) or (width,)"
        )
    return features


def read_prompt(value: Any) -> str | None:
    """A prompt of limited length, None for an empty one. Raises InputError."""
    if value is None:
        return None
    prompt = text("prompt", value)
    if not isinstance(prompt, str):
        raise UnreadableInput(f"prompt is of type {type(prompt).__name__}; it must be a string")
    if len(prompt) > MAX_PROMPT_CHARACTERS:
        raise TooLarge(f"prompt has {len(prompt)} characters; at most {MAX_PROMPT_CHARACTERS} are read", "prompt")
    return prompt or None


def read_messages(value: Any) -> tuple[dict[str, str], ...] | None:
    """Turns of a conversation of limited length, None if there are none. Raises InputError."""
    if value is None:
        return None
    turns = json_value("messages", value)
    if isinstance(turns, list) and len(turns) > MAX_MESSAGES:
        raise TooLarge(f"messages has {len(turns)} entries; at most {MAX_MESSAGES} are read", "messages")
    if not isinstance(turns, list) or not all(_is_message(turn) for turn in turns):
        raise UnreadableInput('messages must be a list of {"role": text, "content": text}')
    characters = sum(len(text("messages", turn["content"])) for turn in turns)
    if characters > MAX_PROMPT_CHARACTERS:
        raise TooLarge(f"messages has {characters} characters; at most {MAX_PROMPT_CHARACTERS} are read", "messages")
    return tuple(turns) or None


def _is_message(turn: Any) -> bool:
    return (
        isinstance(turn, dict) and set(turn) == {"role", "content"} and all(isinstance(v, str) for v in turn.values())
    )


def queued_ms(headers: Mapping[str, Any]) -> float:
    """Milliseconds since X-Request-Start, "t=" and seconds since 1970, which gateways set; else 0."""
    for name, value in headers.items():
        if name.lower() == "x-request-start" and isinstance(value, str):
            try:
                waited = time.time() - float(value.removeprefix("t="))
            except ValueError:
                return 0.0
            # Clocks differ between machines, and some gateways write other units: such a value tells nothing.
            return 1000 * waited if 0 <= waited <= MAX_QUEUE_S else 0.0
    return 0.0
