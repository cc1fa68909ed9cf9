"""Where the inputs of a call are cut, so that host and device work at the same time."""

from __future__ import annotations

from xlm_runtime.model.parts import (
    DEVICE_BATCH,
    DEVICE_TOKEN,
    HOST_BATCH,
    HOST_TOKEN,
    LEAST_PART,
    MOST_OF_BUDGET,
    Parts,
)


def cut(lengths: list[int], count: int | None) -> list[int]:
    """Tokens of each part."""
    parts, sizes, tokens, inputs = Parts(count, 8192), [], 0, 0
    for length in lengths:
        tokens, inputs = tokens + length, inputs + 1
        if parts.is_full(tokens, inputs):
            parts.take(tokens, inputs)
            sizes.append(tokens)
            tokens = inputs = 0
    return [*sizes, tokens] if tokens else sizes


def time(parts: list[int]) -> float:
    """ms until the last answer, as the module has it."""
    host = device = 0.0
    for tokens in parts:
        host += HOST_BATCH + HOST_TOKEN * tokens
        device = max(host, device) + DEVICE_BATCH + DEVICE_TOKEN * tokens
    return device


def test_few_inputs_are_one_part() -> None:
    for lengths in ([], [384], [128] * 32, [20] * 60, [384] * 5):
        assert len(cut(lengths, len(lengths))) <= 1


def test_a_list_of_two_batches_is_cut_where_it_gains() -> None:
    parts = cut([128] * 64, 64)
    assert parts == [2560, 5632]
    assert time(parts) < 0.94 * time([8192])


def test_many_inputs_begin_with_a_small_part() -> None:
    parts = cut([64] * 1000, 1000)
    assert parts[0] == LEAST_PART
    assert set(parts[1:-1]) == {8192 * MOST_OF_BUDGET}
    assert time(parts) < 1.1 * (DEVICE_TOKEN * 64000 + HOST_TOKEN * parts[0])


def test_a_stream_does_not_know_what_is_to_come() -> None:
    assert cut([512] * 6, None) == [2560, 512]


def test_no_part_is_left_that_is_too_small_for_a_batch() -> None:
    for count in range(1, 80):
        assert len(cut([100] * count, count)) == 1 or min(cut([100] * count, count)) >= LEAST_PART
