"""This project's runtime on one graph of a bundle.

options: `bundle` (a folder whose bundle.json names that graph alone), `task`, `provider`, and on a GPU `cuda_graphs`
(None for the provider's default).
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from benchmarks.workloads import Row
from xlm_runtime.model.batching import answer_group
from xlm_runtime.model.model import BundleModel
from xlm_runtime.pipelines import pipeline
from xlm_runtime.sessions import GpuOptions


class RuntimeModel:
    def __init__(self, options: dict[str, Any], threads: int) -> None:
        gpu = None if options.get("cuda_graphs") is None else GpuOptions(cuda_graphs=options["cuda_graphs"])
        self._pipeline = pipeline(
            options["task"], options["bundle"], options["provider"], threads, gpu=gpu, engine_cache=False
        )  # `benchmarks.startup` measures the cache
        self._model: BundleModel = self._pipeline.model
        self._language_model = options["task"] == "fill-mask"

    def answer(self, rows: Sequence[Row], all_logits: bool) -> np.ndarray:
        if not self._language_model:
            return self._model.run(rows)["logits"]
        lengths = np.array([len(row) for row in rows])
        longest = int(lengths.max())
        masks = np.array([i * longest + (row.mask or 0) for i, row in enumerate(rows)], np.int64)
        if not all_logits:
            return self._model.run(rows, {"logit_positions": masks})["logits"]
        tokens = np.flatnonzero(np.arange(longest) < lengths[:, None])
        return self._model.run(rows, {"logit_positions": tokens})["logits"][np.searchsorted(tokens, masks)]

    def answer_all(self, rows: Sequence[Row]) -> list[np.ndarray]:
        """The runtime's own batching, whatever its layout makes of it."""
        batching = self._model.batching
        return answer_group(rows, lambda batch: lambda: self.answer(batch, False), lambda _, found: [*found], batching)

    def answer_texts(self, texts: list[str]) -> list[Any]:
        return self._pipeline(texts)

    def generate(self, prompts: list[list[int]], tokens: int) -> list[list[int]]:
        """As the pipeline does it, on whatever path it takes for greedy search, with ids in place of texts."""
        from xlm_runtime import GenerationOptions
        from xlm_runtime.generation.decoder import Prompt
        from xlm_runtime.generation.prompts import PromptRow
        from xlm_runtime.pipelines.text_generation import TextGenerationOptions

        rows = [PromptRow(Prompt(ids), len(ids) + tokens) for ids in prompts]
        options = TextGenerationOptions(GenerationOptions(max_new_tokens=tokens, ignore_eos=True))
        found = self._pipeline.forward(rows, options)
        found = found()  # begun above, waited for here
        return [sequences[0].new_ids for sequences in found]


def open_model(options: dict[str, Any], threads: int) -> RuntimeModel:
    return RuntimeModel(options, threads)
