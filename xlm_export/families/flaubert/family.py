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


def fewest_matches(config: FlaubertConfig) -> dict[str, int]:
    """With `pre_norm` no normalisation follows the last layer's second sum, nor one that is masked first, as padded
    graphs do between layers."""
    return {"skip-layer-norm": 1} if config.pre_norm else {}


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
    fewest_matches=fewest_matches,
)
