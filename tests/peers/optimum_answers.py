"""Answers of transformers' pipeline over torch and over optimum's session of a bundle, in optimum's own environment.

    python -m tests.peers.optimum_answers TASK CHECKPOINT BUNDLE

prints a JSON list of two, torch's and optimum's.
"""

from __future__ import annotations

import json
import sys
from typing import Any

import numpy as np
from optimum.onnxruntime import (
    ORTModelForFeatureExtraction,
    ORTModelForMaskedLM,
    ORTModelForSequenceClassification,
    ORTModelForTokenClassification,
)
from transformers import (
    XLMForSequenceClassification,
    XLMForTokenClassification,
    XLMModel,
    XLMTokenizer,
    XLMWithLMHeadModel,
    pipeline,
)

MODELS: dict[str, tuple[Any, Any, str]] = {
    "text-classification": (XLMForSequenceClassification, ORTModelForSequenceClassification, "The old town. Маяк."),
    "feature-extraction": (XLMModel, ORTModelForFeatureExtraction, "The old town. Маяк."),
    "token-classification": (XLMForTokenClassification, ORTModelForTokenClassification, "The old town. Маяк."),
    "fill-mask": (XLMWithLMHeadModel, ORTModelForMaskedLM, "The <special1> town."),
}


def main() -> None:
    task, checkpoint, bundle = sys.argv[1:]
    theirs, ours, text = MODELS[task]
    both = []
    for model, folder in ((theirs, checkpoint), (ours, bundle)):
        # transformers 4 also gives XLM token types, which 5 does not, and which the graph was exported without
        tokenizer = XLMTokenizer.from_pretrained(folder, model_input_names=["input_ids", "attention_mask"])
        found = pipeline(task, model=model.from_pretrained(folder), tokenizer=tokenizer)(text)
        both.append(found)
    print(json.dumps(both, default=lambda value: np.asarray(value).tolist()))


if __name__ == "__main__":
    main()
