"""The words that a model expects in place of mask tokens."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import TypedDict

import numpy as np
from numpy.typing import NDArray

from xlm_runtime.errors import BundleError, InputError
from xlm_runtime.model.model import BundleModel, TextItem, TokenSequence
from xlm_runtime.numerics import best_first, check_top_k, softmax
from xlm_runtime.pipelines.base import Languages, TextInputs, read_text, respond


class FilledMask(TypedDict):
    """A token for one mask: its probability, its id, its text, and the whole text with it."""

    score: float
    token: int
    token_str: str
    sequence: str


# one mask: its best tokens; several masks: such a list for each
Answer = list[FilledMask] | list[list[FilledMask]]


@dataclass(frozen=True)
class _Masked:
    """A sequence, the positions of its masks, and the ids that its answers are chosen from (None for all)."""

    sequence: TokenSequence
    positions: list[int]
    targets: NDArray[np.int64] | None

    def __len__(self) -> int:
        return len(self.sequence)


class FillMaskPipeline:
    """Masked language modelling; a text's mask is written `<special1>` or `<mask>`."""

    def __init__(self, model: BundleModel) -> None:
        self.model = model
        mask_id = model.tokenizer.mask_token_id
        if mask_id is None:
            raise BundleError(f"The tokenizer of the bundle '{model.bundle.folder}' has no mask token.")
        self._mask_id = mask_id

    def __call__(
        self,
        inputs: TextInputs,
        *,
        lang: Languages = None,
        top_k: int = 5,
        targets: str | Sequence[str] | None = None,
        truncation: bool = False,
    ) -> Answer | list[Answer] | Iterator[Answer]:
        """For each text the best tokens, the best first; for a text with several masks such a list for each mask.

        Masks are filled independently of each other. In answers to several masks "sequence" shows the others.

        Args:
            inputs: texts, or dictionaries with "text" and "lang".
            lang: language of all texts, or a list with one for each.
            top_k: how many tokens for each mask.
            targets: choose among these tokens only; words that are one token, or tokens in the vocabulary's spelling.
            truncation: cut texts that are longer than the model's positions, instead of refusing them.

        Raises:
            InputError: a text without a mask, empty or too long, an unknown language, or a target that is no token.
        """
        check_top_k(top_k)
        wanted = [targets] if isinstance(targets, str) else targets
        target_ids: dict[str | None, NDArray[np.int64]] = {}
        if wanted is not None and (lang is None or isinstance(lang, str)):
            target_ids[lang] = self._target_ids(wanted, lang)

        def mask(item: TextItem) -> _Masked:
            sequence = self.model.encode(item, truncation=truncation)
            positions = [i for i, token in enumerate(sequence.input_ids) if token == self._mask_id]
            if not positions:
                raise InputError(
                    f"No mask in the text '{item.text[:60]}'; write {self.model.tokenizer.mask_token} or <mask> where "
                    "a word is to be found" + (" (truncation may have cut it off)." if truncation else ".")
                )
            if wanted is not None and item.lang not in target_ids:
                target_ids[item.lang] = self._target_ids(wanted, item.lang)
            return _Masked(sequence, positions, target_ids.get(item.lang) if wanted is not None else None)

        def read(batch: list[_Masked]) -> list[Answer]:
            longest = max(len(row) for row in batch)
            flat = [i * longest + position for i, row in enumerate(batch) for position in row.positions]
            outputs = self.model.run(
                [row.sequence for row in batch], {"logit_positions": np.array(flat, dtype=np.int64)}
            )
            # (masks of the batch, vocab_size)
            probabilities = iter(softmax(outputs["logits"]))
            return [self._fill(row, [next(probabilities) for _ in row.positions], top_k) for row in batch]

        def answer(items: Iterator[TextItem]) -> Iterator[Answer]:
            return self.model.answer_each((mask(item) for item in items), read)

        return respond(inputs, lang, read_text, answer)

    def _fill(self, row: _Masked, probabilities: list[NDArray[np.float32]], top_k: int) -> Answer:
        single = len(row.positions) == 1
        answers: list[list[FilledMask]] = []
        for position, scores in zip(row.positions, probabilities, strict=True):
            candidates = scores if row.targets is None else scores[row.targets]
            best = best_first(candidates, top_k)
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

    def _target_ids(self, targets: Sequence[str], lang: str | None) -> NDArray[np.int64]:
        """Ids of the targets, each once.

        Raises:
            InputError: no targets, or one that is not one token of the vocabulary.
        """
        tokenizer = self.model.tokenizer
        known = tokenizer.get_vocab()
        ids: list[int] = []
        for target in targets:
            token_ids: list[int] = tokenizer(target, lang=lang, add_special_tokens=False)["input_ids"]
            if len(token_ids) == 1 and token_ids[0] != tokenizer.unk_token_id:
                ids.append(token_ids[0])
            elif target in known:
                ids.append(known[target])
            else:
                pieces = " ".join(tokenizer.tokenize(target, lang=lang)) or "nothing"
                raise InputError(
                    f"The target '{target}' is not one token of the vocabulary, it is: {pieces}. A mask stands for "
                    "one token."
                )
        if not ids:
            raise InputError("targets is empty; give at least one, or None to choose among all tokens.")
        return np.array(list(dict.fromkeys(ids)), dtype=np.int64)
