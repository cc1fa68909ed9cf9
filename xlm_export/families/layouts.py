"""How the tokens of a batch lie in memory: (batch, sequence) with padding, or packed, all on one axis.

What a model computes for each token acts on the last axis and sees no difference. Attention, and heads that look at
whole sequences, go through the few operations here.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Protocol

import torch
from torch import Tensor
from torch.nn import functional


class Layout(Protocol):
    """What a head needs to know of a layout. `…` is the axes of tokens: (batch, sequence), or (tokens,)."""

    def spread(self, x: Tensor) -> Tensor:
        """(…, dim) → (batch, longest, dim); anything finite at padding."""
        ...

    def take(self, x: Tensor, index: Tensor) -> Tensor:
        """The tokens at `index` (batch, k) of each row: (…, dim) → (batch, k, dim)."""
        ...

    def of_row(self, x: Tensor) -> Tensor:
        """What belongs to a row, beside each of its tokens: (batch, k, dim) → what broadcasts with (…, k, dim)."""
        ...


class PaddedLayout:
    """Tokens as (batch, sequence)."""

    def spread(self, x: Tensor) -> Tensor:
        return x

    def take(self, x: Tensor, index: Tensor) -> Tensor:
        return x.gather(1, index.unsqueeze(-1).expand(-1, -1, x.shape[-1]))

    def of_row(self, x: Tensor) -> Tensor:
        return x.unsqueeze(1)


@dataclass(frozen=True)
class PackedLayout:
    """Tokens on one axis.

    In attention they stand in *packs* of `longest` places. `padded_index` (packs, longest) int64 is the token at each
    place, any one at padding; `token_index` (tokens,) int64 is the place of each token, pack · longest + column. For
    heads that look at whole rows, a pack is a row of the batch.
    """

    padded_index: Tensor
    token_index: Tensor

    @property
    def pack(self) -> Tensor:
        """(tokens,) int64: each token's pack."""
        rows = torch.arange(self.padded_index.shape[0], device=self.token_index.device)
        return rows.unsqueeze(1).expand_as(self.padded_index).reshape(-1).index_select(0, self.token_index)

    def spread(self, x: Tensor) -> Tensor:
        return take_rows(x, self.padded_index)

    def take(self, x: Tensor, index: Tensor) -> Tensor:
        return take_rows(x, self.padded_index.gather(1, index))

    def of_row(self, x: Tensor) -> Tensor:
        return x.index_select(0, self.pack)

    def spread_heads(self, x: Tensor, n_heads: int, parts: int) -> list[Tensor]:
        """Queries, keys and values to the layout of attention, in one step from where the products left them.

        (1, tokens, parts · n_heads · head_dim) → `parts` tensors (packs, n_heads, longest, head_dim). One gather of
        head_dim numbers for each place takes each part apart, splits the heads, moves them forward and pads.
        """
        pieces = x.reshape(-1, x.shape[-1] // (parts * n_heads))  # (tokens · parts · n_heads, head_dim)
        first = self.padded_index.unsqueeze(1) * (parts * n_heads)  # (packs, 1, longest)
        heads = torch.arange(n_heads, device=x.device).unsqueeze(1)
        return [take_rows(pieces, first + (heads + part * n_heads)) for part in range(parts)]

    def gather_heads(self, x: Tensor) -> Tensor:
        """The way back: (packs, n_heads, longest, head_dim) → (tokens, n_heads · head_dim), padding left behind."""
        n_heads, longest = x.shape[1], x.shape[2]
        first = self.token_index + self.pack * ((n_heads - 1) * longest)  # (tokens,)
        index = first.unsqueeze(1) + torch.arange(n_heads, device=x.device) * longest
        return take_rows(x.flatten(0, 2), index).flatten(1)


@dataclass(frozen=True)
class PackedBatch:
    """A packed graph's inputs by their names; `xlm_runtime.tasks.graph_inputs` has their shapes.

    `segment_ids` (packs, longest) is a number for each row of the batch at its places, and 0 at padding: rows that
    share a pack do not see each other. `kept_index` names the tokens that leave the last layer, all where
    it is None, and `kept_padded_index` and `kept_token_index` are their layout.
    """

    position_ids: Tensor
    token_index: Tensor
    padded_index: Tensor
    segment_ids: Tensor
    input_ids: Tensor | None = None
    inputs_embeds: Tensor | None = None
    langs: Tensor | None = None
    token_type_ids: Tensor | None = None
    kept_index: Tensor | None = None
    kept_token_index: Tensor | None = None
    kept_padded_index: Tensor | None = None
    p_mask: Tensor | None = None
    cls_index: Tensor | None = None

    @property
    def mask(self) -> Tensor:
        """(packs, longest) bool: which places hold a token."""
        return self.segment_ids != 0

    @property
    def layout(self) -> PackedLayout:
        return PackedLayout(self.padded_index, self.token_index)

    @property
    def kept_layout(self) -> PackedLayout:
        """Of the tokens that leave the last layer."""
        if self.kept_padded_index is None or self.kept_token_index is None:
            return self.layout
        return PackedLayout(self.kept_padded_index, self.kept_token_index)

    def visible(self, causal: bool) -> Tensor:
        """What each place attends to, bool (packs, 1, longest, longest): its row, when causal not behind itself."""
        columns = torch.arange(self.segment_ids.shape[1], device=self.segment_ids.device)
        return self._visible_from(self.segment_ids, columns, causal)

    def visible_to_kept(self, causal: bool) -> Tensor:
        """The same for the kept tokens in their layout, bool (packs, 1, most_kept, longest)."""
        if self.kept_index is None:
            return self.visible(causal)
        packs, longest = self.segment_ids.shape
        places = self.token_index[self.kept_index][self.kept_layout.padded_index]  # (packs, most_kept)
        # what pads this layout may stand in another pack: its column is wrong there, and nothing reads it
        columns = places - torch.arange(packs, device=places.device).unsqueeze(1) * longest
        return self._visible_from(self.segment_ids.flatten()[places], columns, causal)

    def _visible_from(self, segments: Tensor, columns: Tensor, causal: bool) -> Tensor:
        visible = segments.unsqueeze(-1) == self.segment_ids.unsqueeze(1)  # (packs, queries, longest)
        if causal:
            visible = visible & not_behind(columns, self.segment_ids.shape[1])
        return visible.unsqueeze(1)


def not_behind(columns: Tensor, keys: int) -> Tensor:
    """Causal attention: which of `keys` places stand not behind each query, bool (…, queries, keys).

    Args:
        columns: (…, queries) int64, each query's place among the keys.
    """
    return torch.arange(keys, device=columns.device) <= columns.unsqueeze(-1)


def take_rows(x: Tensor, index: Tensor) -> Tensor:
    """`x[index]` for (rows, dim), as the one operator that it is in ONNX (Gather): (*index.shape, dim)."""
    return functional.embedding(index, x)
