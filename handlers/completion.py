"""What a chat completion asks for: a request in OpenAI's format, read as a request for a report.

Source: OpenAI API reference, "Create chat completion". Images are `image_url` parts with a data URI; nothing is
fetched. Options of ours that OpenAI's format does not have, such as `num_beams`, are members of the body like its own.
"""

import contextlib
import re
from collections.abc import Iterator, Mapping
from typing import Any

from handlers.exchange import Completion, Exchange
from handlers.fields import MAX_IMAGES, boolean, find_value, from_base64, json_object, sanitized, text
from handlers.request import OPTIONS, context_of, options_of, queued_ms, read_messages, read_prompt, read_roles
from prelim.errors import InputError, InvalidOption, TooLarge, UnknownModel, UnreadableInput
from prelim.generation.clinical_context import CONTEXT
from prelim.generation.image_roles import default_options
from prelim.generation.options import GenerationOptions
from prelim.report_generator import ReportGenerator, ReportRequest

RENAMED = {"max_new_tokens": "max_tokens", "num_return_sequences": "n"}
"""Our options that have another name in OpenAI's format."""

PARAMETERS = {RENAMED.get(option, option): option for option in OPTIONS} | {"max_completion_tokens": "max_new_tokens"}
"""Members of the body that are options: name -> option."""

FIXED: dict[str, tuple[Any, ...]] = {
    "frequency_penalty": (0,),
    "presence_penalty": (0,),
    "logit_bias": ({},),
    "top_logprobs": (0,),
    "tools": ([],),
    "functions": ([],),
    "tool_choice": ("none", "auto"),
    "function_call": ("none", "auto"),
    "modalities": (["text"],),
    "store": (False,),
    "service_tier": ("auto", "default"),
}
"""Members that change nothing with these values, and are refused with others."""

UNREAD = ("user", "metadata", "safety_identifier", "prompt_cache_key", "parallel_tool_calls")
"""Members that are not about the answer."""

OTHERS = (
    *("model", "messages", "stream", "stream_options", "logprobs", "response_format", "roles", "return_reasoning"),
    *CONTEXT,
)

_DATA_URI = re.compile(
    rb'"(?:url"[ \t\r\n]*:[ \t\r\n]*"(?=data:)|[a-z_]{1,32}"[ \t\r\n]*:[ \t\r\n]*"(?=data:[^",]{0,255};base64,))',
    re.IGNORECASE,
)
"""What precedes a data URI: any where one is expected, and files elsewhere, which are refused there."""
_EMPTY_MEMBERS = ("name", "refusal", "annotations", "audio", "tool_calls", "function_call")
"""Members of a message besides role and content, which clients send back as null."""


def read_completion(row: Mapping[str, Any], headers: Mapping[str, Any], generator: ReportGenerator) -> Exchange:
    """Read a chat completion of the model that this generator serves.

    row, headers : as in `read_request`

    Raises InputError, with the name of the member that is at fault.
    """
    body = row.get("body")
    if set(row) != {"body"} or not isinstance(body, str | bytes | bytearray):
        raise UnreadableInput("a chat completion is a JSON object in the body of the request")
    images, rest = _cut_images(body.encode("utf-8", "surrogatepass") if isinstance(body, str) else bytes(body))
    members = {name: value for name, value in json_object("the body", rest).items() if value is not None}
    _check_members(members)
    _check_model(members.get("model"), generator)
    stream = boolean("stream", members.get("stream", False))
    completion = Completion(include_usage=_include_usage(members.get("stream_options"), stream), names=_names(members))
    with _in_words_of(completion):
        prompt, messages = _texts(members.get("messages"), len(images), generator)
        roles = read_roles(members.get("roles"))
        options = _options(members, default_options(generator.config.generation, roles))
    if not images:
        raise UnreadableInput("there is no image: send an image_url with a data URI in a message", "messages")
    if roles is None and len(images) > generator.max_images:
        raise InvalidOption(
            f"messages have {len(images)} images; {generator.config.name} reads {generator.max_images}", "messages"
        )
    first, *others = images
    request = ReportRequest(
        image=None if others else first,
        images=tuple(images) if others else None,
        roles=roles,
        prompt=prompt,
        messages=messages,
        context=context_of(members),
        options=options,
        return_logprobs=boolean("logprobs", members.get("logprobs", False)),
        return_reasoning=boolean("return_reasoning", members.get("return_reasoning", False)),
    )
    request.check()
    return Exchange(request, stream=stream, completion=completion, queued_ms=queued_ms(headers))


def _names(members: Mapping[str, Any]) -> dict[str, str]:
    """Fields of ours -> the members that stand for them in a completion with these members."""
    names = RENAMED | {"prompt": "messages", "return_logprobs": "logprobs"}
    if "max_completion_tokens" in members:
        names["max_new_tokens"] = "max_completion_tokens"
    if "do_sample" not in members:
        names["do_sample"] = "temperature"
    if "grammar" not in members:
        names["grammar"] = "response_format"
    return names


@contextlib.contextmanager
def _in_words_of(completion: Completion) -> Iterator[None]:
    """Let errors about our fields name those of the client."""
    try:
        yield
    except InputError as error:
        raise type(error)(*completion.in_client_words(str(error), error.field)) from error.__cause__


def _cut_images(body: bytes) -> tuple[list[bytes], bytes]:
    """The files of the data URIs, and the body with "data:0", "data:1", ... instead of them.

    A JSON parser would take seconds for the 64 MB that a body may have.
    """
    images: list[bytes] = []
    rest: list[bytes] = []
    position = 0
    while (place := find_value(body, _DATA_URI, b'"', position)) is not None:
        if len(images) == MAX_IMAGES:
            raise TooLarge(f"there are more than {MAX_IMAGES} images", "messages")
        kind, _, encoded = body[place].partition(b",")
        if not kind.lower().endswith(b";base64"):
            raise UnreadableInput("a data URI is not data:TYPE;base64,DATA", "messages")
        rest += [body[position : place.start], b"data:%d" % len(images)]
        images.append(_file(encoded))
        position = place.stop
    return images, b"".join([*rest, body[position:]])


def _file(encoded: bytes) -> bytes:
    """The file in a data URI."""
    try:
        file = from_base64(encoded)
    except UnreadableInput as error:
        raise UnreadableInput("an image in messages is not valid base64", "messages") from error
    if not file:
        raise UnreadableInput("an image in messages is empty", "messages")
    return file


def _check_members(members: Mapping[str, Any]) -> None:
    """Raise for a member that is not known, and for a value of one that would have to change the answer."""
    known = (*OTHERS, *PARAMETERS, *FIXED, *UNREAD)
    unknown = min(members.keys() - set(known), default=None)
    if unknown is not None:
        raise UnreadableInput(
            f"unknown parameter {sanitized(unknown)}; known: {', '.join(known)}", sanitized(unknown).strip("'")
        )
    for name, allowed in FIXED.items():
        if name in members and members[name] not in allowed:
            raise InvalidOption(f"{name} is not supported; leave it out", name)


def _check_model(name: Any, generator: ReportGenerator) -> None:
    served = generator.config.name
    if name not in (None, served, f"{served}/{generator.config.version}"):
        raise UnknownModel(f"model is not {served}, the model at this address", "model")


def _include_usage(given: Any, stream: bool) -> bool:
    """The only member of `stream_options` that is known."""
    if given is None:
        return False
    if not stream or not isinstance(given, dict) or not given.keys() <= {"include_usage", "include_obfuscation"}:
        raise InvalidOption('stream_options must be {"include_usage": true or false}, with stream', "stream_options")
    return boolean("stream_options.include_usage", given.get("include_usage", False))


def _options(members: Mapping[str, Any], defaults: GenerationOptions) -> GenerationOptions:
    """The options of a completion.

    A temperature or top_p asks for sampling, as everywhere in OpenAI's format, and temperature 0 for none.
    """
    if "max_tokens" in members and "max_completion_tokens" in members:
        raise InvalidOption("max_tokens and max_completion_tokens are both given; send one of them", "max_tokens")
    given = {option: members[name] for name, option in PARAMETERS.items() if name in members}
    given |= _grammar(members)
    if "do_sample" not in given and not given.keys().isdisjoint(("temperature", "top_p")):
        given["do_sample"] = given.get("temperature") != 0
        if given["do_sample"]:
            given.setdefault("num_beams", 1)
        else:
            del given["temperature"]
    return options_of(given, defaults)


def _grammar(members: Mapping[str, Any]) -> dict[str, Any]:
    """The grammar that `response_format` asks for, as an option."""
    match members.get("response_format"):
        case None | {"type": "text"}:
            return {}
        case _ if "grammar" in members:
            raise InvalidOption("response_format and grammar are both given; send one of them", "response_format")
        case {"type": "json_object"}:
            return {"grammar": {"type": "object"}}
        case {"type": "json_schema", "json_schema": {"schema": dict(schema)}}:
            return {"grammar": schema}
    raise InvalidOption(
        'response_format must be {"type": "text"}, {"type": "json_object"} or {"type": "json_schema", "json_schema": '
        '{"name": TEXT, "schema": JSON SCHEMA}}',
        "response_format",
    )


def _texts(
    turns: Any, num_images: int, generator: ReportGenerator
) -> tuple[str | None, tuple[dict[str, str], ...] | None]:
    """Prompt and messages of the request, by what the model reads besides the image."""
    if not isinstance(turns, list) or not turns:
        raise UnreadableInput("messages must be a list with at least one message", "messages")
    numbers = iter(range(num_images))
    messages = [_message(f"messages[{i}]", turn, numbers, i == 0) for i, turn in enumerate(turns)]
    if next(numbers, None) is not None:
        raise UnreadableInput("an image is not in an image_url of a message of the user", "messages")
    if len(messages) == 1 and messages[0]["role"] == "user" and not messages[0]["content"]:
        return None, None
    if generator.takes_messages:
        return None, read_messages(messages)
    if not generator.takes_prompts:
        raise InvalidOption(
            f"messages have text, but {generator.config.name} reads only the image; send one message of the user with "
            "nothing but the image",
            "messages",
        )
    if len(messages) > 1 or messages[0]["role"] != "user":
        raise InvalidOption(f"{generator.config.name} is single-turn; send one message of the user", "messages")
    return read_prompt(messages[0]["content"]), None


def _message(name: str, turn: Any, numbers: Iterator[int], first: bool) -> dict[str, str]:
    """Role and text of a message; its images are checked to be the next of those that were cut out."""
    if not isinstance(turn, dict) or not {"role"} <= turn.keys() <= {"role", "content", *_EMPTY_MEMBERS}:
        raise UnreadableInput(f"{name} must have role and content", name)
    extra = next((member for member in _EMPTY_MEMBERS if turn.get(member)), None)
    if extra is not None:
        raise InvalidOption(f"{name}.{extra} is not supported; leave it out", f"{name}.{extra}")
    role = turn["role"]
    if role not in ("user", "assistant"):
        raise InvalidOption(
            f"{name}.role must be user or assistant; the model has its own instructions", f"{name}.role"
        )
    content = turn.get("content")
    parts = content if isinstance(content, list) else [{"type": "text", "text": "" if content is None else content}]
    texts = [
        _part(f"{name}.content[{i}]", part, numbers if role == "user" and first else None)
        for i, part in enumerate(parts)
    ]
    return {"role": role, "content": "\n".join(part for part in texts if part)}


def _part(name: str, part: Any, numbers: Iterator[int] | None) -> str:
    """The text of a part, empty for an image."""
    match part:
        case {"type": "text", "text": str(words)}:
            return str(text(name, words))
        case {"type": "image_url", "image_url": {"url": str(url)}}:
            if numbers is None:
                raise InvalidOption(f"{name} is an image; images must be in the first message, of the user", name)
            number = next(numbers, None)
            if number is None or url != f"data:{number}":
                raise UnreadableInput(
                    f"{name}.image_url.url must be a data URI, data:image/png;base64,DATA; nothing is fetched",
                    f"{name}.image_url.url",
                )
            return ""
    raise UnreadableInput(
        f'{name} must be {{"type": "text", "text": TEXT}} or {{"type": "image_url", "image_url": {{"url": DATA URI}}}}',
        name,
    )
