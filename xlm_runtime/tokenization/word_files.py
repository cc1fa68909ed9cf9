"""A vocabulary's files: `vocab.json` and `merges.txt`, and what makes them quick, `whole_words.bin` and
`token_index.bin`."""

from __future__ import annotations

import json
from collections.abc import Mapping
from functools import partial
from pathlib import Path
from typing import NamedTuple
from zlib import crc32

import numpy as np

from xlm_runtime.checked_json import decode, read_file
from xlm_runtime.errors import BundleError
from xlm_runtime.tokenization.bpe import parse_merges
from xlm_runtime.tokenization.token_index import Content, make_index, map_file, open_index

VOCAB, MERGES = "vocab.json", "merges.txt"
WHOLE_WORDS, TOKEN_INDEX = "whole_words.bin", "token_index.bin"


class Words(NamedTuple):
    """What the files hold.

    `encoder` maps tokens to ids, `ranks` each pair of symbols, as "first second", to the rank of its merge;
    `whole_words` has a byte for each id, see `find_whole_words`, or none.
    """

    encoder: Mapping[str, int]
    ranks: Mapping[str, int]
    whole_words: bytes


def read_words(vocab: Path, merges: Path, whole_words: Path | None = None, index: Path | None = None) -> Words:
    """A vocabulary.

    Args:
        whole_words: `whole_words.bin`: a checksum of `vocab` and `merges` (their CRC-32, little-endian), and a bit for
            each id, the highest first. Left out where it was written for other files: they have changed since.
        index: `token_index.bin`, with which `vocab` and `merges` are mapped and looked up; left out alike.

    Raises:
        BundleError: a file is missing, or not what it should be.
    """
    if whole_words is None and index is None:
        return Words(_parse_vocabulary(vocab, _read(vocab)), _parse_merges(merges, _read(merges)), b"")
    contents = _mapped(vocab), _mapped(merges)
    checksum = _checksum(*contents)
    parsers = partial(_parse_vocabulary, vocab), partial(_parse_merges, merges)
    found = None if index is None else open_index(index, _mapped(index), contents, checksum, parsers)
    encoder, ranks = found or (parsers[0](contents[0][:]), parsers[1](contents[1][:]))
    return Words(encoder, ranks, b"" if whole_words is None else _read_bits(whole_words, checksum, len(encoder)))


def _read(path: Path) -> bytes:
    try:
        return read_file(path)
    except FileNotFoundError as error:
        raise _missing(path) from error


def _mapped(path: Path) -> Content:
    try:
        return map_file(path)
    except FileNotFoundError as error:
        raise _missing(path) from error


def _missing(path: Path) -> BundleError:
    return BundleError(f"File '{path.name}' not found in path '{path.parent}'.")


def _checksum(vocab: Content, merges: Content) -> bytes:
    return crc32(merges, crc32(vocab)).to_bytes(4, "little")


def _parse_vocabulary(path: Path, content: bytes) -> dict[str, int]:
    try:
        data = json.loads(decode(path, content))
    except BundleError:
        raise
    except (ValueError, RecursionError) as error:
        raise BundleError(f"'{path}' is not valid JSON: {error}") from error
    if not isinstance(data, dict) or set(map(type, data.values())) - {int}:
        raise BundleError(f"'{path}' must map tokens to ids.")
    if data and not 0 <= min(data.values()) <= max(data.values()) < 2**31:
        raise BundleError(f"'{path}' has the ids {min(data.values())} to {max(data.values())}, expected ids from 0 on.")
    return data


def _parse_merges(path: Path, content: bytes) -> dict[str, int]:
    return parse_merges(decode(path, content).replace("\r\n", "\n").replace("\r", "\n"))


def _read_bits(path: Path, checksum: bytes, size: int) -> bytes:
    """`whole_words.bin` as a byte for each of `size` ids; none where it was written for other files."""
    data = read_file(path)
    if len(data) != 4 + -(-size // 8) or data[:4] != checksum:
        return b""
    return np.unpackbits(np.frombuffer(data, np.uint8, offset=4), count=size).tobytes()


def write_vocabulary(
    folder: Path, encoder: Mapping[str, int], ranks: Mapping[str, int], prefix: str | None = None
) -> tuple[Path, Path]:
    """Write `vocab.json` and `merges.txt`, with `prefix` and a hyphen before their names.

    Returns:
        Their paths.
    """
    start = f"{prefix}-" if prefix else ""
    vocab, merges = folder / (start + VOCAB), folder / (start + MERGES)
    text = json.dumps(dict(encoder), indent=2, sort_keys=True, ensure_ascii=False)
    vocab.write_text(text + "\n", encoding="utf-8", newline="\n")
    merges.write_text(
        "".join([f"{pair}\n" for pair in sorted(ranks, key=ranks.__getitem__)]), encoding="utf-8", newline="\n"
    )
    return vocab, merges


def write_words(folder: Path, words: Words) -> tuple[Path, ...]:
    """Write the files; where ids are not 0, 1, 2, …, the first two alone.

    Returns:
        Their paths.
    """
    vocab, merges = write_vocabulary(folder, words.encoder, words.ranks)
    if not words.whole_words:
        return vocab, merges
    contents = vocab.read_bytes(), merges.read_bytes()
    checksum = _checksum(*contents)
    bits = np.packbits(np.frombuffer(words.whole_words, np.uint8))
    (folder / WHOLE_WORDS).write_bytes(checksum + bits.tobytes())
    (folder / TOKEN_INDEX).write_bytes(make_index(*contents, words.encoder, words.ranks, checksum))
    return folder / WHOLE_WORDS, folder / TOKEN_INDEX, vocab, merges
