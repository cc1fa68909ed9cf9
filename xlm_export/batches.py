"""Batches for a bundle's graph, made without torch: from texts, and from seeded ids of awkward shapes."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from xlm_export.verification.batches import SENTENCES
from xlm_runtime.bundle import Bundle, Graph
from xlm_runtime.errors import InputError
from xlm_runtime.model.packing import padded_names
from xlm_runtime.sessions import Array
from xlm_runtime.tasks import find_task
from xlm_runtime.tokenization import XLMTokenizer

MOST_LOGIT_POSITIONS = 32
ROWS = 4
"""Texts of one batch."""


@dataclass(frozen=True)
class Text:
    """A text and its language, if that is known."""

    text: str
    lang: str | None = None


def read_texts(path: str | Path) -> list[Text]:
    """One text a line, or `lang<TAB>text`; empty lines are left out.

    Raises:
        InputError: no such file, not UTF-8, or no text in it.
    """
    try:
        lines = Path(path).read_text(encoding="utf-8").splitlines()
    except FileNotFoundError as error:
        raise InputError(f"File '{path}' not found; give a file with one text a line.") from error
    except UnicodeDecodeError as error:
        raise InputError(f"File '{path}' is not UTF-8 ({error}); give a file with one text a line.") from error
    texts = []
    for line in lines:
        lang, tab, text = line.partition("\t")
        item = Text(text.strip(), lang.strip()) if tab else Text(line.strip())
        if item.text:
            texts.append(item)
    if not texts:
        raise InputError(f"File '{path}' holds no text; expected one text a line, or lang<TAB>text.")
    return texts


def own_texts() -> list[Text]:
    """The sentences that verification uses too: eight, in seven languages."""
    return [Text(sentence) for sentence in SENTENCES]


class BatchMaker:
    """Makes the inputs of one graph; those of a packed graph as `PackedSession` takes them, padded."""

    def __init__(self, bundle: Bundle, graph: Graph, seed: int = 0) -> None:
        self.config = bundle.config
        self.names = [spec.name for spec in graph.inputs]
        if graph.is_packed:
            self.names = list(padded_names(graph.inputs))
        self._cls = bundle.conventions.get("cls_index", "first-sep")
        self._choices = "num_choices" in find_task(bundle.architecture, bundle.task).rows
        self._rng = np.random.default_rng(seed)

    def texts(self, tokenizer: XLMTokenizer, texts: Sequence[Text]) -> list[dict[str, Array]]:
        """Batches of the texts, each cut to the model's positions, in their order."""
        known = tokenizer.lang2id or self.config.lang2id or {}
        longest = self.config.max_position_embeddings
        rows, langs = [], []
        for item in texts:
            if item.lang is not None and item.lang not in known:
                raise InputError(f"Unknown language '{item.lang}' of the text '{item.text[:40]}'; this bundle knows "
                                 f"{', '.join(sorted(known)) or 'none'}.")  # fmt: skip
            ids = tokenizer(item.text, lang=item.lang, truncation=True, max_length=longest)["input_ids"]
            rows.append(np.asarray(ids, np.int64))
            langs.append(known[item.lang] if item.lang is not None else self.config.lang_id or 0)
        size = max(2, ROWS) if self._choices else ROWS
        parts = [slice(start, start + size) for start in range(0, len(rows), size)]
        return [self.feed(rows[part], langs[part]) for part in parts]

    def seeded(self) -> list[dict[str, Array]]:
        """One token, the longest row, padding, a row of padding alone."""
        longest = self.config.max_position_embeddings
        lengths = [[1], [17, 17, 17], [31, 1, 18, 7], [9, 0, 5], [longest]]
        return [
            self.feed([self._rng.integers(0, self.config.vocab_size, min(length, longest)) for length in rows])
            for rows in lengths
        ]

    def feed(self, rows: Sequence[Array], langs: Sequence[int] | None = None) -> dict[str, Array]:
        """The graph's inputs for rows of ids, padded to the longest; without `langs` each token's are drawn.

        Multiple choice gets each row beside its neighbour, two choices.
        """
        config, rng = self.config, self._rng
        if self._choices and len(rows) % 2:
            rows = [*rows, rows[-1]]
            langs = None if langs is None else [*langs, langs[-1]]
        shape = (len(rows), max(len(ids) for ids in rows))
        input_ids = np.full(shape, config.pad_token_id or 0, np.int64)
        mask = np.zeros(shape, np.int64)
        for row, ids in enumerate(rows):
            input_ids[row, : len(ids)], mask[row, : len(ids)] = ids, 1
        last = np.maximum(mask.sum(axis=1) - 1, 0)
        real = np.flatnonzero(mask)
        kept = np.sort(rng.choice(real, min(MOST_LOGIT_POSITIONS, len(real)), replace=False))
        if "logit_positions" in self.names and config.mask_token_id is not None and not config.causal:
            input_ids.reshape(-1)[kept[:: len(rows)]] = config.mask_token_id
        drawn = rng.integers(0, config.n_langs, shape)
        arrays: dict[str, Array] = {
            "input_ids": input_ids,
            "attention_mask": mask,
            "langs": drawn if langs is None else np.repeat(np.asarray(langs, np.int64)[:, None], shape[1], axis=1),
            "token_type_ids": rng.integers(0, min(2, config.vocab_size), shape),
            "position_ids": np.tile(np.arange(shape[1]), (shape[0], 1)),
            "p_mask": (1 - mask).astype(np.float32),
            # of a single text </s> is the last token, which "first-sep" and "last" both mean
            "cls_index": np.zeros_like(last) if self._cls == "first" else last,
            "logit_positions": kept,
        }
        if "inputs_embeds" in self.names:
            arrays["inputs_embeds"] = rng.normal(size=(*shape, config.emb_dim)).astype(np.float32)
        feed = {name: arrays[name] for name in self.names}
        if self._choices:
            feed = {name: value.reshape(shape[0] // 2, 2, *value.shape[1:]) for name, value in feed.items()}
        return {name: np.ascontiguousarray(value) for name, value in feed.items()}
