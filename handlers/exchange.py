"""One request and how far its answer has got."""

import re
import time
import uuid
from collections.abc import Mapping
from dataclasses import dataclass, field

from prelim.report_generator import ReportRequest


@dataclass(frozen=True)
class Completion:
    """What identifies a chat completion, and what a stream of it ends with.

    completion_id : unique
    created       : seconds since 1970
    include_usage : the stream ends with the numbers of tokens
    names         : fields of ours that the client knows under another name -> that name
    """

    completion_id: str = field(default_factory=lambda: f"chatcmpl-{uuid.uuid4().hex}")
    created: int = field(default_factory=lambda: int(time.time()))
    include_usage: bool = False
    names: Mapping[str, str] = field(default_factory=dict)

    def in_client_words(self, message: str, at_fault: str | None) -> tuple[str, str | None]:
        """A message and the field that it is about, under the names that the client knows."""
        for ours, theirs in self.names.items():
            # A name that is also an ordinary word is one where a message begins with it.
            message = re.sub(rf"\b{ours}\b" if "_" in ours else rf"^{ours}\b", theirs, message)
        return message, None if at_fault is None else self.names.get(at_fault, at_fault)


@dataclass
class Exchange:
    """One request, and how far its answer has got.

    request          : what to report on
    name             : id of the request in logs and errors
    grpc             : it came over gRPC, which is answered once and whole
    stream           : the client wants the text as it is generated
    return_token_ids : the client wants the token ids
    completion       : set if the answer is a chat completion
    arrived          : `time.monotonic()` when the handler first saw it
    queued_ms        : milliseconds it waited before that, where a gateway's X-Request-Start tells
    sent_characters  : how much of the text has been streamed
    chunked          : a first chunk has gone out, and with it the status line
    """

    request: ReportRequest
    name: str = ""
    grpc: bool = False
    stream: bool = False
    return_token_ids: bool = False
    completion: Completion | None = None
    arrived: float = field(default_factory=time.monotonic)
    queued_ms: float = 0.0
    sent_characters: int = 0
    chunked: bool = False

    @property
    def seconds(self) -> float:
        """How long the handler has had it."""
        return round(time.monotonic() - self.arrived, 3)
