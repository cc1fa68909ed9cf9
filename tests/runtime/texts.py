"""Sentences of our own for the runtime's tests."""

from __future__ import annotations

TEXTS = [
    "The old lighthouse stands at the edge of the small town.",
    "Зимой на остров ходят только два корабля.",
    "Anna Müller wohnt in Hamburg.",
    "Good!",
    "En hiver, seuls deux bateaux vont à l'île, et ils sont presque vides.",
    "This film is very good, but the book was better than the film.",
    "a",
]
LANGS = ["en", "ru", "de", "en", "fr", "en", "de"]
TOO_LONG = "the old town " * 40
