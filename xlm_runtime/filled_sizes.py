"""What the sizes of a batch are filled up to, so that a session meets few different ones: plain arithmetic.

A provider's row in `xlm_runtime.providers` names one of these ways.
"""

from __future__ import annotations

from bisect import bisect_left
from dataclasses import dataclass
from typing import NamedTuple, Protocol

# Up to so many tokens: the step to which they are filled up. Products on a GPU are computed in tiles of 64 to 256
# tokens: on an H200 (fp16, 12 layers × 1024) 128 tokens take 15% longer than 16. Sizes that come again are worth a
# step: a CUDA graph saves 0.35 ms of 0.86 at 128 tokens and 0.2 of 3.0 at 4,096, and sizes that are new cost 2 ms more,
# in which kernels are chosen for them.
_STEPS = ((1024, 128), (4096, 256), (8192, 512))
_FEW_TOKENS = (16, 32, 64)
_LAST_STEP = 1024
# Attention skips places without a token; heads that look at whole rows do not.
_ROW_LENGTHS = (16, 32, 64, 128, 256, 384, 512)


class Sizes(NamedTuple):
    """Tokens of a packed batch, its rows, and the places of its longest row."""

    tokens: int
    rows: int
    longest: int


class Filling(Protocol):
    """A way to fill batches up."""

    @property
    def padded_step(self) -> int:
        """The largest step in which padded batches are filled up, see `filled_size`; 1 where they are not."""
        ...

    def fill(self, sizes: Sizes) -> Sizes:
        """The sizes that a packed batch is filled up to, none smaller than its own.

        Rows that are added hold the tokens that are added: there are enough of them for that.
        """
        ...


@dataclass(frozen=True)
class Multiples:
    """A multiple of so many tokens, and of so many places in a pack.

    Few tokens are filled up by few, see `filled_size`: a call with one short row lasts as long as it has tokens.
    """

    tokens: int = 1
    longest: int = 1

    @property
    def padded_step(self) -> int:
        return self.longest

    def fill(self, sizes: Sizes) -> Sizes:
        tokens = filled_size(sizes.tokens, self.tokens)
        longest = -(-sizes.longest // self.longest) * self.longest
        return Sizes(tokens, sizes.rows + -(-(tokens - sizes.tokens) // longest), longest)


NOT_FILLED = Multiples()


@dataclass(frozen=True)
class Buckets:
    """Few sizes in all, for calls that are captured once and replayed.

    Tokens 16, 32, 64, then multiples of 128 to 1,024, of 256 to 4,096, of 512 to 8,192 and of 1,024; rows 1, 2, 4, 8,
    …; the longest row 16, 32, 64, 128, 256, 384, 512, 1,024, 2,048, …. So 1×16, 1×128, 8×128, 1×384 and 32×128 are not
    filled up.
    """

    @property
    def padded_step(self) -> int:
        return 1

    def fill(self, sizes: Sizes) -> Sizes:
        tokens, longest = _filled_tokens(sizes.tokens), _filled_row(sizes.longest)
        added = -(-(tokens - sizes.tokens) // longest)
        return Sizes(tokens, 1 << (sizes.rows + added - 1).bit_length(), longest)


def _filled_tokens(tokens: int) -> int:
    if tokens <= _FEW_TOKENS[-1]:
        return _FEW_TOKENS[bisect_left(_FEW_TOKENS, tokens)]
    step = next((step for most, step in _STEPS if tokens <= most), _LAST_STEP)
    return -(-tokens // step) * step


def _filled_row(longest: int) -> int:
    if longest <= _ROW_LENGTHS[-1]:
        return _ROW_LENGTHS[bisect_left(_ROW_LENGTHS, longest)]
    return 1 << (longest - 1).bit_length()


def filled_size(size: int, most: int) -> int:
    """The next multiple of a step that is at most a quarter of the size, at most `most`, and a power of two.

    A small batch is filled by little, and a large one in large steps: 5 → 5, 17 → 20, 33 → 40, 100 → 112.
    """
    step = min(most, 1 << max(0, size.bit_length() - 3))
    return -(-size // step) * step
