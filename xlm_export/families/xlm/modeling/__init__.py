"""Reference implementation of the XLM family in PyTorch."""

from xlm_export.families.xlm.modeling.heads import (
    XLMForMultipleChoice,
    XLMForSequenceClassification,
    XLMForTokenClassification,
    XLMWithLMHeadModel,
)
from xlm_export.families.xlm.modeling.model import XLMModel, XLMPreTrainedModel
from xlm_export.families.xlm.modeling.question_answering import XLMForQuestionAnswering, XLMForQuestionAnsweringSimple
from xlm_runtime.config import XLMConfig

__all__ = [
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
