"""How the tokens of a batch lie in memory: (batch, sequence) with padding, or packed, all on one axis.

What a model computes for each token acts on the last axis and sees no difference. Heads that look at whole sequences
go through the few operations here.
"""

from __future__ import annotations

from typing import Protocol

from torch import Tensor


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
