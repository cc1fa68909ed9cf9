"""The keys and values of past tokens, as an explicit value."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor


@dataclass(frozen=True)
class PastKeyValues:
    """Keys and values of every layer.

    `layers[i]` is `(key, value)`, each (batch, n_heads, past_sequence, head_dim). A forward pass gives those of the
    new tokens alone, and leaves those it was given untouched; `append` joins the two.
    """

    layers: tuple[tuple[Tensor, Tensor], ...]

    @property
    def length(self) -> int:
        """Number of past tokens, padding included; a symbolic number while the model is traced."""
        return self.layers[0][0].shape[-2]

    def append(self, present: PastKeyValues) -> PastKeyValues:
        """Keys and values with the tokens of `present` behind their own."""
        pairs = zip(self.layers, present.layers, strict=True)
        return PastKeyValues(
            tuple((torch.cat((old[0], new[0]), dim=2), torch.cat((old[1], new[1]), dim=2)) for old, new in pairs)
        )
