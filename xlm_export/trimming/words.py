"""Which words of a vocabulary are kept, and the tokenizer that has these alone."""

from __future__ import annotations

import copy
import unicodedata
from collections import Counter
from collections.abc import Collection, Iterable, Mapping
from dataclasses import dataclass

from xlm_export.trimming.merges import kept_merges, result
from xlm_runtime.errors import InputError
from xlm_runtime.tokenization import XLMTokenizer
from xlm_runtime.tokenization.bpe import END_OF_WORD
from xlm_runtime.tokenization.vocabulary import Vocabulary

# These ids keep their words, and so their numbers: token types index the embeddings of 0 and 1, a configuration means
# some by its defaults, and XLM's own vocabularies have their special tokens there.
FIRST_IDS = 14
# a script is the texts' if one word in so many is written in it: names in another one do not bring all words of that
_SCRIPT_SHARE = 20


@dataclass(frozen=True)
class Selection:
    """Kept words and merges.

    Attributes:
        ids: the words' old ids, rising; a word's new id is its place in the list.
        ranks: the kept merges.
    """

    ids: tuple[int, ...]
    ranks: Mapping[str, int]

    @property
    def new_ids(self) -> dict[int, int]:
        """Old id → new id."""
        return {old: new for new, old in enumerate(self.ids)}


def select_words(
    tokenizer: XLMTokenizer,
    counts: Mapping[int, int],
    *,
    vocab_size: int,
    min_count: int = 1,
    keep_scripts: bool = False,
    also: Iterable[int] = (),
) -> Selection:
    """The words that texts need, and those without which these would not come out of texts as before.

    Single characters stay, so that every text still has tokens for all that it had tokens for.

    Args:
        counts: id → how often texts have it.
        vocab_size: how many embeddings there are.
        min_count: words that come less often are not needed.
        keep_scripts: keep all words that are written in the texts' scripts.
        also: further ids that are needed, such as those that a configuration names.
    """
    vocabulary = tokenizer.vocabulary
    encoder, table = dict(vocabulary.encoder), dict(vocabulary.ranks)
    names = {index: word for word, index in encoder.items()}
    ids = {index for index, count in counts.items() if count >= min_count}
    ids |= {*range(min(FIRST_IDS, vocab_size)), *vocabulary.added, *also}
    ids |= {index for word, index in encoder.items() if len(word.removesuffix(END_OF_WORD)) < 2}
    alias = tokenizer.encoder.mask_alias
    if alias is not None and alias in encoder:
        ids.add(encoder[alias])
    if keep_scripts:
        scripts = frequent_scripts({names[index]: count for index, count in counts.items() if index in names})
        ids |= {index for word, index in encoder.items() if scripts_of(word) <= scripts}
    ranks = kept_merges((names[index] for index in ids if index in names), table, encoder)
    ids |= {encoder[word] for word in map(result, ranks) if word in encoder}
    return Selection(tuple(sorted(ids)), ranks)


def scripts_of(word: str) -> frozenset[str]:
    """The scripts that a word's letters are of, as Unicode names them, such as LATIN; none for digits and marks."""
    letters = filter(str.isalpha, word.removesuffix(END_OF_WORD))
    return frozenset(unicodedata.name(letter, "UNKNOWN").split()[0] for letter in letters)


def frequent_scripts(counts: Mapping[str, int]) -> frozenset[str]:
    """The scripts that at least a twentieth of the words with letters are written in.

    Args:
        counts: word → how often texts have it.
    """
    found: Counter[str] = Counter()
    for word, count in counts.items():
        for script in scripts_of(word):
            found[script] += count
    total = sum(count for word, count in counts.items() if scripts_of(word))
    return frozenset(script for script, count in found.items() if count * _SCRIPT_SHARE >= total)


def with_words(tokenizer: XLMTokenizer, selection: Selection, languages: Collection[str] = ()) -> XLMTokenizer:
    """A tokenizer that has the selected words and merges alone, under their new ids.

    Args:
        languages: those that stay, with their numbers; by default all.
    """
    old, new_ids = tokenizer.vocabulary, selection.new_ids
    trimmed, encoder = copy.copy(tokenizer), copy.copy(tokenizer.encoder)
    trimmed.vocabulary = encoder.vocabulary = Vocabulary(
        {word: new_ids[index] for word, index in old.encoder.items() if index in new_ids},
        selection.ranks,
        old.named,
        old.extra,
        {new_ids[index]: token for index, token in old.added.items()},
        tokenizer.do_lowercase_and_remove_accent,
    )
    trimmed.encoder = encoder
    if languages and tokenizer.lang2id is not None:
        check_languages(tokenizer, languages)
        trimmed.lang2id = {lang: number for lang, number in tokenizer.lang2id.items() if lang in languages}
        trimmed.id2lang = {number: lang for lang, number in trimmed.lang2id.items()}
    encoder.reset()
    return trimmed


def check_languages(tokenizer: XLMTokenizer, languages: Iterable[str]) -> None:
    """Whether a model has these languages.

    Raises:
        InputError: it has not.
    """
    for lang in languages:
        if tokenizer.lang2id is not None and lang not in tokenizer.lang2id:
            raise InputError(
                f"Language '{lang}' is not one of this checkpoint's: {', '.join(sorted(tokenizer.lang2id))}."
            )
