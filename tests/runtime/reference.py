"""An independent computation to compare pipelines with: one sequence alone, unpadded, straight from ONNX Runtime."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import onnxruntime

from xlm_runtime import XLMConfig, XLMTokenizer


class Reference:
    """A bundle's graph and tokenizer, without sessions, batches or pipelines."""

    def __init__(self, folder: Path) -> None:
        self.config = XLMConfig.from_pretrained(folder)
        self.tokenizer = XLMTokenizer.from_pretrained(folder)
        self.session = onnxruntime.InferenceSession(str(folder / "model.onnx"), providers=["CPUExecutionProvider"])

    def ids(self, text: str, text_pair: str | None = None, *, lang: str | None = None) -> list[int]:
        return list(self.tokenizer(text, text_pair, lang=lang)["input_ids"])

    def run(self, ids: list[int], lang: str | None = None, **extra: Any) -> np.ndarray:
        """The first output for one sequence, without its batch axis where it has one."""
        shape = (1, 1, len(ids)) if "Choice" in (self.config.architectures or [""])[0] else (1, len(ids))
        lang_id = self.config.lang2id[lang] if lang and self.config.lang2id else -1
        feed = {
            "input_ids": np.array(ids, np.int64).reshape(shape),
            "attention_mask": np.ones(shape, np.int64),
            "langs": np.full(shape, lang_id, np.int64),
            **extra,
        }
        known = {item.name for item in self.session.get_inputs()}
        output = self.session.run(None, {name: value for name, value in feed.items() if name in known})[0]
        return output if extra else output[0]


def probabilities(logits: np.ndarray) -> np.ndarray:
    scores = np.exp(logits.astype(np.float64))
    return scores / scores.sum(axis=-1, keepdims=True)
