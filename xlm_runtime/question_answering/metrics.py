"""Exact match and F1 by the published rules of SQuAD 1.1, SQuAD 2.0 and MLQA.

SQuAD: Rajpurkar et al. 2016 and 2018; MLQA, which also knows other languages' articles, all of Unicode's punctuation
and Chinese characters: Lewis et al. 2020. Sums are formed in the order of the published scripts, so that figures agree
to the last digit.
"""

from __future__ import annotations

import re
import string
import unicodedata
from collections import Counter
from collections.abc import Callable, Iterable, Mapping, Sequence
from functools import lru_cache

from xlm_runtime.errors import InputError
from xlm_runtime.question_answering.squad_files import SquadExample

Normalizer = Callable[[str], str]

_ENGLISH_ARTICLES = re.compile(r"\b(a|an|the)\b")
# MLQA's articles. Its Arabic rule takes "ال" away wherever it stands; Hindi and Chinese have none.
_ARTICLES: dict[str, re.Pattern[str] | None] = {
    "en": _ENGLISH_ARTICLES,
    "es": re.compile(r"\b(un|una|unos|unas|el|la|los|las)\b"),
    "hi": None,
    "vi": re.compile(r"\b(của|là|cái|chiếc|những)\b"),
    "de": re.compile(r"\b(ein|eine|einen|einem|eines|einer|der|die|das|den|dem|des)\b"),
    "ar": re.compile("ال"),
    "zh": None,
}
MLQA_LANGUAGES = tuple(_ARTICLES)
_CHINESE = re.compile(r"([\u4e00-\u9fa5])")
_SQUAD_PUNCTUATION = frozenset(string.punctuation)


def normalize_squad(text: str) -> str:
    """SQuAD's rule: lower case, no ASCII punctuation, no English articles, single spaces."""
    kept = "".join(char for char in text.lower() if char not in _SQUAD_PUNCTUATION)
    return " ".join(_ENGLISH_ARTICLES.sub(" ", kept).split())


def mlqa_normalizer(lang: str) -> Normalizer:
    """MLQA's rule for answers in `lang`: its articles, and each Chinese character a word of its own in "zh".

    Raises:
        InputError: a language that MLQA has no rule for.
    """
    if lang not in _ARTICLES:
        raise InputError(
            f"MLQA has no rule for answers in '{lang}', only for {', '.join(MLQA_LANGUAGES)}; use SQuAD's metric."
        )
    articles = _ARTICLES[lang]

    def normalize(text: str) -> str:
        kept = "".join(char for char in text.lower() if not _is_punctuation(char))
        if articles is not None:
            kept = articles.sub(" ", kept)
        if lang == "zh":
            kept = _CHINESE.sub(r" \1 ", kept)
        return " ".join(kept.split())

    return normalize


@lru_cache(maxsize=4096)
def _is_punctuation(char: str) -> bool:
    return char in _SQUAD_PUNCTUATION or unicodedata.category(char).startswith("P")


def exact_match(prediction: str, gold: str, normalize: Normalizer = normalize_squad) -> float:
    """1 where both are the same after normalisation, else 0."""
    return float(normalize(prediction) == normalize(gold))


def f1_score(
    prediction: str, gold: str, normalize: Normalizer = normalize_squad, *, empty_may_agree: bool = False
) -> float:
    """F1 of the answers' bags of words, 0 to 1.

    Args:
        empty_may_agree: SQuAD 2.0's rule, by which two empty answers agree; elsewhere they score 0.
    """
    predicted, expected = normalize(prediction).split(), normalize(gold).split()
    if empty_may_agree and not (predicted and expected):
        return float(predicted == expected)
    same = sum((Counter(predicted) & Counter(expected)).values())
    if same == 0:
        return 0.0
    precision, recall = same / len(predicted), same / len(expected)
    return (2 * precision * recall) / (precision + recall)


def evaluate_squad1(
    examples: Iterable[SquadExample], predictions: Mapping[str, str], normalize: Normalizer = normalize_squad
) -> dict[str, float]:
    """SQuAD 1.1's and MLQA's figures: `exact_match` and `f1` in percent, `total` questions; none predicted scores 0.

    Raises:
        InputError: a question without answers.
    """
    total = 0
    exact = f1 = 0.0
    for example in examples:
        total += 1
        if not example.answers:
            raise InputError(f"The question '{example.id}' has no answer; such files take SQuAD 2.0's rules.")
        if example.id in predictions:
            prediction = predictions[example.id]
            exact += max(exact_match(prediction, gold, normalize) for gold in example.answers)
            f1 += max(f1_score(prediction, gold, normalize) for gold in example.answers)
    return {"exact_match": 100.0 * exact / total, "f1": 100.0 * f1 / total, "total": total}


def evaluate_squad2(
    examples: Sequence[SquadExample],
    predictions: Mapping[str, str],
    null_odds: Mapping[str, float] | None = None,
    best_answers: Mapping[str, str] | None = None,
    normalize: Normalizer = normalize_squad,
) -> dict[str, float]:
    """SQuAD 2.0's figures: `exact` and `f1` in percent and `total`, the same for questions with an answer (`HasAns_`)
    and without one (`NoAns_`), and with `null_odds` the best figures that a threshold gives, and that threshold.

    Args:
        predictions: answers by question, "" for none. Questions that are not there are left out.
        null_odds: null scores by question.
        best_answers: the answers that thresholds are tried on, before any threshold; by default `predictions`.
    """
    has_answer = {example.id: bool(example.answers) for example in examples}
    exact, f1 = _raw_scores(examples, predictions, normalize)
    figures = _averages(exact, f1, list(exact))
    for prefix, wanted in (("HasAns", True), ("NoAns", False)):
        part = [key for key in exact if has_answer[key] is wanted]
        if part:
            figures |= {f"{prefix}_{name}": value for name, value in _averages(exact, f1, part).items()}
    if null_odds:
        answers = predictions if best_answers is None else best_answers
        if best_answers is not None:
            exact, f1 = _raw_scores(examples, best_answers, normalize)
        for name, scores in (("exact", exact), ("f1", f1)):
            best, threshold = best_threshold(answers, scores, null_odds, has_answer)
            figures |= {f"best_{name}": best, f"best_{name}_thresh": threshold}
    return figures


def best_threshold(
    answers: Mapping[str, str],
    scores: Mapping[str, float],
    null_odds: Mapping[str, float],
    has_answer: Mapping[str, bool],
) -> tuple[float, float]:
    """The highest mean score in percent that answering only up to some null score gives, and that null score.

    Beginning with no answer at all, questions are answered one after the other in the order of their null scores: one
    that has an answer adds its score, one that has none takes 1 away. The threshold is 0 where no answer at all is
    best.
    """
    current = best = float(sum(not answerable for answerable in has_answer.values()))
    threshold = 0.0
    for key in sorted(null_odds, key=lambda key: null_odds[key]):
        if key not in scores:
            continue
        current += scores[key] if has_answer[key] else -1 if answers[key] else 0
        if current > best:
            best, threshold = current, null_odds[key]
    return 100.0 * best / len(scores), threshold


def _raw_scores(
    examples: Iterable[SquadExample], predictions: Mapping[str, str], normalize: Normalizer
) -> tuple[dict[str, float], dict[str, float]]:
    exact: dict[str, float] = {}
    f1: dict[str, float] = {}
    for example in examples:
        if example.id not in predictions:
            continue
        prediction = predictions[example.id]
        golds = [gold for gold in example.answers if normalize(gold)] or [""]
        exact[example.id] = max(exact_match(prediction, gold, normalize) for gold in golds)
        f1[example.id] = max(f1_score(prediction, gold, normalize, empty_may_agree=True) for gold in golds)
    return exact, f1


def _averages(exact: Mapping[str, float], f1: Mapping[str, float], keys: Sequence[str]) -> dict[str, float]:
    total = len(keys)
    return {
        "exact": 100.0 * sum(exact[key] for key in keys) / max(1, total),
        "f1": 100.0 * sum(f1[key] for key in keys) / max(1, total),
        "total": total,
    }
