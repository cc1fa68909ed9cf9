"""`token_index.bin`: where `vocab.json` and `merges.txt` have each token and each pair.

With it a tokenizer maps these two files and looks words up in them, instead of making dictionaries of them first. It is
written beside them and knows them by a checksum. Little-endian:

    "XLMINDX1", checksum of both files (4 bytes), CRC-32 of the parts, tokens, pairs (uint32 each)
    for tokens, then for pairs, n of them in 2^k buckets, the bucket being the last k bits of a spelling's CRC-32:
        begins (uint32, 2^k + 1): where each bucket begins in the two lists that follow
        numbers (uint32, n): ids of tokens, or ranks of pairs, bucket by bucket
        marks (uint8, n): the first byte of the CRC-32 of each
        offsets (uint32, n): by id or rank, where its spelling begins in the file
"""

from __future__ import annotations

import json
import mmap
import os
import struct
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, TypeVar, overload
from zlib import crc32

import numpy as np

from xlm_runtime.checked_json import MOST_BYTES, check_regular
from xlm_runtime.errors import BundleError

T = TypeVar("T")
Content = mmap.mmap | bytes
Parser = Callable[[bytes], dict[str, int]]

_MAGIC = b"XLMINDX1"
_HEADER = struct.Struct("<8s4sIII")
_ONE, _TWO = struct.Struct("<I"), struct.Struct("<II")
_BYTES = [bytes([value]) for value in range(256)]
# After so many of them lookups have taken the time in which a dictionary is made, which makes the next ones quicker.
_LOOKUPS = 60_000
# no text in UTF-8 has this byte
_NOWHERE = b"\xff"
_quoted = json.JSONEncoder(ensure_ascii=False).encode


def spell_token(token: str) -> bytes:
    """How `vocab.json` has a token, with the colon behind it."""
    return _quoted(token).encode("utf-8", "surrogatepass") + b": "


def spell_pair(pair: str) -> bytes:
    """A pair's line in `merges.txt`."""
    return pair.encode("utf-8", "surrogatepass").replace(b"\n", _NOWHERE) + b"\n"


class IndexedTable(Mapping[str, int]):
    """Keys → numbers 0, 1, 2, …, looked up in a file. Equal to the dictionary that is read from it.

    That dictionary is made when the table is iterated over or has been asked often. Threads may share it.

    Args:
        content: the file.
        spell: how it has a key.
        parse: makes the dictionary of it.
        index: the index's file.
        start: where the part for this file begins in it.
        size: how many keys there are.

    Raises:
        ValueError: the index is damaged.
    """

    def __init__(
        self,
        content: Content,
        spell: Callable[[str], bytes],
        parse: Parser,
        index: Content,
        start: int,
        size: int,
    ) -> None:
        self._content, self._index = content, index
        self._spell, self._parse = spell, parse
        self._size = size
        self._mask = _buckets(size) - 1
        self._begins = start
        self._numbers = start + 4 * (_buckets(size) + 1)
        self._marks = self._numbers + 4 * size
        self._offsets = self._marks + size
        self._left = _LOOKUPS
        self._known: dict[str, int] | None = None
        self._check()

    @property
    def end(self) -> int:
        """Where its part of the index ends."""
        return self._offsets + 4 * self._size

    def _check(self) -> None:
        if self.end > len(self._index):
            raise ValueError(f"it has {len(self._index)} bytes, expected {self.end} or more")
        begins = np.frombuffer(self._index, "<u4", _buckets(self._size) + 1, self._begins)
        numbers = np.frombuffer(self._index, "<u4", self._size, self._numbers)
        if begins[0] or begins[-1] != self._size or (begins[1:] < begins[:-1]).any():
            raise ValueError("its buckets do not follow each other")
        if self._size and numbers.max() >= self._size:
            raise ValueError(f"it has the number {numbers.max()}, expected less than {self._size}")

    def _find(self, key: object) -> int | None:
        if not isinstance(key, str):
            return None
        content, index = self._content, self._index
        spelling = self._spell(key)
        hashed = crc32(spelling)
        mark = _BYTES[hashed >> 24]
        at, end = _TWO.unpack_from(index, self._begins + 4 * (hashed & self._mask))
        at, end = at + self._marks, end + self._marks
        while (at := index.find(mark, at, end)) >= 0:
            (number,) = _ONE.unpack_from(index, self._numbers + 4 * (at - self._marks))
            (offset,) = _ONE.unpack_from(index, self._offsets + 4 * number)
            if content[offset : offset + len(spelling)] == spelling:
                return int(number)
            at += 1
        return None

    def _all(self) -> dict[str, int]:
        known = self._known
        if known is None:
            known = self._known = self._parse(self._content[:])
        return known

    @overload
    def get(self, key: str, /) -> int | None: ...
    @overload
    def get(self, key: str, /, default: int | T) -> int | T: ...
    def get(self, key: str, /, default: Any = None) -> Any:
        """As that of a dictionary."""
        if self._known is not None:
            return self._known.get(key, default)
        self._left -= 1
        if self._left < 0:
            return self._all().get(key, default)
        number = self._find(key)
        return default if number is None else number

    def __getitem__(self, key: str) -> int:
        number = self.get(key)
        if number is None:
            raise KeyError(key)
        return number

    def __contains__(self, key: object) -> bool:
        return self.get(key) is not None  # type: ignore[call-overload]

    def __len__(self) -> int:
        return self._size

    def __iter__(self) -> Iterator[str]:
        return iter(self._all())

    def __reduce__(self) -> tuple[type, tuple[dict[str, int]]]:
        return dict, (self._all(),)

    def line(self, number: int) -> bytes:
        """What the file has between the beginning of a number's key and the end of its line."""
        (offset,) = _ONE.unpack_from(self._index, self._offsets + 4 * number)
        return self._content[offset : self._content.find(b"\n", offset)]


class TokensById:
    """The tokens of an indexed vocabulary by their ids."""

    def __init__(self, table: IndexedTable) -> None:
        self._table = table

    def get(self, index: int, default: str) -> str:
        """As that of a dictionary.

        Raises:
            BundleError: the index leads to something else.
        """
        if not 0 <= index < len(self._table):
            return default
        quoted, _, _ = self._table.line(index).rpartition(b": ")
        try:
            return str(json.loads(quoted))
        except ValueError as error:
            raise BundleError(
                f"The tokenizer's index is damaged: where it has the token {index}, vocab.json has {quoted[:60]!r}; "
                "save the tokenizer again, or export again."
            ) from error


def tokens_by_id(encoder: Mapping[str, int]) -> TokensById | dict[int, str]:
    """The inverse of a vocabulary."""
    return (
        TokensById(encoder) if isinstance(encoder, IndexedTable) else {index: token for token, index in encoder.items()}
    )


def make_index(
    vocab: bytes, merges: bytes, encoder: Mapping[str, int], ranks: Mapping[str, int], checksum: bytes
) -> bytes:
    """The index of files that `files.write_vocabulary` wrote.

    Args:
        vocab, merges: the files.
        encoder, ranks: what was written; ids are 0, 1, 2, ….
        checksum: the files'.
    """
    tokens, pairs = sorted(encoder), sorted(ranks, key=ranks.__getitem__)
    parts = _part(vocab, map(spell_token, tokens), [encoder[token] for token in tokens])
    parts += _part(merges, map(spell_pair, pairs), range(len(pairs)))
    return _HEADER.pack(_MAGIC, checksum, crc32(parts), len(tokens), len(pairs)) + parts


def _part(content: bytes, spellings: Iterable[bytes], numbers: Sequence[int]) -> bytes:
    """The part of a file; spellings, and the number of each, are in the file's order."""
    offsets = np.empty(len(numbers), "<u4")
    hashes = np.empty(len(numbers), np.uint32)
    at = 0
    for spelling, number in zip(spellings, numbers, strict=True):
        at = content.index(spelling, at)
        offsets[number], hashes[number] = at, crc32(spelling)
        at += len(spelling)
    count = _buckets(len(numbers))
    bucket = hashes & np.uint32(count - 1)
    order = np.argsort(bucket, kind="stable")
    begins = np.concatenate([[0], np.cumsum(np.bincount(bucket, minlength=count))])
    marks = (hashes >> np.uint32(24)).astype(np.uint8)
    return b"".join([begins.astype("<u4").tobytes(), order.astype("<u4").tobytes(), marks[order].tobytes(),
                     offsets.tobytes()])  # fmt: skip


def _buckets(size: int) -> int:
    """A power of two with 8 to 16 keys each."""
    return 1 << max((size // 8).bit_length() - 1, 0)


def open_index(
    path: Path, index: Content, contents: tuple[Content, Content], checksum: bytes, parsers: tuple[Parser, Parser]
) -> tuple[IndexedTable, IndexedTable] | None:
    """Tokens and pairs of `vocab.json` and `merges.txt`.

    Args:
        path, index: the index's file, mapped.
        contents: both files, mapped.
        checksum: theirs.
        parsers: see `IndexedTable`.

    Returns:
        Nothing where the index was written for other files: they have changed since, and are read as without it.

    Raises:
        BundleError: it is damaged.
    """
    try:
        magic, of_files, of_parts, tokens, pairs = _HEADER.unpack_from(index)
        if magic != _MAGIC or of_parts != crc32(memoryview(index)[_HEADER.size :]):
            raise ValueError("its checksum differs")
        if of_files != checksum:
            return None
        encoder = IndexedTable(contents[0], spell_token, parsers[0], index, _HEADER.size, tokens)
        ranks = IndexedTable(contents[1], spell_pair, parsers[1], index, encoder.end, pairs)
        if ranks.end != len(index):
            raise ValueError(f"it has {len(index)} bytes, expected {ranks.end}")
    except (ValueError, struct.error) as error:
        raise BundleError(f"'{path}' is damaged: {error}; remove it, or save the tokenizer again.") from error
    return encoder, ranks


def map_file(path: Path) -> Content:
    """A file's content, mapped.

    Raises:
        OSError: it cannot be read.
        BundleError: no regular file, or too large a one.
    """
    check_regular(path)
    with path.open("rb") as file:
        size = os.fstat(file.fileno()).st_size
        if size > MOST_BYTES:
            raise BundleError(f"'{path}' has more than {MOST_BYTES >> 20} MiB; it is none that this project wrote.")
        return mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) if size else b""
