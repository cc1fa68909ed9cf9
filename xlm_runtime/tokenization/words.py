"""From a text to its words, for one language: what happens before byte-pair merges."""

from __future__ import annotations

from threading import Lock

from xlm_runtime.errors import InputError
from xlm_runtime.tokenization.alignment import AlignedText, align_words
from xlm_runtime.tokenization.moses import MosesTables, MosesTokenizer
from xlm_runtime.tokenization.normalization import PunctuationNormalizer, fold, fold_aligned, romanian
from xlm_runtime.tokenization.segmenters import SEGMENTED_LANGUAGES, Segmenter, load_segmenter


class WordPipeline:
    """Normalisation, Moses or a segmenter, lower-casing: the exact, uncached path.

    `words` and `aligned_words` give the same words; the second also says where each character came from.

    Args:
        tables: the Moses tables; None for languages that have a segmenter.
        lowercase: lower-case words and take their accents.
        ja_model: the path of KyTea's model file.
    """

    def __init__(self, lang: str, tables: MosesTables | None, lowercase: bool, ja_model: str | None = None) -> None:
        self.lang = lang
        self._lowercase = lowercase
        self._ja_model = ja_model
        self._lock = Lock()
        self._segmenter: Segmenter | None = None
        self.normalizer = PunctuationNormalizer(lang)
        self.moses: MosesTokenizer | None = None
        if tables is not None and lang not in SEGMENTED_LANGUAGES:
            self.moses = tables.tokenizer(lang)

    def words(self, text: str) -> list[str]:
        """Words ready for byte-pair merges, none empty.

        Raises:
            InputError: a text that the segmenter cannot read.
        """
        return self.fold(self._split(text))

    def fold_word(self, word: str) -> str:
        """`fold` of one word; empty, or with a space inside, where that does not give one word."""
        return fold(word) if self._lowercase else word

    def fold(self, words: list[str]) -> list[str]:
        """Lower-case raw words and take their accents, as far as the model does; none of the result is empty."""
        if not self._lowercase:
            return [word for word in words if word]
        folded = list(map(fold, words))
        if " " in "".join(folded):
            return [part for word in folded for part in word.split(" ") if part]
        return [word for word in folded if word]

    def simple_word(self, piece: str) -> str | None:
        """The one raw word that a piece is which every rule passes over, such as one of letters and digits; None for
        other pieces."""
        if self.moses is None or not self.moses.is_simple(piece):
            return None
        if not piece.isascii() and not self.normalizer.leaves_letters(piece):
            return None
        return romanian(piece) if self.lang == "ro" else piece

    def aligned_words(self, source: AlignedText) -> list[AlignedText]:
        """The same words, with where each character came from."""
        words = self._split_aligned(source)
        if not self._lowercase:
            return [word for word in words if word.text]
        folded = [fold_aligned(word) for word in words if word.text]
        return [part for word in folded for part in _split_at_spaces(word)]

    def raw_words(self, text: str) -> list[str]:
        """Words before lower-casing."""
        return self._split(text)

    def _split(self, text: str) -> list[str]:
        if self.lang == "zh":
            return self.normalizer.plain(" ".join(self._segment(text))).split()
        text = self.normalizer.plain(text)
        if self.moses is None:
            return self._segment(text)
        return self.moses.words(romanian(text) if self.lang == "ro" else text)

    def _split_aligned(self, source: AlignedText) -> list[AlignedText]:
        if self.lang == "zh":
            pieces = align_words(self._segment(source.text), source)
            joined = self.normalizer.aligned(_join_with_spaces(pieces))
            return align_words(joined.text.split(), joined)
        source = self.normalizer.aligned(source)
        if self.lang == "ro":
            source = AlignedText(romanian(source.text), source.begin, source.end)
        if self.moses is None:
            return align_words(self._segment(source.text), source)
        return align_words(self.moses.words(source.text), source)

    def _segment(self, text: str) -> list[str]:
        if self._segmenter is None:
            with self._lock:
                if self._segmenter is None:
                    self._segmenter = load_segmenter(self.lang, self._ja_model)
        try:
            return self._segmenter(text)
        except UnicodeEncodeError as error:
            raise InputError(
                f"The text holds a lone surrogate at index {error.start}, which the segmenter of '{self.lang}' "
                "cannot read. Please decode the text properly, or remove the character."
            ) from error

    def __getstate__(self) -> dict[str, object]:
        state = dict(self.__dict__)
        state["_segmenter"] = None
        del state["_lock"]
        return state

    def __setstate__(self, state: dict[str, object]) -> None:
        self.__dict__.update(state)
        self._lock = Lock()


def _join_with_spaces(pieces: list[AlignedText]) -> AlignedText:
    """`" ".join`; an inserted space gets an empty span at the end of what precedes it."""
    begin: list[int] = []
    end: list[int] = []
    for piece in pieces:
        if end:
            begin.append(end[-1])
            end.append(end[-1])
        begin += piece.begin
        end += piece.end
    return AlignedText(" ".join([piece.text for piece in pieces]), begin, end)


def _split_at_spaces(word: AlignedText) -> list[AlignedText]:
    parts: list[AlignedText] = []
    start = 0
    for part in word.text.split(" "):
        if part:
            parts.append(word.slice(start, start + len(part)))
        start += len(part) + 1
    return parts
