"""What a weight's name tells, by XLM's names."""

from __future__ import annotations

import onnx_ir
import pytest

from xlm_export.families.table import names_of
from xlm_export.families.xlm.names import NAMES


def value(name: str | None) -> onnx_ir.Value:
    return onnx_ir.Value(name=name)


@pytest.mark.parametrize(
    ("name", "layer", "part", "role"),
    [
        ("model.transformer.attentions.3.q_lin.weight", 3, "attention", "q"),
        ("attentions.11.v_lin.bias", 11, "attention", "v"),
        ("model.transformer.attentions.3.q_lin.weight.transposed", 3, "attention", None),
        ("model.transformer.attentions.3.qkv_lin.weight", 3, "attention", None),
        ("model.attentions.0.out_lin.bias", 0, "attention", None),
        ("transformer.ffns.10.lin1.weight.transposed.int8", 10, "ffn", None),
        ("transformer.layer_norm2.1.weight", 1, None, None),
        ("transformer.layer_norm_emb.weight", None, None, None),
        ("transformer.lang_embeddings.weight", None, None, None),
        ("pred_layer.proj.weight", None, None, None),
        ("attentions.0", None, None, None),  # an output
        ("", None, None, None),
        (None, None, None, None),
    ],
)
def test_a_name_tells_where_a_weight_belongs(
    name: str | None, layer: int | None, part: str | None, role: str | None
) -> None:
    weight = value(name)
    assert (NAMES.layer_of(weight), NAMES.part_of(weight), NAMES.role_of(weight)) == (layer, part, role)
    assert NAMES.layer_of(None) is NAMES.part_of(None) is NAMES.role_of(None) is None


def test_the_name_of_several_weights_in_one() -> None:
    def bias(letter: str) -> onnx_ir.Value:
        return value(f"model.attentions.2.{letter}_lin.bias")

    assert NAMES.joined([bias("q"), bias("k"), bias("v")]) == "model.attentions.2.qkv_lin.bias"
    assert NAMES.joined([bias("k"), bias("v")]) == "model.attentions.2.kv_lin.bias"
    assert NAMES.joined([bias("q"), bias("out")]) is None
    assert NAMES.joined([bias("q"), None]) is None
    assert NAMES.joined([]) is None


def test_a_graph_that_names_no_family_is_of_xlm() -> None:
    model = onnx_ir.Model(onnx_ir.Graph([], [], nodes=[], opset_imports={"": 18}), ir_version=10)
    assert names_of(model) is NAMES
