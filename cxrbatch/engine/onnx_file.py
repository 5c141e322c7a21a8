"""The bytes of an ONNX model in, the one question that must be settled before they are loaded out.

ONNX Runtime follows `external_data` entries to other files, which no hash of ours covers. Whether a model
has any can be read from its protobuf structure (onnx.proto, IR version 10) without the onnx package,
which running must not need.
"""

from __future__ import annotations

from collections.abc import Iterator

# Message -> {field number: message of that field}, down to every place where a tensor can be.
_NESTED: dict[str, dict[int, str]] = {
    "Model": {7: "Graph", 25: "Function"},
    "Graph": {1: "Node", 5: "Tensor", 15: "SparseTensor"},
    "Function": {7: "Node", 11: "Attribute"},
    "Node": {5: "Attribute"},
    "Attribute": {5: "Tensor", 6: "Graph", 10: "Tensor", 11: "Graph", 22: "SparseTensor", 23: "SparseTensor"},
    "SparseTensor": {1: "Tensor", 2: "Tensor"},
    "Tensor": {},
}
_TENSOR_EXTERNAL_DATA = 13

_VARINT, _FIXED64, _LENGTH_DELIMITED, _FIXED32 = 0, 1, 2, 5


def refers_to_other_files(model: bytes) -> bool:
    """Tell whether any tensor of this ONNX model keeps its values in another file.

    Raises:
        ValueError: the bytes are no protobuf message.
    """
    return _has_external_data(memoryview(model), "Model")


def _has_external_data(message: memoryview, kind: str) -> bool:
    nested = _NESTED[kind]
    for number, content in _length_delimited_fields(message):
        if kind == "Tensor" and number == _TENSOR_EXTERNAL_DATA:
            return True
        if number in nested and _has_external_data(content, nested[number]):
            return True
    return False


def _length_delimited_fields(message: memoryview) -> Iterator[tuple[int, memoryview]]:
    position = 0
    while position < len(message):
        key, position = _varint(message, position)
        number, wire_type = key >> 3, key & 7
        if wire_type == _VARINT:
            _, position = _varint(message, position)
        elif wire_type == _LENGTH_DELIMITED:
            length, position = _varint(message, position)
            yield number, message[position : position + length]
            position += length
        elif wire_type in {_FIXED32, _FIXED64}:
            position += 4 if wire_type == _FIXED32 else 8
        else:
            raise ValueError(f"wire type {wire_type} is not protobuf 3")
    if position > len(message):
        raise ValueError("a field is longer than its message")


def _varint(message: memoryview, position: int) -> tuple[int, int]:
    value = 0
    for shift in range(0, 70, 7):
        if position >= len(message):
            raise ValueError("ends inside a number")
        byte = message[position]
        position += 1
        value |= (byte & 0x7F) << shift
        if byte < 0x80:
            return value, position
    raise ValueError("a number has more than ten bytes")
