"""Does an ONNX file ask for data outside itself? Read from its bytes, before any library follows such a reference.

An ONNX file is a protobuf message. Of the whole format this knows the fields through which a tensor can be reached, and the two that
make a tensor external; field numbers are those of onnx.proto (IR version 3 and later).
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping

from runtime.errors import BundleError
from runtime.manifest import REMEDY

EXTERNAL_DATA, DATA_LOCATION = 13, 14  # of TensorProto
# message -> field number -> message
FIELDS: Mapping[str, Mapping[int, str]] = {
    "Model": {7: "Graph", 20: "Training", 25: "Function"},
    "Training": {1: "Graph", 2: "Graph"},
    "Function": {7: "Node", 11: "Attribute"},
    "Graph": {1: "Node", 5: "Tensor", 15: "SparseTensor"},
    "Node": {5: "Attribute"},
    "Attribute": {5: "Tensor", 6: "Graph", 10: "Tensor", 11: "Graph", 22: "SparseTensor", 23: "SparseTensor"},
    "SparseTensor": {1: "Tensor", 2: "Tensor"},
    "Tensor": {},
}
_VARINT, _EIGHT_BYTES, _COUNTED, _FOUR_BYTES = 0, 1, 2, 5  # wire types


def has_external_data(model: bytes) -> bool:
    """Whether any tensor of the file lies, or claims to lie, in another file. Raises ValueError for what is no protobuf message."""
    waiting = [("Model", memoryview(model))]
    while waiting:
        message, content = waiting.pop()
        for field, value in _fields(content):
            if message == "Tensor" and (field == EXTERNAL_DATA or (field == DATA_LOCATION and value)):
                return True
            child = FIELDS[message].get(field)
            if child is not None and isinstance(value, memoryview):
                waiting.append((child, value))
    return False


def check_self_contained(engine: str, model: bytes) -> None:
    """BundleError for a network that refers to other files: nothing outside the bundle is read, whatever a library would do."""
    try:
        external = has_external_data(model)
    except ValueError as error:
        raise BundleError(f"{engine}: not an ONNX file ({error}); {REMEDY}") from None
    if external:
        raise BundleError(
            f"{engine}: the network keeps weights in another file, and bundles hold whole networks; {REMEDY}"
        )


def _fields(content: memoryview) -> Iterator[tuple[int, int | memoryview]]:
    """(field number, number or bytes) of every field of one message."""
    position = 0
    while position < len(content):
        tag, position = _varint(content, position)
        field, wire_type = tag >> 3, tag & 7
        if wire_type == _VARINT:
            value, position = _varint(content, position)
            yield field, value
            continue
        if wire_type == _COUNTED:
            size, position = _varint(content, position)
        elif wire_type in (_EIGHT_BYTES, _FOUR_BYTES):
            size = 8 if wire_type == _EIGHT_BYTES else 4
        else:
            raise ValueError(f"wire type {wire_type} at byte {position}")
        if position + size > len(content):
            raise ValueError(f"a field of {size} bytes at byte {position} of {len(content)}")
        yield field, content[position : position + size]
        position += size


def _varint(content: memoryview, position: int) -> tuple[int, int]:
    """A number of seven bits per byte, lowest first, and the position behind it."""
    value = shift = 0
    while position < len(content) and shift < 70:
        byte = content[position]
        position += 1
        value |= (byte & 0x7F) << shift
        if byte < 0x80:
            return value, position
        shift += 7
    raise ValueError(f"an unfinished number at byte {position}")
