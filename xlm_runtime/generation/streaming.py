"""Text that appears while it is generated: whole words only, and nothing that a stop string may yet take back."""

from __future__ import annotations

from collections.abc import Callable, Sequence

END_OF_WORD = "</w>"


def cut_at_stop(text: str, stop: Sequence[str]) -> str:
    """The text before the first stop string in it; the whole text where there is none."""
    ends = [text.find(string) for string in stop]
    return text[: min((end for end in ends if end >= 0), default=len(text))]


class TextStreamer:
    """Turns growing ids into pieces of text; joined, the pieces are the text of all ids.

    Args:
        decode: ids → text.
        token: id → its string; a word is complete where it ends with `</w>`.
        stop: strings before which the text ends.
    """

    def __init__(self, decode: Callable[[list[int]], str], token: Callable[[int], str], stop: Sequence[str]) -> None:
        self._decode = decode
        self._token = token
        self._stop = stop
        self._shown = ""
        self._complete = 0

    def add(self, ids: list[int], last: bool) -> str:
        """What can be shown of the text of `ids` and was not yet; `last` shows all.

        A word is complete at its end, and at a special token behind it, which no word goes through.
        """
        end = len(ids)
        while not last and end > self._complete and not self._token(ids[end - 1]).endswith(END_OF_WORD):
            end -= 1
        self._complete = max(end, self._complete)
        text = cut_at_stop(self._decode(ids[: self._complete] if not last else ids), self._stop)
        if not last:
            text = text[: len(text) - self._held_back(text)]
        piece, self._shown = text[len(self._shown) :], text if len(text) > len(self._shown) else self._shown
        return piece

    def _held_back(self, text: str) -> int:
        """Length of the longest end of the text that begins a stop string."""
        longest = max(map(len, self._stop), default=0) - 1
        for size in range(min(longest, len(text)), 0, -1):
            if any(string.startswith(text[-size:]) for string in self._stop):
                return size
        return 0
