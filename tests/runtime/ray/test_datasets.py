"""What an actor does with the rows of a dataset, without Ray."""

from __future__ import annotations

import datetime
from typing import Any

import pytest

from tests.conftest import Bundles
from tests.runtime.answers import same
from tests.runtime.texts import LANGS, TEXTS
from xlm_runtime import pipeline
from xlm_runtime.errors import InputError
from xlm_runtime.ray.datasets import Asked, RowWorker

arrow = pytest.importorskip("pyarrow")
CLASSIFY = "text-classification"
DAYS = [datetime.date(2024, 1, day) for day in range(1, 8)]
TEXTS_AND_ONE_BLANK = [*TEXTS[:3], " ", *TEXTS[4:7]]


def rows(**columns: Any) -> Any:
    return arrow.table({"uid": arrow.array(range(7), arrow.int16()), "day": DAYS} | columns)


def worker(bundles: Bundles, task: str = CLASSIFY, **changed: Any) -> RowWorker:
    values = {"columns": None, "on_error": "return", "opening": {}, "options": {}} | changed
    return RowWorker(Asked(task, str(bundles(task)), 1, **values))


def test_columns_keep_their_types_beside_the_answers(bundles: Bundles) -> None:
    found = worker(bundles, options={"top_k": 2})(rows(text=TEXTS_AND_ONE_BLANK, lang=LANGS[:7]))
    assert found.column_names == ["uid", "day", "answer", "error"]
    assert [str(found.schema.field(name).type) for name in ("uid", "day")] == ["int16", "date32[day]"]
    texts = [{"text": text, "lang": lang} for text, lang in zip(TEXTS_AND_ONE_BLANK, LANGS, strict=False)]
    expected = pipeline(CLASSIFY, bundles(CLASSIFY))(texts, top_k=2, on_error="return")
    answers, errors = found["answer"].to_pylist(), found["error"].to_pylist()
    assert answers.pop(3) is None
    assert errors.pop(3) == {"type": "InputError", "message": expected.pop(3).message}
    same(answers, expected)
    assert errors == [None] * 6


def test_rows_that_cannot_be_used(bundles: Bundles) -> None:
    columns = {"text": "review", "first": "uid"}
    table = rows(review=TEXTS_AND_ONE_BLANK)
    found = worker(bundles, columns=columns, on_error="skip")(table)
    assert found.column_names == ["first", "answer"]
    assert found["first"].to_pylist() == [0, 1, 2, 4, 5, 6]
    with pytest.raises(InputError, match=r"The text is empty.*on_error='return' or 'skip' goes on"):
        worker(bundles, columns=columns, on_error="raise")(table)
    with pytest.raises(InputError, match="No column is called 'text'"):
        worker(bundles)(table)
    none = worker(bundles, columns=columns, on_error="skip")(table.slice(3, 1))
    assert (len(none), none.column_names) == (0, ["first", "answer"])


def test_vectors(bundles: Bundles) -> None:
    task = "feature-extraction"
    for pooling, kind in (("mean", "list<item: float>"), ("none", "list<item: list<item: float>>")):
        found = worker(bundles, task, options={"pooling": pooling})(rows(text=TEXTS[:7]))
        assert str(found.schema.field("answer").type) == kind
        expected = pipeline(task, bundles(task))(TEXTS[:7], pooling=pooling)
        same(found["answer"].to_pylist(), [vector.tolist() for vector in expected])
