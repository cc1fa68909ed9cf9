"""FlauBERT's row of the table: its own models, and XLM's names, positions and languages."""

from __future__ import annotations

import dataclasses

from xlm_export.families.flaubert.modeling import (
    FlaubertForMultipleChoice,
    FlaubertForQuestionAnswering,
    FlaubertForQuestionAnsweringSimple,
    FlaubertForSequenceClassification,
    FlaubertForTokenClassification,
    FlaubertModel,
    FlaubertWithLMHeadModel,
)
from xlm_export.families.flaubert.tokenizer import write_tokenizer
from xlm_export.families.xlm.family import XLM
from xlm_runtime.families import FLAUBERT as RUNTIME
from xlm_runtime.flaubert_config import FlaubertConfig


def absent_passes(config: FlaubertConfig) -> dict[str, str]:
    """A sum that nothing normalises has no operator with its normalisation."""
    return {"skip-layer-norm": "pre_norm is true: a layer normalises before its sums"} if config.pre_norm else {}


FLAUBERT = dataclasses.replace(
    XLM,
    runtime=RUNTIME,
    models={
        "Model": FlaubertModel,
        "WithLMHeadModel": FlaubertWithLMHeadModel,
        "ForSequenceClassification": FlaubertForSequenceClassification,
        "ForMultipleChoice": FlaubertForMultipleChoice,
        "ForTokenClassification": FlaubertForTokenClassification,
        "ForQuestionAnswering": FlaubertForQuestionAnswering,
        "ForQuestionAnsweringSimple": FlaubertForQuestionAnsweringSimple,
    },
    write_tokenizer=write_tokenizer,
    absent_passes=absent_passes,
)
