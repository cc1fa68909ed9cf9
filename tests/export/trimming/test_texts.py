"""Texts of files, in the languages that they name."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from tests.conftest import Checkpoints
from xlm_export.trimming.texts import HELD_OUT_EVERY, Corpus, Text, TextFile, read_texts
from xlm_runtime.errors import InputError
from xlm_runtime.tokenization import XLMTokenizer


def test_formats_and_languages(tmp_path: Path) -> None:
    rows = [
        {"text": "eins", "text_pair": "zwei", "lang": "de", "id": "x"},
        {"question": "who?", "context": "er", "lang": "de", "question_lang": "en"},
        {"prompt": "où", "choices": ["ici", "là"]},
        {"words": ["a", "b"], "lang": None},
    ]
    (tmp_path / "a.jsonl").write_text("\n".join(map(json.dumps, rows)))
    want = [
        Text("eins", ("de",)),
        Text("zwei", ("de",)),
        Text("who?", ("de", "en")),
        Text("er", ("de", "en")),
        *(Text(text) for text in ("où", "ici", "là", "a", "b")),
    ]
    assert list(read_texts(TextFile(tmp_path / "a.jsonl"))) == want
    (tmp_path / "a.csv").write_text('choices,lang,prompt\n"[""ü"", ""b""]",de,\n,,c\n')
    assert list(read_texts(TextFile(tmp_path / "a.csv", "fr"))) == [Text("ü", ("de",)), Text("b", ("de",)),
                                                                    Text("c", ("fr",))]  # fmt: skip
    (tmp_path / "b").write_text("\ufeffeins\r\n\r\nzwei", encoding="utf-8")
    plain = list(read_texts(TextFile(tmp_path / "b"), name="text"))
    assert plain == [Text("eins"), Text("zwei")]
    # with languages: others are passed over, and a text without one may come in any of them
    some = list(read_texts(TextFile(tmp_path / "a.jsonl"), languages=["en"]))
    assert some == [Text("who?", ("en",)), Text("er", ("en",)), *(Text(each.text, (None, "en")) for each in want[4:])]
    (tmp_path / "c.tsv").write_text("review\tscore\ngut\t1\n")
    assert list(read_texts(TextFile(tmp_path / "c.tsv"), columns=["review"])) == [Text("gut")]


def test_a_file_in_a_language(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    assert TextFile.parse("de=x.txt") == TextFile(Path("x.txt"), "de")
    assert TextFile.parse("zh-classical=a=b.txt") == TextFile(Path("a=b.txt"), "zh-classical")
    assert TextFile.parse("data/k=1/x.txt") == TextFile(Path("data/k=1/x.txt"))
    Path("de=x.txt").touch()
    assert TextFile.parse("de=x.txt") == TextFile(Path("de=x.txt"))


@pytest.mark.parametrize(
    ("name", "content", "options", "message"),
    [
        ("none.txt", None, {}, r"File '.*none\.txt' not found; give a file of texts, or LANG=FILE"),
        ("a.txt.gz", b"\x1f\x8b", {}, r"does not say what the file holds; end it in .*, or give --format"),
        ("a.txt", b"gut\nsch\xf6n\n", {}, r"'.*a\.txt', row 2: not UTF-8 \(invalid start byte at byte 3\)"),
        ("a.jsonl", b'{"review": "x"}', {}, r"row 1: no text: the row has 'review', expected 'text' or .*--columns"),
        ("a.jsonl", b'{"text": 3}', {}, r"row 1: 3 is no text; expected a string, or a list of strings"),
        ("a.txt", b"x", {"languages": ["en"]}, r"are in 'de', which is not among the languages that stay \(en\)"),
    ],
)
def test_what_is_refused(
    name: str, content: bytes | None, options: dict[str, list[str]], message: str, tmp_path: Path
) -> None:
    if content is not None:
        (tmp_path / name).write_bytes(content)
    with pytest.raises(InputError, match=message):
        list(read_texts(TextFile(tmp_path / name, "de"), **options))


def test_counts_are_those_of_the_language(checkpoints: Checkpoints) -> None:
    tokenizer = XLMTokenizer.from_pretrained(checkpoints("XLMWithLMHeadModel"))
    corpus = Corpus()
    text = "l'usine d'Anna"  # French keeps l' together, English does not
    en, fr = (tokenizer.encoder.ids(text, lang) for lang in ("en", "fr"))
    assert en != fr
    corpus.add(Text(text), tokenizer)
    assert corpus.held_out == [Text(text)]
    assert corpus.held_out_counts == {index: en.count(index) for index in en}
    corpus.add(Text(text, ("fr",)), tokenizer)
    assert corpus.counts == {index: fr.count(index) for index in fr}
    corpus.add(Text(text, ("fr", "en")), tokenizer)
    assert corpus.counts == {i: fr.count(i) + max(fr.count(i), en.count(i)) for i in {*en, *fr}}
    for _ in range(HELD_OUT_EVERY - 2):
        corpus.add(Text(text), tokenizer)
    assert (corpus.texts, len(corpus.held_out)) == (HELD_OUT_EVERY + 1, 2)
    with pytest.raises(InputError, match=r"Language 'xx' is not one of this model's: .* The text is 'a'\."):
        corpus.add(Text("a", ("xx",)), tokenizer)
