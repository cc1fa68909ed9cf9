"""Batches for a graph, made without torch: from one token to the longest, padding, mixed languages, real text."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np

from xlm_runtime.bundle import Bundle, Graph
from xlm_runtime.config import XLMConfig
from xlm_runtime.errors import InputError
from xlm_runtime.model.languages import NO_LANG, LanguageNumbers
from xlm_runtime.model.packing import padded_names
from xlm_runtime.numerics import broadcast_rows, pad
from xlm_runtime.sessions import Array
from xlm_runtime.tasks import find_task
from xlm_runtime.tokenization import XLMTokenizer

ROWS = 4
"""Texts of one batch."""
CHOICES = 2
MOST_LOGIT_POSITIONS = 32
MIXED_ROWS, MIXED_LENGTH = 11, 64

SENTENCES = (
    "The ferry leaves the harbour at half past six, and nobody waits for late passengers.",
    "Der alte Leuchtturm wurde 1887 gebaut; heute wohnt dort eine Malerin mit drei Katzen.",
    "Mon frère achète du pain frais chaque matin, même quand il pleut à verse.",
    "Вчера вечером мы долго искали дорогу домой через тёмный лес.",
    "¿Dónde está la biblioteca? — Al lado del mercado, frente a la estación.",
    "انتظر الأطفال الحافلة تحت الشجرة الكبيرة.",
    "我们明天早上去山里看雪。",
    "Hi!",
)


@dataclass(frozen=True)
class VerificationCase:
    """A named batch: the graph's inputs."""

    name: str
    inputs: dict[str, Array]


class BatchMaker:
    """Makes the inputs of one graph; those of a packed graph as `PackedSession` takes them, padded.

    Args:
        names: the graph's inputs, in the padded layout.
        choices: each row gets a second choice, the row from the other end of the batch.
        cls_index: where the beam head was trained to look for "no answer", see `CLS_INDEX_CONVENTIONS`.
        no_lang: the graph knows -1 in `langs`.
        arbitrary: positions and `p_mask` are drawn, which reaches more of a graph than what pipelines give.
        embed: ids → word embeddings (…, emb_dim), for a graph that takes `inputs_embeds`; by default they are drawn.
    """

    def __init__(
        self,
        names: Sequence[str],
        config: XLMConfig,
        *,
        choices: bool = False,
        cls_index: str = "first-sep",
        no_lang: bool = True,
        arbitrary: bool = False,
        embed: Callable[[Array], Array] | None = None,
        seed: int = 0,
    ) -> None:
        self._names, self._config, self._choices = names, config, choices
        self._cls_index, self._arbitrary, self._embed = cls_index, arbitrary, embed
        self._least_lang = NO_LANG if no_lang else 0
        self._rng = np.random.default_rng(seed)

    @classmethod
    def of(cls, bundle: Bundle, graph: Graph, seed: int = 0) -> BatchMaker:
        """For a bundle's graph, as pipelines feed it."""
        return cls(
            padded_names(graph.inputs) if graph.is_packed else [spec.name for spec in graph.inputs],
            bundle.config,
            choices="num_choices" in find_task(bundle.architecture, bundle.task).rows,
            cls_index=bundle.conventions.get("cls_index", "first-sep"),
            no_lang=bundle.knows_no_lang,
            seed=seed,
        )

    def seeded(self, mixed: bool = False) -> list[VerificationCase]:
        """Drawn ids: one token, equal rows, padding, a row of padding alone, the longest row.

        Args:
            mixed: further batches in which lengths differ much, for graphs whose layout depends on them.
        """
        config, rng = self._config, self._rng
        longest = config.max_position_embeddings
        lengths = {
            "1 × 1": [1],
            "3 × 17": [17, 17, 17],
            "4 × 31, padded": [31, 1, 18, 7],
            "3 × 9, one row all padding": [9, 0, 5],
            f"1 × {longest}, the longest": [longest],
        }
        if mixed:
            most = min(MIXED_LENGTH, longest)
            lengths[f"{MIXED_ROWS} random lengths"] = rng.integers(1, most + 1, MIXED_ROWS).tolist()
            lengths[f"1, {most}, 2, 1"] = [1, most, 2, 1]
        return [
            VerificationCase(name, self.feed([rng.integers(0, config.vocab_size, min(n, longest)) for n in rows]))
            for name, rows in lengths.items()
        ]

    def sentences(self, tokenizer: XLMTokenizer) -> list[VerificationCase]:
        """`SENTENCES` in one batch, each token in a language of its own, and, where the graph reads `langs`, without
        any, as a call of transformers that gives none."""
        rows = [self._ids(tokenizer, text) for text in SENTENCES]
        cases = [VerificationCase(f"{len(rows)} sentences", self.feed(rows))]
        if "langs" in self._names and self._least_lang == NO_LANG:
            feed = self.feed(rows, [NO_LANG] * len(rows))
            cases.append(VerificationCase(f"{len(rows)} sentences without langs", feed))
        return cases

    def texts(
        self,
        tokenizer: XLMTokenizer,
        languages: LanguageNumbers,
        texts: Sequence[str],
        langs: Sequence[str | None] | None = None,
    ) -> list[dict[str, Array]]:
        """Batches of `ROWS` texts, each cut to the model's positions, in their order.

        Args:
            langs: each text's; None stands for the model's default, for all texts or for one.

        Raises:
            InputError: a language that the bundle does not know.
        """
        rows, lang_ids = [], []
        for text, lang in zip(texts, langs or [None] * len(texts), strict=True):
            try:
                lang_ids.append(languages.number(lang))
            except InputError as error:
                raise InputError(f"{error} The text is '{text[:40]}'.") from error
            rows.append(self._ids(tokenizer, text, lang))
        parts = [slice(start, start + ROWS) for start in range(0, len(rows), ROWS)]
        return [self.feed(rows[part], lang_ids[part]) for part in parts]

    def feed(self, rows: Sequence[Array], langs: Sequence[int] | None = None) -> dict[str, Array]:
        """The graph's inputs for rows of ids, padded to the longest; without `langs` each token's are drawn."""
        config, rng = self._config, self._rng
        input_ids, mask = pad(rows, config.pad_token_id or 0)
        shape = input_ids.shape
        last = np.maximum(mask.sum(axis=1) - 1, 0)
        real = np.flatnonzero(mask)
        kept = rng.choice(real, min(MOST_LOGIT_POSITIONS, len(real)), replace=False)
        if "logit_positions" in self._names and config.mask_token_id is not None and not config.causal:
            input_ids.reshape(-1)[kept[:: len(rows)]] = config.mask_token_id
        drawn = rng.integers(self._least_lang, config.n_langs, shape)
        arrays: dict[str, Array] = {
            "input_ids": input_ids,
            "attention_mask": mask,
            "langs": drawn if langs is None else broadcast_rows(langs, shape[1]),
            "token_type_ids": rng.integers(0, min(2, config.vocab_size), shape),
            "position_ids": np.tile(np.arange(shape[1]), (shape[0], 1)),
            "p_mask": (1 - mask).astype(np.float32),
            # of a single text </s> is the last token, which "first-sep" and "last" both mean
            "cls_index": np.zeros_like(last) if self._cls_index == "first" else last,
            "logit_positions": kept,
        }
        if self._arbitrary:
            arrays["position_ids"] = np.sort(rng.integers(0, config.max_position_embeddings, shape), axis=-1)
            arrays["p_mask"] = (rng.random(shape) < 0.3).astype(np.float32)
        if "inputs_embeds" in self._names:
            size = (*shape, config.emb_dim)
            values = rng.normal(size=size) if self._embed is None else self._embed(input_ids)
            arrays["inputs_embeds"] = values.astype(np.float32)
        feed = {name: arrays[name] for name in self._names}
        if self._choices:
            feed = {name: np.stack([value] + [value[::-1]] * (CHOICES - 1), axis=1) for name, value in feed.items()}
        return {name: np.ascontiguousarray(value) for name, value in feed.items()}

    def _ids(self, tokenizer: XLMTokenizer, text: str, lang: str | None = None) -> Array:
        longest = self._config.max_position_embeddings
        return np.asarray(tokenizer(text, lang=lang, truncation=True, max_length=longest)["input_ids"], np.int64)
