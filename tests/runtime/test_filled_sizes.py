"""What batches are filled up to."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from xlm_runtime.filled_sizes import Buckets, Filling, Multiples, Sizes

lengths = st.lists(st.integers(0, 512), min_size=1, max_size=40).filter(any)


@given(lengths, st.sampled_from([Buckets(), Multiples(), Multiples(32, 16), Multiples(3, 7)]))
def test_what_is_added_has_room(lengths: list[int], filling: Filling) -> None:
    sizes = Sizes(sum(lengths), len(lengths), max(lengths))
    filled = filling.fill(sizes)
    assert all(new >= old for new, old in zip(filled, sizes, strict=True))
    assert filled.tokens - sizes.tokens <= (filled.rows - sizes.rows) * filled.longest
    assert filling.fill(filled) == filled, "a filled batch is full"


@pytest.mark.parametrize(
    ("rows", "longest"), [(1, 16), (1, 128), (8, 128), (1, 384), (4, 384), (16, 128), (32, 64), (32, 128)]
)
def test_common_sizes_are_not_filled_up(rows: int, longest: int) -> None:
    sizes = Sizes(rows * longest, rows, longest)
    assert Buckets().fill(sizes) == sizes


def test_buckets_are_few() -> None:
    tokens = {Buckets().fill(Sizes(n, 1, 1)).tokens for n in range(1, 2049)}
    longest = {Buckets().fill(Sizes(512, 1, n)).longest for n in range(1, 513)}
    assert sorted(tokens) == [16, 32, 64, 128, 256, 384, 512, 640, 768, 896, 1024, 1280, 1536, 1792, 2048]
    assert sorted(longest) == [16, 32, 64, 128, 256, 384, 512]
    single = {Buckets().fill(Sizes(n, 1, n)) for n in range(1, 513)}
    assert len(single) == 14, "one text at a time"
    large = [Buckets().fill(Sizes(n, 30, 384)).tokens for n in range(2049, 16385)]
    assert len(set(large)) == 8 + 8 + 8, "of 256 to 4,096, of 512 to 8,192 and of 1,024"
    assert all(filled - n <= n / 8 for n, filled in enumerate(large, 2049))
    assert Buckets().fill(Sizes(8192, 3, 5000)).longest == 8192
