"""Reports over gRPC."""

import json
from types import TracebackType
from typing import Any

import grpc

from prelim_client.answers import WORKER_DIED, Answer, read_answer
from prelim_client.grpc_messages import SERVICE, message_classes
from prelim_client.loopback import channel_options

PUSHBACK = "grpc-retry-pushback-ms"
"""Metadata of a refusal: milliseconds after which to try again (gRPC proposal A6)."""

SECOND = ("x-prelim-attempt", "2")
"""Metadata of an answer to the second attempt of a gateway, which asked another host when the first was lost."""

MAX_MESSAGE_BYTES = 64 * 1024 * 1024


class GrpcClient:
    """Requests reports from one server; a context manager, because it holds a channel.

    A request whose worker or host died is sent once more, as by `HttpClient`: over gRPC the gateway cannot do it.

    target  : address of the gRPC inference API, "127.0.0.1:7070"
    key     : inference key, see `read_key`
    model   : name of the served model
    timeout : seconds to wait for an answer; TorchServe finishes the work even after a timeout
    """

    def __init__(self, target: str, key: str, model: str = "demo", timeout: float = 120) -> None:
        self.model = model
        self.timeout = timeout
        self._metadata = (("protocol", "gRPC"), ("authorization", f"Bearer {key}"))
        limits = ("grpc.max_send_message_length", "grpc.max_receive_message_length")
        options = [(limit, MAX_MESSAGE_BYTES) for limit in limits]
        self._channel = grpc.insecure_channel(target, options=options + channel_options(target))
        messages = message_classes()
        self._request = messages["PredictionsRequest"]
        methods = {
            "request_serializer": self._request.SerializeToString,
            "response_deserializer": messages["PredictionResponse"].FromString,
        }
        self._predictions = self._channel.unary_unary(f"{SERVICE}/Predictions", **methods)
        self._stream_predictions = self._channel.unary_stream(f"{SERVICE}/StreamPredictions", **methods)

    def report(self, image: bytes | None = None, **fields: Any) -> Answer:
        """Request a report on an image, with `fields` (prompt, options) as further inputs.

        The input `request_id` is the id of the request in the logs of server and gateway (see HttpClient).

        Raises ReportError for an error in the answer, grpc.RpcError for a transport error.
        """
        request = self._message(image, fields)
        try:
            response = self._call(request, fields.get("request_id"))
        except grpc.RpcError as error:
            if not _is_lost(error):
                raise
            response = self._call(request, fields.get("request_id"))
        return read_answer(response.prediction)

    def stream_predictions(self, image: bytes | None = None, **fields: Any) -> list[bytes]:
        """All messages of a StreamPredictions call; this server answers with one."""
        request = self._message(image, fields)
        responses = self._stream_predictions(request, timeout=self.timeout, metadata=self._metadata)
        return [response.prediction for response in responses]

    def close(self) -> None:
        """Close the channel."""
        self._channel.close()

    def __enter__(self) -> "GrpcClient":
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        self.close()

    def _call(self, request: Any, request_id: str | None) -> Any:
        # The metadata are for the gateway: TorchServe drops them, and the gateway does not read the inputs.
        named = (("x-request-id", request_id),) if request_id else ()
        return self._predictions(request, timeout=self.timeout, metadata=self._metadata + named)

    def _message(self, image: bytes | None, fields: dict[str, Any]) -> Any:
        inputs = {
            name: value
            if isinstance(value, bytes)
            else (value if isinstance(value, str) else json.dumps(value)).encode()
            for name, value in fields.items()
        }
        if image is not None:
            inputs["image"] = image
        return self._request(model_name=self.model, input=inputs)


def _is_lost(error: Any) -> bool:
    """Whether a worker or the connection died before the answer, for the first time.

    A refusal of the gateway says when to try again.
    """
    metadata = [
        (name, value) for name, value in (*(error.initial_metadata() or ()), *(error.trailing_metadata() or ()))
    ]
    if SECOND in metadata:
        return False
    if (error.details() or "").startswith(WORKER_DIED):
        return True
    return error.code() is grpc.StatusCode.UNAVAILABLE and all(name != PUSHBACK for name, _ in metadata)
