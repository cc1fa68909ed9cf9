"""One text, lists, streams; languages for each; and what is refused."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from tests.conftest import Bundles
from tests.runtime.texts import LANGS, TEXTS, TOO_LONG
from xlm_runtime import InputError, pipeline


@pytest.fixture(scope="module")
def pipe(bundles: Bundles):
    return pipeline("text-classification", bundles("text-classification"))


def test_single_list_tuple_and_stream(pipe) -> None:
    alone = [pipe(text)["label"] for text in TEXTS]
    assert [answer["label"] for answer in pipe(TEXTS)] == alone
    assert isinstance(pipe(tuple(TEXTS)), list)
    stream = pipe(text for text in TEXTS)
    assert isinstance(stream, Iterator)
    assert [answer["label"] for answer in stream] == alone
    assert pipe([]) == []
    assert list(pipe(iter([]))) == []


def test_a_stream_is_lazy(pipe) -> None:
    taken: list[int] = []

    def endless() -> Iterator[str]:
        while True:
            taken.append(1)
            yield "good film"

    answers = pipe(endless())
    assert taken == []
    for _ in range(3):
        next(answers)
    assert len(taken) < 1000


def test_many_texts_come_back_in_order(pipe) -> None:
    texts = [" ".join(["town", "old", "film", "book"][i % 4 : i % 4 + 1] * (1 + i * 7 % 23)) for i in range(300)]
    scores = [answer["score"] for answer in pipe(texts)]
    assert scores == pytest.approx([pipe(text)["score"] for text in texts], abs=1e-5)


def test_languages_for_each(pipe) -> None:
    expected = [pipe(text, lang=lang) for text, lang in zip(TEXTS, LANGS, strict=True)]
    for answers in (
        pipe(TEXTS, lang=LANGS),
        pipe([{"text": text, "lang": lang} for text, lang in zip(TEXTS, LANGS, strict=True)], lang="ru"),
        list(pipe(iter(TEXTS), lang=LANGS)),
    ):
        assert [answer["score"] for answer in answers] == pytest.approx([item["score"] for item in expected], abs=1e-5)


def test_languages_that_do_not_fit(pipe) -> None:
    with pytest.raises(InputError, match="Unknown lang 'xx'; this bundle knows de, en, fr, ru"):
        pipe("Good!", lang="xx")
    with pytest.raises(InputError, match="7 texts were given with 2 languages"):
        pipe(TEXTS, lang=["de", "en"])
    with pytest.raises(InputError, match="One text was given with a list of languages"):
        pipe("Good!", lang=["de"])
    with pytest.raises(InputError, match="more texts than the 1 languages"):
        list(pipe(iter(TEXTS), lang=["de"]))


def test_a_bundle_without_named_languages(changed_bundle: Callable[..., Path]) -> None:
    folder = changed_bundle("text-classification", {"lang2id": None, "id2lang": None})
    pipeline("text-classification", folder)("Good!", lang="de")  # the tokenizer's list still names them


@pytest.mark.parametrize("text", ["", "  \n", {"text": "", "lang": "de"}, {"text": "Good!", "text_pair": " "}])
def test_empty_text(pipe, text) -> None:
    with pytest.raises(InputError, match="The text is empty"):
        pipe(text)


def test_text_of_nothing_but_invisible_characters(pipe) -> None:
    with pytest.raises(InputError, match="has no words"):
        pipe("\u200b\u0000")


@pytest.mark.parametrize(
    ("item", "message"),
    [
        (3, "must be a string or a dictionary with the keys text, text_pair, lang; got int"),
        (["a", None], "got NoneType"),
        ([("a", "b")], "got tuple"),
        ({"txt": "a"}, "Unknown key 'txt' in an input"),
        ({"lang": "de"}, "'text' is missing"),
        ({"text": 3}, "'text' is a int"),
        ({"text": "a", "lang": 0}, "'lang' is a int"),
    ],
)
def test_what_is_no_text(pipe, item, message: str) -> None:
    with pytest.raises(InputError, match=message):
        pipe(item)


def test_too_long_without_a_choice(pipe) -> None:
    with pytest.raises(InputError, match=r"'the old town .*…' has 122 tokens.*only 64 positions"):
        pipe(TOO_LONG)
    assert pipe(TOO_LONG, truncation=True)["label"] in ("contradiction", "entailment", "neutral")
    pair = {"text": TOO_LONG, "text_pair": "good"}
    with pytest.raises(InputError, match="has 124 tokens"):
        pipe(pair)
    pipe(pair, truncation=True)
