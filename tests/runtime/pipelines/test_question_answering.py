"""The pipeline: every answer against one window after the other, alone, through the bare graph and a slow decoder."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from tests.conftest import Bundles
from tests.runtime.question_answering import reference as slow
from tests.runtime.reference import Reference
from tests.runtime.texts import TEXTS, TOO_LONG
from tests.tolerances import RUNTIME_FP32
from xlm_runtime import BundleError, InputError, pipeline
from xlm_runtime.question_answering.features import Question, WindowBuilder
from xlm_runtime.question_answering.options import resolve_options

HEADS = ("question-answering", "question-answering-simple")
LONG = " ".join(TEXTS[:3]) * 4
CASES = [
    {"question": "Where does Anna live?", "context": LONG, "lang": "en"},
    {"question": "Wo wohnt Anna?", "context": LONG, "lang": "de"},
    {"question": "Сколько кораблей?", "context": TEXTS[1], "lang": "ru"},
    {"question": "Who?", "context": TEXTS[4]},
    {"question": TOO_LONG, "context": LONG},
]


@pytest.fixture(scope="module", params=HEADS)
def head(request: pytest.FixtureRequest) -> str:
    return str(request.param)


@pytest.fixture(scope="module")
def qa(bundles: Bundles, head: str) -> Any:
    return pipeline("question-answering", bundles(head))


def alone(reference: Reference, case: dict[str, Any], **lengths: int) -> tuple[slow.Ranked, float]:
    """All answers of a question, best first, and its null logit."""
    config = reference.config
    lang = case.get("lang")
    lang_id = config.lang2id[lang] if lang and config.lang2id else -1
    options = resolve_options(config.max_position_embeddings, **lengths)
    builder = WindowBuilder(reference.tokenizer, "first-sep")
    windows = builder.windows(case["question"], case["context"], options, lang=lang, lang_id=lang_id)
    outputs = []
    names = [item.name for item in reference.session.get_outputs()]
    known = {item.name for item in reference.session.get_inputs()}
    for window in windows:
        p_mask = np.ones((1, len(window)), np.float32)
        p_mask[0, window.first : window.first + window.count] = 0
        feed = {
            "input_ids": np.array([window.input_ids], np.int64),
            "attention_mask": np.ones((1, len(window)), np.int64),
            "langs": np.full((1, len(window)), lang_id, np.int64),
            "p_mask": p_mask,
            "cls_index": np.array([window.cls_index], np.int64),
        }
        values = reference.session.run(None, {name: value for name, value in feed.items() if name in known})
        outputs.append({name: value[0] for name, value in zip(names, values, strict=True)})
    if "cls_logits" in names:
        found = slow.slow_beam(windows, outputs, config.start_n_top, config.end_n_top, 30)
        return found, min(float(output["cls_logits"]) for output in outputs)
    nulls = [
        output["start_logits"][window.cls_index] + output["end_logits"][window.cls_index]
        for window, output in zip(windows, outputs, strict=True)
    ]
    return slow.slow_simple(windows, outputs, 30), float(min(nulls))


@pytest.mark.parametrize("lengths", [{}, {"max_seq_len": 40, "doc_stride": 5, "max_question_len": 7}])
def test_answers_equal_windows_alone(qa: Any, bundles: Bundles, head: str, lengths: dict[str, int]) -> None:
    reference = Reference(bundles(head))
    for case, answers in zip(CASES, qa(CASES, top_k=5, **lengths), strict=True):
        found, null = alone(reference, case, **lengths)
        expected = found[:5]
        assert len(answers) == len(expected) > 0
        np.testing.assert_allclose(
            [item["logit"] for item in answers], [item[0] for item in expected], atol=RUNTIME_FP32
        )
        logits = {(start, end): logit for logit, start, end in found}
        for item in answers:  # answers of almost equal logits may change places
            assert logits[item["start"], item["end"]] == pytest.approx(item["logit"], abs=RUNTIME_FP32)
            assert case["context"][item["start"] : item["end"]] == item["answer"] != ""
            null_score = null if head == "question-answering" else null - expected[0][0]
            assert item["null_score"] == pytest.approx(null_score, abs=RUNTIME_FP32)
            assert 0 < item["score"] <= 1
        json.dumps(answers)


def spans(answers: Any) -> list[tuple[int, int]]:
    return [(item["start"], item["end"]) for item in answers]


def test_inputs_of_every_form(qa: Any) -> None:
    question, context = CASES[0]["question"], LONG
    expected = qa({"question": question, "context": context})
    assert qa(question=question, context=context) == expected
    assert qa(question, context=context) == expected
    assert isinstance(expected, dict)
    assert spans(qa([question, "Who?"], context=context))[0] == spans([expected])[0]
    assert len(qa(question=[question] * 3, context=context)) == 3
    pairs = qa(question=["Who?", question], context=[TEXTS[0], context])
    assert spans(pairs)[1:] == spans([expected])
    assert spans(qa(question=question, context=[TEXTS[0], context]))[1:] == spans([expected])
    assert len(qa(question, context=context, top_k=3)) == 3
    assert [len(item) for item in qa([question] * 2, context=context, top_k=3)] == [3, 3]
    with_lang = qa([CASES[0], CASES[1]])
    plain = [{key: case[key] for key in ("question", "context")} for case in CASES[:2]]
    assert qa(plain, lang=["en", "de"]) == with_lang
    assert qa({**plain[1], "lang": "de"}, lang="en")["logit"] == pytest.approx(with_lang[1]["logit"], abs=RUNTIME_FP32)


def test_batches_are_a_stream_in_order(qa: Any) -> None:
    read: list[int] = []

    def questions() -> Iterator[dict[str, str]]:
        for number in range(2000):
            read.append(number)
            yield {"question": f"Who is {number}?", "context": LONG if number % 3 else TEXTS[0]}

    stream = qa(questions())
    first = [next(stream) for _ in range(5)]
    assert len(read) < 1000
    assert all((LONG if i % 3 else TEXTS[0])[a:b] for i, (a, b) in enumerate(spans(first)))
    for number, answer in enumerate(first):
        single = qa({"question": f"Who is {number}?", "context": LONG if number % 3 else TEXTS[0]})
        assert answer["logit"] == pytest.approx(single["logit"], abs=RUNTIME_FP32)


def test_a_context_is_tokenised_once(qa: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    texts: list[str] = []
    encoder = qa.model.tokenizer.encoder
    encode = encoder.ids_and_offsets
    monkeypatch.setattr(encoder, "ids_and_offsets", lambda text, lang: texts.append(text) or encode(text, lang))
    context = f"{LONG} A context that no other test has."
    qa([f"Who is {i}?" for i in range(20)], context=context)
    assert texts == [context]


def test_windows_share_batches(qa: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    sizes: list[tuple[int, ...]] = []
    run = qa.model.session.run
    monkeypatch.setattr(qa.model.session, "run", lambda feed: sizes.append(feed["input_ids"].shape) or run(feed))
    qa([{"question": f"Who is {i}?", "context": TEXTS[i % 2]} for i in range(40)])
    assert sum(rows for rows, _ in sizes) == 40
    assert len(sizes) < 12


def test_empty_contexts_have_no_answer(qa: Any) -> None:
    for context in ("", "   ", "\u200b"):
        for allowed in (False, True):
            answer = qa(question="Who?", context=context, handle_impossible_answer=allowed)
            assert (answer["answer"], answer["start"], answer["end"]) == ("", 0, 0)
            assert json.loads(json.dumps(answer, allow_nan=False)) == answer
            assert (answer["score"] > 0) == allowed


def test_no_answer_by_the_threshold(qa: Any) -> None:
    case = {"question": "Who?", "context": LONG}
    usual = qa(case)
    never = qa(case, handle_impossible_answer=True, null_score_diff_threshold=1e9)
    always = qa(case, handle_impossible_answer=True, null_score_diff_threshold=-1e9, top_k=3)
    assert never["answer"] == usual["answer"]
    assert never["score"] < usual["score"]
    assert always[0]["answer"] == ""
    assert always[1]["answer"] == usual["answer"]
    edge = usual["null_score"]
    assert qa(case, handle_impossible_answer=True, null_score_diff_threshold=edge - 0.01)["answer"] == ""
    assert qa(case, handle_impossible_answer=True, null_score_diff_threshold=edge + 0.01)["answer"] != ""


def test_stride_check(qa: Any) -> None:
    case = {"question": "Where does Anna live?", "context": LONG, "lang": "en"}
    best = qa(case, doc_stride=15, stride_check=4)
    other = qa(case, doc_stride=4)
    found = best.pop("stride_check")
    assert spans([best]) == spans([qa(case, doc_stride=15)])
    assert found["doc_stride"] == 4
    assert (found["start"], found["end"], found["answer"]) == (other["start"], other["end"], other["answer"])
    assert found["logit"] == pytest.approx(other["logit"], abs=RUNTIME_FP32)
    assert found["same"] == (spans([best]) == spans([other]))
    ranked = qa([case], doc_stride=15, stride_check=4, top_k=2)[0]
    assert "stride_check" in ranked[0]
    assert "stride_check" not in ranked[1]
    short = qa("Who?", context="The town.", stride_check=4)["stride_check"]
    assert short["same"]


def test_the_language_of_a_question(qa: Any) -> None:
    case = {"question": "Wo wohnt Anna?", "context": TEXTS[0], "lang": "en"}
    assert qa({**case, "question_lang": "en"})["logit"] == pytest.approx(qa(case)["logit"], abs=RUNTIME_FP32)
    assert qa({**case, "question_lang": "de"})["logit"] != pytest.approx(qa(case)["logit"], abs=RUNTIME_FP32)


@pytest.mark.parametrize(
    ("arguments", "options", "message"),
    [
        ([], {}, "Give questions once"),
        (["Who?"], {"question": "Who?"}, "Give questions once"),
        (["Who?"], {}, "The question 'Who\\?' has no context"),
        ([{"question": "Who?"}], {}, "has no context; give context"),
        ([{"context": "a"}], {}, "'question' is missing"),
        ([{"question": "Who?", "context": 5}], {}, "'context' is a int"),
        ([{"question": "Who?", "contxt": "a"}], {}, "Unknown key 'contxt'"),
        ([" "], {"context": "a"}, "The question is empty"),
        ([5], {"context": "a"}, "An input must be a string or a dictionary"),
        (["Who?"], {"context": "a", "lang": "xx"}, "Unknown lang 'xx'"),
        ([["Who?"]], {"context": ["a", "b"]}, "1 questions were given with 2 contexts"),
        ([iter(["Who?"])], {"context": ["a", "b"]}, "a stream of questions were given with 2 contexts"),
        ([[{"question": "Who?"}]], {"context": ["a"]}, "A list of contexts goes with a list of questions"),
        (["Who?"], {"context": "a", "doc_stride": 41}, "doc_stride 41 is not smaller than the window"),
        (["Who?"], {"context": "a", "top_k": 0}, "top_k is 0"),
    ],
)
def test_errors(qa: Any, arguments: list[Any], options: dict[str, Any], message: str) -> None:
    with pytest.raises(InputError, match=message):
        qa(*arguments, **options)


def test_a_question_among_many_is_named(qa: Any) -> None:
    questions = [Question("Who?", "Anna."), Question("\u200b", "Anna.")]
    answers = qa.decode(questions, resolve_options(64), 1)
    assert len(next(answers)) == 1
    with pytest.raises(InputError, match=r"item 2: The question .* has no words"):
        next(answers)


def test_a_bundle_without_its_convention_is_refused(changed_bundle: Callable[..., Path]) -> None:
    folder = changed_bundle("question-answering", entries={"conventions": {"uses_langs": True}})
    with pytest.raises(BundleError, match="does not record its cls_index convention"):
        pipeline("question-answering", folder)


@pytest.mark.parametrize("convention", ["first-sep", "last", "first"])
def test_the_bundle_s_convention_is_used(
    changed_bundle: Callable[..., Path], monkeypatch: pytest.MonkeyPatch, convention: str
) -> None:
    folder = changed_bundle(
        "question-answering", entries={"conventions": {"uses_langs": True, "cls_index": convention}}
    )
    qa = pipeline("question-answering", folder)
    seen: list[dict[str, Any]] = []
    run = qa.model.session.run
    monkeypatch.setattr(qa.model.session, "run", lambda feed: seen.append(feed) or run(feed))
    qa("Who?", context="The old town.")
    (feed,) = seen
    ids, (index,) = feed["input_ids"][0].tolist(), feed["cls_index"]
    assert index == {"first-sep": ids.index(1), "last": len(ids) - 1, "first": 0}[convention]
