"""Pieces of text as it grows."""

from __future__ import annotations

import pytest

from xlm_runtime.generation.streaming import TextStreamer, cut_at_stop

TOKENS = ["new", "s", "news</w>", "paper</w>", ",</w>", "<special1>", "é", "é</w>", "end</w>"]


def decode(ids: list[int]) -> str:
    return "".join(TOKENS[i] for i in ids if i != 5).replace("</w>", " ").strip()


def pieces(ids: list[int], stop: tuple[str, ...] = ()) -> list[str]:
    streamer = TextStreamer(decode, TOKENS.__getitem__, stop)
    return [streamer.add(ids[: n + 1], n + 1 == len(ids)) for n in range(len(ids))]


def test_only_whole_words_appear() -> None:
    assert pieces([0, 1, 3, 4, 6, 7]) == ["", "", "newspaper", " ,", "", " éé"]


def test_the_last_word_appears_even_if_it_is_not_whole() -> None:
    assert pieces([2, 0, 1]) == ["news", "", " news"]


def test_special_tokens_show_nothing() -> None:
    assert pieces([2, 5, 3]) == ["news", "", " paper"]
    assert pieces([5]) == [""]


@pytest.mark.parametrize("stop", [("paper ,",), ("zzz", "r ,"), (" end",)])
def test_nothing_of_a_stop_string_appears(stop: tuple[str, ...]) -> None:
    ids = [2, 3, 4, 8, 2]
    for length in range(1, len(ids) + 1):
        text = "".join(pieces(ids[:length], stop))
        assert text == cut_at_stop(decode(ids[:length]), stop)
    streamer = TextStreamer(decode, TOKENS.__getitem__, stop)
    shown = ""
    for n in range(1, len(ids) + 1):
        shown += streamer.add(ids[:n], False)
        assert cut_at_stop(decode(ids), stop).startswith(shown), "nothing has to be taken back"


def test_cut_at_stop() -> None:
    assert cut_at_stop("one two three", ("three", "two")) == "one "
    assert cut_at_stop("one", ()) == "one"
