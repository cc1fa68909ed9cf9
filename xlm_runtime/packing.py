"""The packed layout: the real tokens of a batch on one axis, and the index arrays that tell a graph where they stand.

Only attention needs to know which tokens share a row. A packed graph gets each token once, spreads queries, keys and
values to (batch, longest) for attention and gathers the result back; everything else is computed for real tokens alone.
In its last layer it computes only the tokens that its head reads.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from xlm_runtime.errors import InputError
from xlm_runtime.sessions import Array, Session
from xlm_runtime.tasks import TensorSpec

# inputs with an entry for each token, in both layouts
_OF_TOKENS = ("input_ids", "inputs_embeds", "langs", "token_type_ids", "position_ids")
# what a packed graph takes beside the padded graph's inputs
INDEX_INPUTS = (
    "position_ids",
    "token_index",
    "padded_index",
    "kept_index",
    "kept_token_index",
    "kept_padded_index",
)


@dataclass(frozen=True)
class Multiples:
    """What the tokens of a batch and its longest row are filled up to: a multiple of each.

    An engine that prepares itself for every new shape meets few of them then. The places that are added hold token 0
    of the vocabulary, no row attends to them, and no answer has them. Few tokens are filled up in steps of at most a
    quarter of them, a power of two: a call with one short row lasts as long as it has tokens.
    """

    tokens: int = 1
    longest: int = 1


class PackedSession:
    """A packed graph's session behind the padded graph's inputs and outputs: `Session` for callers that pad.

    Args:
        session: the packed graph's.
        inputs, outputs: the packed graph's.
        summary_type: the configuration's, see `pack`.
        multiples: by default nothing is filled up.
    """

    def __init__(
        self,
        session: Session,
        inputs: Sequence[TensorSpec],
        outputs: Sequence[TensorSpec],
        summary_type: str,
        multiples: Multiples = Multiples(),
    ) -> None:
        self._session = session
        self._inputs = inputs
        self._outputs = outputs
        self._summary_type = summary_type
        self._multiples = multiples

    @property
    def input_names(self) -> tuple[str, ...]:
        names = tuple(name for name in self._session.input_names if name not in INDEX_INPUTS)
        return (*names, "logit_positions") if "kept_padded_index" in self._session.input_names else names

    @property
    def output_names(self) -> tuple[str, ...]:
        return self._session.output_names

    def run(self, inputs: Mapping[str, Array]) -> dict[str, Array]:
        packed = pack(inputs, self._inputs, self._summary_type)
        outputs = self._session.run(fill_up(packed, self._inputs, self._multiples))
        return unpack(outputs, self._outputs, inputs["attention_mask"])


def pack(padded: Mapping[str, Array], inputs: Sequence[TensorSpec], summary_type: str) -> dict[str, Array]:
    """A packed graph's inputs from those of the padded graph for the same batch.

    Args:
        padded: arrays (batch, [num_choices,] sequence, …) with `attention_mask` among them; `position_ids` may be
            absent and are then 0, 1, … from the left. `logit_positions` are flat indices into batch·sequence.
        inputs: the packed graph's.
        summary_type: the configuration's, for heads that read one token of a sequence.

    Returns:
        An array for each of `inputs`, see `tasks.graph_inputs`.

    Raises:
        InputError: a batch without a real token, or a logit position at padding.
    """
    mask = padded["attention_mask"] != 0
    longest = mask.shape[-1]
    token_index = np.flatnonzero(mask)  # (tokens,)
    if not len(token_index):
        raise InputError("attention_mask has no real token; give a packed graph at least one.")
    padded_index = np.zeros(mask.shape, np.int64)  # padding stands at token 0 and is masked
    padded_index[mask] = np.arange(len(token_index))
    arrays: dict[str, Array] = {**padded, "padded_index": padded_index, "token_index": token_index}
    arrays |= {name: padded[name][mask] for name in _OF_TOKENS if name in padded}
    arrays.setdefault("position_ids", token_index % longest)
    names = [spec.name for spec in inputs]
    if "kept_padded_index" in names:
        arrays |= _kept_positions(padded["logit_positions"], mask, padded_index)
    elif "kept_index" in names:
        if summary_type == "first":
            arrays["kept_index"] = padded_index[..., 0]
        else:
            column = (mask * np.arange(longest)).max(axis=-1)  # the last real token; 0 in a row without any
            arrays["kept_index"] = np.take_along_axis(padded_index, column[..., None], axis=-1)[..., 0]
    return {name: np.ascontiguousarray(arrays[name]) for name in names}


def fill_up(packed: Mapping[str, Array], inputs: Sequence[TensorSpec], multiples: Multiples) -> dict[str, Array]:
    """The same batch with more tokens, and more places in a row, see `Multiples`.

    Args:
        packed: what `pack` returns.
        inputs: the packed graph's.
    """
    sizes = {"tokens": len(packed["token_index"]), "longest": packed["attention_mask"].shape[-1]}
    step = min(multiples.tokens, 1 << max(0, sizes["tokens"].bit_length() - 3))  # 4 from 16 tokens on, 8 from 32, …
    added = {"tokens": -sizes["tokens"] % step, "longest": -sizes["longest"] % multiples.longest}
    if not any(added.values()):
        return dict(packed)
    row, column = np.divmod(packed["token_index"], sizes["longest"])
    arrays = {**packed, "token_index": row * (sizes["longest"] + added["longest"]) + column}
    filled = {}
    for spec in inputs:
        widths = [(0, added.get(axis, 0)) for axis in spec.axes]
        filled[spec.name] = np.pad(arrays[spec.name], widths, constant_values=1 if spec.name == "p_mask" else 0)
    return filled


def unpack(outputs: Mapping[str, Array], specs: Sequence[TensorSpec], attention_mask: Array) -> dict[str, Array]:
    """A packed graph's outputs as the padded graph gives them: (tokens, …) → (batch, sequence, …), zeros at padding.

    Tokens beyond those of `attention_mask` are what `fill_up` added.
    """
    spread = dict(outputs)
    for name in [spec.name for spec in specs if spec.axes[0] == "tokens"]:
        mask, value = attention_mask != 0, outputs[name]
        spread[name] = np.zeros((*mask.shape, *value.shape[1:]), value.dtype)
        spread[name][mask] = value[: int(mask.sum())]
    return spread


def _kept_positions(positions: NDArray[np.int64], mask: Array, padded_index: Array) -> dict[str, Array]:
    """Index arrays of the tokens at `positions` (kept,), whose number differs from row to row."""
    real = mask.reshape(-1)[positions]
    if not real.all():
        raise InputError(
            f"logit_positions names the place {positions[~real][0]} of {mask.shape[0]} × {mask.shape[1]}, which is "
            "padding; a packed graph has logits of real tokens only."
        )
    rows = positions // mask.shape[1]
    counts = np.bincount(rows, minlength=len(mask))
    order = np.argsort(rows, kind="stable")
    column = np.empty_like(rows)  # a kept token's place among those of its row
    column[order] = np.arange(len(rows)) - np.repeat(np.cumsum(counts) - counts, counts)
    most_kept = int(counts.max())
    kept_padded_index = np.zeros((len(mask), most_kept), np.int64)
    kept_padded_index[rows, column] = np.arange(len(rows))
    return {
        "kept_index": padded_index.reshape(-1)[positions],
        "kept_padded_index": kept_padded_index,
        "kept_token_index": rows * most_kept + column,
    }
