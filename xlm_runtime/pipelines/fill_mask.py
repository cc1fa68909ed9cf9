"""The words that a model expects in place of mask tokens."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, TypedDict

import numpy as np

from xlm_runtime.errors import BundleError, InputError
from xlm_runtime.model.model import BundleModel, TokenSequence
from xlm_runtime.numerics import FloatArray, IntArray, softmax, top_k
from xlm_runtime.pipelines.base import Answers, Languages, Pipeline, TextInputs, check_top_k, read_text

# sets of targets that are remembered; a call has one for each language
_MOST_TARGETS = 64


class FilledMask(TypedDict):
    """A token for one mask: its probability, its id, its text, and the whole text with it."""

    score: float
    token: int
    token_str: str
    sequence: str


# one mask: its best tokens; several masks: such a list for each
Answer = list[FilledMask] | list[list[FilledMask]]


@dataclass(frozen=True)
class FillMaskOptions:
    """See `FillMaskPipeline.__call__`."""

    top_k: int = 5
    targets: tuple[str, ...] | None = None
    truncation: bool = False
    max_length: int | None = None

    def __post_init__(self) -> None:
        check_top_k(self.top_k)
        if self.targets is not None and not self.targets:
            raise InputError("targets is empty; give at least one, or None to choose among all tokens.")


@dataclass(frozen=True)
class MaskedSequence:
    """A sequence, the positions of its masks, and the ids that its answers are chosen from (None for all)."""

    sequence: TokenSequence
    positions: list[int]
    targets: IntArray | None

    def __len__(self) -> int:
        return len(self.sequence)


class FillMaskPipeline(Pipeline[FillMaskOptions, MaskedSequence, FloatArray, Answer]):
    """Masked language modelling; a text's mask is written `<special1>` or `<mask>`."""

    def __init__(self, model: BundleModel) -> None:
        super().__init__(model)
        mask_id = model.tokenizer.mask_token_id
        if mask_id is None:
            raise BundleError(f"The tokenizer of the bundle '{model.bundle.folder}' has no mask token.")
        self._mask_id = mask_id
        self._targets: dict[tuple[tuple[str, ...], str | None], IntArray] = {}

    def __call__(
        self,
        inputs: TextInputs,
        *,
        lang: Languages = None,
        top_k: int = 5,
        targets: str | Sequence[str] | None = None,
        truncation: bool = False,
        max_length: int | None = None,
        on_error: str = "raise",
    ) -> Answers[Answer]:
        """For each text the best tokens, the best first; for a text with several masks such a list for each mask.

        Masks are filled independently of each other. In answers to several masks "sequence" shows the others.

        Args:
            inputs: texts, or dictionaries with "text" and "lang".
            lang: language of all texts, or a list with one for each.
            top_k: how many tokens for each mask.
            targets: choose among these tokens only; words that are one token, or tokens in the vocabulary's spelling.
            truncation: cut texts that are longer than `max_length`, instead of refusing them.
            max_length: most tokens of a row; by default the tokenizer's `model_max_length`, or the model's positions.
            on_error: "raise", "skip" or "return" for an input that cannot be used, see `Pipeline.answer`.

        Raises:
            InputError: a text without a mask, empty or too long, an unknown language, or a target that is no token.
        """
        listed = None if targets is None else (targets,) if isinstance(targets, str) else tuple(targets)
        options = FillMaskOptions(top_k, listed, truncation, max_length)
        return self.answer(inputs, lang=lang, on_error=on_error, options=options)

    def check(self, lang: Languages, options: FillMaskOptions) -> None:
        self.model.longest_row(options.max_length)
        if lang is None or isinstance(lang, str):
            self._target_ids(options.targets, lang)

    def preprocess(self, item: Any, lang: str | None, options: FillMaskOptions) -> list[MaskedSequence]:
        text = read_text(item, lang)
        sequence = self.model.encode(text, truncation=options.truncation, max_length=options.max_length)
        positions = [i for i, token in enumerate(sequence.input_ids) if token == self._mask_id]
        if not positions:
            raise InputError(
                f"No mask in the text '{text.text[:60]}'; write {self.model.tokenizer.mask_token} or <mask> where "
                "a word is to be found" + (" (truncation may have cut it off)." if options.truncation else ".")
            )
        return [MaskedSequence(sequence, positions, self._target_ids(options.targets, text.lang))]

    def forward(self, batch: list[MaskedSequence], options: FillMaskOptions) -> Callable[[], list[FloatArray]]:
        """For each sequence (masks, vocab_size) probabilities."""
        longest = max(len(row) for row in batch)
        flat = [i * longest + position for i, row in enumerate(batch) for position in row.positions]
        wait = self.model.start([row.sequence for row in batch], {"logit_positions": np.array(flat, dtype=np.int64)})
        ends = np.cumsum([len(row.positions) for row in batch])
        return lambda: np.split(softmax(wait()["logits"]), ends[:-1])

    def postprocess(
        self, rows: Sequence[MaskedSequence], outputs: Sequence[FloatArray], options: FillMaskOptions
    ) -> Answer:
        (row,), (probabilities,) = rows, outputs
        single = len(row.positions) == 1
        answers: list[list[FilledMask]] = []
        for position, scores in zip(row.positions, probabilities, strict=True):
            candidates = scores if row.targets is None else scores[row.targets]
            best = top_k(candidates, options.top_k)
            tokens = best if row.targets is None else row.targets[best]
            answers.append(
                [
                    {
                        "score": float(scores[token]),
                        "token": int(token),
                        "token_str": self._text([int(token)]),
                        "sequence": self._sequence(row.sequence.input_ids, position, int(token), skip_special=single),
                    }
                    for token in tokens
                ]
            )
        return answers[0] if single else answers

    def _sequence(self, input_ids: list[int], position: int, token: int, *, skip_special: bool) -> str:
        return self._text([*input_ids[:position], token, *input_ids[position + 1 :]], skip_special=skip_special)

    def _text(self, token_ids: list[int], *, skip_special: bool = False) -> str:
        return str(self.model.tokenizer.decode(token_ids, skip_special_tokens=skip_special))

    def _target_ids(self, targets: tuple[str, ...] | None, lang: str | None) -> IntArray | None:
        """Ids of the targets, each once; None for all tokens.

        Raises:
            InputError: one that is not one token of the vocabulary.
        """
        if targets is None:
            return None
        known = self._targets.get((targets, lang))
        if known is None:
            if len(self._targets) >= _MOST_TARGETS:
                self._targets.clear()
            found = [self._target_id(target, lang) for target in targets]
            known = self._targets[targets, lang] = np.array(list(dict.fromkeys(found)), dtype=np.int64)
        return known

    def _target_id(self, target: str, lang: str | None) -> int:
        tokenizer = self.model.tokenizer
        ids = tokenizer.encoder.ids(target, lang)
        if len(ids) == 1 and ids[0] != tokenizer.unk_token_id:
            return ids[0]
        vocabulary = tokenizer.get_vocab()
        if target in vocabulary:
            return vocabulary[target]
        pieces = " ".join(tokenizer.tokenize(target, lang=lang)) or "nothing"
        raise InputError(
            f"The target '{target}' is not one token of the vocabulary, it is: {pieces}. A mask stands for one token."
        )
