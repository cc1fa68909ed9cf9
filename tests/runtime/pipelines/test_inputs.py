"""One text, lists, streams; languages for each; and what is refused."""

from __future__ import annotations

import hashlib
import json
import pickle
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path

import numpy as np
import pytest

from tests.conftest import Bundles
from tests.runtime.texts import LANGS, TEXTS, TOO_LONG
from xlm_runtime import FailedItem, InputError, pipeline
from xlm_runtime.model.model import TextItem


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


class Column:
    """What a Series or a dataset's column is: a length and places, and no list."""

    def __init__(self, values: list[object]) -> None:
        self.values = values

    def __len__(self) -> int:
        return len(self.values)

    def __getitem__(self, place: int) -> object:
        return self.values[place]


def test_columns_are_lists(pipe) -> None:
    expected = [answer["label"] for answer in pipe(TEXTS, lang=LANGS)]
    for column in (Column(TEXTS), np.array(TEXTS), np.array(TEXTS, dtype=object)):
        for langs in (LANGS, Column(LANGS), np.array(LANGS)):
            answers = pipe(column, lang=langs)
            assert isinstance(answers, list)
            assert [answer["label"] for answer in answers] == expected
        with pytest.raises(InputError, match="7 texts were given with 1 languages"):
            pipe(column, lang=["de"])
    assert pipe(Column([])) == []
    assert isinstance(pipe(dict.fromkeys(TEXTS).keys()), Iterator)  # no places
    for table in (np.array([TEXTS]), np.array("Good!")):
        with pytest.raises(InputError, match=r"are a ndarray of \d dimensions; give one column"):
            pipe(table)
    with pytest.raises(InputError, match="got bytes"):
        pipe(b"Good!")
    with pytest.raises(InputError, match=r"item 2: An input must be a string or a dictionary.*got float"):
        pipe(Column(["Good!", float("nan")]))


@pytest.mark.parametrize("library", ["pandas", "datasets"])
def test_columns_of_libraries(pipe, library: str) -> None:
    module = pytest.importorskip(library)
    if library == "pandas":
        column = module.Series(TEXTS, index=range(9, 9 + len(TEXTS)))
        with pytest.raises(InputError, match="2 dimensions"):
            pipe(module.DataFrame({"text": TEXTS}))
    else:
        column = module.Dataset.from_dict({"text": TEXTS})["text"]
    assert [answer["label"] for answer in pipe(column)] == [answer["label"] for answer in pipe(TEXTS)]


FAILING = {
    2: ("", "The text is empty"),
    3: (TOO_LONG, "has 122 tokens"),
    5: ({"text": "a", "lang": "xx"}, "Unknown lang 'xx'"),
    6: ({"txt": "a"}, "Unknown key 'txt'"),
    8: (None, "got NoneType"),
    9: (InputError("no JSON"), "no JSON"),
}


@pytest.mark.parametrize("as_stream", [False, True])
def test_items_that_cannot_be_used(pipe, as_stream: bool) -> None:
    items = [FAILING[number][0] if number in FAILING else "Good!" for number in range(1, 11)]

    def given() -> object:
        return iter(items) if as_stream else items

    answers = list(pipe(given(), on_error="return"))
    assert len(answers) == len(items)
    for number, answer in enumerate(answers, start=1):
        assert isinstance(answer, FailedItem) == (number in FAILING)
        if isinstance(answer, FailedItem):
            assert (answer.item, answer.type) == (number, "InputError")
            assert FAILING[number][1] in answer.message
            assert answer.to_dict() == {"error": {"item": number, "type": "InputError", "message": answer.message}}
    assert list(pipe(given(), on_error="skip")) == [answer for answer in answers if isinstance(answer, Mapping)]
    with pytest.raises(InputError, match=r"^item 2: The text is empty; give at least one word\.$") as caught:
        list(pipe(given()))
    assert (caught.value.item, caught.value.message) == (2, "The text is empty; give at least one word.")
    again = pickle.loads(pickle.dumps(caught.value))
    assert (str(again), again.item) == (str(caught.value), 2)


def test_one_item_that_cannot_be_used(pipe) -> None:
    assert pipe("", on_error="return") == FailedItem(1, "InputError", "The text is empty; give at least one word.")
    assert pipe("Good!", on_error="return") == pipe("Good!")
    with pytest.raises(InputError, match="one was given; use 'return'"):
        pipe("Good!", on_error="skip")
    with pytest.raises(InputError, match="Unknown on_error 'ignore'; expected one of raise, skip, return"):
        pipe("Good!", on_error="ignore")


def test_failures_do_not_hold_up_a_stream(pipe) -> None:
    taken: list[int] = []

    def endless() -> Iterator[str]:
        while True:
            taken.append(1)
            yield ""

    for _ in zip(range(3), pipe(endless(), on_error="return"), strict=False):
        pass
    assert len(taken) < 1000


def test_every_task_has_on_error(bundles: Bundles) -> None:
    asked: dict[str, tuple[object, dict[str, object]]] = {
        "feature-extraction": ("Good!", {}),
        "fill-mask": ("<mask>!", {}),
        "multiple-choice": ("Good!", {"choices": ["a", "b"]}),
        "token-classification": ("Good!", {}),
        "question-answering": ("Good?", {"context": "The town."}),
        "text-generation": ("Good!", {}),
    }
    for task, (item, options) in asked.items():
        answers = pipeline(task, bundles(task))([item, 5, item], on_error="return", **options)
        assert [isinstance(answer, FailedItem) for answer in answers] == [False, True, False], task
    zero_shot = pipeline("zero-shot-classification", bundles("text-classification"))
    assert [type(each) for each in zero_shot(["a", ""], ["b"], on_error="return")] == [dict, FailedItem]
    scores = pipeline("text-generation", bundles("text-generation")).score(["a", 5], on_error="return")
    assert [type(each) for each in scores] == [dict, FailedItem]


GAPS = "\t\n\x0b\x0c\r\x1c\x1d\x1e\x1f\x85"


@pytest.mark.parametrize("task", ["token-classification", "text-classification", "question-answering", "fill-mask"])
def test_line_ends_and_tabs_are_spaces(bundles: Bundles, task: str) -> None:
    pipe = pipeline(task, bundles(task))
    text = {
        "question-answering": {"question": "Who lives in the town?", "context": f"{TEXTS[2]} {TEXTS[0]}", "lang": "de"},
        "fill-mask": f"{TEXTS[0]} <mask> {TEXTS[2]}",
    }.get(task, f"{TEXTS[2]} {TEXTS[0]} {TEXTS[4]}")
    expected = pipe(text)
    for gap in GAPS:
        if isinstance(text, dict):
            spaced = {key: value.replace(" ", gap) for key, value in text.items()}
        else:
            spaced = text.replace(" ", gap)
        answer = pipe(spaced)
        if isinstance(answer, dict) and "answer" in answer:
            assert answer["answer"] == spaced["context"][answer["start"] : answer["end"]]
            answer["answer"] = expected["answer"]
        assert answer == expected, repr(gap)


def test_the_longest_row(changed_bundle: Callable[..., Path], pipe) -> None:
    folder = changed_bundle("text-classification")
    path = folder / "tokenizer_config.json"
    text = json.dumps(json.loads(path.read_text(encoding="utf-8")) | {"model_max_length": 20})
    path.write_text(text, encoding="utf-8")
    entries = json.loads((folder / "bundle.json").read_text(encoding="utf-8"))
    entries["files"][path.name] = hashlib.sha256(text.encode()).hexdigest()
    (folder / "bundle.json").write_text(json.dumps(entries), encoding="utf-8")
    short = pipeline("text-classification", folder)
    with pytest.raises(InputError, match=r"has 122 tokens, .* but the tokenizer's model_max_length is 20. Split it"):
        short(TOO_LONG)
    with pytest.raises(InputError, match=r"has 122 tokens, .* but max_length is 12. Split it"):
        short(TOO_LONG, max_length=12)
    start, *tokens, end = pipe.model.tokenizer(TOO_LONG)["input_ids"]
    rows = {
        longest: short.model.encode(TextItem(TOO_LONG), truncation=True, max_length=longest).input_ids
        for longest in (None, 12, 64)
    }
    assert rows == {longest: [start, *tokens[: (longest or 20) - 2], end] for longest in rows}
    assert short.model.longest_row() == 20
    for wrong in (2, 65, True, "9", 9.0):
        with pytest.raises(InputError, match=r"max_length is .*; expected a number from 3 to 64, the positions"):
            pipe(iter([]), max_length=wrong)


def test_too_long_without_a_choice(pipe) -> None:
    with pytest.raises(InputError, match=r"'the old town .*…' has 122 tokens.*only 64 positions"):
        pipe(TOO_LONG)
    assert pipe(TOO_LONG, truncation=True)["label"] in ("contradiction", "entailment", "neutral")
    pair = {"text": TOO_LONG, "text_pair": "good"}
    with pytest.raises(InputError, match="has 124 tokens"):
        pipe(pair)
    pipe(pair, truncation=True)
