"""Which layer a node belongs to: weights keep the checkpoint's names, which tell."""

from __future__ import annotations

import re

import onnx_ir

_LAYER = re.compile(r"(?:^|\.)(?:attentions|ffns|layer_norm[12])\.(\d+)\.")
_STEPS = 6  # a quantised product is four operators


def layer_of(value: onnx_ir.Value | None) -> int | None:
    """The layer of a weight such as `transformer.ffns.3.lin1.bias`, here 3; None for any other value."""
    found = _LAYER.search(value.name or "") if value is not None else None
    return None if found is None else int(found[1])


def layer_below(value: onnx_ir.Value, steps: int = _STEPS) -> int | None:
    """The layer of the first weight that `value` meets on its way through at most `steps` operators."""
    nodes = [use.node for use in value.uses()]
    for node in nodes:
        for other in node.inputs:
            if (layer := layer_of(other)) is not None:
                return layer
    found = [layer_below(node.outputs[0], steps - 1) for node in nodes] if steps > 1 else []
    return next((layer for layer in found if layer is not None), None)
