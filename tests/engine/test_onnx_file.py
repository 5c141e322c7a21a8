"""No encoding of an ONNX model leads the check past a file that a runtime would follow."""

from __future__ import annotations

import random
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnxruntime as ort
import pytest
from hypothesis import example, given, settings, strategies as st
from onnx import TensorProto, helper, numpy_helper
from onnx.external_data_helper import set_external_data

from cxrbatch.engine import onnx_file
from cxrbatch.engine.bundle import load_bundle, save_bundle
from cxrbatch.engine.manifest import EngineFile
from cxrbatch.engine.onnx_file import refers_to_other_files
from cxrbatch.engine.open import open_engine
from cxrbatch.engine.untrusted import sha256_of_file
from cxrbatch.errors import EngineError
from tests.factories.engine import tiny_graph, write_tiny_bundle

pytestmark = pytest.mark.hostile("9.13 ONNX files")

MASK = "mask"
SAMPLES = Path(onnx.__file__).parent / "backend" / "test" / "data" / "light"


def external_tensor(name: str = "hidden", location: str = "weights.bin") -> TensorProto:
    tensor = numpy_helper.from_array(np.zeros(3, np.float32), name)
    set_external_data(tensor, location)
    tensor.ClearField("raw_data")
    return tensor


def external_model() -> onnx.ModelProto:
    """A model that ONNX Runtime loads where its weights lie in weights.bin."""
    model = tiny_graph(4, 32)
    mask = next(tensor for tensor in model.graph.initializer if tensor.name == MASK)
    set_external_data(mask, "weights.bin", 0, len(mask.raw_data))
    mask.ClearField("raw_data")
    return model


def mask_bytes() -> bytes:
    return next(bytes(tensor.raw_data) for tensor in tiny_graph(4, 32).graph.initializer if tensor.name == MASK)


def is_refused(content: bytes) -> bool:
    try:
        return refers_to_other_files(content)
    except ValueError:
        return True


def sees_other_files(message: Any) -> bool:
    """Tell whether protobuf's own parser found anything that leads to another file, in whatever field."""
    if isinstance(message, TensorProto) and (message.external_data or message.data_location):
        return True
    if isinstance(message, onnx.NodeProto) and message.op_type == "EPContext":
        return True
    for field, value in message.ListFields():
        if field.message_type is not None:
            nested = [value] if hasattr(value, "ListFields") else value
            if any(sees_other_files(each) for each in nested):
                return True
    return False


def runtime_sees_other_files(content: bytes) -> bool:
    try:
        return sees_other_files(onnx.load_model_from_string(content))
    except Exception:  # noqa: BLE001  # protobuf's own, which has another name in each version
        return False


# --------------------------------------------------------------------------- what is written canonically passes


def test_the_fields_are_those_of_onnx() -> None:
    """A field that a later onnx package writes would be refused: then this test says so first."""
    proto = {"Training": "TrainingInfo"}
    wire_types = {1: 1, 2: 5, 3: 0, 4: 0, 5: 0, 8: 0, 9: 2, 11: 2, 12: 2, 14: 0}
    for name, fields in onnx_file._FIELDS.items():
        descriptor: Any = getattr(onnx, f"{proto.get(name, name)}Proto").DESCRIPTOR
        wanted = {}
        for field in descriptor.fields:
            message = field.message_type.name.removesuffix("Proto") if field.message_type else ""
            message = {"TrainingInfo": "Training"}.get(message, message)
            known = message if message in onnx_file._FIELDS else ""
            wanted[field.number] = (wire_types[field.type], bool(field.is_repeated), known)
        assert {number: tuple(field) for number, field in fields.items()} == wanted


def test_every_message_that_can_hold_a_tensor_is_read() -> None:
    holds: dict[str, bool] = {}

    def can_hold(descriptor: Any) -> bool:
        if descriptor.name == "TensorProto":
            return True
        if descriptor.full_name not in holds:
            holds[descriptor.full_name] = False
            holds[descriptor.full_name] = any(
                # A list: each of them is to be looked at, also behind the first that can.
                [can_hold(field.message_type) for field in descriptor.fields if field.message_type]  # noqa: C419
            )
        return holds[descriptor.full_name]

    assert can_hold(onnx.ModelProto.DESCRIPTOR)
    able = {name.removeprefix("onnx.").removesuffix("Proto") for name, holding in holds.items() if holding}
    assert able <= {"TrainingInfo", *onnx_file._FIELDS}


@pytest.mark.parametrize("path", sorted(SAMPLES.glob("*.onnx")), ids=lambda path: path.stem)
def test_networks_as_the_onnx_package_writes_them_pass(path: Path) -> None:
    assert refers_to_other_files(path.read_bytes()) is False


def test_lists_of_numbers_pass_packed_or_not() -> None:
    model = tiny_graph(4, 32)
    node = helper.make_node("X", [], ["y"], floats=[1.0, -2.0], ints=[-1, 2**62], one=-1, text="=1", neg=-0.5)
    model.graph.node.append(node)
    model.graph.initializer.append(helper.make_tensor("d", TensorProto.DOUBLE, [2], [1.0, 2.0]))
    model.graph.initializer.append(helper.make_tensor("i", TensorProto.INT64, [2], [-1, 2]))
    content = model.SerializeToString()
    assert refers_to_other_files(content) is False


# --------------------------------------------------------------------------- every place of a tensor


def in_a_branch(tensor: TensorProto) -> onnx.ModelProto:
    constant = helper.make_node("Constant", [], ["v"], value=tensor)
    branch = helper.make_graph([constant], "branch", [], [helper.make_tensor_value_info("v", TensorProto.FLOAT, [3])])
    chosen = helper.make_node("If", ["c"], ["r"], then_branch=branch, else_branch=branch)
    return helper.make_model(helper.make_graph([chosen], "outer", [], []))


def in_a_function(tensor: TensorProto) -> onnx.ModelProto:
    node = helper.make_node("Constant", [], ["v"], value=tensor)
    function = helper.make_function("own", "F", [], ["v"], [node], [helper.make_opsetid("", 18)])
    model = helper.make_model(helper.make_graph([], "g", [], []))
    model.functions.append(function)
    return model


def in_a_default_of_a_function(tensor: TensorProto) -> onnx.ModelProto:
    function = helper.make_function("own", "F", [], [], [], [helper.make_opsetid("", 18)])
    function.attribute_proto.append(helper.make_attribute("a", tensor))
    model = helper.make_model(helper.make_graph([], "g", [], []))
    model.functions.append(function)
    return model


def in_training_info(tensor: TensorProto) -> onnx.ModelProto:
    model = helper.make_model(helper.make_graph([], "g", [], []))
    model.training_info.add().initialization.initializer.append(tensor)
    return model


def in_a_sparse_tensor(tensor: TensorProto) -> onnx.ModelProto:
    model = helper.make_model(helper.make_graph([], "g", [], []))
    model.graph.sparse_initializer.add().indices.CopyFrom(tensor)
    return model


def in_a_list_of_tensors(tensor: TensorProto) -> onnx.ModelProto:
    node = onnx.NodeProto(op_type="X")
    node.attribute.add(name="a").tensors.append(tensor)
    return helper.make_model(helper.make_graph([node], "g", [], []))


def in_a_list_of_graphs(tensor: TensorProto) -> onnx.ModelProto:
    node = onnx.NodeProto(op_type="Scan")
    node.attribute.add(name="a").graphs.add().initializer.append(tensor)
    return helper.make_model(helper.make_graph([node], "g", [], []))


def in_a_sparse_attribute(tensor: TensorProto) -> onnx.ModelProto:
    node = onnx.NodeProto(op_type="Constant")
    node.attribute.add(name="a").sparse_tensors.add().values.CopyFrom(tensor)
    return helper.make_model(helper.make_graph([node], "g", [], []))


PLACES = [
    in_a_branch,
    in_a_function,
    in_a_default_of_a_function,
    in_training_info,
    in_a_sparse_tensor,
    in_a_list_of_tensors,
    in_a_list_of_graphs,
    in_a_sparse_attribute,
]


@pytest.mark.parametrize("place", PLACES, ids=lambda place: place.__name__)
def test_external_data_is_found_in_every_place(place: Callable[[TensorProto], onnx.ModelProto]) -> None:
    harmless = numpy_helper.from_array(np.zeros(3, np.float32), "hidden")
    assert refers_to_other_files(place(harmless).SerializeToString()) is False
    assert refers_to_other_files(place(external_tensor()).SerializeToString()) is True


@pytest.mark.parametrize("location", ["", "/etc/passwd", "../x", "file:///x", "*/_ORT_MEM_ADDR_/*", "a\x00b"])
def test_external_data_is_refused_wherever_it_lies(location: str) -> None:
    assert refers_to_other_files(in_a_branch(external_tensor(location=location)).SerializeToString())


def test_a_location_without_entries_and_entries_without_a_location_are_refused() -> None:
    located, listed = (numpy_helper.from_array(np.zeros(3, np.float32), "hidden") for _ in range(2))
    located.data_location = TensorProto.EXTERNAL
    listed.external_data.add(key="location", value="x")
    for tensor in (located, listed):
        assert refers_to_other_files(in_a_list_of_tensors(tensor).SerializeToString())


@pytest.mark.parametrize("domain", ["", "com.microsoft", "x"])
def test_a_node_that_names_a_compiled_file_is_refused(domain: str) -> None:
    node = helper.make_node("EPContext", ["pixels"], ["y"], domain=domain, embed_mode=0, ep_cache_context="../x.bin")
    assert refers_to_other_files(helper.make_model(helper.make_graph([node], "g", [], [])).SerializeToString())


# --------------------------------------------------------------------------- odd encodings


Fields = list[tuple[int, int, bytes]]


def varint(value: int, extra: int = 0) -> bytes:
    """Encode a number, with `extra` bytes more than it takes."""
    groups = []
    while True:
        groups.append(value & 0x7F)
        value >>= 7
        if not value:
            break
    groups += [0] * extra
    return bytes([*(group | 0x80 for group in groups[:-1]), groups[-1]])


def read_fields(content: bytes) -> Fields:
    """Split a canonical message into (number, wire type, payload)."""
    fields: Fields = []
    position = 0

    def number() -> int:
        nonlocal position
        value = shift = 0
        while True:
            byte = content[position]
            position += 1
            value |= (byte & 0x7F) << shift
            shift += 7
            if byte < 0x80:
                return value

    while position < len(content):
        key = number()
        wire_type, start = key & 7, position
        if wire_type == 2:
            length = number()
            start, position = position, position + length
        elif wire_type == 0:
            number()
        else:
            position += {1: 8, 5: 4}[wire_type]
        fields.append((key >> 3, wire_type, content[start:position]))
    return fields


def write_field(number: int, wire_type: int, payload: bytes, *, key_bits: int = 0, extra: int = 0) -> bytes:
    """Encode a field; `key_bits` are added to its tag, `extra` bytes to tag and length."""
    key = varint((number << 3 | wire_type) | key_bits, extra)
    return key + (varint(len(payload), extra) if wire_type == 2 else b"") + payload


# The way from a model to the entry of external data: graph, initializer, external_data.
WAY = (7, 5, 13)


def rewrite(content: bytes, way: tuple[int, ...], odd: Callable[[int, int, bytes], bytes]) -> bytes:
    """Encode anew, the fields at the end of `way` by `odd`."""
    written = b""
    for number, wire_type, payload in read_fields(content):
        if number == way[0] and len(way) > 1:
            written += write_field(number, wire_type, rewrite(payload, way[1:], odd))
        elif number == way[0]:
            written += odd(number, wire_type, payload)
        else:
            written += write_field(number, wire_type, payload)
    return written


ODD: dict[str, Callable[[int, int, bytes], bytes]] = {
    "as it is": write_field,
    "bit 32 of the tag": lambda n, w, p: write_field(n, w, p, key_bits=1 << 32),
    "bit 34 of the tag": lambda n, w, p: write_field(n, w, p, key_bits=1 << 34),
    "bit 35 of the tag": lambda n, w, p: write_field(n, w, p, key_bits=1 << 35),
    "bit 63 of the tag": lambda n, w, p: write_field(n, w, p, key_bits=1 << 63),
    "one byte more": lambda n, w, p: write_field(n, w, p, extra=1),
    "four bytes more": lambda n, w, p: write_field(n, w, p, extra=4),
    "nine bytes more": lambda n, w, p: write_field(n, w, p, extra=9),
    "twice": lambda n, w, p: write_field(n, w, p) * 2,
    "a group around it": lambda n, w, p: varint(n << 3 | 3) + write_field(n, w, p) + varint(n << 3 | 4),
    "a foreign group before it": lambda n, w, p: varint(99 << 3 | 3) + varint(99 << 3 | 4) + write_field(n, w, p),
    "a foreign field before it": lambda n, w, p: write_field(99, 2, b"x") + write_field(n, w, p),
    "field 0 before it": lambda n, w, p: write_field(0, 2, b"x") + write_field(n, w, p),
    "in two halves": lambda n, w, p: b"".join(write_field(n, w, write_field(*field)) for field in read_fields(p)),
}


@pytest.mark.parametrize("depth", [1, 2, 3])
@pytest.mark.parametrize("how", ODD)
def test_no_odd_encoding_leads_past_the_check(how: str, depth: int) -> None:
    content = rewrite(external_model().SerializeToString(), WAY[:depth], ODD[how])
    assert is_refused(content)


@pytest.mark.parametrize("how", ODD)
def test_no_odd_encoding_of_its_location_leads_past_the_check(how: str) -> None:
    """Without `external_data`, too, a tensor that says it lies elsewhere is refused."""
    model = external_model()
    for tensor in model.graph.initializer:
        tensor.ClearField("external_data")
    assert is_refused(rewrite(model.SerializeToString(), (7, 5, 14), ODD[how]))


@pytest.mark.parametrize("how", [how for how in ODD if how != "as it is"])
def test_odd_encodings_of_a_harmless_model_are_refused_as_such(how: str) -> None:
    content = rewrite(tiny_graph(4, 32).SerializeToString(), (7, 2), write_field)
    assert refers_to_other_files(content) is False
    odd = rewrite(content, (7,), ODD[how])
    with pytest.raises(ValueError, match=r"."):
        refers_to_other_files(odd)


@settings(max_examples=400, deadline=None)
@given(st.data())
def test_whatever_protobuf_sees_is_refused(data: st.DataObject) -> None:
    """Damage the encoding at random: where protobuf still finds a file, the check must have refused."""
    content = bytearray(external_model().SerializeToString())
    tag = content.index(b"location") - 4
    for _ in range(data.draw(st.integers(1, 4))):
        place = data.draw(st.integers(max(0, tag - 40), min(len(content) - 1, tag + 60)))
        kind = data.draw(st.sampled_from(["set", "insert", "delete", "set anywhere"]))
        if kind == "set anywhere":
            content[data.draw(st.integers(0, len(content) - 1))] = data.draw(st.integers(0, 255))
        elif kind == "set":
            content[place] = data.draw(st.integers(0, 255))
        elif kind == "insert":
            content[place:place] = data.draw(st.binary(min_size=1, max_size=3))
        else:
            del content[place]
    if runtime_sees_other_files(bytes(content)):
        assert is_refused(bytes(content))


@settings(max_examples=200, deadline=None)
@given(st.binary(max_size=60))
@example(b"\x12\x50\x00\x00ORTM")
def test_no_bytes_end_the_check_in_another_way(content: bytes) -> None:
    is_refused(content)
    is_refused(tiny_graph(2, 32).SerializeToString() + content)


def test_onnx_runtime_follows_no_encoding_that_passes(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The runtime itself, with the file where it looks: what it would load from there, the check refuses."""
    monkeypatch.chdir(tmp_path)
    (tmp_path / "weights.bin").write_bytes(mask_bytes())
    loaded = 0
    for content in odd_models():
        options = ort.SessionOptions()
        options.log_severity_level = 4
        try:
            ort.InferenceSession(content, options, providers=["CPUExecutionProvider"])
        except Exception:  # noqa: BLE001  # ONNX Runtime's errors share no base class
            continue
        loaded += 1
        assert is_refused(content)
    assert loaded > 10, "the encodings are such that the runtime reads them"


def odd_models() -> Iterator[bytes]:
    content = external_model().SerializeToString()
    for odd in ODD.values():
        for depth in (1, 2, 3):
            yield rewrite(content, WAY[:depth], odd)
    dice = random.Random(9)
    for _ in range(40):
        damaged = bytearray(content)
        damaged[dice.randrange(len(damaged))] = dice.randrange(256)
        yield bytes(damaged)


def test_a_model_in_onnx_runtimes_own_format_is_refused(tmp_path: Path) -> None:
    options = ort.SessionOptions()
    options.log_severity_level = 4
    options.optimized_model_filepath = str(tmp_path / "model.ort")
    options.add_session_config_entry("session.save_model_format", "ORT")
    ort.InferenceSession(tiny_graph(4, 32).SerializeToString(), options, providers=["CPUExecutionProvider"])
    content = (tmp_path / "model.ort").read_bytes()
    with pytest.raises(ValueError, match="own format"):
        refers_to_other_files(content)


def test_a_graph_of_a_thousand_levels_is_refused() -> None:
    content = tiny_graph(4, 32).graph.SerializeToString()
    for _ in range(1000):
        content = write_field(1, 2, write_field(5, 2, write_field(6, 2, content)))
    with pytest.raises(ValueError, match="deep"):
        refers_to_other_files(write_field(7, 2, content))


@pytest.mark.parametrize("how", ["bit 32 of the tag", "bit 35 of the tag", "four bytes more", "in two halves"])
def test_an_engine_with_an_odd_model_is_refused(how: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    folder = write_tiny_bundle(tmp_path)
    monkeypatch.chdir(folder)
    (folder / "weights.bin").write_bytes(mask_bytes())
    (folder / "model.onnx").write_bytes(rewrite(external_model().SerializeToString(), WAY, ODD[how]))
    entry = EngineFile("model.onnx", sha256_of_file(folder / "model.onnx"), "fp32")
    bundle = load_bundle(folder)
    manifest = {field: getattr(bundle.manifest, field) for field in bundle.manifest.__dataclass_fields__}
    save_bundle(folder, type(bundle.manifest)(**manifest | {"files": {"onnx": entry}}))
    with pytest.raises(EngineError, match=r"no ONNX model|another file"):
        open_engine(load_bundle(folder))


def test_a_file_that_slips_through_is_not_found(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Behind the check stands the session itself: it looks for files where none can be."""
    folder = write_tiny_bundle(tmp_path)
    monkeypatch.chdir(folder)
    (folder / "weights.bin").write_bytes(mask_bytes())
    (folder / "model.onnx").write_bytes(external_model().SerializeToString())
    bundle = load_bundle(folder)
    entry = EngineFile("model.onnx", sha256_of_file(folder / "model.onnx"), "fp32")
    bundle.manifest.files["onnx"] = entry
    monkeypatch.setattr("cxrbatch.engine.onnxruntime_engine.refers_to_other_files", lambda _: False)
    with pytest.raises(EngineError, match="ONNX Runtime cannot load it"):
        open_engine(bundle)
