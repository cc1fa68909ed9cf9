"""Reference implementation of the XLM family in PyTorch."""

from xlm_export.modeling.cache import KeyValueCache
from xlm_export.modeling.heads import (
    XLMForMultipleChoice,
    XLMForSequenceClassification,
    XLMForTokenClassification,
    XLMWithLMHeadModel,
)
from xlm_export.modeling.layouts import PackedBatch
from xlm_export.modeling.model import XLMModel, XLMPreTrainedModel
from xlm_export.modeling.question_answering import XLMForQuestionAnswering, XLMForQuestionAnsweringSimple
from xlm_runtime.config import XLMConfig

__all__ = [
    "KeyValueCache",
    "PackedBatch",
    "XLMConfig",
    "XLMForMultipleChoice",
    "XLMForQuestionAnswering",
    "XLMForQuestionAnsweringSimple",
    "XLMForSequenceClassification",
    "XLMForTokenClassification",
    "XLMModel",
    "XLMPreTrainedModel",
    "XLMWithLMHeadModel",
]
