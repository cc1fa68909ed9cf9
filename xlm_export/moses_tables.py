"""The Moses tables that a bundle carries, so that its runtime needs no sacremoses."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

from xlm_runtime.tokenization.sacremoses_tables import read_tables


def moses_tables(langs: Iterable[str]) -> dict[str, Any]:
    """The contents of a bundle's `moses.json` for its languages, read from the installed sacremoses.

    English is always among them: a call without `lang` uses it. Values are numbers, strings, lists and dicts only.
    Raises `MissingExtraError` where sacremoses is not installed.
    """
    return read_tables(langs)
