"""Text that continues a prompt, and how probable a text is."""

from __future__ import annotations

from collections.abc import Callable, Generator, Iterator, Sequence
from contextlib import closing
from dataclasses import dataclass, replace
from typing import Any, NamedTuple, TypedDict

from xlm_runtime.errors import InputError
from xlm_runtime.families import family_of
from xlm_runtime.generation.config_file import bundle_defaults
from xlm_runtime.generation.decoder import CachedDecoder, Decoder, Prompt, RecomputingDecoder
from xlm_runtime.generation.options import GenerationOptions
from xlm_runtime.generation.processors import make_processors
from xlm_runtime.generation.prompts import PromptBuilder, PromptRow, batch_options, split_batch
from xlm_runtime.generation.search import Hypothesis, Steps, feeds_itself, make_strategy, search, search_greedily
from xlm_runtime.generation.static_decoder import StaticDecoder
from xlm_runtime.generation.streaming import TextStreamer, cut_at_stop
from xlm_runtime.model.cache import KeyValueCache
from xlm_runtime.model.model import BundleModel
from xlm_runtime.pipelines.base import Answers, Languages, Pipeline, TextInput, TextInputs, read_text
from xlm_runtime.pipelines.text_scoring import TextScore, TextScoringOptions, TextScoringPipeline


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


Answer = GeneratedText | list[GeneratedText]


class TextPiece(NamedTuple):
    """What a stream can show after some of its tokens.

    Attributes:
        text: whole words; empty in the last piece where nothing was left to show.
        ids: all new tokens so far.
        ending: "eos", "stop" or "length" in the last piece, before it None.
    """

    text: str
    ids: list[int]
    ending: str | None


@dataclass(frozen=True)
class TextGenerationOptions:
    """See `TextGenerationPipeline.__call__`."""

    generation: GenerationOptions
    prompt_start: str | None = None


class TextGenerationPipeline(Pipeline[TextGenerationOptions, PromptRow, list[Hypothesis], Answer]):
    """Generation with a bundle's language model: with its cache, or computing whole sequences where there is none.

    A prompt begins with the start token, `</s>` unless `prompt_start` says otherwise: XLM was trained on streams in
    which it stands before every sentence. An empty prompt is the start token alone.

    Attributes:
        defaults: how text is generated where a call does not say: as the checkpoint's `generation_config.json` asks
            for. `pipe(text, pipe.defaults.replace(max_new_tokens=50))` changes one option.
    """

    def __init__(self, model: BundleModel) -> None:
        super().__init__(model)
        self.batching = batch_options(model)
        self.defaults = bundle_defaults(model.bundle)
        self.scoring = TextScoringPipeline(model)
        self._prompts = PromptBuilder(model)
        self._mask_id = family_of(model.config).prompt_mask_id(model.config, model.tokenizer)

    def __call__(
        self,
        inputs: TextInputs,
        options: GenerationOptions | None = None,
        *,
        lang: Languages = None,
        prompt_start: str | None = None,
        on_error: str = "raise",
    ) -> Answers[Answer]:
        """For each prompt the text that follows it, or a list of them with `num_return_sequences` above 1.

        Args:
            inputs: prompts, or dictionaries with "text" and "lang"; languages may differ within a batch.
            options: all of them, see `GenerationOptions`; by default `defaults`.
            lang: language of all prompts, or a list with one for each.
            prompt_start: token before the prompt, such as "<s>", or "" for none; by default `</s>`.
            on_error: "raise", "skip" or "return" for an input that cannot be used, see `Pipeline.answer`.

        Raises:
            InputError: prompt and new tokens together exceed the model's positions, a prompt without tokens, an
                unknown language or start token.
        """
        wanted = TextGenerationOptions(options or self.defaults, prompt_start)
        return self.answer(inputs, lang=lang, on_error=on_error, options=wanted)

    def preprocess(self, item: Any, lang: str | None, options: TextGenerationOptions) -> list[PromptRow]:
        asked = options.generation
        prompt = self._prompts.build(read_text(item, lang), options.prompt_start, asked)
        return [PromptRow(prompt, _rows(asked) * (len(prompt) + asked.max_new_tokens))]

    def forward(self, batch: list[PromptRow], options: TextGenerationOptions) -> Callable[[], list[list[Hypothesis]]]:
        return lambda: self._generate(batch, options)

    def _generate(self, batch: list[PromptRow], options: TextGenerationOptions) -> list[list[Hypothesis]]:
        """For each prompt its sequences, the best first."""
        asked = self._with_eos(options.generation)
        found: list[list[Hypothesis]] = []
        for part in split_batch(self.model, batch, _rows(asked), asked.max_new_tokens):
            *_, last = self._search([row.prompt for row in part], asked)
            found += last
        return found

    def postprocess(
        self, rows: Sequence[PromptRow], outputs: Sequence[list[Hypothesis]], options: TextGenerationOptions
    ) -> Answer:
        answers = [self._result(sequence, options.generation) for sequence in outputs[0]]
        return answers[0] if options.generation.num_return_sequences == 1 else answers

    def stream(
        self,
        text: TextInput,
        options: GenerationOptions | None = None,
        *,
        lang: str | None = None,
        prompt_start: str | None = None,
    ) -> Iterator[str]:
        """The text that follows a prompt, in pieces of whole words as they are generated.

        Joined, the pieces are `generated_text`. Closing the iterator, or taking no more from it, ends the generation.

        Raises:
            InputError: as in a call, when the iterator is made; also for options with several results, or beams.
        """
        return _texts(self.stream_pieces(text, options, lang=lang, prompt_start=prompt_start))

    def stream_pieces(
        self,
        text: TextInput,
        options: GenerationOptions | None = None,
        *,
        lang: str | None = None,
        prompt_start: str | None = None,
    ) -> Generator[TextPiece, None, None]:
        """The same with the tokens, and a last piece that tells how the text ended.

        Args:
            text, options, lang, prompt_start: as in `stream`.

        Raises:
            InputError: as in `stream`.
        """
        options = options or self.defaults
        if options.num_beams > 1 or options.num_return_sequences > 1:
            raise InputError(
                "A stream shows one text as it grows, but num_beams or num_return_sequences is above 1, which leaves "
                "the best one open to the end; call the pipeline instead."
            )
        options = self._with_eos(options)
        prompt = self._prompts.build(read_text(text, lang), prompt_start, options)
        return self._pieces(prompt, options)

    def score(
        self,
        inputs: TextInputs,
        *,
        lang: Languages = None,
        prompt_start: str | None = None,
        on_error: str = "raise",
    ) -> Answers[TextScore]:
        """How probable each text is, each token given those before it as in generation.

        Args:
            inputs, lang, prompt_start, on_error: as in a call; without a start token the first token has no
                probability.

        Raises:
            InputError: a text with fewer than two tokens, start token included, or more than the model's positions.
        """
        return self.scoring.answer(inputs, lang=lang, on_error=on_error, options=TextScoringOptions(prompt_start))

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
        if self.model.has_static_cache:
            return StaticDecoder(self.model, max_length)
        if self.model.has_cache:
            return CachedDecoder(self.model, max_length)
        return RecomputingDecoder(self.model, self._mask_id)

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
        if isinstance(decoder, StaticDecoder) and feeds_itself(options, processors):
            return search_greedily(decoder, prompts, options.max_new_tokens, ending)
        return search(decoder, prompts, make_strategy(prompts, options, processors, ending))

    def _pieces(self, prompt: Prompt, options: GenerationOptions) -> Generator[TextPiece, None, None]:
        tokenizer = self.model.tokenizer
        streamer = TextStreamer(self._text, tokenizer.vocabulary.token, options.stop)
        with closing(self._search([prompt], options)) as steps:
            for ((sequence,),) in steps:
                piece = streamer.add(sequence.new_ids, sequence.ending is not None)
                if piece or sequence.ending is not None:
                    yield TextPiece(piece, sequence.new_ids, sequence.ending)

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

    def _text(self, ids: list[int]) -> str:
        decode = self.model.tokenizer.decode
        return str(decode(ids, skip_special_tokens=True, clean_up_tokenization_spaces=False))

    def _with_eos(self, options: GenerationOptions) -> GenerationOptions:
        """The options with the ids that end a text, the checkpoint's where none are given."""
        if options.ignore_eos or options.eos_token_id is not None:
            return options
        ids = self.defaults.eos_token_id
        return replace(options, eos_token_id=_as_tuple(self.model.config.eos_token_id if ids is None else ids))


def _texts(pieces: Generator[TextPiece, None, None]) -> Iterator[str]:
    """The texts alone; closing this ends the generation."""
    with closing(pieces):
        for piece in pieces:
            if piece.text:
                yield piece.text


def _rows(options: GenerationOptions) -> int:
    """Rows of a batch that one text takes."""
    return max(options.num_beams, options.num_return_sequences)


def _as_tuple(ids: int | Sequence[int] | None) -> tuple[int, ...]:
    if ids is None:
        return ()
    return (ids,) if isinstance(ids, int) else tuple(ids)
