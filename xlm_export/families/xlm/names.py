"""What XLM's weights are called, in checkpoints and in graphs."""

from __future__ import annotations

import re

from xlm_export.onnx_graph.names import WeightNames

NAMES = WeightNames(
    body="transformer.",
    word_embeddings="embeddings.weight",
    positions="position_embeddings.weight",
    projection="pred_layer.proj.weight",
    layer=re.compile(r"(?:^|\.)(?:(?P<attention>attentions)|(?P<ffn>ffns)|layer_norm[12])\.(?P<layer>\d+)\."),
    qkv=re.compile(r"(?:^|\.)attentions\.\d+\.(?:(?P<q>q)|(?P<k>k)|(?P<v>v))_lin\.(?:weight|bias)$"),
)

HEAD_TENSORS = (
    ("logits_proj.weight", "ForMultipleChoice"),
    ("qa_outputs.start_logits.dense.weight", "ForQuestionAnswering"),
    ("qa_outputs.weight", "ForQuestionAnsweringSimple"),
    ("classifier.weight", "ForTokenClassification"),
    ("sequence_summary.summary.weight", "ForSequenceClassification"),
    # last, since what was fine-tuned may still have what it was pre-trained with
    ("pred_layer.proj.bias", "WithLMHeadModel"),
    ("pred_layer.proj.head.weight", "WithLMHeadModel"),
)

# a buffer of 2019, and weights of the loss
DROPPED = re.compile(r"(?:^|\.)(?:position_ids$|(?:loss|loss_fct|loss_fn|criterion)\.)")
