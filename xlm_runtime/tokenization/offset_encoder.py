"""Ids with each token's span and word, for texts in one language: the slower twin of the ids alone."""

from __future__ import annotations

from collections.abc import Callable

from xlm_runtime.tokenization.alignment import AlignedText
from xlm_runtime.tokenization.piece_encoder import Ids, PieceEncoder, neighbours, without_neighbours
from xlm_runtime.tokenization.rotating_cache import CacheMemory, RotatingCache
from xlm_runtime.tokenization.words import WordPipeline

# one of each for each token: ids, spans (start, end) in code points, word numbers from 0
Offsets = tuple[list[int], list[tuple[int, int]], list[int]]
# the same of one piece, spans relative to its start
_PieceOffsets = tuple[Ids, tuple[tuple[int, int], ...], tuple[int, ...]]
# maps a word to its tokens' ids, and how many of its characters each token covers
WordPieces = Callable[[str], tuple[Ids, list[int]]]


class OffsetEncoder:
    """Spans and words of texts that Moses splits: the pieces of a `PieceEncoder`, in their contexts, aligned.

    Args:
        pieces: cuts a text into pieces.
        pipeline: makes the words of a piece.
        word_pieces: see `WordPieces`.
        memory: holds what is remembered.
    """

    def __init__(
        self,
        pieces: PieceEncoder,
        pipeline: WordPipeline,
        word_pieces: WordPieces,
        memory: CacheMemory,
    ) -> None:
        self._pieces = pieces
        self._pipeline = pipeline
        self._word_pieces = word_pieces
        self._known: RotatingCache[tuple[str, int], _PieceOffsets] = RotatingCache(self._build, memory, nested=True)

    def ids_and_offsets(self, text: str) -> Offsets:
        """The ids of a text, their spans and word numbers."""
        ids: list[int] = []
        spans: list[tuple[int, int]] = []
        numbers: list[int] = []
        words = 0
        for start, piece, context in self._pieces.contexts(text):
            piece_ids, piece_spans, piece_words = self._known[piece, context]
            ids += piece_ids
            spans += [(a + start, b + start) for a, b in piece_spans]
            numbers += [word + words for word in piece_words]
            if piece_words:
                words = numbers[-1] + 1
        return ids, spans, numbers

    def cache_size(self) -> int:
        """How many pieces are remembered."""
        return self._known.size()

    def _build(self, key: tuple[str, int]) -> _PieceOffsets:
        piece, context = key
        before, after = neighbours(context)
        source = AlignedText.identity(before + piece + after, -len(before))
        words = without_neighbours(self._pipeline.aligned_words(source), before, after)
        ids, spans, numbers = align_tokens(words, self._word_pieces)
        return tuple(ids), tuple(spans), tuple(numbers)


def align_tokens(words: list[AlignedText], word_pieces: WordPieces) -> Offsets:
    """The tokens of words, none of them empty, and the spans that their characters came from."""
    ids: list[int] = []
    spans: list[tuple[int, int]] = []
    numbers: list[int] = []
    for number, word in enumerate(words):
        start = 0
        word_ids, lengths = word_pieces(word.text)
        ids += word_ids
        for length in lengths:
            stop = start + length
            at = min(start, len(word.text) - 1)
            spans.append((word.begin[at], word.end[stop - 1] if length else word.begin[at]))
            numbers.append(number)
            start = stop
    return ids, spans, numbers
