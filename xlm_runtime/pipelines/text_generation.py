"""Text that continues a prompt, and how probable a text is."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from contextlib import closing
from dataclasses import dataclass, replace
from typing import TypedDict

from xlm_runtime.errors import InputError
from xlm_runtime.generation.decoder import CachedDecoder, Decoder, Prompt, RecomputingDecoder
from xlm_runtime.generation.options import GenerationOptions
from xlm_runtime.generation.processors import make_processors
from xlm_runtime.generation.scoring import score_cached, score_recomputed
from xlm_runtime.generation.search import Hypothesis, Steps, make_strategy, search
from xlm_runtime.generation.streaming import TextStreamer, cut_at_stop
from xlm_runtime.model.batching import BatchOptions, answer_groups
from xlm_runtime.model.cache import KeyValueCache
from xlm_runtime.model.model import BundleModel, TextItem
from xlm_runtime.pipelines.base import Languages, TextInput, TextInputs, read_text, respond

# A step reads all weights for one token of each row, so rows come cheap: this many times the usual budget of a batch,
# which counts a row's tokens at its longest.
_ROOM = 8


class _Scores(TypedDict, total=False):
    score: float
    token_log_probs: list[float]


class GeneratedText(_Scores):
    """What came after a prompt: the new text, its ids, why it ended ("eos", "stop" or "length").

    Asked for with `return_scores`: the sequence's score (the sum of the log-probabilities; of beams the value they are
    ranked by) and each token's log-probability under the model.
    """

    generated_text: str
    ids: list[int]
    ending: str


class TextScore(TypedDict):
    """How probable a text is: its ids behind the start token and their names, their log-probabilities, the sum, and
    perplexity, exp(-mean)."""

    ids: list[int]
    tokens: list[str]
    token_log_probs: list[float]
    log_likelihood: float
    perplexity: float


Answer = GeneratedText | list[GeneratedText]
DEFAULT = GenerationOptions()


@dataclass(frozen=True)
class _Row:
    """A prompt, and the tokens that its rows of the batch take in all."""

    prompt: Prompt
    tokens: int

    def __len__(self) -> int:
        return self.tokens


class TextGenerationPipeline:
    """Generation with a bundle's language model: with its cache, or computing whole sequences where there is none.

    A prompt begins with the start token, `</s>` unless `prompt_start` says otherwise: XLM was trained on streams in
    which it stands before every sentence. An empty prompt is the start token alone.
    """

    def __init__(self, model: BundleModel) -> None:
        self.model = model
        config = model.config
        mask = config.mask_token_id if config.mask_token_id is not None else model.tokenizer.mask_token_id
        self._mask_id = None if config.causal else mask
        self._batching = BatchOptions(_ROOM * model.batching.max_tokens)

    def __call__(
        self,
        inputs: TextInputs,
        options: GenerationOptions = DEFAULT,
        *,
        lang: Languages = None,
        prompt_start: str | None = None,
    ) -> Answer | list[Answer] | Iterator[Answer]:
        """For each prompt the text that follows it, or a list of them with `num_return_sequences` above 1.

        Args:
            inputs: prompts, or dictionaries with "text" and "lang"; languages may differ within a batch.
            options: see `GenerationOptions`.
            lang: language of all prompts, or a list with one for each.
            prompt_start: token before the prompt, such as "<s>", or "" for none; by default `</s>`.

        Raises:
            InputError: prompt and new tokens together exceed the model's positions, a prompt without tokens, an
                unknown language or start token.
        """
        options = self._with_eos(options)
        rows = max(options.num_beams, options.num_return_sequences)

        def encode(item: TextItem) -> _Row:
            prompt = self._prompt(item, options, prompt_start)
            return _Row(prompt, rows * (len(prompt) + options.max_new_tokens))

        def read(batch: list[_Row]) -> list[Answer]:
            return [each for part in self._parts(batch, rows, options.max_new_tokens) for each in read_part(part)]

        def read_part(batch: list[_Row]) -> list[Answer]:
            *_, found = self._search([row.prompt for row in batch], options)
            answers = [[self._result(each, options) for each in results] for results in found]
            return [each[0] if options.num_return_sequences == 1 else each for each in answers]

        def answer(items: Iterator[TextItem]) -> Iterator[Answer]:
            groups = ([encode(item)] for item in items)
            return (each for (each,) in answer_groups(groups, read, self._batching))

        return respond(inputs, lang, read_text, answer)

    def stream(
        self,
        text: TextInput,
        options: GenerationOptions = DEFAULT,
        *,
        lang: str | None = None,
        prompt_start: str | None = None,
    ) -> Iterator[str]:
        """The text that follows a prompt, in pieces of whole words as they are generated.

        Joined, the pieces are `generated_text`. Closing the iterator, or taking no more from it, ends the generation.

        Raises:
            InputError: as in a call, when the iterator is made; also for options with several results, or beams.
        """
        if options.num_beams > 1 or options.num_return_sequences > 1:
            raise InputError(
                "A stream shows one text as it grows, but num_beams or num_return_sequences is above 1, which leaves "
                "the best one open to the end; call the pipeline instead."
            )
        options = self._with_eos(options)
        prompt = self._prompt(read_text(text, lang), options, prompt_start)
        return self._pieces(prompt, options)

    def score(
        self, inputs: TextInputs, *, lang: Languages = None, prompt_start: str | None = None
    ) -> TextScore | list[TextScore] | Iterator[TextScore]:
        """How probable each text is, each token given those before it as in generation.

        Args:
            inputs, lang, prompt_start: as in a call; without a start token the first token has no probability.

        Raises:
            InputError: a text with fewer than two tokens, start token included, or more than the model's positions.
        """

        def encode(item: TextItem) -> _Row:
            prompt = self._prompt(item, None, prompt_start)
            if len(prompt) < 2:
                raise InputError(f"The text '{item.text[:40]}' has nothing to score: give at least one word.")
            return _Row(prompt, len(prompt))

        def read(batch: list[_Row]) -> list[TextScore]:
            return [each for part in self._parts(batch, 1, 0) for each in read_part(part)]

        def read_part(batch: list[_Row]) -> list[TextScore]:
            prompts = [row.prompt for row in batch]
            if self.model.has_cache:
                found = score_cached(self.model, prompts)
            else:
                found = score_recomputed(self.model, prompts, self._mask_id, self.model.batching.max_tokens)
            return [self._text_score(row.prompt.input_ids[1:], each) for row, each in zip(batch, found, strict=True)]

        def answer(items: Iterator[TextItem]) -> Iterator[TextScore]:
            groups = ([encode(item)] for item in items)
            return (each for (each,) in answer_groups(groups, read, self._batching))

        return respond(inputs, lang, read_text, answer)

    def cache_bytes(self, rows: int, length: int) -> int:
        """Most bytes that keys and values take while `rows` sequences (texts × beams) grow to `length` tokens.

        0 where the graph has no cache.
        """
        return KeyValueCache.bytes_needed(self.model.config, rows, length) if self.model.has_cache else 0

    def decoder(self, max_length: int | None = None) -> Decoder:
        """What runs the steps of one generation.

        Args:
            max_length: most tokens of a row, padding included; by default the model's positions.
        """
        if self.model.has_cache:
            return CachedDecoder(self.model, max_length)
        return RecomputingDecoder(self.model, self._mask_id)

    def _parts(self, batch: list[_Row], rows: int, new: int) -> Iterator[list[_Row]]:
        """The batch in parts of as many texts, of `rows` rows each, as the cache takes while they grow by `new`."""
        longest = max(len(row.prompt) for row in batch)
        most = self.model.max_rows(longest, longest + new) if self.model.has_cache else None
        size = len(batch) if most is None else max(1, most // rows)
        return (batch[start : start + size] for start in range(0, len(batch), size))

    def _search(self, prompts: Sequence[Prompt], options: GenerationOptions) -> Steps:
        eos_ids = _as_tuple(options.eos_token_id)
        bad_words = any(prompt.bad_words for prompt in prompts)
        processors = make_processors(options, eos_ids, bad_words)

        def ending(ids: list[int]) -> str | None:
            if not options.ignore_eos and ids[-1] in eos_ids:
                return "eos"
            if options.stop and len(ids) >= options.min_new_tokens:
                text = self._text(ids)
                if any(string in text for string in options.stop):
                    return "stop"
            return "length" if len(ids) >= options.max_new_tokens else None

        decoder = self.decoder(max(map(len, prompts)) + options.max_new_tokens)
        return search(decoder, prompts, make_strategy(prompts, options, processors, ending))

    def _pieces(self, prompt: Prompt, options: GenerationOptions) -> Iterator[str]:
        tokenizer = self.model.tokenizer
        streamer = TextStreamer(self._text, tokenizer.vocabulary.token, options.stop)
        with closing(self._search([prompt], options)) as steps:
            for ((sequence,),) in steps:
                piece = streamer.add(sequence.new_ids, sequence.ending is not None)
                if piece:
                    yield piece

    def _result(self, sequence: Hypothesis, options: GenerationOptions) -> GeneratedText:
        result: GeneratedText = {
            "generated_text": cut_at_stop(self._text(sequence.new_ids), options.stop),
            "ids": sequence.new_ids,
            "ending": sequence.ending or "length",
        }
        if options.return_scores:
            result["score"] = sequence.score
            result["token_log_probs"] = sequence.log_probs
        return result

    def _text_score(self, ids: list[int], log_probs: list[float]) -> TextScore:
        total = math.fsum(log_probs)
        mean = total / len(log_probs)
        return {
            "ids": ids,
            "tokens": self.model.tokenizer.vocabulary.tokens(ids),
            "token_log_probs": log_probs,
            "log_likelihood": total,
            "perplexity": math.exp(-mean) if mean > -700 else math.inf,
        }

    def _text(self, ids: list[int]) -> str:
        decode = self.model.tokenizer.decode
        return str(decode(ids, skip_special_tokens=True, clean_up_tokenization_spaces=False))

    def _with_eos(self, options: GenerationOptions) -> GenerationOptions:
        """The options with the ids that end a text, the configuration's where none are given."""
        if options.ignore_eos or options.eos_token_id is not None:
            return options
        return replace(options, eos_token_id=_as_tuple(self.model.config.eos_token_id))

    def _prompt(self, item: TextItem, options: GenerationOptions | None, prompt_start: str | None) -> Prompt:
        """Ids of a prompt, checked against the positions that it and `options` need."""
        tokenizer = self.model.tokenizer
        lang_id = self.model.lang_id(item.lang)
        ids = [*self._start(prompt_start), *tokenizer.encode(item.text, lang=item.lang, add_special_tokens=False)]
        if not ids:
            raise InputError("The prompt is empty and prompt_start is too; give a text or a start token.")
        limit, new = self.model.config.max_position_embeddings, options.max_new_tokens if options else 0
        if len(ids) + new > limit:
            excerpt = item.text[:40] + ("…" if len(item.text) > 40 else "")
            raise InputError(
                f"The text '{excerpt}' has {len(ids)} tokens, start token included, and max_new_tokens is {new}: "
                f"{len(ids) + new} in all, but the model has only {limit} positions. "
                + (f"Ask for at most {limit - len(ids)}." if len(ids) < limit and new else "Shorten the text.")
            )
        bad_words = [
            tuple(tokenizer.encode(words, lang=item.lang, add_special_tokens=False))
            for words in (options.bad_words if options else ())
        ]
        return Prompt(ids, lang_id, tuple(words for words in bad_words if words))

    def _start(self, token: str | None) -> list[int]:
        tokenizer = self.model.tokenizer
        if token is None:
            return [] if tokenizer.sep_token_id is None else [tokenizer.sep_token_id]
        if token and token not in tokenizer.all_special_tokens:
            known = ", ".join(tokenizer.all_special_tokens)
            raise InputError(f"prompt_start is '{token}'; expected one of {known}, or '' for none.")
        return [tokenizer.vocabulary.id(token)] if token else []


def _as_tuple(ids: int | Sequence[int] | None) -> tuple[int, ...]:
    if ids is None:
        return ()
    return (ids,) if isinstance(ids, int) else tuple(ids)
