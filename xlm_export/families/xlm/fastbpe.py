"""fastBPE's `codes` and XLM's `vocab`, as XLM's own releases and training have them, to Hugging Face's two files."""

from __future__ import annotations

import json
import shutil
import warnings
from collections.abc import Mapping
from pathlib import Path

from xlm_export.errors import CheckpointError
from xlm_runtime.tokenization.files import ADDED, CONFIG, SPECIAL_MAP
from xlm_runtime.tokenization.word_files import MERGES, VOCAB

SPECIAL = ("<s>", "</s>", "<pad>", "<unk>", *(f"<special{number}>" for number in range(10)))
_INSIDE = "@@"  # fastBPE's mark of a piece that is not the last of its word
_END = "</w>"  # Hugging Face's mark of one that is


def convert_tokenizer(folder: Path, target: Path, vocab_size: int) -> bool:
    """Write `vocab.json` and `merges.txt` of a folder's `codes` and `vocab` into `target`, with the other files there.

    Codes and vocabulary may have an end in common, as in `codes_xnli_15` and `vocab_xnli_15`. Of a vocabulary that is
    larger than the model, as that one is, XLM takes the first tokens (`--max_vocab`); so does this, with a warning.

    Returns:
        Whether that is what the folder has; not where it has a `vocab.json`.

    Raises:
        CheckpointError: no tokenizer's files, several pairs, or lines that are not theirs.
    """
    if (folder / VOCAB).is_file():
        return False
    codes, vocab = _find_pair(folder)
    words = read_vocabulary(vocab)
    if len(words) > vocab_size:
        warnings.warn(
            f"'{vocab.name}' has {len(words)} tokens with the special ones, and the model {vocab_size}: the first "
            f"{vocab_size} are taken, as by XLM's --max_vocab.",
            stacklevel=4,
        )
        words = {token: index for token, index in words.items() if index < vocab_size}
    write_files(target, words, codes)
    for name in (CONFIG, SPECIAL_MAP, ADDED):
        if (folder / name).is_file():
            shutil.copyfile(folder / name, target / name)
    return True


def write_files(target: Path, words: Mapping[str, int], codes: Path) -> None:
    """Write `vocab.json` and `merges.txt` into a folder: the words by Hugging Face's names, and fastBPE's codes."""
    (target / VOCAB).write_text(json.dumps(words, ensure_ascii=False), encoding="utf-8")
    (target / MERGES).write_text(_read(codes), encoding="utf-8", newline="\n")


def read_vocabulary(path: Path) -> dict[str, int]:
    """Token → id of a file, see `convert_vocabulary`."""
    return convert_vocabulary(_read(path), path)


def convert_vocabulary(text: str, path: Path) -> dict[str, int]:
    """Token → id, from lines of a token and how often it came.

    Ids as XLM's `Dictionary.read_vocab` gives them: 14 special tokens, then each line's place among those that count.
    Names as Hugging Face's `convert_xlm_original_pytorch_checkpoint_to_pytorch.py` gives them.

    Raises:
        CheckpointError: a line whose second column is no number.
    """
    words = {token: index for index, token in enumerate(SPECIAL)}
    for number, line in enumerate(text.split("\n"), 1):
        columns = line.split()
        if "\u2028" in line or len(columns) != 2 or columns[0] in words:  # XLM skips them
            continue
        if not columns[1].isdigit():
            raise CheckpointError(
                f"File '{path.name}' in path '{path.parent}' is no vocabulary of XLM's: line {number} is "
                f"'{line[:40]}'; expected a token and how often it came."
            )
        words[columns[0]] = len(words)
    if len(words) == len(SPECIAL):
        raise CheckpointError(f"File '{path.name}' in path '{path.parent}' is no vocabulary of XLM's: it has no token.")
    return hugging_face_names(words)


def hugging_face_names(words: Mapping[str, int]) -> dict[str, int]:
    """Token → id, from XLM's: a piece inside a word loses its `@@`, any other gets `</w>`, and special tokens stay."""
    plain = len(SPECIAL)
    return {
        token + _END if _INSIDE not in token and index >= plain else token.replace(_INSIDE, ""): index
        for token, index in words.items()
    }


def _find_pair(folder: Path) -> tuple[Path, Path]:
    codes, vocabs = ({path.name.removeprefix(start): path for path in sorted(folder.glob(f"{start}*"))
                      if path.is_file()} for start in ("codes", "vocab"))  # fmt: skip
    ends = codes.keys() & vocabs.keys()
    if len(ends) == 1:
        end = ends.pop()
        return codes[end], vocabs[end]
    if len(codes) == len(vocabs) == 1:
        return next(iter(codes.values())), next(iter(vocabs.values()))
    if codes and vocabs:
        names = ", ".join(path.name for path in (*codes.values(), *vocabs.values()))
        raise CheckpointError(f"The folder '{folder}' has several of fastBPE's files: {names}; leave one pair there.")
    raise CheckpointError(
        f"No tokenizer found in path '{folder}'; expected {VOCAB} and {MERGES}, or fastBPE's codes and vocab. Give the "
        "folder or hub id that has them with --tokenizer (tokenizer=…)."
    )


def _read(path: Path) -> str:
    try:
        return path.read_text(encoding="utf-8")
    except OSError as error:
        raise CheckpointError(f"File '{path}' cannot be read ({error.strerror}).") from error
    except ValueError as error:
        raise CheckpointError(f"File '{path.name}' in path '{path.parent}' is not UTF-8 ({error}).") from error
