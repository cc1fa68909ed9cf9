"""What people's files look like: marks, line ends, quotes, columns of other names, rows that are none."""

from __future__ import annotations

import datetime
import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from tests.runtime.jobs import echo
from xlm_runtime.errors import InputError
from xlm_runtime.jobs.formats import FORMATS, find_format
from xlm_runtime.jobs.items import Item
from xlm_runtime.jobs.rows import Row, to_item
from xlm_runtime.pipelines.on_error import FailedItem


def read(path: Path, content: bytes | None = None) -> list[tuple[int, Any, int]]:
    """Number, values (of an error its message) and end of each row."""
    if content is not None:
        path.write_bytes(content)
    rows = find_format(path, None, "").read(path, None)
    return [(r.number, r.values.message if isinstance(r.values, InputError) else r.values, r.end) for r in rows]


def test_text(tmp_path: Path) -> None:
    path = tmp_path / "in.txt"
    content = b"\xef\xbb\xbfone\r\n\n{\xff\n{two"
    rows = [(1, "one", 8), (2, "", 9), (3, "not UTF-8 (invalid start byte at byte 1).", 12), (4, "{two", 16)]
    assert read(path, content) == rows
    assert read(path, b"") == []


def test_json_lines(tmp_path: Path) -> None:
    path = tmp_path / "in.jsonl"
    content = b'\xef\xbb\xbf{"text": "a"}\r\n\r\n"b"\n[1]\nc\n{"text": \n"d\n'
    rows = read(path, content)
    assert [(number, values) for number, values, _ in rows[:2]] == [(1, {"text": "a"}), (3, "b")]
    assert [number for number, _, _ in rows[2:]] == [4, 5, 6, 7]
    for (_, message, _), part in zip(rows[2:], ("but a list", "Expecting", "Expecting", "not a string"), strict=True):
        assert part in message
    assert rows[-1][2] == len(content)


@pytest.mark.parametrize("delimiter", [",", ";", "\t", "|"])
def test_csv(tmp_path: Path, delimiter: str) -> None:
    content = '\ufeffid,text,note\r\n1,"two\r\nlines, ""quoted""",x\r\n\r\n2,Müller,\r\n3,short\r\n4,"a"b,\r\n5,last,y'
    swapped = content.replace(", ", "\0").replace(",", delimiter).replace("\0", ", ")
    path = tmp_path / "in.csv"
    rows = read(path, swapped.encode())
    assert [row[:2] for row in rows[:3]] == [
        (2, {"id": "1", "text": 'two\r\nlines, "quoted"', "note": "x"}),
        (5, {"id": "2", "text": "Müller", "note": None}),
        (6, "the row has 2 fields, and the header 3."),
    ]
    assert rows[3][0] == 7
    assert rows[3][1].startswith("no row of a CSV file: ")
    assert rows[4] == (8, {"id": "5", "text": "last", "note": "y"}, len(swapped.encode()))
    assert find_format(path, None, "").columns(path) == ["id", "text", "note"]


def test_csv_files_that_are_damaged(tmp_path: Path) -> None:
    path = tmp_path / "in.csv"
    assert read(path, b"") == []
    assert read(path, b"id,text\n") == []
    assert read(path, b"id,text\n1,M\xfcller\n2,b\n") == [
        (2, "not UTF-8; save the file as UTF-8.", 17),
        (3, {"id": "2", "text": "b"}, 21),
    ]
    (row,) = read(path, b'id,text\n1,"open\n2,b\n')
    assert row[1].startswith("no row of a CSV file: unexpected end of data (lines 2 to 3)")
    with pytest.raises(InputError, match="has 'id' twice"):
        read(path, b"id,id\n1,2\n")
    with pytest.raises(InputError, match="does not begin with the header of a CSV file in UTF-8"):
        read(path, "id,text\n1,a\n".encode("utf-16"))


ANSWERED = [
    (Item("a", "a", {"id": 1, "meta": {"x": [1, None]}}), {"label": 'good, "or"\nbad', "score": 0.5}),
    (Item("b", "b", {"id": 2, "meta": None}), FailedItem(2, "InputError", "The text is empty.")),
]


def encoded(name: str, answered: Any, columns: Any = None) -> str:
    return b"".join(FORMATS[name].encode(answered, columns)[0]).decode()


def test_written_lines() -> None:
    first, second = encoded("jsonl", ANSWERED).splitlines()
    assert json.loads(first) == ANSWERED[0][0].extra | {"answer": ANSWERED[0][1]}
    assert json.loads(second)["error"] == {"item": 2, "type": "InputError", "message": "The text is empty."}
    assert encoded("jsonl", [(Item("a", "a"), "\ud800")]) == '"\\ud800"\n'
    assert encoded("text", ANSWERED) == 'good, "or" bad\n\n'
    assert encoded("text", [(Item("a", "a"), [{"sequence": "best"}, {"sequence": "next"}])]) == "best\n"
    assert encoded("text", [(Item("a", "a"), {"labels": ["best", "next"], "scores": [0.9, 0.1]})]) == "best\n"
    with pytest.raises(InputError, match="more than a text"):
        encoded("text", [(Item("a", "a"), [{"entity": "PER"}])])
    with pytest.raises(InputError, match="holds a bytes, which JSON has no form for"):
        encoded("jsonl", [(Item("a", "a", {"raw": b"1"}), {})])
    dated = Item("a", "a", {"day": datetime.date(2024, 2, 29)})
    assert json.loads(encoded("jsonl", [(dated, {})]))["day"] == "2024-02-29"


def test_written_csv() -> None:
    header = "id,meta,answer.label,answer.score,error\n"
    rows = '1,"{""x"": [1, null]}","good, ""or""\nbad",0.5,\n2,,,,The text is empty.\n'
    pieces, columns = FORMATS["csv"].encode(ANSWERED, None)
    assert b"".join(pieces).decode() == header + rows
    assert encoded("csv", ANSWERED, columns) == rows
    assert encoded("tsv", ANSWERED[1:]) == "id\tmeta\terror\n2\t\tThe text is empty.\n"
    assert encoded("csv", [(Item("a", "a"), np.array([0.1, 2], np.float32))]) == 'answer\n"[0.100000001, 2.0]"\n'
    with pytest.raises(InputError, match="A row has 'more', which the rows before had not"):
        encoded("csv", [(Item("a", "a", {"more": 1}), {})], columns)


def test_columns_by_other_names(tmp_path: Path) -> None:
    source, output = tmp_path / "in.csv", tmp_path / "out.jsonl"
    source.write_text("uid,review,answer\n7,good film,x\n", encoding="utf-8")
    with pytest.raises(InputError, match=r"No column is called 'text'; .* 'uid', 'review', 'answer'.*--columns text=C"):
        echo.run(source, output)
    with pytest.raises(InputError, match="There is no column 'reviw'; the file has the columns 'uid', 'review', 'ans"):
        echo.run(source, output, columns={"text": "reviw"})
    echo.run(source, output, columns={"id": "uid", "text": "review", "gold": "answer", "original": "review"})
    answer = {"label": "good", "score": 3.0}
    expected = {"id": "7", "gold": "x", "original": "good film", "answer": answer}
    assert json.loads(output.read_text()) == expected
    lines = tmp_path / "in.jsonl"
    lines.write_text('{"review": "good film"}\n{"uid": 1}\n', encoding="utf-8")
    echo.run(lines, output, columns={"text": "review"}, force=True, on_error="return")
    first, second = map(json.loads, output.read_text().splitlines())
    assert first == answer
    assert second["error"]["message"] == "no 'review' in this row, which has uid."
    (tmp_path / "in.txt").write_text("a text\n", encoding="utf-8")
    with pytest.raises(InputError, match="a text without columns, and --columns names some"):
        echo.run(tmp_path / "in.txt", output, columns={"text": "review"}, force=True, on_error="raise")


def test_lists_in_csv(tmp_path: Path) -> None:
    rows = [Row(2, {"prompt": "p", "choices": '["a", "b"]', "lang": None}, 0), Row(3, {"choices": "a, b"}, 0)]
    first, second = (to_item(row, ("prompt", "choices", "lang"), None).given for row in rows)
    assert first == {"prompt": "p", "choices": ["a", "b"]}
    assert str(second).startswith("'choices' is no list in JSON")


@pytest.mark.parametrize("suffix", [".csv", ".jsonl", ".txt", ".tsv", ".parquet"])
@pytest.mark.parametrize("content", ["", "id,text\n"])
def test_empty_files(tmp_path: Path, suffix: str, content: str) -> None:
    if suffix == ".parquet":
        pytest.importorskip("pyarrow")
    source, output = tmp_path / "in.csv", tmp_path / f"out{suffix}"
    source.write_text(content, encoding="utf-8")
    assert echo.run(source, output).rows == 0
    assert read(output) == []


def test_parquet(tmp_path: Path) -> None:
    arrow = pytest.importorskip("pyarrow")
    from pyarrow import parquet

    source, output = tmp_path / "in.parquet", tmp_path / "out.parquet"
    days = [datetime.date(2024, 1, 1 + number) for number in range(9)]
    texts = [f"text {number}" for number in range(8)] + [None]
    # null in all rows of the first chunk, then a list
    late = [None] * 5 + [[1, 2]] * 4
    table = arrow.table({"uid": range(9), "text": texts, "day": days, "late": late, "unread": [0] * 9})
    parquet.write_table(table, source, row_group_size=2)
    columns = {name: name for name in ("uid", "text", "day", "late")}
    state = echo.run(source, output, on_error="return", columns=columns)
    assert (state.rows, state.failed) == (9, 1)
    found = parquet.read_table(output)
    assert [found[name].to_pylist() for name in ("uid", "day", "late")] == [list(range(9)), days, late]
    assert found["answer"].to_pylist()[7:] == [{"label": "text", "score": 2.0}, None]
    assert found["error"].to_pylist()[8]["item"] == 9
    with pytest.raises(InputError, match=r"no column 'id'; the file has the columns 'uid', 'text', 'day'"):
        echo.run(source, output, columns={"id": "id"}, force=True)
    source.write_text("none")
    with pytest.raises(InputError, match="is no Parquet file"):
        echo.run(source, output, force=True)
    mixed = [(Item("a", "a", {"id": 1}), {}), (Item("a", "a", {"id": "b"}), {})]
    with pytest.raises(InputError, match="A Parquet column has values of one kind"):
        FORMATS["parquet"].encode(mixed, None)
    _, columns = FORMATS["parquet"].encode(mixed[:1], None)
    with pytest.raises(InputError, match="A Parquet column has values of one kind"):
        FORMATS["parquet"].encode(mixed[1:], columns)  # when it comes, not after hours


def test_vectors_in_parquet(tmp_path: Path) -> None:
    arrow = pytest.importorskip("pyarrow")
    flat, deep = np.arange(3, dtype=np.float32), np.ones((2, 3), np.float32)
    for vectors, kind in ((flat, "list<item: float>"), (deep, "list<item: list<item: float>>")):
        pieces, _ = FORMATS["parquet"].encode([(Item("a", "a"), vectors)], None)
        table = arrow.ipc.open_stream(b"".join(pieces)).read_all()
        assert str(table.schema.field("answer").type) == kind
        assert table["answer"].to_pylist() == [vectors.tolist()]
