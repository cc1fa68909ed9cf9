"""Labels of tokens, such as names of people and places, and the groups they form."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from itertools import groupby
from typing import Any, TypedDict

import numpy as np

from xlm_runtime.model.model import TokenSequence
from xlm_runtime.numerics import FloatArray, softmax
from xlm_runtime.pipelines.base import Languages, Pipeline, TextInputs, check_choice, read_text

AGGREGATIONS = ("none", "simple", "first", "average", "max")


class TokenEntity(TypedDict):
    """A token: its label, its place in the sequence and its characters, text[start:end]."""

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

    def __post_init__(self) -> None:
        check_choice("aggregation_strategy", self.aggregation_strategy, AGGREGATIONS)


class TokenClassificationPipeline(Pipeline[TokenClassificationOptions, TokenSequence, FloatArray, Answer]):
    """Token classification, with character offsets."""

    def __call__(
        self,
        inputs: TextInputs,
        *,
        lang: Languages = None,
        aggregation_strategy: str = "none",
        ignore_labels: Sequence[str] = ("O",),
        truncation: bool = False,
    ) -> Answer | list[Answer] | Iterator[Answer]:
        """For each text its labelled tokens, or with an aggregation its groups, in the order of the text.

        Args:
            inputs: texts, or dictionaries with "text" and "lang".
            lang: language of all texts, or a list with one for each.
            aggregation_strategy: "none" gives tokens; "simple" joins neighbouring tokens of one kind (a label B-x
                begins a new group); the others first give each word one label: that of its "first" token, of the
                "average" of its tokens' scores, or of its token with the highest score ("max").
            ignore_labels: labels, or kinds, that are left out.
            truncation: cut texts that are longer than the model's positions, instead of refusing them.

        Raises:
            InputError: empty or too long texts, an unknown language or aggregation strategy.
        """
        options = TokenClassificationOptions(aggregation_strategy, tuple(ignore_labels), truncation)
        return self.answer(inputs, lang=lang, options=options)

    def preprocess(self, item: Any, lang: str | None, options: TokenClassificationOptions) -> list[TokenSequence]:
        return [self.model.encode(read_text(item, lang), truncation=options.truncation, return_offsets=True)]

    def forward(self, batch: list[TokenSequence], options: TokenClassificationOptions) -> FloatArray:
        return softmax(self.model.run(batch)["logits"])

    def postprocess(
        self, rows: Sequence[TokenSequence], outputs: Sequence[FloatArray], options: TokenClassificationOptions
    ) -> Answer:
        """`outputs`: the scores of one text, (padded sequence, num_labels)."""
        ignored, strategy = options.ignore_labels, options.aggregation_strategy
        words = _words(rows[0], outputs[0], self.model.tokenizer.convert_ids_to_tokens)
        if strategy == "none":
            return [
                entity for word in words for piece in word if (entity := self._entity(piece))["entity"] not in ignored
            ]
        if strategy == "simple":
            pieces = [piece for word in words for piece in word]
        else:
            pieces = [_join_word(word, strategy) for word in words]
        return [group for group in self._groups(pieces) if group["entity_group"] not in ignored]

    def _entity(self, piece: _Piece) -> TokenEntity:
        best = int(piece.scores.argmax())
        return {
            "entity": self.model.config.id2label[best],
            "score": float(piece.scores[best]),
            "index": piece.index,
            "word": piece.tokens[0],
            "start": piece.start,
            "end": piece.end,
        }

    def _groups(self, pieces: list[_Piece]) -> list[EntityGroup]:
        """Join neighbours of one kind; B-x begins a new group."""
        names = self.model.config.id2label
        groups: list[tuple[str, list[_Piece]]] = []
        for piece in pieces:
            label = names[int(piece.scores.argmax())]
            kind = label[2:] if label.startswith(("B-", "I-")) else label
            if groups and groups[-1][0] == kind and not label.startswith("B-"):
                groups[-1][1].append(piece)
            else:
                groups.append((kind, [piece]))
        return [
            {
                "entity_group": kind,
                "score": float(np.mean([piece.scores.max() for piece in members])),
                "word": self.model.tokenizer.convert_tokens_to_string(
                    [token for piece in members for token in piece.tokens]
                ),
                "start": members[0].start,
                "end": members[-1].end,
            }
            for kind, members in groups
        ]


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
