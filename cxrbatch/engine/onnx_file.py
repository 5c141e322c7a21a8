"""Whether an ONNX model keeps to its own file, settled before its bytes are loaded.

ONNX Runtime follows `external_data` entries and nodes named EPContext to other files, which no hash of ours covers.
They are looked for in the model's protobuf structure (onnx.proto, IR version 13) without the onnx package, which
running must not need.

Parsers differ in what they make of odd encodings: a field's number with bits above the 32nd, a number in more bytes
than it takes, a field that may be there once given twice. Who looks for a field with one parser and loads with another
can be led past it. So nothing odd is read at all: every field has to be one that onnx.proto knows, in its own wire
type, as often as it may be there, and every number in its shortest form. All that the onnx package writes is so.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import NamedTuple

from cxrbatch.engine.verified_file import FileBytes

# Message -> "number type" of each of its fields; a * marks those that may repeat. Messages in which there is no
# tensor are bytes here: what is in them names no file.
_SCHEMA = {
    "Model": "1 int, 2 bytes, 3 bytes, 4 bytes, 5 int, 6 bytes, 7 Graph, 8 bytes*, 14 bytes*, 20 Training*, "
    "25 Function*, 26 bytes*",
    "Training": "1 Graph, 2 Graph, 3 bytes*, 4 bytes*",
    "Graph": "1 Node*, 2 bytes, 5 Tensor*, 10 bytes, 11 bytes*, 12 bytes*, 13 bytes*, 14 bytes*, 15 SparseTensor*, "
    "16 bytes*",
    "Function": "1 bytes, 4 bytes*, 5 bytes*, 6 bytes*, 7 Node*, 8 bytes, 9 bytes*, 10 bytes, 11 Attribute*, "
    "12 bytes*, 13 bytes, 14 bytes*",
    "Node": "1 bytes*, 2 bytes*, 3 bytes, 4 bytes, 5 Attribute*, 6 bytes, 7 bytes, 8 bytes, 9 bytes*, 10 bytes*",
    "Attribute": "1 bytes, 2 float, 3 int, 4 bytes, 5 Tensor, 6 Graph, 7 float*, 8 int*, 9 bytes*, 10 Tensor*, "
    "11 Graph*, 13 bytes, 14 bytes, 15 bytes*, 20 int, 21 bytes, 22 SparseTensor, 23 SparseTensor*",
    "SparseTensor": "1 Tensor, 2 Tensor, 3 int*",
    "Tensor": "1 int*, 2 int, 3 bytes, 4 float*, 5 int*, 6 bytes*, 7 int*, 8 bytes, 9 bytes, 10 double*, 11 int*, "
    "12 bytes, 13 bytes*, 14 int, 16 bytes*",
}
_NODE_OPERATOR = 4
_TENSOR_EXTERNAL_DATA, _TENSOR_DATA_LOCATION = 13, 14
# Compiled for an accelerator, it lies in a file of its own that the node names.
_OPERATOR_WITH_A_FILE = b"EPContext"

_VARINT, _FIXED64, _LENGTH_DELIMITED, _FIXED32 = 0, 1, 2, 5
_WIRE_TYPES = {"int": _VARINT, "double": _FIXED64, "float": _FIXED32}
_SIZES = {_FIXED64: 8, _FIXED32: 4}
_LARGEST_KEY, _LARGEST_LENGTH, _LARGEST_NUMBER = 2**32 - 1, 2**31 - 1, 2**64 - 1
# Protobuf's own limit is 100; a network of ours is 5 deep.
_DEEPEST = 64

# The magic number of ONNX Runtime's own format, which is no protobuf. It stands behind four bytes of any value, and
# those can make a protobuf field of it.
_ORT_MARK = b"ORTM"


class _Field(NamedTuple):
    wire_type: int
    repeats: bool
    message: str


def _read_schema(fields: str) -> dict[int, _Field]:
    read = {}
    for field in fields.split(", "):
        number, kind = field.split()
        name = kind.removesuffix("*")
        read[int(number)] = _Field(
            _WIRE_TYPES.get(name, _LENGTH_DELIMITED), kind != name, name if name in _SCHEMA else ""
        )
    return read


_FIELDS = {message: _read_schema(fields) for message, fields in _SCHEMA.items()}


def refers_to_other_files(model: bytes | FileBytes) -> bool:
    """Tell whether anything of this ONNX model is kept in another file.

    Raises:
        OSError: the file cannot be read.
        ValueError: the bytes are no ONNX model in protobuf's canonical encoding.
    """
    if model[4:8] == _ORT_MARK:
        raise ValueError("it is in ONNX Runtime's own format")
    return _find_other_files(memoryview(model) if isinstance(model, bytes) else model, "Model", 1)


def _find_other_files(message: memoryview | FileBytes, kind: str, depth: int) -> bool:
    if depth > _DEEPEST:
        raise ValueError(f"it is nested more than {_DEEPEST} deep")
    # Read to the end also where something was found: what is odd behind it is refused all the same.
    found = False
    for number, content in _read_fields(message, kind):
        if isinstance(content, int):
            found |= (kind, number) == ("Tensor", _TENSOR_DATA_LOCATION) and content != 0
        elif nested := _FIELDS[kind][number].message:
            found |= _find_other_files(content, nested, depth + 1)
        elif kind == "Tensor":
            found |= number == _TENSOR_EXTERNAL_DATA
        elif kind == "Node":
            found |= number == _NODE_OPERATOR and isinstance(content, memoryview) and content == _OPERATOR_WITH_A_FILE
    return found


def _read_fields(message: memoryview | FileBytes, kind: str) -> Iterator[tuple[int, memoryview | FileBytes | int]]:
    """Yield the number and the content of each field; lists of numbers and floats are passed over."""
    fields, met = _FIELDS[kind], set[int]()
    position = 0
    while position < len(message):
        key, position = _varint(message, position, _LARGEST_KEY)
        number, wire_type = key >> 3, key & 7
        field = fields.get(number)
        # A list of numbers may be packed into one field, or be a field for each.
        if field is None or (wire_type != field.wire_type and not (field.repeats and wire_type == _LENGTH_DELIMITED)):
            raise ValueError(f"a {kind.lower()} has no field {number} of wire type {wire_type}")
        if number in met and not field.repeats:
            raise ValueError(f"a {kind.lower()} has its field {number} twice")
        met.add(number)
        if wire_type == _VARINT:
            value, position = _varint(message, position, _LARGEST_NUMBER)
            yield number, value
        elif wire_type == _LENGTH_DELIMITED:
            length, position = _varint(message, position, _LARGEST_LENGTH)
            yield number, message[position : position + length]
            position += length
        else:
            position += _SIZES[wire_type]
    if position > len(message):
        raise ValueError("a field is longer than its message")


def _varint(message: memoryview | FileBytes, position: int, largest: int) -> tuple[int, int]:
    value = 0
    for shift in range(0, 70, 7):
        if position >= len(message):
            raise ValueError("ends inside a number")
        byte = message[position]
        position += 1
        value |= (byte & 0x7F) << shift
        if byte < 0x80:
            if value > largest or (byte == 0 and shift):
                raise ValueError("a number is too large, or in more bytes than it takes")
            return value, position
    raise ValueError("a number has more than ten bytes")
