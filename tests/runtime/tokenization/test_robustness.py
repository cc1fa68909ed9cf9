"""Any string gives ids or a clear error, in near-linear steps; threads and pickling."""

from __future__ import annotations

import json
import pickle
import subprocess
import sys
import threading
from collections.abc import Callable
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tests.runtime.tokenization.conftest import TOY_MERGES, TOY_TOKENS, all_tables
from tests.runtime.tokenization.steps import check_near_linear, count_steps, processor_seconds
from xlm_runtime.errors import BundleError, InputError, MissingExtraError
from xlm_runtime.tokenization import XLMTokenizer

# texts that some rule could spend too much on, each of n repetitions, and a large n
LONG: dict[str, tuple[Callable[[int], str], int]] = {
    "one word": (lambda n: "ab" * n, 500_000),
    "one letter": (lambda n: "a" * n, 1_000_000),
    "spaces": (lambda n: " " * n, 1_000_000),
    "periods": (lambda n: "." * n, 100_000),
    "periods apart": (lambda n: ". " * n, 50_000),
    "nested quotes": (lambda n: "(\"'" * n + "'\")" * n, 30_000),
    "quotes and periods": (lambda n: '."' * n, 50_000),
    "periods before a quote": (lambda n: "." * n + ' ."x', 200_000),
    "apostrophes": (lambda n: "' " * n, 50_000),
    "commas": (lambda n: "1," * n, 50_000),
    "sigmas": (lambda n: "Σ" * n, 100_000),
    "marks": (lambda n: "ก" + "\u0e48\u0e38" * n, 50_000),
    "no-break spaces": (lambda n: "\u00a0" * n, 200_000),
    "han": (lambda n: "中，" * n, 50_000),
    "masks": (lambda n: "<mask>" * n, 20_000),
    "markers": (lambda n: "DOT" * n + "MULTI", 50_000),
    "markers that end nowhere": (lambda n: "DOT" * n + " MULTI", 300_000),
    "hyphens": (lambda n: "a-" * n, 200_000),
    "numbers": (lambda n: "1,5." * n, 100_000),
    "addresses": (lambda n: "http://a.b/c?d=e&f=(g)," * (n // 10), 100_000),
    "hidden": (lambda n: "\u200b" * n, 100_000),
    "brackets": (lambda n: "<" * n, 50_000),
}


# what the rules of languages differ in: quotes, apostrophes, periods, and no-break spaces
DIFFER = [name for name, (make, _) in LONG.items() if set(make(10)) & set("\"'.\u00a0")]


@pytest.mark.parametrize("spans", [False, True])
@pytest.mark.parametrize(
    ("name", "lang"), [*((name, None) for name in LONG), *((name, lang) for name in DIFFER for lang in ("de", "fr"))]
)
def test_long_texts_take_near_linear_steps(name: str, lang: str | None, spans: bool) -> None:
    make, _ = LONG[name]
    tokenizer = _TOY[0]

    def steps(repetitions: int) -> int:
        tokenizer.cache_mb = tokenizer.cache_mb  # forgets all texts
        tokenizer("warm", lang=lang, return_offsets_mapping=spans)  # compiles patterns
        text = make(repetitions)
        return count_steps(lambda: tokenizer(text, lang=lang, return_offsets_mapping=spans))

    check_near_linear(steps, 8_000 // max(20, len(make(10))))  # up to 3,200 characters


@pytest.mark.slow
@pytest.mark.parametrize("lang", [None, "de", "fr"])
@pytest.mark.parametrize("name", LONG)
def test_very_long_texts(toy: XLMTokenizer, name: str, lang: str | None) -> None:
    make, repetitions = LONG[name]
    with processor_seconds(60):
        toy(make(repetitions), lang=lang)


@pytest.mark.slow
@pytest.mark.parametrize("name", LONG)
def test_spans_of_very_long_texts(toy: XLMTokenizer, name: str) -> None:
    make, repetitions = LONG[name]
    text = make(repetitions)[:200_000]
    with processor_seconds(60):
        assert toy(text, return_offsets_mapping=True)["input_ids"] == toy(text)["input_ids"]


@pytest.mark.parametrize("name", LONG)
def test_shorter_ones_equal_hugging_face(toy_folder: Path, name: str) -> None:
    transformers = pytest.importorskip("transformers")
    theirs = transformers.XLMTokenizer.from_pretrained(toy_folder)
    ours = XLMTokenizer.from_pretrained(toy_folder, mask_alias=None)
    make, _ = LONG[name]
    text = make(400)[:400]
    assert ours(text)["input_ids"] == theirs(text)["input_ids"]


_TOY: list[XLMTokenizer] = []


@pytest.fixture(scope="module", autouse=True)
def _shared_toy(tmp_path_factory: pytest.TempPathFactory) -> None:
    folder = tmp_path_factory.mktemp("toy")
    (folder / "vocab.json").write_text(json.dumps({token: i for i, token in enumerate(TOY_TOKENS)}), encoding="utf-8")
    (folder / "merges.txt").write_text(TOY_MERGES, encoding="utf-8")
    (folder / "moses.json").write_text(json.dumps(all_tables()), encoding="utf-8")
    _TOY[:] = [XLMTokenizer.from_pretrained(folder)]


@given(st.text(st.characters(codec=None, exclude_categories=())), st.sampled_from([None, "fr", "de", "ar"]))
def test_any_string_gives_ids(text: str, lang: str | None) -> None:
    encoding = _TOY[0](text, lang=lang, return_offsets_mapping=True)
    assert encoding["input_ids"] == _TOY[0](text, lang=lang)["input_ids"]


def test_lone_surrogates(toy: XLMTokenizer) -> None:
    assert toy("lo\ud800wer")["input_ids"] == toy("lower")["input_ids"]


def test_lone_surrogates_in_chinese(toy: XLMTokenizer) -> None:
    pytest.importorskip("rjieba")
    with pytest.raises(InputError, match="lone surrogate at index 1"):
        toy("中\ud800", lang="zh")


def test_threads_share_a_tokenizer(toy_folder: Path) -> None:
    texts = [f"lower w{i}. 'newer' (wider{i % 7}), \"low\". No. {i} é{i}" for i in range(400)]
    expected = [XLMTokenizer.from_pretrained(toy_folder)(text)["input_ids"] for text in texts[:50]]
    shared = XLMTokenizer.from_pretrained(toy_folder)
    failures: list[str] = []

    def work(order: list[int]) -> None:
        for i in order:
            if shared(texts[i])["input_ids"] != expected[i % 50] and i < 50:
                failures.append(texts[i])

    interval = sys.getswitchinterval()
    sys.setswitchinterval(1e-5)
    try:
        threads = [
            threading.Thread(target=work, args=(list(range(k, 400)) + list(range(k)),)) for k in range(0, 400, 50)
        ]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
    finally:
        sys.setswitchinterval(interval)
    assert failures == []


def test_pickling(toy: XLMTokenizer) -> None:
    toy.add_tokens(["newtok"])
    before = toy("lower newtok <mask>, é.", lang="fr")
    again = pickle.loads(pickle.dumps(toy))
    assert dict(again("lower newtok <mask>, é.", lang="fr")) == dict(before)


def test_importing_brings_numpy_and_nothing_else() -> None:
    code = (
        "import sys; import xlm_runtime.tokenization; "
        "print([n for n in ('torch', 'transformers', 'sacremoses', 'regex', 'rjieba') if n in sys.modules])"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"


def test_a_plain_folder_needs_sacremoses_and_says_so(toy_folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (toy_folder / "moses.json").unlink()
    plain = XLMTokenizer.from_pretrained(toy_folder)
    assert plain("lower")["input_ids"] == _TOY[0]("lower")["input_ids"]
    monkeypatch.setitem(sys.modules, "sacremoses", None)
    with pytest.raises(MissingExtraError, match=r"moses\.json.*sacremoses.*`export` extra"):
        XLMTokenizer.from_pretrained(toy_folder)("lower")


BAD_FILES: list[tuple[str, str | None, str]] = [
    ("vocab.json", None, "not found in path"),
    ("merges.txt", None, "not found in path"),
    ("vocab.json", "[1]", "must map tokens to ids"),
    ("vocab.json", '{"a": "b"}', "must map tokens to ids"),
    ("vocab.json", "{", "not valid JSON"),
    ("tokenizer_config.json", "[]", "must hold a JSON object"),
    ("tokenizer_config.json", '{"added_tokens_decoder": {"x": 5}}', "cannot be read"),
    ("moses.json", '{"format_version": 7}', "format version 7"),
]


@pytest.mark.parametrize(("name", "content", "message"), BAD_FILES)
def test_broken_folders(toy_folder: Path, name: str, content: str | None, message: str) -> None:
    if content is None:
        (toy_folder / name).unlink()
    else:
        (toy_folder / name).write_text(content, encoding="utf-8")
    with pytest.raises(BundleError, match=message):
        XLMTokenizer.from_pretrained(toy_folder)


def test_no_folder(tmp_path: Path) -> None:
    with pytest.raises(BundleError, match="is not a folder"):
        XLMTokenizer.from_pretrained(tmp_path / "none")


def test_a_large_vocabulary_is_read_without_a_loop_over_its_tokens(tmp_path: Path) -> None:
    def steps(tokens: int) -> int:
        folder = tmp_path / str(tokens)
        folder.mkdir()
        names = [f"{chr(97 + i % 26)}{i}" for i in range(tokens)]
        (folder / "vocab.json").write_text(json.dumps({name: i for i, name in enumerate(names)}), encoding="utf-8")
        (folder / "merges.txt").write_text("".join(f"{n[:1]} {n[1:]} 5\n" for n in names), encoding="utf-8")
        return count_steps(lambda: XLMTokenizer.from_pretrained(folder))

    assert steps(40_000) < steps(500) + 500
