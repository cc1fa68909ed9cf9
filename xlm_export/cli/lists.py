"""Lists as command lines have them."""

from __future__ import annotations


def comma_separated(text: str) -> tuple[str, ...]:
    """ "a,b" → ("a", "b")"""
    return tuple(item for item in text.split(",") if item)
