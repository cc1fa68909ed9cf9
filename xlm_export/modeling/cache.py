"""The keys and values of past tokens, as an explicit value."""

from __future__ import annotations

from dataclasses import dataclass

from torch import Tensor


@dataclass(frozen=True)
class KeyValueCache:
    """Keys and values of every layer.

    `layers[i]` is `(key, value)`, each (batch, n_heads, past_sequence, head_dim). A forward pass returns a new
    cache and leaves the one it was given untouched.
    """

    layers: tuple[tuple[Tensor, Tensor], ...]

    @property
    def length(self) -> int:
        """Number of past tokens, padding included; a symbolic number while the model is traced."""
        return self.layers[0][0].shape[-2]
