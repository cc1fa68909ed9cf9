"""Question answering against transformers' model in torch, and where transformers' own decoding went wrong.

transformers 5 dropped both its pipeline and `compute_predictions_log_probs`; the case against the latter is stated on
a description of its loop.
"""

from __future__ import annotations

import json
import math
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import transformers

from tests.conftest import Bundles
from tests.make_checkpoint import make_checkpoint
from tests.paths import SHARED
from tests.runtime.question_answering.reference import Ranked, rank
from tests.runtime.texts import TEXTS
from tests.tolerances import RUNTIME_FP32
from xlm_export.exporting import export
from xlm_runtime import XLMTokenizer, pipeline
from xlm_runtime.question_answering.beam import decode_beam
from xlm_runtime.question_answering.evaluate import evaluate
from xlm_runtime.question_answering.features import ContextTokens, Window
from xlm_runtime.question_answering.options import resolve_options
from xlm_runtime.question_answering.squad_files import read_squad

DATA = SHARED
VOCABULARY = DATA / "xlm-mlm-tlm-xnli15-1024"
LANGUAGES = ("en", "de", "es", "ru", "zh", "ar")
EVERY = 20  # of 1,190 questions a language; all of them take over a minute and a half for each head
HEADS = {"question-answering": "XLMForQuestionAnswering", "question-answering-simple": "XLMForQuestionAnsweringSimple"}
CONTEXT = " ".join(TEXTS) * 3
CASES = [
    ("Where does Anna live?", CONTEXT, "de"),
    ("Сколько кораблей ходят на остров?", CONTEXT, "ru"),
    ("Who?", TEXTS[4], "fr"),
    ("What is better than the film, and what is almost empty in winter, when only two ships go?", CONTEXT, "en"),
]
MAX_SEQ_LEN, DOC_STRIDE, MAX_QUESTION_LEN, MAX_ANSWER_LEN = 50, 11, 16, 8


class Torch:
    """transformers' model and tokenizer, one window after the other, every candidate in a loop."""

    def __init__(self, folder: Path, architecture: str) -> None:
        self.model: Any = getattr(transformers, architecture).from_pretrained(folder).eval()
        self.tokenizer = transformers.XLMTokenizer.from_pretrained(folder)
        self.spans = XLMTokenizer.from_pretrained(folder)  # transformers' has no offsets

    def ids(self, text: str, lang: str) -> list[int]:
        return list(self.tokenizer.convert_tokens_to_ids(self.tokenizer._tokenize(text, lang=lang)))

    def answer(self, question: str, context: str, lang: str) -> tuple[Ranked, float]:
        """Every answer, best first, and the null logit."""
        first = self.ids(question, lang)[:MAX_QUESTION_LEN]
        second = self.ids(context, lang)
        encoding = self.spans(context, lang=lang, add_special_tokens=False, return_offsets_mapping=True)
        assert encoding["input_ids"] == second
        room = MAX_SEQ_LEN - len(first) - 3
        found: dict[tuple[int, int], float] = {}
        nulls, begin = [], 0
        while True:
            part = second[begin : begin + room]
            ids = self.tokenizer.build_inputs_with_special_tokens(first, part)
            cls_index = ids.index(self.tokenizer.cls_token_id)
            places = range(len(first) + 2, len(first) + 2 + len(part))
            candidates, null = self.window(ids, places, cls_index, lang)
            nulls.append(null)
            for start, end, logit in candidates:
                if start in places and end in places and start <= end < start + MAX_ANSWER_LEN:
                    a, b = (begin + position - places[0] for position in (start, end))
                    span = encoding["offset_mapping"][a][0], encoding["offset_mapping"][b][1]
                    found[span] = max(found.get(span, -math.inf), logit)
            if begin + room >= len(second):
                return rank(found), min(nulls)
            begin += DOC_STRIDE

    @torch.no_grad()
    def window(
        self, ids: list[int], places: range, cls_index: int, lang: str
    ) -> tuple[list[tuple[int, int, float]], float]:
        """(start, end, logit) of every candidate, and the window's null logit."""
        input_ids = torch.tensor([ids])
        inputs = {"input_ids": input_ids, "langs": torch.full_like(input_ids, self.model.config.lang2id[lang])}
        if isinstance(self.model, transformers.XLMForQuestionAnsweringSimple):
            output = self.model(**inputs)
            starts, ends = output.start_logits[0].tolist(), output.end_logits[0].tolist()
            pairs = [(s, e, starts[s] + ends[e]) for s in range(len(ids)) for e in range(len(ids))]
            return pairs, starts[cls_index] + ends[cls_index]
        p_mask = torch.tensor([[float(i not in places) for i in range(len(ids))]])
        output = self.model(**inputs, p_mask=p_mask, cls_index=torch.tensor([cls_index]))
        shape = (self.model.config.end_n_top, self.model.config.start_n_top)
        ends, end_p = output.end_top_index[0].reshape(shape), output.end_top_log_probs[0].reshape(shape)
        candidates = []
        for s, (start, p) in enumerate(zip(output.start_top_index[0], output.start_top_log_probs[0], strict=True)):
            for e in range(shape[0]):
                if p > 0 and end_p[e, s] > 0:
                    logit = math.log(float(p)) + math.log(float(end_p[e, s]))
                    candidates.append((int(start), int(ends[e, s]), logit))
        return candidates, float(output.cls_logits[0])


@pytest.mark.parametrize("name", HEADS)
def test_answers_equal_torch(bundles: Bundles, name: str) -> None:
    reference = Torch(bundles(name).parent / "checkpoints" / name, HEADS[name])
    questions = [{"question": question, "context": context, "lang": lang} for question, context, lang in CASES]
    answers = pipeline("question-answering", bundles(name))(
        questions,
        top_k=10,
        max_seq_len=MAX_SEQ_LEN,
        doc_stride=DOC_STRIDE,
        max_question_len=MAX_QUESTION_LEN,
        max_answer_len=MAX_ANSWER_LEN,
    )
    for case, ours in zip(CASES, answers, strict=True):
        found, null = reference.answer(*case)
        assert len(ours) == min(10, len(found)) > 0
        expected = [logit for logit, _, _ in found[:10]]
        np.testing.assert_allclose([item["logit"] for item in ours], expected, atol=RUNTIME_FP32)
        logits = {(start, end): logit for logit, start, end in found}
        for item in ours:  # answers of almost equal logits may change places
            assert logits[item["start"], item["end"]] == pytest.approx(item["logit"], abs=RUNTIME_FP32)
        null_score = null if name == "question-answering" else null - expected[0]
        assert ours[0]["null_score"] == pytest.approx(null_score, abs=RUNTIME_FP32)


def start_major(output: dict[str, Any], n_top: int, paragraph_len: int) -> list[tuple[int, int]]:
    """What `compute_predictions_log_probs` of transformers 2 to 4 makes of one window: positions, best first.

    It reads the ends as (start_n_top, end_n_top), adds probabilities as if they were logarithms, and compares
    positions, before which the question stands, with the length of the paragraph alone.
    """
    found = []
    for i in range(n_top):
        for j in range(n_top):
            start, end = int(output["start_top_index"][i]), int(output["end_top_index"][i * n_top + j])
            if start < paragraph_len - 1 and end < paragraph_len - 1 and start <= end:
                score = output["start_top_log_probs"][i] + output["end_top_log_probs"][i * n_top + j]
                found.append((score, start, end))
    return [(start, end) for _, start, end in sorted(found, key=lambda item: -item[0])]


def window_of(words: int, question: int) -> Window:
    spans = np.array([(2 * i, 2 * i + 1) for i in range(words)], np.int64)
    context = ContextTokens("a " * words, [9] * words, spans, np.ones(words, dtype=bool))
    ids = [0, *[7] * question, 1, *[9] * words, 1]
    return Window(context, ids, question + 2, 0, words, question + 1, 0, 0)


def ours(window: Window, output: dict[str, Any], n_top: int) -> list[tuple[int, int]]:
    """Our answers as positions in the window."""
    decoding = decode_beam(
        [window], [output], start_n_top=n_top, end_n_top=n_top, max_answer_len=30, count=9, with_null=False
    )
    return [(window.first + span.start // 2, window.first + (span.end - 1) // 2) for span in decoding.spans]


def test_transformers_decoding_mixes_the_ends_of_different_starts() -> None:
    """Start 4 has the ends 4 and 5, start 9 the ends 9 and 10. transformers gave start 4 the end 9 and lost (4, 5)."""
    window = window_of(words=20, question=2)
    output = {
        "start_top_log_probs": np.array([0.6, 0.4], np.float32),
        "start_top_index": np.array([4, 9]),
        "end_top_log_probs": np.array([0.5, 0.9, 0.4, 0.1], np.float32),
        "end_top_index": np.array([4, 9, 5, 10]),
        "cls_logits": np.float32(0),
    }
    assert ours(window, output, 2) == [(9, 9), (4, 4), (4, 5), (9, 10)]
    theirs = start_major(output, 2, paragraph_len=20)
    assert theirs == [(4, 9), (4, 4), (9, 10)]
    assert (4, 5) not in theirs  # and (9, 9), the best


def test_transformers_decoding_rejects_starts_near_the_end_of_the_paragraph() -> None:
    """Ten words behind a question of six: positions 8 to 17, of which only 8 is below 10 - 1."""
    window = window_of(words=10, question=6)
    for word in range(10):
        position = window.first + word
        output = {
            "start_top_log_probs": np.array([0.9], np.float32),
            "start_top_index": np.array([position]),
            "end_top_log_probs": np.array([0.9], np.float32),
            "end_top_index": np.array([position]),
            "cls_logits": np.float32(0),
        }
        assert ours(window, output, 1) == [(position, position)]
        assert start_major(output, 1, paragraph_len=10) == ([(position, position)] if word == 0 else [])


def test_transformers_layout_is_ours(bundles: Bundles) -> None:
    """transformers' own graph gives (end_n_top, start_n_top): each start's probabilities fall along the first axis."""
    folder = bundles("question-answering").parent / "checkpoints" / "question-answering"
    model = transformers.XLMForQuestionAnswering.from_pretrained(folder).eval()
    ids = torch.tensor([[0, 20, 30, 1, *range(40, 60), 1]])
    with torch.no_grad():
        output = model(ids, langs=torch.ones_like(ids), cls_index=torch.tensor([3]))
    ends = output.end_top_log_probs[0].reshape(model.config.end_n_top, model.config.start_n_top)
    assert (ends.diff(dim=0) <= 0).all()
    assert not (ends.diff(dim=1) <= 0).all()


@pytest.mark.whole
@pytest.mark.shared
@pytest.mark.skipif(not VOCABULARY.is_dir(), reason="the reference data folder ../shared/data is absent")
@pytest.mark.parametrize("architecture", HEADS.values())
def test_xquad_in_six_languages(tmp_path: Path, architecture: str) -> None:
    official = json.loads((DATA / "xlm_official_configs.json").read_text())["configs"]["xlm-mlm-tlm-xnli15-1024"]
    sizes = {"vocab_size": 95000, "n_layers": 2, "emb_dim": 64, "n_heads": 4, "max_position_embeddings": 512}
    checkpoint = make_checkpoint(
        tmp_path / "checkpoint", architecture, **sizes, n_langs=15, lang2id=official["lang2id"], init_std=0.1
    )
    for name in ("vocab.json", "merges.txt", "tokenizer_config.json"):
        shutil.copy(VOCABULARY / name, checkpoint / name)
    export(checkpoint, tmp_path / "bundle")
    qa = pipeline("question-answering", tmp_path / "bundle")
    options = resolve_options(512, max_seq_len=256, doc_stride=64)
    for lang in LANGUAGES:
        data = read_squad(DATA / "xquad" / f"xquad.{lang}.json")
        assert (len(data.examples), data.lang) == (1190, lang)
        examples = data.examples[::EVERY]
        asked = [{"question": item.question, "context": item.context, "lang": lang} for item in examples]
        answered = 0
        for item, answers in zip(examples, qa(asked, max_seq_len=256, doc_stride=64, top_k=3), strict=True):
            for answer in answers:
                assert item.context[answer["start"] : answer["end"]] == answer["answer"]
                assert answer["answer"] == answer["answer"].strip()
            assert 1 <= len(answers) <= 3
            answered += answers[0]["answer"] != ""
        assert answered > 0.5 * len(examples)
        figures = evaluate(qa, data.first(60), options).figures
        assert figures["total"] == 60
        assert 0 <= figures["exact_match"] <= figures["f1"] <= 100
