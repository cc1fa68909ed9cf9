"""Exact match, F1 and thresholds on small cases, each computed by hand from the published scripts' rules."""

from __future__ import annotations

import pytest

from xlm_runtime import InputError
from xlm_runtime.question_answering.metrics import (
    MLQA_LANGUAGES,
    best_threshold,
    evaluate_squad1,
    evaluate_squad2,
    exact_match,
    f1_score,
    mlqa_normalizer,
    normalize_squad,
)
from xlm_runtime.question_answering.squad_files import SquadExample


def example(identifier: str, *answers: str) -> SquadExample:
    return SquadExample(identifier, "Who?", "…", answers)


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("The Old Lighthouse!", "old lighthouse"),
        ("a  an\tthe", ""),
        ("theatre, anna", "theatre anna"),
        ("U.S.A.", "usa"),
        ("the-end", "theend"),  # punctuation goes first, so that no article is left
        ("„Zitat“ – 5€", "„zitat“ – 5€"),  # ASCII punctuation only
        ("Der Turm", "der turm"),
    ],
)
def test_squad_normalisation(text: str, expected: str) -> None:
    assert normalize_squad(text) == expected


@pytest.mark.parametrize(
    ("lang", "text", "expected"),
    [
        ("en", "“The” tower…", "tower"),
        ("en", "der Turm", "der turm"),
        ("de", "Der Turm, des Königs", "turm königs"),
        ("de", "derselbe", "derselbe"),
        ("es", "¿El faro de los mares?", "faro de mares"),
        ("vi", "những chiếc thuyền của tôi", "thuyền tôi"),
        ("ar", "المنارة القديمة", "منارة قديمة"),
        ("ar", "في المدينة", "في مدينة"),
        ("hi", "पुराना प्रकाशस्तंभ।", "पुराना प्रकाशस्तंभ"),
        ("zh", "在2011年，他去了 New York。", "在 2011 年 他 去 了 new york"),
        ("zh", "《红楼梦》", "红 楼 梦"),
    ],
)
def test_mlqa_normalisation(lang: str, text: str, expected: str) -> None:
    assert mlqa_normalizer(lang)(text) == expected


def test_mlqa_knows_its_seven_languages() -> None:
    assert set(MLQA_LANGUAGES) == {"en", "de", "es", "ar", "zh", "vi", "hi"}
    with pytest.raises(InputError, match="no rule for answers in 'ru'"):
        mlqa_normalizer("ru")


def test_f1() -> None:
    # 2 words of 3 and of 4: precision 2/3, recall 1/2
    assert f1_score("old stone lighthouse", "the old lighthouse near town") == (2 * (2 / 3) * (1 / 2)) / (2 / 3 + 1 / 2)
    # a word counts as often as it is in both
    assert f1_score("no no no", "no no") == (2 * (2 / 3) * 1.0) / (2 / 3 + 1.0)
    assert f1_score("yes", "no") == 0
    assert f1_score("the", "a") == 0  # nothing is left of both: no words in common
    assert f1_score("the", "a", empty_may_agree=True) == 1
    assert f1_score("", "town", empty_may_agree=True) == 0
    assert exact_match("the", "a") == 1
    assert f1_score("红楼", "红楼梦", mlqa_normalizer("zh")) == (2 * 1.0 * (2 / 3)) / (1.0 + 2 / 3)


def test_squad_1() -> None:
    examples = [
        example("a", "the old town", "town"),
        example("b", "1 January 2011"),
        example("c", "Anna"),
        example("d", "Hamburg"),
    ]
    predictions = {"a": "Town.", "b": "January", "c": "Otto", "elsewhere": "x"}
    # a matches its second answer; b: precision 1, recall 1/3, F1 1/2; c has nothing; d was not answered
    assert evaluate_squad1(examples, predictions) == {
        "exact_match": 100.0 * 1 / 4,
        "f1": 100.0 * (1 + 0.5) / 4,
        "total": 4,
    }
    with pytest.raises(InputError, match="'n' has no answer"):
        evaluate_squad1([example("n")], {})


def test_mlqa_figures() -> None:
    examples = [example("a", "der alte Turm"), example("b", "eines Tages")]
    predictions = {"a": "„Alte Turm“", "b": "Tages Arbeit"}
    figures = evaluate_squad1(examples, predictions, mlqa_normalizer("de"))
    assert figures == {"exact_match": 50.0, "f1": 100.0 * (1 + 2 / 3) / 2, "total": 2}
    assert evaluate_squad1(examples, predictions)["exact_match"] == 0


SQUAD_2 = [
    example("h1", "old town"),
    example("h2", "Anna Miller"),
    example("n1"),
    example("n2"),
    example("h3", "the", "1999"),  # nothing is left of the first answer, so that it does not count
]
ANSWERS = {"h1": "the old town", "h2": "Anna", "n1": "ships", "n2": "", "h3": "2011"}
ODDS = {"h1": -3.0, "h2": -1.0, "n1": 0.5, "n2": 2.0, "h3": 3.0}


def test_squad_2() -> None:
    figures = evaluate_squad2(SQUAD_2, ANSWERS)
    assert figures == {
        "exact": 100.0 * 2 / 5,  # h1 and n2
        "f1": 100.0 * (1 + 2 / 3 + 1) / 5,  # h2: precision 1, recall 1/2
        "total": 5,
        "HasAns_exact": 100.0 / 3,
        "HasAns_f1": 100.0 * (1 + 2 / 3) / 3,
        "HasAns_total": 3,
        "NoAns_exact": 50.0,
        "NoAns_f1": 50.0,
        "NoAns_total": 2,
    }


def test_squad_2_thresholds() -> None:
    figures = evaluate_squad2(SQUAD_2, ANSWERS, ODDS)
    # nothing answered: 2 right. h1 answered: 3. h2: no exact match, 3, but 3 + 2/3 by F1. n1: one less. n2: "" is
    # right in any case. h3: nothing more.
    assert (figures["best_exact"], figures["best_exact_thresh"]) == (100.0 * 3 / 5, -3.0)
    assert (figures["best_f1"], figures["best_f1_thresh"]) == (100.0 * (3 + 2 / 3) / 5, -1.0)


def test_thresholds_are_tried_on_the_answers_before_any_threshold() -> None:
    cut = ANSWERS | {"h1": ""}
    assert evaluate_squad2(SQUAD_2, cut, ODDS)["best_exact"] == 40.0
    figures = evaluate_squad2(SQUAD_2, cut, ODDS, ANSWERS)
    assert (figures["exact"], figures["best_exact"]) == (20.0, 60.0)


def test_no_answer_at_all_may_be_best() -> None:
    has_answer = {"n": False, "h": True}
    assert best_threshold({"n": "x", "h": "y"}, {"n": 0, "h": 0.5}, {"n": -1, "h": 1}, has_answer) == (50.0, 0.0)


def test_one_sided_files() -> None:
    figures = evaluate_squad2([example("n")], {"n": ""})
    assert figures == {"exact": 100, "f1": 100, "total": 1, "NoAns_exact": 100, "NoAns_f1": 100, "NoAns_total": 1}
    assert "NoAns_f1" not in evaluate_squad2([example("h", "x")], {"h": "x"})
