"""The gRPC messages of TorchServe's inference API, limited to those this client uses.

TorchServe's Python package has no generated code. Field names and numbers are from inference.proto in
TorchServe 0.12.0's model-server.jar; a test compares them.
"""

from functools import cache
from typing import Any

from google.protobuf import descriptor_pb2, descriptor_pool, message_factory

PACKAGE = "org.pytorch.serve.grpc.inference"
SERVICE = f"/{PACKAGE}.InferenceAPIsService"
MESSAGES = {
    "PredictionsRequest": {"model_name": ("string", 1), "model_version": ("string", 2), "input": ("map", 3)},
    "PredictionResponse": {"prediction": ("bytes", 1)},
    "TorchServeHealthResponse": {"health": ("string", 1)},
}
"""Message -> field -> type and number; "map" is map<string, bytes>."""

_Field = descriptor_pb2.FieldDescriptorProto
_TYPES = {"string": _Field.TYPE_STRING, "bytes": _Field.TYPE_BYTES}


@cache
def message_classes() -> dict[str, Any]:
    """Build the message classes; returns them by name."""
    file = descriptor_pb2.FileDescriptorProto(name="prelim/inference.proto", package=PACKAGE, syntax="proto3")
    for name, fields in MESSAGES.items():
        message = file.message_type.add(name=name)
        for field, (kind, number) in fields.items():
            if kind == "map":
                _add_map(message, field, number)
            else:
                message.field.add(name=field, number=number, type=_TYPES[kind], label=_Field.LABEL_OPTIONAL)
    pool = descriptor_pool.DescriptorPool()
    pool.Add(file)
    return {name: message_factory.GetMessageClass(pool.FindMessageTypeByName(f"{PACKAGE}.{name}")) for name in MESSAGES}


def _add_map(message: descriptor_pb2.DescriptorProto, field: str, number: int) -> None:
    """Add a field of type map<string, bytes>, encoded as repeated entries of key and value."""
    entry = message.nested_type.add(name=f"{field.title()}Entry", options={"map_entry": True})
    for place, (name, kind) in enumerate((("key", "string"), ("value", "bytes")), start=1):
        entry.field.add(name=name, number=place, type=_TYPES[kind], label=_Field.LABEL_OPTIONAL)
    type_name = f".{PACKAGE}.{message.name}.{entry.name}"
    message.field.add(
        name=field, number=number, type=_Field.TYPE_MESSAGE, type_name=type_name, label=_Field.LABEL_REPEATED
    )
