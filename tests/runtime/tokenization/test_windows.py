"""Windows cover a sequence and share what they should."""

from __future__ import annotations

from itertools import pairwise

from hypothesis import given
from hypothesis import strategies as st

from xlm_runtime.tokenization.options import Truncation
from xlm_runtime.tokenization.windows import most_context, overlapping, windows

OVERFLOW = Truncation("only_second", 16, "right", 3, overflow=True)


@given(st.integers(0, 60), st.integers(1, 8), st.integers(0, 3), st.sampled_from(["left", "right"]))
def test_windows_cover_the_sequence_and_share_the_stride(length: int, room: int, stride: int, side: str) -> None:
    stride = min(stride, room - 1)
    options = OVERFLOW._replace(stride=stride, max_length=5 + room + 3, side=side)
    made = windows(5, length, 3, options)
    ranges = [window.second for window in made if window.second is not None]
    assert all(window.first == (0, 5) for window in made)
    assert all(stop - start <= room for start, stop in ranges)
    ordered = sorted(ranges)
    assert (ordered[0][0], ordered[-1][1]) == (0, length)
    for (_, stop), (start, _) in pairwise(ordered):
        assert stop - start >= stride
    steady = ranges[:-1]
    assert all(abs(a[0] - b[0]) == room - stride for a, b in pairwise(steady))


@given(st.integers(1, 90), st.integers(1, 20), st.integers(0, 19))
def test_each_token_is_read_where_it_has_most_context(length: int, room: int, stride: int) -> None:
    ranges = overlapping(length, room, min(stride, room - 1))
    parts = most_context(ranges)
    assert [place for part in parts for place in range(*part)] == list(range(length))
    assert len(ranges) == 1 or all(stop - start == room for start, stop in ranges)
    assert all(a[1] - b[0] >= min(stride, room - 1) for a, b in pairwise(ranges))

    def context(place: int, start: int, stop: int) -> float:
        """Tokens on the side with fewer; at the text's ends there are no more to see."""
        left = place - start if start else float("inf")
        return min(left, stop - 1 - place if stop < length else float("inf"))

    for (first, last), own in zip(parts, ranges, strict=True):
        for place in range(first, last):
            around = [each for each in ranges if each[0] <= place < each[1]]
            assert context(place, *own) == max(context(place, *each) for each in around)
