"""The exporter's table of families: model type → what torch and ONNX graphs have to know of it."""

from __future__ import annotations

import onnx_ir

from xlm_export.families.family import ExportFamily
from xlm_export.families.flaubert.family import FLAUBERT
from xlm_export.families.xlm.family import XLM
from xlm_export.onnx_graph.names import WeightNames
from xlm_runtime.config import XLMConfig

FAMILIES: dict[str, ExportFamily] = {family.runtime.model_type: family for family in (XLM, FLAUBERT)}

MODEL_TYPE = "model_type"
"""Where a graph says of which family it is, in its metadata. Older ones do not, and are all of XLM."""


def export_family(config: XLMConfig) -> ExportFamily:
    """The row of a configuration."""
    return FAMILIES[config.model_type]


def names_of(model: onnx_ir.Model) -> WeightNames:
    """What a graph's weights are called."""
    return FAMILIES[model.metadata_props.get(MODEL_TYPE, XLM.runtime.model_type)].names
