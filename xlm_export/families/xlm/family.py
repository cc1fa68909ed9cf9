"""XLM's row of the table."""

from __future__ import annotations

from torch import Tensor

from xlm_export.families.family import ExportFamily
from xlm_export.families.xlm.fastbpe import convert_tokenizer
from xlm_export.families.xlm.languages import fix_language
from xlm_export.families.xlm.modeling import (
    XLMForMultipleChoice,
    XLMForQuestionAnswering,
    XLMForQuestionAnsweringSimple,
    XLMForSequenceClassification,
    XLMForTokenClassification,
    XLMModel,
    XLMWithLMHeadModel,
)
from xlm_export.families.xlm.modeling.model import sinusoidal_embeddings
from xlm_export.families.xlm.names import DROPPED, HEAD_TENSORS, NAMES
from xlm_export.families.xlm.tokenizer import write_tokenizer
from xlm_runtime.config import XLMConfig
from xlm_runtime.families import XLM as RUNTIME


def fixed_positions(config: XLMConfig) -> Tensor | None:
    """The sinusoids, where the configuration has them."""
    if not config.sinusoidal_embeddings:
        return None
    return sinusoidal_embeddings(config.max_position_embeddings, config.emb_dim)


XLM = ExportFamily(
    runtime=RUNTIME,
    models={
        "Model": XLMModel,
        "WithLMHeadModel": XLMWithLMHeadModel,
        "ForSequenceClassification": XLMForSequenceClassification,
        "ForMultipleChoice": XLMForMultipleChoice,
        "ForTokenClassification": XLMForTokenClassification,
        "ForQuestionAnswering": XLMForQuestionAnswering,
        "ForQuestionAnsweringSimple": XLMForQuestionAnsweringSimple,
    },
    names=NAMES,
    head_tensors=HEAD_TENSORS,
    dropped=DROPPED,
    convert_tokenizer=convert_tokenizer,
    write_tokenizer=write_tokenizer,
    fixed_positions=fixed_positions,
    fix_language=fix_language,
)
