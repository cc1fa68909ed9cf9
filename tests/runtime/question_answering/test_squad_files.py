"""Files of SQuAD's shape: what is read, what is refused, and what an evaluation writes."""

from __future__ import annotations

import json
import math
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from tests.conftest import Bundles
from xlm_runtime import InputError, pipeline
from xlm_runtime.question_answering.evaluate import evaluate
from xlm_runtime.question_answering.metrics import evaluate_squad1, evaluate_squad2
from xlm_runtime.question_answering.options import resolve_options
from xlm_runtime.question_answering.squad_files import read_squad

CONTEXTS = (
    "The old lighthouse stands at the edge of the small town. In winter only two ships go to the island.",
    "Anna Miller lives in London and has worked for the railway since 2011. " * 4,
)
HEADS = ("question-answering", "question-answering-simple")


def squad(version: str = "1.1") -> dict[str, Any]:
    """A file in SQuAD's format: two paragraphs in two articles, three questions."""
    return {
        "version": version,
        "data": [
            {
                "title": "Lighthouse",
                "paragraphs": [
                    {
                        "context": CONTEXTS[0],
                        "qas": [
                            {
                                "id": "q1",
                                "question": "Where does the lighthouse stand?",
                                "answers": [{"text": "at the edge of the small town", "answer_start": 26}],
                            },
                            {
                                "id": "q2",
                                "question": "How many ships go to the island?",
                                "answers": [
                                    {"text": "two", "answer_start": 72},
                                    {"text": "only two", "answer_start": 67},
                                ],
                            },
                        ],
                    }
                ],
            },
            {
                "title": "Anna",
                "paragraphs": [
                    {
                        "context": CONTEXTS[1],
                        "qas": [
                            {"id": "q3", "question": "Who?", "answers": [{"text": "Anna Miller", "answer_start": 0}]}
                        ],
                    }
                ],
            },
        ],
    }


def squad_2() -> dict[str, Any]:
    """The same in SQuAD 2.0's format, the last question without an answer."""
    values = squad("v2.0")
    for article in values["data"]:
        for qa in article["paragraphs"][0]["qas"]:
            qa["is_impossible"] = qa["id"] == "q3"
    values["data"][1]["paragraphs"][0]["qas"][0] |= {
        "answers": [],
        "plausible_answers": [{"text": "Anna", "answer_start": 0}],
    }
    return values


@pytest.fixture
def write(tmp_path: Path) -> Callable[..., Path]:
    def call(values: Any, name: str = "data.json") -> Path:
        path = tmp_path / name
        path.write_text(values if isinstance(values, str) else json.dumps(values), encoding="utf-8")
        return path

    return call


def test_squad_1(write: Callable[..., Path]) -> None:
    data = read_squad(write(squad()))
    assert [item.id for item in data.examples] == ["q1", "q2", "q3"]
    assert data.examples[1].answers == ("two", "only two")
    assert data.examples[0].context is data.examples[1].context
    assert (data.version, data.with_impossible, data.lang, data.is_mlqa) == ("1.1", False, None, False)


def test_squad_2(write: Callable[..., Path]) -> None:
    data = read_squad(write(squad_2()))
    assert data.with_impossible
    assert [len(item.answers) for item in data.examples] == [1, 2, 0]


def test_names_tell_languages(write: Callable[..., Path]) -> None:
    data = read_squad(write(squad(), "xquad.ru.json"))
    assert (data.lang, data.question_lang, data.is_mlqa) == ("ru", None, False)
    data = read_squad(write(squad("1.0"), "test-context-de-question-en.json"))
    assert (data.lang, data.question_lang, data.is_mlqa) == ("de", "en", True)
    assert read_squad(write(squad(), "dev-context-zh-question-zh.json")).question_lang is None


QAS = ("data", 0, "paragraphs", 0, "qas", 1)


@pytest.mark.parametrize(
    ("place", "value", "message"),
    [
        ((), [], "its top level is a list; expected an object"),
        (("data",), None, "'data' is missing"),
        (("data",), {}, "'data' is a dict; expected a list"),
        (("data",), [], "'data' holds no question"),
        (("data", 1), "x", r"'data\[1\]' is a str; expected an object"),
        (("data", 0, "paragraphs", 0, "context"), None, r"'data\[0\].paragraphs\[0\].context' is missing"),
        ((*QAS, "id"), True, r"'data\[0\].paragraphs\[0\].qas\[1\].id' is a bool; expected a string"),
        ((*QAS, "id"), "q1", r"qas\[1\].id' 'q1' is there twice"),
        ((*QAS, "question"), " ", r"qas\[1\].question' is empty"),
        ((*QAS, "answers"), None, r"qas\[1\].answers' is missing"),
        ((*QAS, "answers", 1, "text"), None, r"qas\[1\].answers\[1\].text' is missing"),
        ((*QAS, "is_impossible"), "no", r"qas\[1\].is_impossible' is 'no'; expected true or false"),
        ((*QAS, "is_impossible"), 2, r"qas\[1\].is_impossible' is 2; expected true or false"),
    ],
)
def test_the_entry_that_is_wrong_is_named(
    write: Callable[..., Path], place: tuple[Any, ...], value: Any, message: str
) -> None:
    values: Any = squad()
    if not place:
        values = value
    else:
        entry = values
        for key in place[:-1]:
            entry = entry[key]
        if value is None:
            del entry[place[-1]]
        else:
            entry[place[-1]] = value
    with pytest.raises(InputError, match=message):
        read_squad(write(values))


@pytest.mark.parametrize("start", [-1, 999, "5", ...])
def test_where_an_answer_starts_does_not_matter(write: Callable[..., Path], start: Any) -> None:
    """As in the official scripts, which compare texts."""
    values = squad()
    answer = values["data"][0]["paragraphs"][0]["qas"][1]["answers"][0]
    answer |= {"answer_start": start}
    if start is ...:
        del answer["answer_start"]
    assert read_squad(write(values)) == read_squad(write(squad()))


def test_ids_that_are_numbers_come_back_as_the_keys_that_json_makes_of_them(
    bundles: Bundles, write: Callable[..., Path], tmp_path: Path
) -> None:
    """`predictions.json` has a question's answer under the key that Python's `json` writes for its id, by which the
    official script finds it."""
    values, ids = squad(), iter([7, 10**20, 1.5])
    for article in values["data"]:
        for qa in article["paragraphs"][0]["qas"]:
            qa["id"] = next(ids)
    data = read_squad(write(values))
    qa = pipeline("question-answering", bundles("question-answering-simple"))
    evaluate(qa, data, resolve_options(64)).write(tmp_path / "out")
    predictions = json.loads((tmp_path / "out" / "predictions.json").read_text(encoding="utf-8"))
    assert list(predictions) == list(json.loads(json.dumps({7: "", 10**20: "", 1.5: ""})))
    values["data"][0]["paragraphs"][0]["qas"][1]["id"] = "7"
    with pytest.raises(InputError, match=r"qas\[1\].id' '7' is there twice"):
        read_squad(write(values))


def test_is_impossible_may_be_a_number_and_have_no_answers(write: Callable[..., Path]) -> None:
    values = squad_2()
    for article in values["data"]:
        for qa in article["paragraphs"][0]["qas"]:
            qa["is_impossible"] = int(qa["is_impossible"])
    del values["data"][1]["paragraphs"][0]["qas"][0]["answers"]
    assert read_squad(write(values)) == read_squad(write(squad_2()))


def test_files_that_are_no_json(write: Callable[..., Path], tmp_path: Path) -> None:
    with pytest.raises(InputError, match="is not JSON"):
        read_squad(write("{"))
    with pytest.raises(InputError, match="cannot be read: No such file"):
        read_squad(tmp_path / "absent.json")
    (tmp_path / "latin.json").write_bytes(b'{"data": "\xe9"}')
    with pytest.raises(InputError, match="is not UTF-8"):
        read_squad(tmp_path / "latin.json")
    path = tmp_path / "bom.json"
    path.write_bytes(b"\xef\xbb\xbf" + json.dumps(squad()).encode())
    assert len(read_squad(path).examples) == 3


@pytest.mark.parametrize("head", HEADS)
def test_an_evaluation_and_its_files(bundles: Bundles, write: Callable[..., Path], tmp_path: Path, head: str) -> None:
    qa = pipeline("question-answering", bundles(head))
    options = resolve_options(64)
    for values in (squad(), squad_2()):
        data = read_squad(write(values))
        counted: list[int] = []
        result = evaluate(qa, data, options, lang="en", progress=counted.append)
        assert counted == [1, 2, 3]
        paths = result.write(tmp_path / "out")
        files = {path.name: json.loads(path.read_text(encoding="utf-8")) for path in paths}
        assert sorted(path.name for path in (tmp_path / "out").iterdir()) == sorted(files)
        assert set(files) == {"predictions.json", "nbest_predictions.json", "null_odds.json"}
        asked = [{"question": item.question, "context": item.context, "lang": "en"} for item in data.examples]
        for item, answer in zip(data.examples, qa(asked, handle_impossible_answer=data.with_impossible), strict=True):
            assert files["predictions.json"][item.id] == answer["answer"]
            assert files["null_odds.json"][item.id] == pytest.approx(answer["null_score"], rel=1e-4, abs=1e-4)
        for entries in files["nbest_predictions.json"].values():
            kind = "logit" if head.endswith("simple") else "log_prob"
            assert all(set(entry) == {"text", "probability", f"start_{kind}", f"end_{kind}"} for entry in entries)
            assert math.fsum(entry["probability"] for entry in entries) == pytest.approx(1)
            shares = [entry["probability"] for entry in entries]
            assert shares == sorted(shares, reverse=True)
            assert 1 <= len({entry["text"] for entry in entries}) == len(entries) <= 21
            assert ("" in [entry["text"] for entry in entries]) == (kind == "logit" and data.with_impossible)
        if data.with_impossible:
            best = {key: next((e["text"] for e in value if e["text"]), "") for key, value in result.nbest.items()}
            expected = evaluate_squad2(data.examples, result.predictions, result.null_odds, best)
        else:
            expected = evaluate_squad1(data.examples, result.predictions)
        assert result.figures == expected


def test_mlqa_files_take_mlqa_s_metric(bundles: Bundles, write: Callable[..., Path]) -> None:
    qa = pipeline("question-answering", bundles("question-answering-simple"))
    data = read_squad(write(squad("1.0"), "test-context-de-question-en.json"))
    assert evaluate(qa, data, resolve_options(64)).figures["total"] == 3
    with pytest.raises(InputError, match="no rule for answers in 'ru'"):
        evaluate(qa, data, resolve_options(64), lang="ru")
    with pytest.raises(InputError, match="needs the answers' language"):
        evaluate(qa, read_squad(write(squad())), resolve_options(64), metric="mlqa")
    with pytest.raises(InputError, match="Unknown metric 'bleu'"):
        evaluate(qa, data, resolve_options(64), metric="bleu")
