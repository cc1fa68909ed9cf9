"""`token_index.bin`: a vocabulary that is looked up in its files equals the one that is read from them."""

from __future__ import annotations

import pickle
import random
import struct
import tempfile
import zlib
from collections.abc import Callable
from pathlib import Path

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from tests.runtime.tokenization.conftest import VOCABULARIES
from tests.runtime.tokenization.strategies import texts
from xlm_runtime.errors import BundleError
from xlm_runtime.tokenization import XLMTokenizer
from xlm_runtime.tokenization.token_index import IndexedTable, tokens_by_id
from xlm_runtime.tokenization.word_files import TOKEN_INDEX, Words, read_words, write_words

HEADER = 24
# what JSON spells otherwise, what ends lines and spellings, and letters of one to four bytes
SYMBOLS = st.text(st.sampled_from([*'ab":\\\n\t/\x00\x7f', "é", "中", "😀", "\u2028"]), min_size=1, max_size=4)


def of_folder(folder: Path, index: bool = True) -> Words:
    return read_words(folder / "vocab.json", folder / "merges.txt", None, folder / TOKEN_INDEX if index else None)


def save(folder: Path, encoder: dict[str, int], ranks: dict[str, int]) -> None:
    write_words(folder, Words(encoder, ranks, bytes(len(encoder))))


@given(
    st.lists(SYMBOLS | texts.filter(lambda text: text.isprintable()), unique=True, min_size=1, max_size=60),
    st.lists(st.tuples(SYMBOLS, SYMBOLS).map(lambda pair: "".join(pair[0].split()) + " " + "".join(pair[1].split()))
             .filter(lambda pair: len(pair.split()) == 2), unique=True, max_size=40),
    st.lists(SYMBOLS | texts, max_size=20),
)  # fmt: skip
@example([""], [], ["", "a"])
@example(["a", '"', '": ', 'a": 1'], ["a b", "c d"], ["a b\nc d", "c", '"', "\ud800"])
def test_any_vocabulary(tokens: list[str], pairs: list[str], others: list[str]) -> None:
    ids = random.Random(0).sample(range(len(tokens)), len(tokens))
    with tempfile.TemporaryDirectory() as made:
        folder = Path(made)
        save(folder, dict(zip(tokens, ids, strict=True)), {pair: rank for rank, pair in enumerate(pairs)})
        plain = of_folder(folder, index=False)
        asked = [*plain.encoder, *plain.ranks, *others]
        for read, found in zip(plain[:2], of_folder(folder)[:2], strict=True):
            assert isinstance(found, IndexedTable)
            assert [found.get(key) for key in asked] == [read.get(key) for key in asked]
            assert [key in found for key in asked] == [key in read for key in asked]
            assert len(found) == len(read)
            assert list(found.items()) == list(read.items()), "and in the same order"
            assert pickle.loads(pickle.dumps(found)) == read == found


def test_a_tokenizer_is_the_same(toy: XLMTokenizer, tmp_path: Path) -> None:
    folder = tmp_path / "saved"
    toy.save_pretrained(folder)
    indexed = XLMTokenizer.from_pretrained(folder)
    (folder / TOKEN_INDEX).unlink()
    plain = XLMTokenizer.from_pretrained(folder)
    assert isinstance(indexed.vocabulary.encoder, IndexedTable)
    beyond = [*range(-2, len(plain) + 3)]
    assert indexed.convert_ids_to_tokens(beyond) == plain.convert_ids_to_tokens(beyond)
    assert indexed.decode(beyond) == plain.decode(beyond)
    assert indexed.convert_tokens_to_ids(["low</w>", "absent", "<s>", ""]) == plain.convert_tokens_to_ids(
        ["low</w>", "absent", "<s>", ""]
    )
    for each in (indexed, plain):
        each.add_tokens(["newtok", "lowest</w>"])
    for each in (indexed, pickle.loads(pickle.dumps(indexed))):
        assert each.get_vocab() == plain.get_vocab()
        assert len(each) == len(plain)
        assert each("lower newtok widest lowest")["input_ids"] == plain("lower newtok widest lowest")["input_ids"]
    again = tmp_path / "again"
    indexed.save_pretrained(again)
    plain.save_pretrained(tmp_path / "plain")
    assert {path.name: path.read_bytes() for path in again.iterdir()} == {
        path.name: path.read_bytes() for path in (tmp_path / "plain").iterdir()
    }


def test_after_many_questions_a_dictionary_answers(toy: XLMTokenizer, tmp_path: Path) -> None:
    toy.save_pretrained(tmp_path)
    plain = of_folder(tmp_path, index=False)
    for table, read in zip(of_folder(tmp_path)[:2], plain[:2], strict=True):
        (tmp_path / "vocab.json").unlink(missing_ok=True)  # the files that were mapped are asked
        (tmp_path / "merges.txt").unlink(missing_ok=True)
        keys = [*read, "absent"]
        for _ in range(70_000 // len(keys)):
            assert [table.get(key) for key in keys] == [*read.values(), None]


@pytest.mark.parametrize("changed", ["vocab.json", "merges.txt"])
def test_it_belongs_to_its_files(toy: XLMTokenizer, tmp_path: Path, changed: str) -> None:
    toy.save_pretrained(tmp_path)
    path = tmp_path / changed
    path.write_bytes(path.read_bytes().replace(b"lo", b"lu"))
    assert of_folder(tmp_path) == of_folder(tmp_path, index=False)
    assert not isinstance(of_folder(tmp_path).encoder, IndexedTable)


def test_damaged_bytes_are_refused(toy: XLMTokenizer, tmp_path: Path) -> None:
    toy.save_pretrained(tmp_path)
    path, plain = tmp_path / TOKEN_INDEX, of_folder(tmp_path, index=False)
    whole = path.read_bytes()
    for at in range(len(whole)):
        path.write_bytes(whole[:at] + bytes([whole[at] ^ 1 << at % 8]) + whole[at + 1 :])
        if 8 <= at < 12:  # the checksum of the files that it was made of
            assert of_folder(tmp_path) == plain
            continue
        with pytest.raises(BundleError, match=r"token_index\.bin' is damaged: .*save the tokenizer again"):
            of_folder(tmp_path)
    for cut in (b"", whole[:10], whole[:-1], whole + b"\0"):
        path.write_bytes(cut)
        with pytest.raises(BundleError, match="is damaged"):
            of_folder(tmp_path)


def test_an_index_that_means_harm_ends_in_an_error_or_in_numbers_of_the_vocabulary(
    toy: XLMTokenizer, tmp_path: Path
) -> None:
    """Its own checksum is right; what it says of the files is not."""
    toy.save_pretrained(tmp_path)
    path, plain = tmp_path / TOKEN_INDEX, of_folder(tmp_path, index=False)
    whole = path.read_bytes()
    rng = random.Random(0)
    refused = misled = 0
    for _ in range(400):
        content = bytearray(whole)
        for _ in range(rng.choice([1, 2, 8])):
            at = rng.randrange(16, len(content))
            content[at : at + 4] = struct.pack("<I", rng.choice([0, 1, 5, 255, 2**16, 2**31, 2**32 - 1]))
        content = content[: len(whole)]
        content[12:16] = zlib.crc32(content[HEADER:]).to_bytes(4, "little")
        path.write_bytes(content)
        try:
            found = of_folder(tmp_path)
        except BundleError:
            refused += 1
            continue
        for read, table in zip(plain[:2], found[:2], strict=True):
            assert all(table.get(key) in (None, *read.values()) for key in (*read, "absent"))
        for index in range(len(plain.encoder)):
            try:
                assert isinstance(tokens_by_id(found.encoder).get(index, ""), str)
            except BundleError:
                misled += 1
    assert 100 < refused < 400
    assert misled


@pytest.mark.shared
@pytest.mark.parametrize("name", VOCABULARIES)
def test_real_vocabularies(real: Callable[[str], XLMTokenizer], tmp_path: Path, name: str) -> None:
    plain = real(name).vocabulary
    save(tmp_path, dict(plain.encoder), dict(plain.ranks))
    found, read = of_folder(tmp_path), of_folder(tmp_path, index=False)
    keys = random.Random(0).sample([*plain.encoder, *plain.ranks], 20_000)
    keys += [key + "e" for key in keys[:5000]]
    assert list(map(found.encoder.get, keys)) == list(map(read.encoder.get, keys))
    assert list(map(found.ranks.get, keys)) == list(map(read.ranks.get, keys))
