"""`whole_words.bin`: words that need no merges, found out when a tokenizer is saved."""

from __future__ import annotations

import json
import random
from collections.abc import Callable
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tests.runtime.tokenization.conftest import VOCABULARIES
from xlm_runtime.tokenization import XLMTokenizer
from xlm_runtime.tokenization.bpe import END_OF_WORD, BytePairs
from xlm_runtime.tokenization.vocabulary import Vocabulary, find_whole_words

WORDS = st.text(alphabet="abcd", min_size=1, max_size=6)


@given(st.lists(st.tuples(WORDS, WORDS, st.booleans()), max_size=25), st.lists(WORDS, max_size=20))
def test_words_of_any_merges_have_the_same_ids(merges: list[tuple[str, str, bool]], words: list[str]) -> None:
    """Also of merges that no training gives, in which a token's word has other subwords than the token."""
    ranks = {f"{a} {b}{END_OF_WORD if end else ''}": rank for rank, (a, b, end) in enumerate(merges)}
    spelled = {pair.replace(" ", "") for pair in ranks} | {word + END_OF_WORD for word in words} | set("abcd")
    encoder = {token: index for index, token in enumerate(["<unk>", *sorted(spelled)])}
    plain = Vocabulary(encoder, ranks, {"unk_token": "<unk>"}, (), {}, True)
    known = find_whole_words(encoder, plain.pairs)
    informed = Vocabulary(encoder, ranks, {"unk_token": "<unk>"}, (), {}, True, known)
    for token in spelled:
        word = token.removesuffix(END_OF_WORD)
        assert informed.word_ids(word) == plain.word_ids(word) == plain.ids(plain.pairs.symbols(word))


def test_a_token_that_merges_do_not_make() -> None:
    pairs = BytePairs({"a b": 0, "b c</w>": 1, "a bc</w>": 2})
    encoder = {"abc</w>": 0, "ab": 1, "c</w>": 2, "bc</w>": 3, "c": 4, "</w>": 5}
    assert pairs.symbols("abc") == ["ab", "c</w>"]
    assert find_whole_words(encoder, pairs) == bytes([0, 0, 1, 1, 0, 0])
    assert find_whole_words({"a</w>": 7}, pairs) == b""


def test_it_is_saved_and_loaded(toy: XLMTokenizer, tmp_path: Path) -> None:
    toy.save_pretrained(tmp_path)
    assert (tmp_path / "whole_words.bin").stat().st_size == 4 + 3
    again = XLMTokenizer.from_pretrained(tmp_path)
    assert again.vocabulary.whole_words == find_whole_words(toy.vocabulary.encoder, toy.vocabulary.pairs)
    assert 1 in again.vocabulary.whole_words
    for text in ("low lower lowest newer t", "wider o w r"):
        assert again(text)["input_ids"] == toy(text)["input_ids"]
    again.add_tokens(["low</w>"])  # it has an id already, so nothing changes
    assert again("low")["input_ids"] == toy("low")["input_ids"]


@pytest.mark.parametrize("changed", ["vocab.json", "merges.txt", "whole_words.bin"])
def test_it_belongs_to_its_vocabulary(toy: XLMTokenizer, tmp_path: Path, changed: str) -> None:
    toy.save_pretrained(tmp_path)
    path = tmp_path / changed
    if changed == "vocab.json":
        path.write_text(json.dumps(json.loads(path.read_text()) | {"newtok": 21}), encoding="utf-8")
    else:
        path.write_bytes(path.read_bytes() + b"l o\n")
    again = XLMTokenizer.from_pretrained(tmp_path)
    (tmp_path / "whole_words.bin").unlink()
    plain = XLMTokenizer.from_pretrained(tmp_path)
    assert again.vocabulary.whole_words == b"", "written for other files, and not used"
    assert again("low lower newtok")["input_ids"] == plain("low lower newtok")["input_ids"]


@pytest.mark.shared
@pytest.mark.parametrize("name", VOCABULARIES[1:])
def test_real_texts_of_all_languages_at_once(
    real: Callable[[str], XLMTokenizer], real_lines: dict[str, list[str]], tmp_path: Path, name: str
) -> None:
    """With caches that are dropped many times over."""
    plain = real(name)
    plain.save_pretrained(tmp_path)
    tokenizer = XLMTokenizer.from_pretrained(tmp_path, cache_mb=0.3)
    tokenizer.lang2id = None
    lines = [(lang, line) for lang, lines in real_lines.items() if lang not in ("ja", "th") for line in lines[::23]]
    random.Random(0).shuffle(lines)
    for lang, line in lines:
        assert tokenizer(line)["input_ids"] == plain(line)["input_ids"]
        assert tokenizer(line, lang=lang)["input_ids"] == plain(line, lang=lang)["input_ids"], lang
