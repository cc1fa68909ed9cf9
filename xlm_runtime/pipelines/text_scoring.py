"""How probable a text is, each token given those before it as in generation."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, TypedDict

from xlm_runtime.errors import InputError
from xlm_runtime.families import family_of
from xlm_runtime.generation.prompts import PromptBuilder, PromptRow, batch_options, split_batch
from xlm_runtime.generation.scoring import score_cached, score_recomputed, score_static
from xlm_runtime.model.model import BundleModel
from xlm_runtime.pipelines.base import Pipeline, read_text


class TextScore(TypedDict):
    """How probable a text is: its ids behind the start token and their names, their log-probabilities, the sum, and
    perplexity, exp(-mean)."""

    ids: list[int]
    tokens: list[str]
    token_log_probs: list[float]
    log_likelihood: float
    perplexity: float


@dataclass(frozen=True)
class TextScoringOptions:
    """See `TextGenerationPipeline.score`."""

    prompt_start: str | None = None


class TextScoringPipeline(Pipeline[TextScoringOptions, PromptRow, list[float], TextScore]):
    """`TextGenerationPipeline.score`."""

    def __init__(self, model: BundleModel) -> None:
        super().__init__(model)
        self.batching = batch_options(model)
        self._prompts = PromptBuilder(model)
        self._mask_id = family_of(model.config).prompt_mask_id(model.config, model.tokenizer)

    def preprocess(self, item: Any, lang: str | None, options: TextScoringOptions) -> list[PromptRow]:
        text = read_text(item, lang)
        prompt = self._prompts.build(text, options.prompt_start)
        if len(prompt) < 2:
            raise InputError(f"The text '{text.text[:40]}' has nothing to score: give at least one word.")
        return [PromptRow(prompt, len(prompt))]

    def forward(self, batch: list[PromptRow], options: TextScoringOptions) -> Callable[[], list[list[float]]]:
        return lambda: self._log_probs(batch)

    def _log_probs(self, batch: list[PromptRow]) -> list[list[float]]:
        """For each text the log-probabilities of its tokens behind the first."""
        found: list[list[float]] = []
        for part in split_batch(self.model, batch, 1, 0):
            prompts = [row.prompt for row in part]
            if self.model.has_static_cache:
                found += score_static(self.model, prompts)
            elif self.model.has_cache:
                found += score_cached(self.model, prompts)
            else:
                found += score_recomputed(self.model, prompts, self._mask_id, self.model.batching.max_tokens)
        return found

    def postprocess(
        self, rows: Sequence[PromptRow], outputs: Sequence[list[float]], options: TextScoringOptions
    ) -> TextScore:
        (log_probs,), ids = outputs, rows[0].prompt.input_ids[1:]
        total = math.fsum(log_probs)
        mean = total / len(log_probs)
        return {
            "ids": ids,
            "tokens": self.model.tokenizer.vocabulary.tokens(ids),
            "token_log_probs": log_probs,
            "log_likelihood": total,
            "perplexity": math.exp(-mean) if mean > -700 else math.inf,
        }
