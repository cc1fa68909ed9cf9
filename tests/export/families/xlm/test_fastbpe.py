"""fastBPE's codes and XLM's vocabulary become Hugging Face's files."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from tests.make_checkpoint import SPECIALS, learn_vocabulary, make_checkpoint
from tests.paths import SHARED
from xlm_export import CheckpointError
from xlm_export.checkpoint.source import find_source
from xlm_export.checkpoint.tokenizer_files import checkpoint_tokenizer
from xlm_export.families.xlm.fastbpe import convert_tokenizer, convert_vocabulary

END = "</w>"


def original(vocab: dict[str, int]) -> str:
    """A vocabulary as XLM's `vocab` has it: a token and a count on each line, without the 14 special ones."""
    tokens = sorted(vocab, key=vocab.__getitem__)[len(SPECIALS) :]
    words = (token.removesuffix(END) if token.endswith(END) else f"{token}@@" for token in tokens)
    return "".join(f"{word} {len(tokens) - i}\n" for i, word in enumerate(words))


def write_original(folder: Path, end: str = "") -> Path:
    """The tiny checkpoints' vocabulary in the original format."""
    folder.mkdir(exist_ok=True)
    vocab, merges = learn_vocabulary()
    (folder / f"codes{end}").write_text("".join(f"{a} {b} {900 - i}\n" for i, (a, b) in enumerate(merges)), "utf-8")
    (folder / f"vocab{end}").write_text(original(vocab), "utf-8")
    return folder


@pytest.mark.parametrize("end", ["", "_xnli_15", ".txt"])
def test_a_pair_of_files_is_the_tokenizer_that_it_was_converted_to(end: str, tmp_path: Path) -> None:
    folder = make_checkpoint(tmp_path / "checkpoint", "XLMModel")
    expected = checkpoint_tokenizer(find_source(folder))
    for name in ("vocab.json", "merges.txt"):
        (folder / name).unlink()
    found = checkpoint_tokenizer(find_source(write_original(folder, end)))
    assert found.get_vocab() == expected.get_vocab()
    assert found.vocabulary.ranks == expected.vocabulary.ranks
    assert found.do_lowercase_and_remove_accent == expected.do_lowercase_and_remove_accent


def test_lines_that_xlm_skips_take_no_id(tmp_path: Path) -> None:
    """As `Dictionary.read_vocab`: no two columns, a line separator, a token that is there already."""
    text = "the 9\n\nof@@ 8\nthe 7\na b 6\nx\u2028y 5\n<unk> 5\n, 4\n@@ 3\n"
    found = convert_vocabulary(text, tmp_path / "vocab")
    assert {token: index for token, index in found.items() if index >= 14} == {
        f"the{END}": 14, "of": 15, f",{END}": 16, "": 17,
    }  # fmt: skip
    assert [token for token in found if found[token] < 14] == SPECIALS


def test_a_vocabulary_that_is_larger_than_the_model(tmp_path: Path) -> None:
    """`vocab_xnli_15` has 121,328 tokens, and the model that it belongs to 95,000."""
    vocab, _ = learn_vocabulary()
    (tmp_path / "target").mkdir()
    with pytest.warns(UserWarning, match=f"'vocab' has {len(vocab)} tokens .* the model 100: the first 100 are taken"):
        assert convert_tokenizer(write_original(tmp_path), tmp_path / "target", 100)
    written = json.loads((tmp_path / "target" / "vocab.json").read_text(encoding="utf-8"))
    assert written == {token: index for token, index in vocab.items() if index < 100}


def test_what_is_no_pair(tmp_path: Path) -> None:
    with pytest.raises(CheckpointError, match="No tokenizer found"):
        convert_tokenizer(tmp_path, tmp_path, 99)
    write_original(tmp_path, "_a")
    write_original(tmp_path, "_b")
    with pytest.raises(CheckpointError, match="several of fastBPE's files: codes_a, codes_b, vocab_a, vocab_b"):
        convert_tokenizer(tmp_path, tmp_path, 99)
    with pytest.raises(CheckpointError, match=r"'vocab' .* line 1 is 'the many'; expected a token and how often"):
        convert_vocabulary("the many\n", tmp_path / "vocab")
    with pytest.raises(CheckpointError, match="it has no token"):
        convert_vocabulary("one two three\n", tmp_path / "vocab")


@pytest.mark.shared
@pytest.mark.skipif(not SHARED.is_dir(), reason="the reference data are not there")
@pytest.mark.parametrize("name", ["xlm-mlm-tlm-xnli15-1024", "xlm-clm-ende-1024"])
def test_real_vocabularies_come_back_on_every_line(name: str) -> None:
    vocab = json.loads((SHARED / name / "vocab.json").read_text(encoding="utf-8"))
    assert convert_vocabulary(original(vocab), Path("vocab")) == vocab
