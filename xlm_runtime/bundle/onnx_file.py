"""Which files an ONNX file reads weights from, found without the onnx package and without reading the weights.

An ONNX file is a protobuf message: fields, each a tag and a value, of which some are messages again. The tables name
those in which tensors can stand; all others are skipped.
"""

from __future__ import annotations

import mmap
from pathlib import Path

# message → field → message, as in onnx.proto
_MESSAGES = {
    "model": {7: "graph", 20: "training", 25: "function"},
    "training": {1: "graph", 2: "graph"},
    "function": {7: "node", 11: "attribute"},
    "graph": {1: "node", 5: "tensor", 15: "sparse"},
    "node": {5: "attribute"},
    "attribute": {5: "tensor", 6: "graph", 10: "tensor", 11: "graph", 22: "sparse", 23: "sparse"},
    "sparse": {1: "tensor", 2: "tensor"},
    "tensor": {13: "entry"},
}
_KEY, _VALUE = 1, 2
_VARINT, _64_BITS, _BYTES, _32_BITS = 0, 1, 2, 5


def external_locations(path: Path) -> set[str]:
    """Names of the files, relative to the ONNX file's folder, as it spells them.

    Raises:
        ValueError: it is no protobuf message.
        OSError: it cannot be read.
    """
    if not path.stat().st_size:
        return set()
    found: set[str] = set()
    with path.open("rb") as file, mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) as content:
        left = [("model", 0, len(content))]
        while left:
            kind, position, end = left.pop()
            if kind == "entry":
                found |= _location(content, position, end)
                continue
            inner = _MESSAGES[kind]
            while position < end:
                field, start, position = _field(content, position, end)
                if field in inner:
                    left.append((inner[field], start, position))
    return found


def _location(content: mmap.mmap, position: int, end: int) -> set[str]:
    """The value of an entry whose key is "location"."""
    values = {}
    while position < end:
        field, start, position = _field(content, position, end)
        values[field] = content[start:position]
    return {values.get(_VALUE, b"").decode()} if values.get(_KEY) == b"location" else set()


def _field(content: mmap.mmap, position: int, end: int) -> tuple[int, int, int]:
    """The number of the field at `position`, where its value begins and ends."""
    begin = position
    tag, position = _varint(content, position, end)
    kind = tag & 7
    if kind == _BYTES:
        size, position = _varint(content, position, end)
        stop = position + size
    elif kind == _VARINT:
        stop = _varint(content, position, end)[1]
    elif kind in (_64_BITS, _32_BITS):
        stop = position + (8 if kind == _64_BITS else 4)
    else:
        raise ValueError(f"it holds a field of the unknown kind {kind} at byte {begin}")
    if stop > end:
        raise ValueError(f"its field at byte {begin} ends at byte {stop}, beyond byte {end} that it lies in")
    return tag >> 3, position, stop


def _varint(content: mmap.mmap, position: int, end: int) -> tuple[int, int]:
    """The number at `position`, seven bits a byte, and where it ends."""
    number = shift = 0
    while position < end and shift < 70:
        byte = content[position]
        number |= (byte & 127) << shift
        position, shift = position + 1, shift + 7
        if byte < 128:
            return number, position
    raise ValueError(f"it ends within a number at byte {position}")
