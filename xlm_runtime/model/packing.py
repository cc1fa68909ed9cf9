"""The packed layout: the real tokens of a batch on one axis, and the index arrays that tell a graph where they stand.

Only attention needs to know which tokens share a row. A packed graph gets each token once, spreads queries, keys and
values to packs, (packs, longest), and gathers what attention makes of them back; everything else is computed for real
tokens alone. In its last layer it computes only the tokens that its head reads.

Short rows stand in one pack, one behind the other, and do not see each other (Krell et al. 2021, "Efficient sequence
packing without cross-contamination"). Where a head looks at whole rows, each has a pack for itself, and so it has in
graphs for CUDA, whose attention knows the rows by `cumulative_sequence_length`.
"""

from __future__ import annotations

from bisect import bisect_left, insort
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import lru_cache, partial
from math import prod

import numpy as np
from numpy.typing import NDArray

from xlm_runtime.errors import InputError
from xlm_runtime.filled_sizes import NOT_FILLED, Filling, Sizes
from xlm_runtime.sessions import Array, Session, start_run
from xlm_runtime.tasks import FILL, ROWS, TOKEN_OFFSET, TensorSpec

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
    "token_offset",
    "cumulative_sequence_length",
)

# Packings kept, of batches of at most so many places: to make one takes longer than all else that a session on a GPU
# does for a call. A place takes some 20 bytes, so they take 40 MB at the very most.
_MOST_PACKINGS = 128
_MOST_PLACES = 16384

# inputs that follow from rows without padding between them
_OF_ROWS = {"input_ids", "langs", "position_ids", "kept_index", "token_offset", "cumulative_sequence_length"}
# rows whose lengths may come again, unless all have the same
_FEW_ROWS = 8


class PackedSession:
    """A packed graph's session behind the padded graph's inputs and outputs: `Session` for callers that pad.

    Args:
        session: the packed graph's.
        inputs, outputs: the packed graph's.
        summary_type: the configuration's, see `plan_packing`.
        filling: what batches are filled up to; by default nothing.
    """

    def __init__(
        self,
        session: Session,
        inputs: Sequence[TensorSpec],
        outputs: Sequence[TensorSpec],
        summary_type: str,
        filling: Filling = NOT_FILLED,
    ) -> None:
        self._session = session
        self._inputs = inputs
        self._outputs = outputs
        self._plan = partial(plan_packing, inputs=inputs, summary_type=summary_type, filling=filling)
        self._remembered = _remember(self._plan)
        self._plan_rows = partial(_plan_rows, inputs=inputs, summary_type=summary_type, filling=filling)
        self._remembered_rows = lru_cache(_MOST_PACKINGS)(self._plan_rows)

    @property
    def takes_rows(self) -> bool:
        """Whether rows need no padding on their way to the graph, see `start_rows`."""
        axes = {spec.name: spec.axes for spec in self._inputs}
        return set(axes) <= _OF_ROWS and axes.get("kept_index", ROWS) == ROWS and TOKEN_OFFSET in axes

    @property
    def input_names(self) -> tuple[str, ...]:
        return padded_names(self._inputs)

    @property
    def output_names(self) -> tuple[str, ...]:
        return self._session.output_names

    def run(self, inputs: Mapping[str, Array]) -> dict[str, Array]:
        return self.start(inputs)()

    def start(self, inputs: Mapping[str, Array]) -> Callable[[], dict[str, Array]]:
        mask = inputs["attention_mask"] != 0
        packing = self._plan(mask) if mask.size > _MOST_PLACES else self._remembered(mask.shape, mask.tobytes())
        wait = start_run(self._session, packing.pack(inputs))
        return lambda: packing.unpack(wait(), self._outputs)

    def start_rows(
        self, input_ids: NDArray[np.int64], lengths: Sequence[int], langs: Sequence[int]
    ) -> Callable[[], dict[str, Array]]:
        """Begin a batch of rows that were never padded; the outputs are those of `run` for them padded on the right.

        Args:
            input_ids: (tokens,), those of all rows, one behind the other.
            lengths: tokens of each row, one or more.
            langs: the language of each row.
        """
        again = len(lengths) <= _FEW_ROWS or min(lengths) == max(lengths)
        sizes, index = self._remembered_rows(tuple(lengths)) if again else self._plan_rows(lengths)
        added = sizes.tokens - len(input_ids)
        arrays = dict(index, input_ids=np.pad(input_ids, (0, added)) if added else input_ids)
        if any(spec.name == "langs" for spec in self._inputs):
            arrays["langs"] = np.repeat((*langs, 0), (*lengths, added))
        wait = start_run(self._session, arrays)

        def unpack() -> dict[str, Array]:
            outputs = wait()
            of_tokens = [spec.name for spec in self._outputs if spec.axes[0] == "tokens"]
            if not of_tokens:
                return outputs
            mask = np.arange(max(lengths)) < np.array(lengths)[:, None]
            return outputs | {name: _padded(outputs[name], np.flatnonzero(mask), mask.shape) for name in of_tokens}

        return unpack


def _remember(plan: Callable[[NDArray[np.bool_]], Packing]) -> Callable[[tuple[int, ...], bytes], Packing]:
    """`plan` of a mask's shape and bytes, which batches with rows of the same lengths share."""

    @lru_cache(_MOST_PACKINGS)
    def remembered(shape: tuple[int, ...], values: bytes) -> Packing:
        return plan(np.frombuffer(values, bool).reshape(shape))

    return remembered


def padded_names(inputs: Sequence[TensorSpec]) -> tuple[str, ...]:
    """What `pack` needs of the padded batch for a packed graph's `inputs`."""
    names = ["attention_mask", *(spec.name for spec in inputs if spec.name not in INDEX_INPUTS)]
    if _reads_logit_positions(inputs):
        names.append("logit_positions")
    return tuple(dict.fromkeys(names))


def _reads_logit_positions(inputs: Sequence[TensorSpec]) -> bool:
    """Whether the kept tokens are those at `logit_positions`, as a language model's are."""
    return any(spec.name == "kept_index" and spec.axes == ("kept",) for spec in inputs)


@dataclass(frozen=True, eq=False)
class Packing:
    """Where the tokens of a batch stand in a packed graph: what follows from its mask alone, see `plan_packing`.

    Args:
        mask: (batch, [num_choices,] sequence).
        places: (tokens,), each token's place in the padded batch, row · sequence + column.
        sizes: the packed graph's axes that are filled up, and their sizes.
        index: the packed graph's index arrays.
        specs: the packed graph's inputs.
        reads_positions: whether it gives logits of the tokens at `logit_positions`.
    """

    mask: NDArray[np.bool_]
    places: NDArray[np.int64]
    sizes: Mapping[str, int]
    index: Mapping[str, Array]
    specs: Sequence[TensorSpec]
    reads_positions: bool

    def pack(self, padded: Mapping[str, Array]) -> dict[str, Array]:
        """The graph's inputs for a batch of this mask.

        Raises:
            InputError: a logit position at padding.
        """
        arrays = dict(self.index)
        if self.reads_positions:
            kept = _tokens_at(padded["logit_positions"], self.places, self.mask.shape)
            arrays |= _kept_layout(kept, self.index)
        for spec in self.specs:
            name = spec.name
            if name in _OF_TOKENS and name in padded:
                arrays[name] = self._tokens(padded[name])
            elif name not in arrays:
                arrays[name] = _filled(padded[name], spec, self.sizes)
        return arrays

    def unpack(self, outputs: Mapping[str, Array], specs: Sequence[TensorSpec]) -> dict[str, Array]:
        """A packed graph's outputs as the padded graph gives them, without what the batch was filled up with.

        (tokens, …) become (batch, sequence, …), zeros at padding.
        """
        spread = dict(outputs)
        for spec in specs:
            if spec.axes[0] == "tokens":
                spread[spec.name] = _padded(outputs[spec.name], self.places, self.mask.shape)
        return spread

    def _tokens(self, padded: Array) -> Array:
        """(batch, …, sequence, …) → (tokens, …), the tokens that are added 0."""
        flat = padded.reshape(self.mask.size, *padded.shape[self.mask.ndim :])
        count = len(self.places)
        if self.sizes["tokens"] == count:
            return flat if count == self.mask.size else flat.take(self.places, axis=0)
        tokens = np.zeros((self.sizes["tokens"], *flat.shape[1:]), flat.dtype)
        tokens[:count] = flat.take(self.places, axis=0)
        return tokens


def pack(
    padded: Mapping[str, Array], inputs: Sequence[TensorSpec], summary_type: str, filling: Filling = NOT_FILLED
) -> dict[str, Array]:
    """A packed graph's inputs from those of the padded graph for the same batch.

    Args:
        padded: arrays (batch, [num_choices,] sequence, …) with `attention_mask` among them; `position_ids` may be
            absent and are then 0, 1, … from the left. `logit_positions` are flat indices into batch·sequence.
        inputs, summary_type, filling: see `plan_packing`.

    Returns:
        An array for each of `inputs`, see `tasks.graph_inputs` and `tasks.cuda_packed_inputs`.

    Raises:
        InputError: a batch without a real token, or a logit position at padding.
    """
    return plan_packing(padded["attention_mask"] != 0, inputs, summary_type, filling).pack(padded)


def plan_packing(
    mask: NDArray[np.bool_], inputs: Sequence[TensorSpec], summary_type: str, filling: Filling = NOT_FILLED
) -> Packing:
    """Where the tokens of a batch stand.

    Args:
        mask: (batch, [num_choices,] sequence), the real tokens.
        inputs: the packed graph's.
        summary_type: the configuration's, for heads that read one token of a sequence.
        filling: sizes that the batch is filled up to. Tokens that are added are token 0 of the vocabulary; no row
            attends to them, and no answer has them.

    Raises:
        InputError: a batch without a real token.
    """
    longest = mask.shape[-1]
    places = np.flatnonzero(mask)  # (tokens,)
    if not len(places):
        raise InputError("attention_mask has no real token; give a packed graph at least one.")
    tokens = np.arange(len(places))
    counts = np.count_nonzero(mask, axis=-1).reshape(-1)  # (rows,)
    first = counts.cumsum() - counts  # (rows,): each one's first token
    row = np.repeat(np.arange(len(counts)), counts)  # (tokens,)
    column = places - row * longest
    axes = {spec.name: spec.axes for spec in inputs}
    share_packs = axes.get("padded_index", ("rows",))[0] == "packs"
    sizes = filling.fill(Sizes(len(tokens), len(counts), int(counts.max()) if share_packs else longest))
    index: dict[str, Array] = {"position_ids": column}
    if "padded_index" in axes:
        if share_packs:
            starts, shape = _share_packs(counts.tolist(), sizes.longest)
            token_index = (starts - first)[row] + tokens
        else:
            token_index, shape = row * sizes.longest + column, (*mask.shape[:-1], sizes.longest)
        padded_index, segment_ids = np.zeros((2, *shape), np.int64)  # padding stands at token 0
        padded_index.reshape(-1)[token_index] = tokens
        segment_ids.reshape(-1)[token_index] = row + 1
        index |= {"token_index": token_index, "padded_index": padded_index, "segment_ids": segment_ids}
    if "token_offset" in axes:
        index |= _row_layout(counts, tokens + (np.arange(len(counts)) * sizes.longest - first)[row], sizes)
    reads_positions = _reads_logit_positions(inputs)
    if "kept_index" in axes and not reads_positions:
        last = first + counts - 1  # any token for a row without one
        kept = np.minimum(first, len(tokens) - 1) if summary_type == "first" else np.maximum(last, 0)
        index |= _kept_layout(kept.reshape(mask.shape[:-1]), index)
    filled = {"tokens": sizes.tokens, "longest": sizes.longest}
    index = {spec.name: _filled(index[spec.name], spec, filled) for spec in inputs if spec.name in index}
    return Packing(mask, places, filled, index, tuple(inputs), reads_positions)


def _padded(value: Array, places: NDArray[np.int64], shape: tuple[int, ...]) -> Array:
    """(tokens, …), of which the first stand at `places` of a padded batch → (*shape, …), zeros at padding."""
    value = value[: len(places)]
    if len(places) < prod(shape):
        padded = np.zeros((prod(shape), *value.shape[1:]), value.dtype)
        padded[places] = value
        value = padded
    return value.reshape(*shape, *value.shape[1:])


def _plan_rows(
    lengths: Sequence[int], inputs: Sequence[TensorSpec], summary_type: str, filling: Filling
) -> tuple[Sizes, dict[str, Array]]:
    """The sizes that rows without padding are filled up to, and the index arrays of a graph that takes them."""
    counts = np.array(lengths)
    ends = counts.cumsum()
    first, tokens = ends - counts, np.arange(int(ends[-1]))
    sizes = filling.fill(Sizes(len(tokens), len(counts), int(counts.max())))
    index = {"position_ids": tokens - np.repeat(first, counts)}
    index |= _row_layout(counts, tokens + np.repeat(np.arange(len(counts)) * sizes.longest - first, counts), sizes)
    index["kept_index"] = first if summary_type == "first" else ends - 1
    filled = {"tokens": sizes.tokens}
    return sizes, {spec.name: _filled(index[spec.name], spec, filled) for spec in inputs if spec.name in index}


def _filled(array: Array, spec: TensorSpec, sizes: Mapping[str, int]) -> Array:
    """The array with more places behind, where an axis is to have more."""
    shape = tuple(sizes.get(axis, size) for axis, size in zip(spec.axes, array.shape, strict=True))
    if shape == array.shape:
        return np.ascontiguousarray(array)
    filled = np.full(shape, FILL.get(spec.name, 0), array.dtype)
    filled[tuple(map(slice, array.shape))] = array
    return filled


def _share_packs(counts: Sequence[int], longest: int) -> tuple[NDArray[np.int64], tuple[int, int]]:
    """Packs of `longest` places for rows of `counts` tokens: the longest row first, each to the fullest pack that has
    room for it.

    Returns:
        The place of each row's first token, pack · longest + column, and (packs, longest).
    """
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


def _row_layout(counts: NDArray[np.int64], places: NDArray[np.int64], sizes: Sizes) -> dict[str, Array]:
    """What attention on CUDA reads of the rows, which it finds without holes.

    Args:
        counts: (rows,), each one's tokens.
        places: (tokens,), each token's place, row · longest + its number in the row.
        sizes: those of the filled batch: tokens that are added stand in rows behind.

    Returns:
        `token_offset` (rows, longest) int32, the places of the tokens and then those of padding, each in order, and
        `cumulative_sequence_length` (rows + 1,) int32, where each row's tokens begin, and their number.
    """
    rows, count = len(counts), len(places)
    added = np.arange(rows * sizes.longest, rows * sizes.longest + sizes.tokens - count)
    padding = np.ones(sizes.rows * sizes.longest, bool)
    padding[places] = padding[added] = False
    offsets = np.concatenate((places, added, np.flatnonzero(padding)), dtype=np.int32, casting="same_kind")
    bounds = np.zeros(sizes.rows + 1, np.int32)
    counts.cumsum(out=bounds[1 : rows + 1])
    ends = np.arange(1, sizes.rows - rows + 1) * sizes.longest + count
    bounds[rows + 1 :] = np.minimum(ends, sizes.tokens)
    return {"token_offset": offsets.reshape(-1, sizes.longest), "cumulative_sequence_length": bounds}


def _kept_layout(kept: NDArray[np.int64], index: Mapping[str, Array]) -> dict[str, Array]:
    """Index arrays of the kept tokens, whose number differs from pack to pack.

    Args:
        kept: tokens, in any shape and order.
        index: `token_index` and `padded_index` where the kept tokens have packs too.
    """
    if "padded_index" not in index:
        return {"kept_index": kept}
    longest = index["padded_index"].shape[-1]
    packs = index["padded_index"].size // longest
    if kept.size == 1 and packs == 1:  # one row, the call that has to be fast
        place = np.zeros_like(kept)
        return {"kept_index": kept, "kept_token_index": place, "kept_padded_index": place.reshape(1, 1)}
    pack = (index["token_index"][kept] // longest).reshape(-1)
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
