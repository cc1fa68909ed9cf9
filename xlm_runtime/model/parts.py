"""How many tokens a host reads before it starts the device, so that both work at the same time.

The times of a batch of n tokens, in ms:

    host(n)   = HOST_BATCH + n · HOST_TOKEN        tokenising, filling buffers, launching
    device(n) = DEVICE_BATCH + n · DEVICE_TOKEN

A part that is read while the device computes the one before costs nothing as long as host(part) ≤ device(before). So
few inputs are cut where the second part is read just in time, and many begin with a small part, after which each is as
large as can be read in time. 8,192 tokens take 7.4 ms in one part, and 6.8 where the first has 2,560.
"""

from __future__ import annotations

import math

# of an encoder of 12 layers × 1024 in fp16 on an H200, in CUDA graphs: 0.91 ms for 1,024 tokens, 3.01 for 4,096; and of
# texts whose words were seen before: 0.76 ms for 4,096 tokens. Where a host is faster or a model larger, parts that
# suit these gain less, and lose no more than DEVICE_BATCH for each.
HOST_BATCH, HOST_TOKEN = 0.2, 0.00019
DEVICE_BATCH, DEVICE_TOKEN = 0.3, 0.00065

# tokens of a part: with fewer the device's time for each batch outweighs what is gained
LEAST_PART = 2560
# of the budget of a batch, so that a part is one: the input that fills it up may be a long one
MOST_OF_BUDGET = 0.75


class Parts:
    """Where the inputs of a call are cut.

    Args:
        count: how many inputs there are, None for a stream.
        budget: most tokens of a batch.
    """

    def __init__(self, count: int | None, budget: int) -> None:
        self._most = budget * MOST_OF_BUDGET
        self._left = math.inf if count is None else count
        self._before: int | None = None  # tokens of the last part

    def is_full(self, tokens: int, inputs: int) -> bool:
        """Whether a part that has so many tokens, of so many inputs, is to be computed. Otherwise it takes one more."""
        if tokens < LEAST_PART:
            return False
        to_come = tokens / inputs * (self._left - inputs)
        goal = _first_part(tokens + to_come) if self._before is None else _next_part(self._before)
        return tokens >= min(goal, self._most) and to_come >= LEAST_PART

    def take(self, tokens: int, inputs: int) -> None:
        """Note that a part ends here."""
        self._before = tokens
        self._left -= inputs


def _first_part(tokens: float) -> float:
    """The first of two parts of `tokens` tokens, with device(first) = host(second)."""
    first = (HOST_BATCH - DEVICE_BATCH + tokens * HOST_TOKEN) / (HOST_TOKEN + DEVICE_TOKEN)
    return min(first, LEAST_PART)


def _next_part(before: int) -> float:
    """The part with host(part) = device(before)."""
    return (DEVICE_BATCH + before * DEVICE_TOKEN - HOST_BATCH) / HOST_TOKEN
