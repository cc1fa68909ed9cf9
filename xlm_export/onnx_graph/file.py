"""Writing ONNX files without holding their weights in memory a second and a third time.

The protobuf library builds the whole message and then its bytes, two copies of the weights. Here the small rest of
the model goes through it, and each weight is then appended to the graph's message, straight from its storage. The
lengths of the enclosing messages are known beforehand, so the file is the same message that the library would write,
its fields in another order.

ONNX may also read weights out of other files, given a place and a length. So a second graph of the same weights takes
them out of the first one's file: `open_model` gives weights that know their place there, and `save` keeps such places.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import BinaryIO

import onnx
import onnx_ir

# Weights above this many bytes cannot stand inside an ONNX file (protobuf's limit of 2 GiB), less room for the graph.
INLINE_LIMIT = 2**31 - 2**24

# Field numbers and wire type 2 (length-delimited), as in onnx.proto.
_MODEL_GRAPH = 7 << 3 | 2
_GRAPH_INITIALIZER = 5 << 3 | 2
_TENSOR_RAW_DATA = 9 << 3 | 2
_TENSOR_DOC_STRING = 12 << 3 | 2

# Weights of this size or more begin at multiples of ALIGNMENT, so that a session can use them where they lie.
SHARED_BYTES, ALIGNMENT = 4096, 64


def save(model: onnx_ir.Model, path: Path, outside: bool = False) -> None:
    """Write the model and check it. Weights that lie in other files of the folder stay there.

    Args:
        outside: weights in `path`.data (`external_data`) even where they are small enough to stand inside.

    Raises:
        onnx.checker.ValidationError: the graph is not valid ONNX.
    """
    external_data(path).unlink(missing_ok=True)  # of an earlier model of this name
    if outside or weight_bytes(model) > INLINE_LIMIT:
        onnx_ir.save(model, path, external_data=external_data(path).name)
    else:
        with path.open("wb") as file:
            _write_inline(model, file)
    onnx.checker.check_model(str(path))


def external_data(path: Path) -> Path:
    """Where a model's weights lie that do not stand inside its file."""
    return path.with_name(f"{path.name}.data")


def rename_external_file(path: Path, name: str, new_name: str) -> None:
    """Let a model, all of whose own weights are in another file, look for that one under another name."""
    proto = onnx.load(path, load_external_data=False)
    for tensor in proto.graph.initializer:
        for entry in tensor.external_data:
            if (entry.key, entry.value) == ("location", name):
                entry.value = new_name
    path.write_bytes(proto.SerializeToString())


def weight_bytes(model: onnx_ir.Model) -> int:
    """Bytes of all initializers that are not in a file already."""
    tensors = (value.const_value for value in model.graph.initializers.values())
    return sum(item.nbytes for item in tensors if item is not None and not isinstance(item, onnx_ir.ExternalTensor))


def open_model(path: Path) -> onnx_ir.Model:
    """Read a model; its weights stay in the file, each an `onnx_ir.ExternalTensor`, if they are large and aligned."""
    shared: list[onnx.TensorProto] = []
    with path.open("rb") as file:
        file.seek(0, 2)
        rest, graph = bytearray(), bytearray()
        for tag, start, begin, end in _fields(file, 0, file.tell()):
            if tag != _MODEL_GRAPH:
                rest += _read(file, start, end)
                continue
            for inner, inner_start, inner_begin, inner_end in _fields(file, begin, end):
                tensor = _shared(file, inner_begin, inner_end, path.name) if inner == _GRAPH_INITIALIZER else None
                if tensor is None:
                    graph += _read(file, inner_start, inner_end)
                else:
                    shared.append(tensor)
    proto = onnx.ModelProto()
    proto.ParseFromString(bytes(rest))
    proto.graph.ParseFromString(bytes(graph))
    proto.graph.initializer.extend(shared)
    model = onnx_ir.serde.deserialize_model(proto)
    onnx_ir.external_data.set_base_dir(model.graph, path.parent)
    return model


def copy_weights(model: onnx_ir.Model) -> None:
    """Take weights that lie in other files into memory, so that `save` writes them into the model's own."""
    for value in model.graph.initializers.values():
        if isinstance(value.const_value, onnx_ir.ExternalTensor):
            value.const_value = onnx_ir.tensor(value.const_value.numpy().copy(), name=value.name)


def external_files(model: onnx_ir.Model) -> tuple[str, ...]:
    """Names of the files that the model's weights lie in, beside its own."""
    tensors = (value.const_value for value in model.graph.initializers.values())
    return tuple(sorted({str(tensor.location) for tensor in tensors if isinstance(tensor, onnx_ir.ExternalTensor)}))


def _shared(file: BinaryIO, begin: int, end: int, location: str) -> onnx.TensorProto | None:
    """The initializer in file[begin:end] as a reference to its place, or None if it is small or not aligned."""
    head, data = bytearray(), (0, 0)
    for tag, start, inner, stop in _fields(file, begin, end):
        if tag == _TENSOR_RAW_DATA:
            data = (inner, stop - inner)
        elif tag != _TENSOR_DOC_STRING:
            head += _read(file, start, stop)
    if data[1] < SHARED_BYTES or data[0] % ALIGNMENT:
        return None
    tensor = onnx.TensorProto()
    tensor.ParseFromString(bytes(head))
    tensor.data_location = onnx.TensorProto.EXTERNAL
    for key, value in (("location", location), ("offset", str(data[0])), ("length", str(data[1]))):
        tensor.external_data.add(key=key, value=value)
    return tensor


def _fields(file: BinaryIO, position: int, end: int) -> Iterator[tuple[int, int, int, int]]:
    """The fields of the message in file[position:end]: tag, where the field begins, its content begins and ends."""
    while position < end:
        start = position
        tag, position = _read_varint(file, position)
        kind = tag & 7
        if kind == 2:  # length-delimited
            length, position = _read_varint(file, position)
            stop = position + length
        elif kind == 0:
            stop = _read_varint(file, position)[1]
        elif kind in (1, 5):  # 64 and 32 bits
            stop = position + (8 if kind == 1 else 4)
        else:
            raise ValueError(f"The file holds a field of kind {kind} at byte {start}; expected an ONNX file.")
        yield tag, start, position, stop
        position = stop


def _read(file: BinaryIO, start: int, end: int) -> bytes:
    file.seek(start)
    return file.read(end - start)


def _read_varint(file: BinaryIO, position: int) -> tuple[int, int]:
    """The number at `position` and where it ends."""
    file.seek(position)
    number, shift = 0, 0
    for byte in file.read(10):
        number |= (byte & 127) << shift
        shift += 7
        position += 1
        if byte < 128:
            return number, position
    raise ValueError(f"The file ends within a number at byte {position}; expected an ONNX file.")


def _write_inline(model: onnx_ir.Model, file: BinaryIO) -> None:
    weights = {
        name: value
        for name, value in model.graph.initializers.items()
        if not isinstance(value.const_value, onnx_ir.ExternalTensor)
    }
    everything = dict(model.graph.initializers)
    for name in weights:
        del model.graph.initializers[name]
    try:
        rest = onnx_ir.to_proto(model)
    finally:
        model.graph.initializers.clear()
        model.graph.initializers.update(everything)
    graph = rest.graph.SerializeToString()
    rest.ClearField("graph")

    tensors, heads = [], []
    for name, value in weights.items():
        tensor = value.const_value
        if tensor is None:
            raise ValueError(f"The initializer '{name}' has no value.")
        tensors.append(tensor)
        head = onnx.TensorProto(name=name, data_type=int(tensor.dtype), dims=list(tensor.shape.numpy()))
        heads.append(head.SerializeToString())
    # The graph's length decides where its content begins and with it the padding, which counts into the length:
    # a length of five bytes, whatever it is, needs no search.
    before = rest.SerializeToString() + bytes([_MODEL_GRAPH])
    position = len(before) + 5 + len(graph)
    records = []
    for head, tensor in zip(heads, tensors, strict=True):
        record = _record(head, tensor.nbytes, position)
        records.append(record)
        position += len(record) + tensor.nbytes
    file.write(before + _varint(position - len(before) - 5, width=5) + graph)
    for record, tensor in zip(records, tensors, strict=True):
        file.write(record)
        file.write(tensor.tobytes())


def _record(head: bytes, nbytes: int, position: int) -> bytes:
    """An initializer up to its data; with a text of spaces before them where large data would not lie aligned."""
    text = b""
    while True:
        body = head + text + bytes([_TENSOR_RAW_DATA]) + _varint(nbytes)
        record = bytes([_GRAPH_INITIALIZER]) + _varint(len(body) + nbytes) + body
        over = (position + len(record)) % ALIGNMENT
        if nbytes < SHARED_BYTES or not over:
            return record
        spaces = max(0, len(text) - 2) + (ALIGNMENT - over if text else (ALIGNMENT - over - 2) % ALIGNMENT)
        text = bytes([_TENSOR_DOC_STRING]) + _varint(spaces) + b" " * spaces


def _varint(number: int, width: int = 1) -> bytes:
    """Protobuf's variable-length integer, seven bits a byte, the lowest first; in at least `width` bytes."""
    encoded = bytearray()
    while number > 127 or len(encoded) < width - 1:
        encoded.append(number & 127 | 128)
        number >>= 7
    encoded.append(number)
    return bytes(encoded)
