"""What a report is asked for, and the report in the making, whose images are read and encoded in its slot."""

import itertools
import time
from collections.abc import Iterable, Iterator, Mapping, Sequence
from concurrent.futures import Future
from dataclasses import dataclass, field, replace
from typing import Any

import torch
from torch import Tensor

from prelim.encoding.image_encoder import ImageEncoder, PreparedImage
from prelim.encoding.onnx_session import Array
from prelim.errors import InvalidOption, UnreadableInput
from prelim.formats.text import is_utf8
from prelim.generation.clinical_context import read_context
from prelim.generation.decode_request import DecodeRequest
from prelim.generation.image_roles import check_roles
from prelim.generation.options import GenerationOptions
from prelim.generation.text_stream import TextStream

Messages = tuple[Mapping[str, str], ...]


@dataclass(frozen=True)
class ReportRequest:
    """What a report is asked for.

    image          : a file's bytes: DICOM, PNG, JPEG, WebP or TIFF
    images         : instead of `image`, several files; without roles, in the order in which the model reads them
    roles          : of each image, see `generation.image_roles`; None where they have none
    image_features : instead of an image, what the vision encoder gave for it, shape (num_tokens, width), or
                     (rows, columns, width)
    prompt         : text for models that take one
    messages       : a conversation for models that hold one, each {"role": ..., "content": ...}
    context        : what is known of the patient and the examination: fields of `generation.clinical_context.CONTEXT`
    options        : how to decode; None takes the model's defaults
    return_attention : the model's auxiliary outputs, such as attention maps, come with the report
    return_image     : the images as the network reads them come with the report, as PNG
    return_reasoning : what the model thought before it reported comes with the report
    return_logprobs  : the tokens come with the report, each with its log-probability
    """

    image: bytes | None = None
    images: tuple[bytes, ...] | None = None
    roles: tuple[str, ...] | None = None
    image_features: Array | None = None
    prompt: str | None = None
    messages: Messages | None = None
    context: Mapping[str, Any] = field(default_factory=dict)
    options: GenerationOptions | None = None
    return_attention: bool = False
    return_logprobs: bool = False
    return_reasoning: bool = False
    return_image: bool = False

    def __post_init__(self) -> None:
        if self.images is not None and not isinstance(self.images, Sequence):
            raise UnreadableInput(f"images is of type {type(self.images).__name__}; give a tuple of files' bytes")
        for image in (self.image,) if self.images is None else self.images:
            if image is not None and not isinstance(image, bytes):
                raise UnreadableInput(f"an image is of type {type(image).__name__}; give the bytes of its file")

    def check(self, sent: str = "image, images or image_features") -> None:
        """Raise UnreadableInput unless there is an image, in one way, and at most one of prompt and messages.

        sent : the ways in which an image can be sent, for the message

        Raises InvalidOption for roles that do not fit the images, a context that cannot be read, and a prompt, messages
        or options of another type.
        """
        ways = [name for name in ("image", "images", "image_features") if getattr(self, name) is not None][:2]
        if not ways or self.image == b"" or self.images == ():
            raise UnreadableInput(f"there is no image: send it as {sent}")
        if len(ways) > 1:
            raise UnreadableInput(f"{' and '.join(ways)} are both given; send one of them")
        if self.prompt is not None and self.messages is not None:
            raise UnreadableInput("prompt and messages are both given; send one of them")
        if self.prompt is not None:
            _check_text("prompt", self.prompt)
        for message in _texts("messages", self.messages):
            if not isinstance(message, Mapping) or not {"role", "content"} <= message.keys():
                raise InvalidOption('messages must be a list of {"role": text, "content": text}', "messages")
            for value in message.values():
                _check_text("messages", value)
        if self.options is not None and not isinstance(self.options, GenerationOptions):
            raise InvalidOption(f"options is of type {type(self.options).__name__}; give GenerationOptions", "options")
        for role in _texts("roles", self.roles):
            _check_text("roles", role)
        if self.roles is not None:
            check_roles(self.roles, self.num_images)
        read_context(self.context)

    def in_order(self, roles: Sequence[str]) -> "ReportRequest":
        """The request with its images in the order of their roles; those that are not among `roles` come last."""
        if self.images is None or self.roles is None:
            return self
        rank = {role: place for place, role in enumerate(roles)}
        pairs = sorted(zip(self.roles, self.images, strict=True), key=lambda pair: rank.get(pair[0], len(rank)))
        return replace(self, roles=tuple(role for role, _ in pairs), images=tuple(image for _, image in pairs))

    @property
    def context_words(self) -> dict[str, str]:
        """The context as words of a prompt. Raises InvalidOption as `read_context` does."""
        return read_context(self.context)

    @property
    def num_images(self) -> int:
        """How many images the model reads for it."""
        return 1 if self.images is None else len(self.images)


def _texts(name: str, value: Any) -> Sequence[Any]:
    """The entries of a field that is a list, none if it is not given. Raises InvalidOption."""
    if value is not None and (isinstance(value, str | bytes) or not isinstance(value, Sequence)):
        raise InvalidOption(f"{name} is of type {type(value).__name__}; it must be a list", name)
    return value or ()


def _check_text(name: str, value: Any) -> None:
    """Raise InvalidOption, which never repeats the value, unless it is a text that tokenizers read."""
    if not isinstance(value, str):
        raise InvalidOption(f"{name} has a value of type {type(value).__name__}; it must be a text", name)
    if not is_utf8(value):
        raise InvalidOption(f"{name} has half of a surrogate pair", name)


@dataclass(eq=False)
class PendingReport(DecodeRequest):
    """A report in the making, the engine's record with what a report needs besides its tokens. Times are in seconds.

    request : what is asked for
    images  : reads and encodes its images
    arrived : when it was added
    being_read : its images, from `read` on
    prepared   : its images, once they have been read
    insights : what the model says of the image besides the report, where that was asked for
    pictures : PNG of the images as the network reads them, where that was asked for
    started : when decoding began
    stream  : what `new_text` has returned so far, None before its first call
    """

    request: ReportRequest
    images: ImageEncoder
    arrived: float = field(default_factory=time.perf_counter)
    being_read: list[Future[PreparedImage]] = field(default_factory=list)
    prepared: list[PreparedImage] = field(default_factory=list)
    insights: Mapping[str, Array] = field(default_factory=dict)
    pictures: tuple[bytes, ...] = ()
    started: float = 0.0
    stream: TextStream | None = None

    @property
    def image_tokens(self) -> tuple[int, ...]:
        """Number of tokens of each image; before `embed` the most that they can be."""
        if self.grids:
            return super().image_tokens
        return (self.images.most_tokens,) * self.request.num_images

    def read(self) -> None:
        """Begin to read and preprocess the images, which happens in the order of these calls."""
        if not self.being_read:
            self.being_read = [self.images.start(image, self.request.image_features) for image in self._files]

    @property
    def is_read(self) -> bool:
        """Whether all images have been read, or one cannot be."""
        return all(image.done() for image in self.being_read)

    def embed(self, others: Iterable[DecodeRequest] = ()) -> Tensor:
        """Encode the images once they are read. Raises InputError where one cannot be read or is refused."""
        together = [self, *(request for request in others if isinstance(request, PendingReport))]
        self.read()
        image_embeds = []
        for file, image in zip(self._files, self.being_read, strict=True):
            prepared = image.result()
            self.prepared.append(prepared)
            # Before it is encoded, which drops its pixels.
            if self.request.return_image and file is not None:
                self.pictures = (*self.pictures, self.images.picture(prepared, file))
            waiting = itertools.chain.from_iterable(request._unpictured for request in together)
            image_embeds.append(self.images.embed(prepared, waiting))
        if self.request.return_attention:
            self.insights = self.images.insights(self.prepared[0])
        if image_embeds[0].ndim == 3:
            self.grids = tuple((embeds.shape[0], embeds.shape[1]) for embeds in image_embeds)
        self.started = time.perf_counter()
        return torch.cat([embeds.reshape(-1, embeds.shape[-1]) for embeds in image_embeds])

    @property
    def _unpictured(self) -> Iterator[PreparedImage]:
        """Images that have been read, and of which no picture is wanted, which needs their pixels."""
        for image in self.being_read:
            if not self.request.return_image and image.done() and not image.exception():
                yield image.result()

    @property
    def _files(self) -> tuple[bytes | None, ...]:
        """The images, None where there are features instead."""
        return self.request.images or (self.request.image,)

    @property
    def warnings(self) -> tuple[str, ...]:
        """Remarks of the reader of the files, with the number of the image if there are several."""
        if len(self.prepared) == 1:
            return self.prepared[0].warnings
        return tuple(f"image {i}: {warning}" for i, image in enumerate(self.prepared, 1) for warning in image.warnings)
