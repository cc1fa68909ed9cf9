"""Windows: what the model reads of a question and a context, and the options they are cut by."""

from __future__ import annotations

import random
from typing import Any

import numpy as np
import pytest

from tests.conftest import Bundles
from xlm_runtime import InputError, XLMTokenizer
from xlm_runtime.question_answering.features import WindowBuilder, window_inputs, window_langs, window_ranges
from xlm_runtime.question_answering.options import QuestionAnsweringOptions, resolve_options

QUESTION = "Where does Anna live?"
CONTEXT = "Anna Miller lives in London and has worked for the railway since 2011. " * 5
SCRIPTS = {
    "en": "The „old” ﬁlm... costs $5½, isn't it? <b>&amp;</b> naïve ",
    "de": "Straße, Übergrößenträger und Mäßigung – „Zitat“. ",
    "fr": "L'île d'Oléron, où l’hiver est doux : c'est vrai ! ",
    "ru": "Старый маяк ёлки и «кавычки» на краю. ",
    None: "灯塔在小镇的边缘。 المنارة القديمة في المدينة。 पुराना प्रकाशस्तंभ। โคมไฟเก่า 🗼👩‍👩‍👧 ",
}
OPTIONS = QuestionAnsweringOptions(max_seq_len=30, doc_stride=7, max_question_len=12)


@pytest.fixture(scope="module")
def tokenizer(bundles: Bundles) -> XLMTokenizer:
    return XLMTokenizer.from_pretrained(bundles("question-answering"))


@pytest.fixture(scope="module")
def builder(tokenizer: XLMTokenizer) -> WindowBuilder:
    return WindowBuilder(tokenizer, "first-sep")


def test_windows_hold_the_question_and_a_part_of_the_context(tokenizer: XLMTokenizer, builder: WindowBuilder) -> None:
    question = tokenizer(QUESTION, lang="en", add_special_tokens=False)["input_ids"]
    context = tokenizer(CONTEXT, lang="en", add_special_tokens=False)["input_ids"]
    windows = builder.windows(QUESTION, CONTEXT, OPTIONS, lang="en", lang_id=1)
    assert len(windows) > 3
    bos, sep = tokenizer.bos_token_id, tokenizer.sep_token_id
    for number, window in enumerate(windows):
        part = context[window.offset : window.offset + window.count]
        assert window.input_ids == [bos, *question[:12], sep, *part, sep]
        assert window.input_ids[window.first : window.first + window.count] == part
        assert len(window) <= 30
        assert window.offset == 7 * number
        assert window.lang_id == window.question_lang_id == 1
    assert all(len(window) == 30 for window in windows[:-1])
    assert windows[-1].offset + windows[-1].count == len(context)


def test_line_ends_of_a_context_are_spaces(bundles: Bundles) -> None:
    spaced = WindowBuilder(XLMTokenizer.from_pretrained(bundles("question-answering"), whitespace="space"), "first")
    plain, broken = (
        spaced.windows(QUESTION, context, OPTIONS, lang="en", lang_id=1)
        for context in (CONTEXT, CONTEXT.replace(" ", "\n"))
    )
    assert [window.input_ids for window in broken] == [window.input_ids for window in plain]
    np.testing.assert_array_equal(broken[0].context.spans, plain[0].context.spans)


def test_ranges_cover_the_context() -> None:
    rng = random.Random(5)
    for _ in range(300):
        count, room = rng.randint(0, 60), rng.randint(2, 20)
        stride = rng.randint(1, room - 1)
        ranges = window_ranges(count, room, stride)
        assert [start for start, _ in ranges] == [i * stride for i in range(len(ranges))]
        assert all(stop - start == room for start, stop in ranges[:-1])
        assert {i for start, stop in ranges for i in range(start, stop)} == set(range(count))
        assert ranges[-1][1] == count
        assert sum(stop == count for _, stop in ranges) == 1  # no window more than needed


@pytest.mark.parametrize("lang", SCRIPTS)
def test_offsets_are_characters_of_the_context(builder: WindowBuilder, tokenizer: XLMTokenizer, lang: Any) -> None:
    context = SCRIPTS[lang] * 3
    windows = builder.windows("Who?", context, OPTIONS, lang=lang, lang_id=0)
    spans = windows[0].context.spans
    assert (np.diff(spans, axis=0) >= 0).all()
    assert spans.min() >= 0
    assert spans.max() <= len(context)
    covered = "".join(context[start:end] for start, end in dict.fromkeys(map(tuple, spans.tolist())))
    kept = [char for char in covered if char.isalnum()]
    assert kept == [char for char in context if char.isalnum()]


def test_masks(builder: WindowBuilder) -> None:
    windows = [
        *builder.windows(QUESTION, CONTEXT, OPTIONS, lang="en", lang_id=1)[-1:],
        *builder.windows("Who?", "The old town.", OPTIONS, lang="en", lang_id=1),
    ]
    inputs = window_inputs(windows, mask_cls=True)
    longest = max(map(len, windows))
    assert inputs["p_mask"].dtype == np.float32
    for row, window in zip(inputs["p_mask"], windows, strict=True):
        expected = [1.0] * window.first + [0.0] * window.count + [1.0] * (longest - window.first - window.count)
        assert row.tolist() == expected
    opened = window_inputs(windows, mask_cls=False)
    changed = np.argwhere(opened["p_mask"] != inputs["p_mask"]).tolist()
    assert changed == [[i, window.cls_index] for i, window in enumerate(windows)]
    assert inputs["cls_index"].tolist() == [window.cls_index for window in windows]


@pytest.mark.parametrize("convention", ["first-sep", "last", "first"])
def test_cls_index(tokenizer: XLMTokenizer, convention: str) -> None:
    builder = WindowBuilder(tokenizer, convention)
    for window in builder.windows(QUESTION, CONTEXT, OPTIONS, lang="en"):
        sep = window.input_ids.index(tokenizer.sep_token_id)
        assert window.cls_index == {"first-sep": sep, "last": len(window) - 1, "first": 0}[convention]
        assert sep == window.first - 1


def test_special_tokens_that_a_text_spells_out(builder: WindowBuilder, tokenizer: XLMTokenizer) -> None:
    """A separator in the context is no answer; one in the question is the first separator, as in training."""
    (window,) = builder.windows("Who </s> lives?", "the old </s> town", OPTIONS)
    assert window.cls_index == window.input_ids.index(tokenizer.sep_token_id) < window.first - 1
    texts = [window.context.text[a:b] for a, b in window.context.spans]
    assert [text for text, there in zip(texts, window.context.answerable, strict=True) if not there] == ["</s>"]


def test_empty_contexts_give_one_window_without_answers(builder: WindowBuilder) -> None:
    for context in ("", " \n", "\u200b"):
        (window,) = builder.windows("Who?", context, OPTIONS)
        assert window.count == 0
        assert window_inputs([window], mask_cls=True)["p_mask"].all()


def test_questions_without_words(builder: WindowBuilder) -> None:
    with pytest.raises(InputError, match="has no words"):
        builder.windows("\u200b", CONTEXT, OPTIONS)


def test_a_context_is_tokenised_once(builder: WindowBuilder, tokenizer: XLMTokenizer) -> None:
    first = builder.windows("Who?", CONTEXT, OPTIONS, lang="en")[0].context
    assert builder.windows("Where?", CONTEXT, OPTIONS, lang="en")[0].context is first
    assert builder.windows("Where?", CONTEXT, OPTIONS, lang="de")[0].context is not first


def test_languages_of_question_and_context(builder: WindowBuilder) -> None:
    (window,) = builder.windows(
        "Wo wohnt sie?", "In London.", OPTIONS, lang="en", lang_id=1, question_lang="de", question_lang_id=0
    )
    langs = window_langs([window])[0]
    assert langs.tolist() == [0] * window.first + [1] * (len(window) - window.first)


def test_defaults_suit_the_model() -> None:
    options = resolve_options(512)
    assert (options.max_seq_len, options.doc_stride, options.max_question_len) == (384, 128, 64)
    assert resolve_options(512, longest_row=100).max_seq_len == 100  # the tokenizer's model_max_length
    assert resolve_options(512, longest_row=100, max_seq_len=200).max_seq_len == 200
    for positions in range(8, 600):
        options = resolve_options(positions)
        assert options.doc_stride < options.max_seq_len - options.max_question_len - 3


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"doc_stride": 317}, "doc_stride 317 is not smaller than the window: max_seq_len 384 leaves 317 tokens of"),
        ({"doc_stride": 317}, "Give a doc_stride of at most 316"),
        ({"stride_check": 400}, "stride_check 400 is not smaller than the window"),
        ({"stride_check": 128}, "stride_check 128 is the doc_stride itself"),
        ({"max_seq_len": 513}, "max_seq_len 513 is more than the 512 positions"),
        ({"max_seq_len": 60, "max_question_len": 57}, "leaves no room for the context beside max_question_len 57"),
        ({"doc_stride": 0}, "doc_stride is 0; expected a positive number"),
        ({"max_seq_len": "9"}, "max_seq_len is '9'"),
        ({"max_answer_len": -1}, "max_answer_len is -1"),
        ({"top_k": True}, "top_k is True"),
        ({"max_question_len": 2.0}, "max_question_len is 2.0"),
        ({"null_score_diff_threshold": "x"}, "null_score_diff_threshold is 'x'"),
    ],
)
def test_options_that_contradict_each_other(options: dict[str, Any], message: str) -> None:
    with pytest.raises(InputError, match=message):
        resolve_options(512, **options)
