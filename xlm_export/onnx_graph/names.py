"""What a family's weights are called: in a graph they keep the checkpoint's names, and so tell where they belong."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass

import onnx_ir

_STEPS = 6  # a quantised product is four operators


@dataclass(frozen=True)
class WeightNames:
    """The names of a family's weights, as its checkpoints have them."""

    body: str
    """What stands before the transformer's weights in models with a head."""
    word_embeddings: str
    """The words' table, without `body`."""
    positions: str
    """The positions' table, without `body`."""
    projection: str
    """The language model's projection to words, which may be tied to the words' table."""
    layer: re.Pattern[str]
    """Finds the names of a layer's weights: "layer" is its number, "attention" or "ffn" matches in one of these."""
    qkv: re.Pattern[str]
    """Finds weight and bias of the products that give queries, keys and values: one of "q", "k" and "v" matches the
    part of the name that tells them apart."""

    def layer_of(self, value: onnx_ir.Value | None) -> int | None:
        """The layer of a weight such as `transformer.ffns.3.lin1.bias`, here 3; None for any other value."""
        found = self.layer.search(_name(value))
        return None if found is None else int(found["layer"])

    def part_of(self, value: onnx_ir.Value | None) -> str | None:
        """The part of its layer, "attention" or "ffn"; None for any other value."""
        found = self.layer.search(_name(value))
        return None if found is None else next((part for part in ("attention", "ffn") if found[part]), None)

    def layer_below(self, value: onnx_ir.Value, steps: int = _STEPS) -> int | None:
        """The layer of the first weight that `value` meets on its way through at most `steps` operators."""
        nodes = [use.node for use in value.uses()]
        for node in nodes:
            for other in node.inputs:
                if (layer := self.layer_of(other)) is not None:
                    return layer
        found = [self.layer_below(node.outputs[0], steps - 1) for node in nodes] if steps > 1 else []
        return next((layer for layer in found if layer is not None), None)

    def role_of(self, value: onnx_ir.Value | None) -> str | None:
        """Whether a weight or bias gives queries, keys or values, "q", "k" or "v"; None for any other value."""
        found = self.qkv.search(_name(value))
        return None if found is None else _role(found)

    def joined(self, values: Sequence[onnx_ir.Value | None]) -> str | None:
        """A name for several such weights, or biases, in one: `….q_lin.bias`, `….k_lin.bias` → `….qk_lin.bias`.

        None where some are anything else.
        """
        found = [match for value in values if (match := self.qkv.search(_name(value)))]
        if not found or len(found) < len(values):
            return None
        start, end = found[0].span(_role(found[0]))
        return found[0].string[:start] + "".join(match[_role(match)] for match in found) + found[0].string[end:]


def _role(found: re.Match[str]) -> str:
    return next(role for role in "qkv" if found[role] is not None)


def _name(value: onnx_ir.Value | None) -> str:
    return "" if value is None else value.name or ""
