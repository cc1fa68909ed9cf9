"""From texts to prompts: the start token, the ids, and whether they fit."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

from xlm_runtime.errors import InputError
from xlm_runtime.families import family_of
from xlm_runtime.generation.decoder import Prompt
from xlm_runtime.generation.options import GenerationOptions
from xlm_runtime.model.batching import BatchOptions
from xlm_runtime.model.model import BundleModel, TextItem

# so many times the usual budget of a batch, see `batch_options`
_ROOM = 8


class PromptBuilder:
    """Makes prompts for an opened language model.

    A prompt begins with the family's start token unless `start` says otherwise. For XLM it is `</s>`, which stands in
    front of every sentence of the streams that it was trained on. An empty prompt is the start token alone.
    """

    def __init__(self, model: BundleModel) -> None:
        self.model = model
        start = family_of(model.config).prompt_start_id(model.tokenizer)
        self._default_start = [] if start is None else [start]

    def build(self, item: TextItem, start: str | None = None, options: GenerationOptions | None = None) -> Prompt:
        """Ids of a prompt, checked against the model's positions.

        Args:
            start: token before the text, such as "<s>", or "" for none; by default the family's.
            options: how many tokens are to follow, and which not; by default none follow.

        Raises:
            InputError: no token, too many of them, an unknown language or start token.
        """
        languages = self.model.languages
        lang_id = languages.prompt if item.lang is None else languages.number(item.lang)
        ids = [*self._start_ids(start), *self._ids(item.text, item.lang)]
        if not ids:
            raise InputError("The prompt is empty and prompt_start is too; give a text or a start token.")
        limit = self.model.config.max_position_embeddings
        new_tokens = 0 if options is None else options.max_new_tokens
        if len(ids) + new_tokens > limit:
            excerpt = item.text[:40] + ("…" if len(item.text) > 40 else "")
            raise InputError(
                f"The text '{excerpt}' has {len(ids)} tokens, start token included, and max_new_tokens is "
                f"{new_tokens}: {len(ids) + new_tokens} in all, but the model has only {limit} positions. "
                + (f"Ask for at most {limit - len(ids)}." if len(ids) < limit and new_tokens else "Shorten the text.")
            )
        if options is None:
            return Prompt(ids, lang_id)
        largest = max((index for ids in options.bad_words_ids for index in ids), default=0)
        if largest >= self.model.config.vocab_size:
            raise InputError(f"bad_words_ids has {largest}; the model has {self.model.config.vocab_size} tokens.")
        forbidden = [tuple(self._ids(words, item.lang)) for words in options.bad_words] + [*options.bad_words_ids]
        return Prompt(ids, lang_id, tuple(words for words in forbidden if words))

    def _ids(self, text: str, lang: str | None) -> list[int]:
        return self.model.tokenizer.encoder.ids(text, lang)

    def _start_ids(self, token: str | None) -> list[int]:
        if token is None:
            return self._default_start
        tokenizer = self.model.tokenizer
        if token and token not in tokenizer.all_special_tokens:
            known = ", ".join(tokenizer.all_special_tokens)
            raise InputError(f"prompt_start is '{token}'; expected one of {known}, or '' for none.")
        return [tokenizer.vocabulary.id(token)] if token else []


@dataclass(frozen=True)
class PromptRow:
    """A prompt, and the tokens that its rows of the batch take in all."""

    prompt: Prompt
    tokens: int

    def __len__(self) -> int:
        return self.tokens


def batch_options(model: BundleModel) -> BatchOptions:
    """A step reads all weights for one token of each row, so rows come cheap: many times the usual budget of a batch,
    which counts a row's tokens at its longest."""
    return BatchOptions(_ROOM * model.batching.max_tokens)


def split_batch(model: BundleModel, batch: list[PromptRow], rows: int, new: int) -> Iterator[list[PromptRow]]:
    """A batch in parts of as many texts, of `rows` rows each, as the cache takes while they grow by `new` tokens."""
    longest = max(len(row.prompt) for row in batch)
    most = model.max_rows(longest, longest + new) if model.has_cache else None
    size = len(batch) if most is None else max(1, most // rows)
    return (batch[start : start + size] for start in range(0, len(batch), size))
