"""Chinese, Thai and Japanese: transformers's own call where the package is there, a stand-in where it is not."""

from __future__ import annotations

import sys
import types
from pathlib import Path
from typing import Any

import pytest

from xlm_runtime.errors import InputError, MissingExtraError
from xlm_runtime.tokenization import XLMTokenizer

CHINESE = ["我爱北京天安门，天安门上太阳升。", "Python 3.5 很好（真的）！", "“引号”和《书名》：１２３", "", " 空 格 "]
THAI = ["สวัสดีครับ นี่คือการทดสอบ", "ราคา 3.5 บาท (ถูก)!", "ก", "แมว\u200bหมา  ปลา"]
JAPANESE = ["これはテストです。", "東京（とうきょう）は3.5度"]


def compare(folder: Path, lang: str, texts: list[str], lowercase: bool) -> None:
    transformers = pytest.importorskip("transformers")
    theirs = transformers.XLMTokenizer.from_pretrained(folder, do_lowercase_and_remove_accent=lowercase)
    ours = XLMTokenizer.from_pretrained(folder, do_lowercase_and_remove_accent=lowercase)
    for text in texts:
        assert ours.tokenize(text, lang=lang) == theirs._tokenize(text, lang=lang), text
        encoding = ours(text, lang=lang, add_special_tokens=False, return_offsets_mapping=True)
        assert encoding["input_ids"] == theirs.convert_tokens_to_ids(theirs._tokenize(text, lang=lang))
        spans = encoding["offset_mapping"]
        assert spans == sorted(spans)
        assert all(0 <= a <= b <= len(text) for a, b in spans)


@pytest.mark.parametrize("lowercase", [True, False])
def test_chinese(toy_folder: Path, lowercase: bool) -> None:
    pytest.importorskip("rjieba")
    compare(toy_folder, "zh", CHINESE, lowercase)


@pytest.mark.parametrize("lowercase", [True, False])
def test_thai(toy_folder: Path, lowercase: bool) -> None:
    pytest.importorskip("pythainlp")
    compare(toy_folder, "th", THAI, lowercase)


class FakeKytea:
    """Two characters a word."""

    def __init__(self, options: str) -> None:
        self.options = options

    def getWS(self, text: str) -> list[str]:  # noqa: N802
        return [text[i : i + 2] for i in range(0, len(text), 2)]


def test_japanese(toy_folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    module: Any = types.ModuleType("Mykytea")
    module.Mykytea = FakeKytea
    monkeypatch.setitem(sys.modules, "Mykytea", module)
    model = tmp_path / "local/share/kytea/model.bin"
    model.parent.mkdir(parents=True)
    model.touch()
    monkeypatch.setenv("HOME", str(tmp_path))
    compare(toy_folder, "ja", JAPANESE, True)
    elsewhere = XLMTokenizer.from_pretrained(toy_folder, ja_model=tmp_path / "none.bin")
    with pytest.raises(InputError, match=r"KyTea's model, which is not at .*none\.bin"):
        elsewhere("日本", lang="ja")


def test_spans_of_chinese_words(toy_folder: Path) -> None:
    pytest.importorskip("rjieba")
    text = "我爱北京，天安门。"
    tokenizer = XLMTokenizer.from_pretrained(toy_folder)
    encoding = tokenizer(text, lang="zh", add_special_tokens=False, return_offsets_mapping=True)
    words: dict[int, tuple[int, int]] = {}
    for number, (start, stop) in zip(encoding.word_ids(), encoding["offset_mapping"], strict=True):
        assert number is not None
        words[number] = (words.get(number, (start, stop))[0], stop)
    assert [text[slice(*span)] for span in words.values()] == ["我", "爱", "北京", "，", "天安门", "。"]


@pytest.mark.parametrize(
    ("lang", "module", "message"),
    [
        ("zh", "rjieba", "Tokenizing Chinese needs the package 'rjieba'.*`zh` extra"),
        ("th", "pythainlp.tokenize", "Tokenizing Thai needs the package 'pythainlp'.*`th` extra"),
        ("ja", "Mykytea", "Tokenizing Japanese needs the package 'kytea'.*`ja` extra"),
    ],
)
def test_a_missing_package_names_its_extra(
    toy: XLMTokenizer, monkeypatch: pytest.MonkeyPatch, lang: str, module: str, message: str
) -> None:
    monkeypatch.setitem(sys.modules, module, None)
    with pytest.raises(MissingExtraError, match=message):
        toy("x", lang=lang)
