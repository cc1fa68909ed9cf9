"""Labels of tokens, such as names of people and places, and the groups they form."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from itertools import groupby
from typing import Any, TypedDict

import numpy as np

from xlm_runtime.errors import InputError
from xlm_runtime.model.model import BundleModel, TextItem, TokenSequence
from xlm_runtime.model.windows import check_stride, encode_windows, join_outputs, join_windows
from xlm_runtime.numerics import FloatArray, softmax
from xlm_runtime.pipelines.base import (
    Answers,
    Languages,
    Pipeline,
    TextInputs,
    check_choice,
    is_column,
    read_mapping,
    read_text,
)
from xlm_runtime.pipelines.entity_tags import entity_ranges, read_tags

AGGREGATIONS = ("none", "simple", "first", "average", "max")


class TokenEntity(TypedDict):
    """A token: its label, its place in the sequence and its characters, text[start:end].

    Where words were given, one of them: its place among them, from 0; the text is the words with spaces between.
    """

    entity: str
    score: float
    index: int
    word: str
    start: int
    end: int


class EntityGroup(TypedDict):
    """Neighbouring tokens or words of one kind: their mean score and their characters, text[start:end]."""

    entity_group: str
    score: float
    word: str
    start: int
    end: int


Answer = list[TokenEntity] | list[EntityGroup]


@dataclass(frozen=True)
class _Piece:
    """A token, or a word, with the scores of all labels: (num_labels,)."""

    tokens: tuple[str, ...]
    scores: FloatArray
    index: int
    start: int
    end: int


@dataclass(frozen=True)
class TokenClassificationOptions:
    """See `TokenClassificationPipeline.__call__`."""

    aggregation_strategy: str = "none"
    ignore_labels: tuple[str, ...] = ("O",)
    truncation: bool = False
    max_length: int | None = None
    stride: int | None = None
    is_split_into_words: bool = False

    def __post_init__(self) -> None:
        check_choice("aggregation_strategy", self.aggregation_strategy, AGGREGATIONS)


class TokenClassificationPipeline(Pipeline[TokenClassificationOptions, TokenSequence, FloatArray, Answer]):
    """Token classification, with character offsets."""

    input_keys = ("text", "words", "lang")

    def __init__(self, model: BundleModel) -> None:
        super().__init__(model)
        self._tags = read_tags(model.config.id2label.values())

    def __call__(
        self,
        inputs: TextInputs | Sequence[str] | Iterable[Sequence[str]],
        *,
        lang: Languages = None,
        aggregation_strategy: str = "none",
        ignore_labels: Sequence[str] = ("O",),
        truncation: bool = False,
        max_length: int | None = None,
        stride: int | None = None,
        is_split_into_words: bool = False,
        on_error: str = "raise",
    ) -> Answers[Answer]:
        """For each text its labelled tokens, or with an aggregation its groups, in the order of the text.

        Args:
            inputs: texts, or dictionaries with "text", or a list of "words", and "lang".
            lang: language of all texts, or a list with one for each.
            aggregation_strategy: "none" gives tokens, or where words were given a label for each, that of its first
                token; "simple" joins neighbouring tokens of one kind, by tags of IOB, IOBES or BILOU; the others first
                give each word one label: that of its "first" token, of the "average" of its tokens' scores, or of its
                token with the highest score ("max").
            ignore_labels: labels, or kinds, that are left out.
            truncation: cut texts that are longer than `max_length`, instead of refusing them.
            max_length: most tokens of a row; by default the tokenizer's `model_max_length`, or the model's positions.
            stride: read longer texts in windows of `max_length` that share so many tokens. Each token has its scores
                from the window that shows most on both sides of it.
            is_split_into_words: a text is a list of words.
            on_error: "raise", "skip" or "return" for an input that cannot be used, see `Pipeline.answer`.

        Raises:
            InputError: empty or too long texts, an unknown language or aggregation strategy, words without tokens.
        """
        labels = (ignore_labels,) if isinstance(ignore_labels, str) else tuple(ignore_labels)
        options = TokenClassificationOptions(
            aggregation_strategy, labels, truncation, max_length, stride, is_split_into_words
        )
        given: Any = inputs
        if is_split_into_words and is_column(inputs) and isinstance(next(iter(inputs), None), str):
            given = {"words": inputs}
        return self.answer(given, lang=lang, on_error=on_error, options=options)

    def check(self, lang: Languages, options: TokenClassificationOptions) -> None:
        check_stride(self.model, options.stride, options.truncation, options.max_length)

    def preprocess(self, item: Any, lang: str | None, options: TokenClassificationOptions) -> list[TokenSequence]:
        if options.is_split_into_words and not isinstance(item, Mapping):
            item = {"words": item}
        split = isinstance(item, Mapping) and (options.is_split_into_words or "words" in item)
        text = _read_words(item, lang) if split else read_text(item, lang)
        cut, longest = options.truncation, options.max_length
        if options.stride is not None:
            rows = encode_windows(self.model, text, stride=options.stride, max_length=longest, return_offsets=True)
        else:
            rows = [self.model.encode(text, truncation=cut, max_length=longest, return_offsets=True)]
        if text.words is not None:
            _check_words(text.words, rows, cut)
        return rows

    def forward(self, batch: list[TokenSequence], options: TokenClassificationOptions) -> Callable[[], FloatArray]:
        wait = self.model.start(batch)
        return lambda: softmax(wait()["logits"])

    def postprocess(
        self, rows: Sequence[TokenSequence], outputs: Sequence[FloatArray], options: TokenClassificationOptions
    ) -> Answer:
        """`outputs`: the scores of one text, (padded sequence, num_labels)."""
        ignored, strategy = options.ignore_labels, options.aggregation_strategy
        row = join_windows(rows)
        words = _words(row, join_outputs(rows, outputs), self.model.tokenizer.convert_ids_to_tokens)
        if strategy == "none":
            if row.words is None:
                entities = [self._entity(piece, piece.tokens[0], piece.index) for word in words for piece in word]
            else:
                entities = [
                    self._entity(_join_word(word, "first"), text, number)
                    for number, (text, word) in enumerate(zip(row.words, words, strict=False))
                ]
            return [entity for entity in entities if entity["entity"] not in ignored]
        if strategy == "simple":
            pieces = [piece for word in words for piece in word]
        else:
            pieces = [_join_word(word, strategy) for word in words]
        return [group for group in self._groups(pieces) if group["entity_group"] not in ignored]

    def _entity(self, piece: _Piece, word: str, index: int) -> TokenEntity:
        best = int(piece.scores.argmax())
        return {
            "entity": self.model.config.id2label[best],
            "score": float(piece.scores[best]),
            "index": index,
            "word": word,
            "start": piece.start,
            "end": piece.end,
        }

    def _groups(self, pieces: list[_Piece]) -> list[EntityGroup]:
        """Join neighbours that are one entity."""
        names = self.model.config.id2label
        tags = [self._tags[names[int(piece.scores.argmax())]] for piece in pieces]
        groups: list[EntityGroup] = []
        for first, stop in entity_ranges(tags):
            members = pieces[first:stop]
            groups.append(
                {
                    "entity_group": tags[first].kind,
                    "score": float(np.mean([piece.scores.max() for piece in members])),
                    "word": self.model.tokenizer.convert_tokens_to_string(
                        [token for piece in members for token in piece.tokens]
                    ),
                    "start": members[0].start,
                    "end": members[-1].end,
                }
            )
        return groups


def _read_words(item: Mapping[str, Any], lang: str | None) -> TextItem:
    """A text that comes as a list of words.

    Raises:
        InputError: no list of strings.
    """
    values = read_mapping(item, (), ("lang",), lists=("words",))
    words: Any = values.get("words")
    if not is_column(words) or not all(isinstance(word, str) for word in words):
        raise InputError(f"'words' must be a list of strings, the words of one text; got {str(words)[:40]!r}.")
    listed = tuple(map(str, words))
    return TextItem(" ".join(listed), None, values.get("lang", lang), listed)


def _check_words(words: Sequence[str], rows: Sequence[TokenSequence], cut: bool) -> None:
    """Whether each word has tokens, as far as a text was not cut.

    Raises:
        InputError: one has none.
    """
    found = {number for row in rows for number in row.word_ids or [] if number is not None}
    for number in range(max(found) + 1 if cut else len(words)):
        if number not in found:
            raise InputError(
                f"Word {number + 1} of the text, {words[number]!r}, has no tokens, and so no label: nothing of it is "
                "left to tokenize. Leave it out."
            )


def _words(row: TokenSequence, scores: FloatArray, name: Callable[[int], str | list[str]]) -> list[list[_Piece]]:
    """The sequence's tokens, without the special ones around it, word by word."""
    spans, word_ids = row.spans or [], row.word_ids or []
    tokens = [i for i, word in enumerate(word_ids) if word is not None]
    return [
        [_Piece((str(name(row.input_ids[i])),), scores[i], i, spans[i][0], spans[i][1]) for i in group]
        for _, group in groupby(tokens, key=lambda i: word_ids[i])
    ]


def _join_word(word: list[_Piece], strategy: str) -> _Piece:
    """One piece for a word, with the scores that the strategy gives it."""
    if strategy == "first":
        scores = word[0].scores
    elif strategy == "max":
        scores = max(word, key=lambda piece: float(piece.scores.max())).scores
    else:
        scores = np.mean([piece.scores for piece in word], axis=0)
    tokens = tuple(token for piece in word for token in piece.tokens)
    return _Piece(tokens, scores, word[0].index, word[0].start, word[-1].end)
