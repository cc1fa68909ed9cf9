"""The packed layout: the real tokens of a batch on one axis, and the index arrays that tell a graph where they stand.

Only attention needs to know which tokens share a row. A packed graph gets each token once, spreads queries, keys and
values to packs, (packs, longest), and gathers what attention makes of them back; everything else is computed for real
tokens alone. In its last layer it computes only the tokens that its head reads.

Short rows stand in one pack, one behind the other, and do not see each other (Krell et al. 2021, "Efficient sequence
packing without cross-contamination"). Where a head looks at whole rows, each has a pack for itself.
"""

from __future__ import annotations

from bisect import bisect_left, insort
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from xlm_runtime.errors import InputError
from xlm_runtime.model.filling import filled_size
from xlm_runtime.sessions import Array, Session, start_run
from xlm_runtime.tasks import FILL, TensorSpec

# inputs with an entry for each token, in both layouts
_OF_TOKENS = ("input_ids", "inputs_embeds", "langs", "token_type_ids", "position_ids")
# what a packed graph takes beside the padded graph's inputs
INDEX_INPUTS = (
    "position_ids",
    "token_index",
    "padded_index",
    "segment_ids",
    "kept_index",
    "kept_token_index",
    "kept_padded_index",
)


@dataclass(frozen=True)
class Multiples:
    """What the tokens of a batch and its longest row are filled up to: a multiple of each.

    A session that prepares itself for every new shape meets few of them then. The places that are added hold token 0
    of the vocabulary, no row attends to them, and no answer has them. Few tokens are filled up by few, see
    `filled_size`: a call with one short row lasts as long as it has tokens.
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
        return padded_names(self._inputs)

    @property
    def output_names(self) -> tuple[str, ...]:
        return self._session.output_names

    def run(self, inputs: Mapping[str, Array]) -> dict[str, Array]:
        return self.start(inputs)()

    def start(self, inputs: Mapping[str, Array]) -> Callable[[], dict[str, Array]]:
        packed = pack(inputs, self._inputs, self._summary_type, self._multiples.longest)
        wait = start_run(self._session, fill_up(packed, self._inputs, self._multiples))
        return lambda: unpack(wait(), self._outputs, inputs["attention_mask"])


def padded_names(inputs: Sequence[TensorSpec]) -> tuple[str, ...]:
    """What `pack` needs of the padded batch for a packed graph's `inputs`."""
    names = ["attention_mask", *(spec.name for spec in inputs if spec.name not in INDEX_INPUTS)]
    if _reads_logit_positions(inputs):
        names.append("logit_positions")
    return tuple(dict.fromkeys(names))


def _reads_logit_positions(inputs: Sequence[TensorSpec]) -> bool:
    """Whether the kept tokens are those at `logit_positions`, as a language model's are."""
    return any(spec.name == "kept_index" and spec.axes == ("kept",) for spec in inputs)


def pack(
    padded: Mapping[str, Array], inputs: Sequence[TensorSpec], summary_type: str, multiple: int = 1
) -> dict[str, Array]:
    """A packed graph's inputs from those of the padded graph for the same batch.

    Args:
        padded: arrays (batch, [num_choices,] sequence, …) with `attention_mask` among them; `position_ids` may be
            absent and are then 0, 1, … from the left. `logit_positions` are flat indices into batch·sequence.
        inputs: the packed graph's.
        summary_type: the configuration's, for heads that read one token of a sequence.
        multiple: packs that rows may share have a multiple of so many places.

    Returns:
        An array for each of `inputs`, see `tasks.graph_inputs`.

    Raises:
        InputError: a batch without a real token, or a logit position at padding.
    """
    mask = padded["attention_mask"] != 0
    longest = mask.shape[-1]
    rows, columns = mask.reshape(-1, longest).nonzero()  # (tokens,)
    if not len(rows):
        raise InputError("attention_mask has no real token; give a packed graph at least one.")
    tokens = np.arange(len(rows))
    counts = np.bincount(rows, minlength=mask.size // longest)
    first = counts.cumsum() - counts  # (rows,): each one's first token
    specs = {spec.name: spec for spec in inputs}
    if specs["padded_index"].axes[0] == "packs":
        starts, shape = _share_packs(counts.tolist(), multiple)
        token_index = (starts - first)[rows] + tokens
    else:
        token_index, shape = rows * longest + columns, mask.shape
    padded_index, segment_ids = np.zeros((2, *shape), np.int64)  # padding stands at token 0
    padded_index.reshape(-1)[token_index] = tokens
    segment_ids.reshape(-1)[token_index] = rows + 1
    arrays: dict[str, Array] = {
        **padded,
        "position_ids": columns,
        **{name: padded[name][mask] for name in _OF_TOKENS if name in padded},
        "token_index": token_index,
        "padded_index": padded_index,
        "segment_ids": segment_ids,
    }
    if "kept_index" in specs:
        if _reads_logit_positions(inputs):
            kept = _tokens_at(padded["logit_positions"], rows * longest + columns, mask.shape)
        else:
            last = first + counts - 1  # any token for a row without one
            kept = np.minimum(first, len(tokens) - 1) if summary_type == "first" else np.maximum(last, 0)
            kept = kept.reshape(mask.shape[:-1])
        arrays |= _kept_layout(kept, token_index // shape[-1], padded_index.size // shape[-1])
    return {name: np.ascontiguousarray(arrays[name]) for name in specs}


def fill_up(packed: Mapping[str, Array], inputs: Sequence[TensorSpec], multiples: Multiples) -> dict[str, Array]:
    """The same batch with more tokens, and more places in a pack, see `Multiples`.

    Args:
        packed: what `pack` returns.
        inputs: the packed graph's.
    """
    sizes = {"tokens": len(packed["token_index"]), "longest": packed["padded_index"].shape[-1]}
    added = {
        "tokens": filled_size(sizes["tokens"], multiples.tokens) - sizes["tokens"],
        "longest": -sizes["longest"] % multiples.longest,
    }
    if not any(added.values()):
        return dict(packed)
    row, column = np.divmod(packed["token_index"], sizes["longest"])
    arrays = {**packed, "token_index": row * (sizes["longest"] + added["longest"]) + column}
    filled = {}
    for spec in inputs:
        widths = [(0, added.get(axis, 0)) for axis in spec.axes]
        filled[spec.name] = np.pad(arrays[spec.name], widths, constant_values=FILL.get(spec.name, 0))
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


def _share_packs(counts: Sequence[int], multiple: int) -> tuple[NDArray[np.int64], tuple[int, int]]:
    """Lines for rows of `counts` tokens: the longest row first, each to the fullest pack that has room for it.

    Returns:
        The place of each row's first token, pack · longest + column, and (packs, longest).
    """
    longest = -(-max(counts) // multiple) * multiple
    starts, packs = [0] * len(counts), 0
    free: list[tuple[int, int]] = []  # (room, pack), sorted
    for row in sorted((row for row, count in enumerate(counts) if count), key=lambda row: -counts[row]):
        fitting = bisect_left(free, (counts[row], 0))
        if fitting < len(free):
            room, pack = free.pop(fitting)
        else:
            room, pack, packs = longest, packs, packs + 1
        starts[row] = (pack + 1) * longest - room
        if room > counts[row]:
            insort(free, (room - counts[row], pack))
    return np.array(starts), (packs, longest)


def _tokens_at(positions: NDArray[np.int64], places: Array, shape: tuple[int, ...]) -> NDArray[np.int64]:
    """The tokens at `positions`, flat indices into the padded batch, whose tokens stand at `places`."""
    tokens = np.minimum(np.searchsorted(places, positions), len(places) - 1)
    padding = places[tokens] != positions
    if padding.any():
        raise InputError(
            f"logit_positions names the place {positions[padding][0]} of {' × '.join(map(str, shape))}, which is "
            "padding; a packed graph has logits of real tokens only."
        )
    return tokens


def _kept_layout(kept: NDArray[np.int64], pack_of: NDArray[np.int64], packs: int) -> dict[str, Array]:
    """Index arrays of the kept tokens, whose number differs from pack to pack.

    Args:
        kept: tokens, in any shape and order.
        pack_of: (tokens,), each token's pack of attention.
    """
    if kept.size == 1 and packs == 1:  # one row, the call that has to be fast
        place = np.zeros_like(kept)
        return {"kept_index": kept, "kept_token_index": place, "kept_padded_index": place.reshape(1, 1)}
    pack = pack_of[kept].reshape(-1)
    counts = np.bincount(pack, minlength=packs)
    order = np.argsort(pack, kind="stable")
    column = np.empty_like(pack)  # a kept token's place among those of its pack
    column[order] = np.arange(len(pack)) - np.repeat(np.cumsum(counts) - counts, counts)
    most_kept = int(counts.max())
    kept_padded_index = np.zeros((packs, most_kept), np.int64)
    kept_padded_index[pack, column] = np.arange(len(pack))
    return {
        "kept_index": kept,
        "kept_token_index": (pack * most_kept + column).reshape(kept.shape),
        "kept_padded_index": kept_padded_index,
    }
