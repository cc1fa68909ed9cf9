"""The Open Inference Protocol, version 2, over HTTP: tensors of texts in, tensors of answers out.

https://github.com/kserve/open-inference-protocol/blob/main/specification/protocol/inference_rest.md
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from importlib.metadata import PackageNotFoundError, version
from math import prod
from typing import Any

from xlm_runtime.errors import InputError
from xlm_runtime.serving.requests import take
from xlm_runtime.wire.texts import read_text

TEXT, ANSWER, BYTES = "text", "answer", "BYTES"
"""The input's name and the output's, as in Triton, and their type."""

# asks for tensors in bytes behind the JSON, which is Triton's extension; answers are JSON here, and clients read both
_BINARY_OUTPUT = "binary_data_output"


@dataclass(frozen=True)
class Asked:
    """A request.

    Attributes:
        texts: what the pipeline is asked; why not, where one cannot be read.
        shape: of the tensor.
        parameters: of the pipeline's call, see `call_arguments`.
        id: what the client calls it.
    """

    texts: Sequence[Any]
    shape: Sequence[int]
    parameters: Mapping[str, Any]
    id: str | None


def read_request(body: dict[str, Any]) -> Asked:
    """What a body asks for.

    Raises:
        InputError: another input than one tensor of texts, or another output than the answers.
    """
    values = dict(body)
    parameters = dict(take(values, "parameters", dict, {}))
    parameters.pop(_BINARY_OUTPUT, None)
    inputs, outputs = take(values, "inputs", list, []), take(values, "outputs", list, [])
    for output in outputs:
        name = output.get("name") if isinstance(output, dict) else output
        if name != ANSWER:
            raise InputError(f"Unknown output {name!r}; the model has the output '{ANSWER}'.")
    if len(inputs) != 1 or not isinstance(inputs[0], dict):
        raise InputError(f"The request has {len(inputs)} inputs; expected a list with one object, named '{TEXT}'.")
    (tensor,) = inputs
    if (tensor.get("name"), tensor.get("datatype")) != (TEXT, BYTES):
        raise InputError(
            f"The input is {tensor.get('name')!r} of datatype {tensor.get('datatype')!r}; expected '{TEXT}' of {BYTES}."
        )
    if "data" not in tensor:
        raise InputError("The input has no data in its JSON; send texts as strings (tritonclient: binary_data=False).")
    shape, texts = tensor.get("shape"), _flat(tensor["data"])
    if not _is_column(shape):
        raise InputError(f"The input's shape is {shape!r}; expected [n] or [n, 1] for n texts.")
    if prod(shape) != len(texts) or not all(isinstance(text, str) for text in texts):
        raise InputError(f"The input's data are no {prod(shape)} strings, as its shape {shape} says.")
    return Asked([read_text(text) for text in texts], shape, parameters, take(values, "id", str, None))


def response(model: str, asked: Asked, answers: Sequence[str]) -> dict[str, Any]:
    """The body of an answer: for each text JSON in a string."""
    output = {"name": ANSWER, "datatype": BYTES, "shape": list(asked.shape), "data": list(answers)}
    known = {} if asked.id is None else {"id": asked.id}
    return {"model_name": model, **known, "outputs": [output]}


def server_metadata() -> dict[str, Any]:
    """What the server is."""
    try:
        number = version("xlm-onnx")
    except PackageNotFoundError:  # a folder that is not installed
        number = "0"
    return {"name": "xlm-runtime", "version": number, "extensions": []}


def model_metadata(name: str, task: str) -> dict[str, Any]:
    """What a model takes and gives."""
    column = [-1, 1]
    return {
        "name": name,
        "platform": f"xlm-onnx_{task}",
        "inputs": [{"name": TEXT, "datatype": BYTES, "shape": column}],
        "outputs": [{"name": ANSWER, "datatype": BYTES, "shape": column}],
    }


def _is_column(shape: Any) -> bool:
    if not isinstance(shape, list) or not all(type(size) is int and size >= 0 for size in shape):
        return False
    return len(shape) == 1 or (len(shape) == 2 and shape[1] == 1)


def _flat(data: Any) -> list[Any]:
    """A tensor's data in row-major order; rows may be lists of their own."""
    if not isinstance(data, list):
        return [data]
    return [each for row in data for each in (row if isinstance(row, list) else [row])]
