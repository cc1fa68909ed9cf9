"""transformers' own model in torch, eager or compiled, in fp32, under bf16 autocast or in fp16."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
import transformers

from benchmarks.contenders.labels import label_rows
from benchmarks.workloads import Row
from xlm_runtime.model.batching import pad_rows

PAD = 2


class TransformersModel:
    """options: `checkpoint`, `task`, `precision` (fp32, bf16 or fp16), `compile`, `device`, and `inputs`: "all", or
    "optimum" for those that optimum's export has, which knows no languages and gives every token the type 0."""

    def __init__(self, options: dict[str, Any], threads: int) -> None:
        torch.set_num_threads(threads)
        transformers.logging.set_verbosity_error()
        self._device = torch.device(options["device"])
        self._precision = options["precision"]
        self._language_model = options["task"] in ("fill-mask", "text-generation")
        kind = {
            "text-classification": transformers.XLMForSequenceClassification,
            "fill-mask": transformers.XLMWithLMHeadModel,
            "text-generation": transformers.XLMWithLMHeadModel,
        }[options["task"]]
        model: Any = kind.from_pretrained(options["checkpoint"]).eval().to(self._device)
        if self._precision == "fp16":
            model = model.half()
        self._uses_langs = model.config.n_langs > 1 and model.config.use_lang_emb
        self._token_types = options["inputs"] == "optimum"
        self._uses_langs = self._uses_langs and not self._token_types
        self._model = model
        body: Any = model.transformer if self._language_model else model
        # "dynamic": lengths differ from call to call, and a graph for each would be compiled for minutes
        self._forward = torch.compile(body, dynamic=True) if options["compile"] else body
        self._folder = Path(options["checkpoint"])
        self._tokenizer: Any = None

    def answer(self, rows: Sequence[Row], all_logits: bool) -> np.ndarray:
        arrays = pad_rows(rows, PAD)
        if not self._uses_langs:
            del arrays["langs"]
        inputs = {name: torch.from_numpy(array).to(self._device) for name, array in arrays.items()}
        if self._token_types:
            inputs["token_type_ids"] = torch.zeros_like(inputs["input_ids"])
        masks = [row.mask for row in rows] if self._language_model else None
        return self._logits(inputs, masks, all_logits).float().cpu().numpy()

    def answer_texts(self, texts: list[str]) -> list[str]:
        if self._tokenizer is None:
            self._tokenizer = transformers.XLMTokenizer.from_pretrained(self._folder)
        rows = [Row(ids) for ids in self._tokenizer(texts)["input_ids"]]
        return label_rows(rows, lambda batch: self.answer(batch, False), self._model.config.id2label)

    def generate(self, prompts: list[list[int]], tokens: int) -> list[list[int]]:
        """transformers' XLM keeps no cache here: each token computes the whole text anew."""
        ids = torch.tensor(prompts, device=self._device)
        # since 5.24 it would cache the mask token behind the text, and answer wrongly
        options = {"max_new_tokens": tokens, "min_new_tokens": tokens, "do_sample": False, "use_cache": False}
        with torch.inference_mode(), self._autocast():
            found = self._model.generate(ids, pad_token_id=PAD, **options)
        return found[:, ids.shape[1] :].tolist()

    @torch.inference_mode()
    def _logits(self, inputs: dict[str, torch.Tensor], masks: list[int] | None, all_logits: bool) -> torch.Tensor:
        with self._autocast():
            output = self._forward(**inputs)[0]
            if masks is None:
                return output
            rows = torch.arange(len(masks), device=self._device)
            columns = torch.tensor(masks, device=self._device)
            if all_logits:
                return self._model.pred_layer(output)[0][rows, columns]
            return self._model.pred_layer(output[rows, columns])[0]

    def _autocast(self) -> Any:
        return torch.autocast(self._device.type, torch.bfloat16, enabled=self._precision == "bf16")


def open_model(options: dict[str, Any], threads: int) -> TransformersModel:
    return TransformersModel(options, threads)
