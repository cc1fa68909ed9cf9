"""This project's torch model, whose attention is torch's scaled_dot_product_attention: the best that torch does here.

transformers' XLM spells its attention out, so this stands for what torch can do with fused attention.

options: `checkpoint`, `task`, `precision` (fp32, bf16 or fp16), `compile` (None, "default" or "reduce-overhead", which
captures CUDA graphs), `device`.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch

from benchmarks.contenders.labels import label_rows
from benchmarks.workloads import Row
from xlm_export.checkpoint.checkpoint import load_checkpoint
from xlm_runtime.model.batching import pad_rows
from xlm_runtime.tokenization import XLMTokenizer

PAD = 2
DTYPES = {"fp32": torch.float32, "bf16": torch.bfloat16, "fp16": torch.float16}


class TorchModel:
    def __init__(self, options: dict[str, Any], threads: int) -> None:
        torch.set_num_threads(threads)
        self._device = torch.device(options["device"])
        loaded = load_checkpoint(options["checkpoint"], options["task"])
        self._config = loaded.config
        self._model: Any = loaded.model.eval().to(self._device, DTYPES[options["precision"]])
        self._forward = self._model
        if options["compile"]:
            # lengths differ from call to call; CUDA graphs hold one shape each
            dynamic = None if options["compile"] == "reduce-overhead" else True
            self._forward = torch.compile(self._model, mode=options["compile"], dynamic=dynamic)
        self._folder = Path(options["checkpoint"])
        self._tokenizer: XLMTokenizer | None = None

    def answer(self, rows: Sequence[Row], all_logits: bool) -> np.ndarray:
        return self._logits(dict(pad_rows(rows, PAD)))

    def answer_texts(self, texts: list[str]) -> list[str]:
        """With this project's tokenizer, since torch has none."""
        if self._tokenizer is None:
            self._tokenizer = XLMTokenizer.from_pretrained(self._folder)
        rows = [Row(self._tokenizer(text)["input_ids"]) for text in texts]
        return label_rows(rows, lambda batch: self.answer(batch, False), self._config.id2label)

    @torch.inference_mode()
    def generate(self, prompts: list[list[int]], tokens: int) -> list[list[int]]:
        """Greedy, with the model's own cache."""
        new = torch.tensor(prompts, device=self._device)
        mask, cache = torch.ones_like(new), self._model.transformer.empty_cache(len(prompts))
        found = []
        for _ in range(tokens):
            output = self._forward(new, mask, langs=torch.zeros_like(new), cache=cache, logits_to_keep=1)
            new, cache = output.logits[:, -1:].argmax(-1), cache.append(output.present)
            mask = torch.cat((mask, torch.ones_like(new)), dim=1)
            found.append(new)
        return torch.cat(found, dim=1).tolist()

    @torch.inference_mode()
    def _logits(self, arrays: dict[str, np.ndarray]) -> np.ndarray:
        if not self._config.uses_langs:
            del arrays["langs"]
        inputs = {name: torch.from_numpy(array).to(self._device) for name, array in arrays.items()}
        return self._forward(**inputs).logits.float().cpu().numpy()


def open_model(options: dict[str, Any], threads: int) -> TorchModel:
    return TorchModel(options, threads)
