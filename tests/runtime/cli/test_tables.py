"""Lines that fit a terminal."""

from __future__ import annotations

import unicodedata

import pytest

from xlm_runtime.cli import tables


def shortened(text: str, width: int) -> str:
    """The same, letter by letter from the end: the whole text is measured for each."""
    text = " ".join(text.split())
    if tables.display_width(text) <= width:
        return text
    while text and tables.display_width(text) > width - 1:
        text = text[:-1]
    return text.rstrip() + "…"


@pytest.mark.parametrize(
    "text", ["abc def ghi", "雪雪雪雪雪", "雪a\u0301雪e\u0301\u0316雪", "a  b\nc", "", "\u0301" * 9, "a b c"]
)
def test_shorten_equals_the_slow_way(text: str) -> None:
    for width in range(1, 14):
        assert tables.shorten(text, width) == shortened(text, width)


def test_only_what_fits_is_measured(monkeypatch: pytest.MonkeyPatch) -> None:
    measured = []
    widths = unicodedata.east_asian_width
    monkeypatch.setattr(unicodedata, "east_asian_width", lambda char: measured.append(char) or widths(char))
    assert tables.shorten("lighthouse " * 10_000, 80) == ("lighthouse " * 7) + "li…"
    assert len(measured) <= 81
