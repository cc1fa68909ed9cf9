"""What `/docs` and `/openapi.json` say about bodies."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from xlm_runtime.serving.models import ServedModel
from xlm_runtime.serving.open_inference import BYTES, TEXT, server_metadata


def description(models: Mapping[str, ServedModel]) -> str:
    """The models with their tasks and what a request to each may ask for, in Markdown."""
    rows = [f"| {name} | {model.task} | {', '.join(model.parameter_names())} |" for name, model in models.items()]
    return "\n".join(["Answers from XLM models.", "", "| model | task | parameters |", "|---|---|---|", *rows])


def version() -> str:
    """Of the package."""
    return str(server_metadata()["version"])


def _body(schema: dict[str, Any], example: dict[str, Any]) -> dict[str, Any]:
    content = {"application/json": {"schema": schema, "example": example}}
    return {"requestBody": {"required": True, "content": content}}


_TEXT = {"anyOf": [{"type": "string"}, {"type": "object"}]}

HUGGING_FACE = _body(
    {
        "type": "object",
        "required": ["inputs"],
        "properties": {
            "inputs": {"anyOf": [*_TEXT["anyOf"], {"type": "array", "items": _TEXT}]},
            "parameters": {"type": "object", "description": "those of the model, see above"},
            "stream": {"type": "boolean", "description": "text-generation: send words as server-sent events"},
        },
    },
    {"inputs": "The old town.", "parameters": {}},
)

OPEN_INFERENCE = _body(
    {
        "type": "object",
        "required": ["inputs"],
        "properties": {
            "id": {"type": "string"},
            "parameters": {"type": "object", "description": "those of the model, see above"},
            "inputs": {
                "type": "array",
                "minItems": 1,
                "maxItems": 1,
                "items": {
                    "type": "object",
                    "required": ["name", "datatype", "shape", "data"],
                    "properties": {
                        "name": {"const": TEXT},
                        "datatype": {"const": BYTES},
                        "shape": {"type": "array", "items": {"type": "integer"}},
                        "data": {"type": "array", "items": {"type": "string"}},
                    },
                },
            },
        },
    },
    {"inputs": [{"name": TEXT, "datatype": BYTES, "shape": [1, 1], "data": ["The old town."]}]},
)
