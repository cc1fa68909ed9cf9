"""Bundles that others made: no field is used before it was checked, and nothing outside the folder is read."""

from __future__ import annotations

import json
import os
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from tests.conftest import Bundles
from xlm_runtime import BundleError, EngineError, pipeline
from xlm_runtime.bundle import BUNDLE_FILE, Bundle, file_sha256
from xlm_runtime.bundle.engine_stamp import EngineStamp
from xlm_runtime.bundle.schema import READ_FILES
from xlm_runtime.cli import main as cli
from xlm_runtime.tokenization import files as tokenizer_files

TASK = "text-classification"


@pytest.fixture
def copy(bundles: Bundles, tmp_path: Path) -> Path:
    return Path(shutil.copytree(bundles(TASK), tmp_path / "copy"))


def edit(folder: Path, *place: str | int, value: Any) -> None:
    """Put a value into `bundle.json`."""
    path = folder / BUNDLE_FILE
    contents = json.loads(path.read_text(encoding="utf-8"))
    inner = contents
    for key in place[:-1]:
        inner = inner[key]
    inner[place[-1]] = value
    path.write_text(json.dumps(contents), encoding="utf-8")


def replace_file(folder: Path, name: str, text: str) -> None:
    """Another content, with its hash in `bundle.json`."""
    (folder / name).write_text(text, encoding="utf-8")
    edit(folder, "files", name, value=file_sha256(folder / name))


def refused(folder: Path, message: str) -> None:
    """By everything that opens a bundle, with one error."""
    with pytest.raises(BundleError, match=message):
        Bundle.load(folder, accept_failed=True)
    with pytest.raises(BundleError, match=message):
        pipeline(TASK, folder)
    assert cli.main(["info", str(folder)]) == 1


EDITS: dict[str, tuple[tuple[str | int, ...], Any, str]] = {
    "a version that is no number": (("format_version",), "1", r"'format_version' is '1', expected a whole number"),
    "an older version": (("format_version",), 0, "format version 0, this xlm-onnx reads version 1; export it again"),
    "no graphs": (("graphs",), [], r"'graphs' is \[\], expected a list of 1 or more"),
    "graphs as an object": (("graphs",), {}, "expected a list"),
    "no task of the table": (("task",), "ner", "Unknown task 'ner'"),
    "a task of another head": (("task",), "fill-mask", "answers the task text-classification, not 'fill-mask'"),
    "files as a list": (("files",), ["model.onnx"], "'files' is .*expected an object"),
    "a hash that is none": (("files", "model.onnx"), "0", "expected a sha256, 64 hexadecimal digits"),
    "a hash of a folder above": (("files", "../secret"), "0" * 64, "expected a plain file name"),
    "a hash of an absolute path": (("files", "/etc/passwd"), "0" * 64, "expected a plain file name"),
    "a hash of the table itself": (("files", BUNDLE_FILE), "0" * 64, "expected a file beside the table of contents"),
    "a graph above the folder": (("graphs", 0, "file"), "../model.onnx", "expected the plain name of an .onnx file"),
    "a graph without a hash": (("graphs", 0, "file"), "other.onnx", "needs 'other.onnx', which has no hash there"),
    "a graph that is no graph": (("graphs", 0, "file"), "vocab.json", "expected the plain name of an .onnx file"),
    "weights above the folder": (("graphs", 0, "weights_in"), ["../x"], "expected a plain file name"),
    "weights without a hash": (("graphs", 0, "weights_in"), ["x"], "needs 'x', which has no hash there"),
    "a target with a separator": (("graphs", 0, "engine"), "a/b", "expected a word"),
    "an output that is missing": (("graphs", 0, "outputs", 0, "name"), "other", "has no output logits"),
    "providers that are no words": (("providers",), ["a b"], r"'providers'\[0\] is 'a b', expected a word"),
    "axes that are numbers": (("graphs", 0, "inputs", 0, "axes"), [1], r"axes\[0\] is 1, expected a string"),
    "half a character": (("versions", "torch"), "\ud800", "expected a string"),
    "no status": (("verification",), {}, "expected an object with 'status'"),
    "an unknown status": (("verification", "status"), "fine", "expected one of passed, failed, not run"),
    "reports as text": (("verification", "quantized"), "int8", r"'quantized' is 'int8', expected an object"),
    "a convention that is none": (("conventions", "cls_index"), ["first"], "expected one of first-sep, last, first"),
}


@pytest.mark.parametrize("case", EDITS)
def test_what_a_table_of_contents_may_not_hold(case: str, copy: Path) -> None:
    place, value, message = EDITS[case]
    edit(copy, *place, value=value)
    refused(copy, message)


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("[" * 100_000, "is not JSON"),
        ('{"a":' * 100 + "1" + "}" * 100, "more than 64 levels"),
        ("[1]", "must hold a JSON object, got list"),
        ('{"format_version": 1e999}', "expected a whole number"),
        ("\xff", "is not UTF-8"),
    ],
)
def test_contents_that_are_no_table(content: str, message: str, copy: Path) -> None:
    (copy / BUNDLE_FILE).write_bytes(content.encode("latin-1"))
    refused(copy, message)


@pytest.mark.parametrize("name", [BUNDLE_FILE, "config.json", "vocab.json", "model.onnx"])
def test_what_is_no_file_is_not_waited_for(name: str, copy: Path) -> None:
    (copy / name).unlink()
    os.mkfifo(copy / name)
    refused(copy, "is a pipe, expected a regular file")
    (copy / name).unlink()
    (copy / name).mkdir()
    refused(copy, "is a folder, expected a regular file")


@pytest.mark.parametrize("name", ["model.onnx", "config.json", "tokenizer_config.json"])
def test_links_out_of_the_folder_are_refused(name: str, copy: Path, tmp_path: Path) -> None:
    (copy / name).rename(tmp_path / name)
    (copy / name).symlink_to(tmp_path / name)
    refused(copy, rf"'{name}' .* is a link to .* which is not in the folder")


def test_links_inside_the_folder_are_not(copy: Path) -> None:
    (copy / "vocab.json").rename(copy / "words")
    (copy / "vocab.json").symlink_to("words")
    assert pipeline(TASK, copy)("Good!")["label"]


@pytest.mark.parametrize("name", ["vocab.json", "moses.json", "config.json"])
def test_what_is_read_has_a_hash(name: str, copy: Path) -> None:
    contents = json.loads((copy / BUNDLE_FILE).read_text())
    del contents["files"][name]
    (copy / BUNDLE_FILE).write_text(json.dumps(contents))
    refused(copy, f"File '{name}' .* has no hash in bundle.json")


def test_all_files_that_a_tokenizer_reads_are_known() -> None:
    names = {
        getattr(tokenizer_files, name)
        for name in ("VOCAB", "MERGES", "CONFIG", "SPECIAL_MAP", "ADDED", "TABLES", "WHOLE_WORDS", "TOKEN_INDEX")
    }
    assert names | {"config.json"} <= {*READ_FILES}


@pytest.mark.parametrize(
    ("option", "value"), [("num_labels", 10**9), ("n_layers", 300_000), ("vocab_size", 10**12), ("n_heads", "8")]
)
def test_sizes_are_checked_before_memory_is_taken(option: str, value: Any, copy: Path) -> None:
    config = json.loads((copy / "config.json").read_text())
    if option == "num_labels":
        del config["id2label"]
    replace_file(copy, "config.json", json.dumps({**config, option: value}))
    refused(copy, rf"{option} is \"?{value}\"?; expected")


def test_a_configuration_that_does_not_fit_the_graph(copy: Path) -> None:
    config = json.loads((copy / "config.json").read_text())
    replace_file(copy, "config.json", json.dumps(config | {"id2label": {"0": "yes", "1": "no"}}))
    opened = pipeline(TASK, copy)
    with pytest.raises(BundleError, match=r"gives logits of the shape \(1, 3\), and config.json has num_labels 2"):
        opened("Good!")


def test_a_graph_of_other_inputs_than_the_table_says(copy: Path) -> None:
    contents = json.loads((copy / BUNDLE_FILE).read_text())
    contents["graphs"][0]["inputs"].pop()
    (copy / BUNDLE_FILE).write_text(json.dumps(contents))
    with pytest.raises(BundleError, match=r"has the inputs input_ids, attention_mask, langs, but bundle\.json lists"):
        pipeline(TASK, copy)


@pytest.mark.parametrize(
    ("edit_tables", "message"),
    [
        (lambda tables: tables["classes"].update(alpha=["a"]), r"alpha\[0\] is 'a', expected a whole number"),
        (lambda tables: tables["classes"].update(lower=[97]), "the first and last code point of each range"),
        (lambda tables: tables["classes"].update(number=[]), "a list of 2 or more"),
        (lambda tables: tables["languages"].update(de="nowhere"), "the prefixes 'nowhere' of the language 'de'"),
        (lambda tables: tables["prefixes"]["en"].pop("numeric_only"), "expected an object with 'numeric_only'"),
    ],
)
def test_moses_tables(edit_tables: Callable[[Any], None], message: str, copy: Path) -> None:
    tables = json.loads((copy / "moses.json").read_text())
    edit_tables(tables)
    replace_file(copy, "moses.json", json.dumps(tables))
    with pytest.raises(BundleError, match=message):
        pipeline(TASK, copy)


STAMP = {
    "stamp_version": 1,
    "flavor": "tensorrt",
    "version": "10",
    "targets": ["sm90"],
    "precision": "fp16",
    "profiles": [{"name": "a", "shapes": {"input_ids": [[1, 1], [1, 16], [8, 64]]}}],
    "graph": "model.onnx",
    "sources": {"model.onnx": "0" * 64},
    "plan": "engines/a.plan",
    "plan_sha256": "0" * 64,
    "inputs": [{"name": "input_ids", "dtype": "int64", "axes": ["batch", "sequence"]}],
    "outputs": [{"name": "logits", "dtype": "float", "axes": ["batch"]}],
}


@pytest.mark.parametrize(
    ("entries", "message"),
    [
        ({"plan": "../../a.plan"}, "expected a plain file name inside the folder engines"),
        ({"plan": "engines/../model.onnx"}, "expected a plain file name inside the folder engines"),
        ({"graph": "/etc/passwd"}, "expected the plain name of an .onnx file"),
        ({"sources": []}, "expected an object"),
        ({"profiles": [{"name": "a", "shapes": {"input_ids": [[1, 1], [1, 16]]}}]}, "3 to 3 entries"),
        ({"profiles": [{"name": "a", "shapes": {"input_ids": [1, 2, 3]}}]}, "expected a list"),
        ({"stamp_version": [1]}, r"has version \[1\], this xlm-onnx reads version 1"),
    ],
)
def test_engine_stamps(entries: dict[str, Any], message: str, tmp_path: Path) -> None:
    path = tmp_path / "a.json"
    path.write_text(json.dumps(STAMP))
    assert json.loads(json.dumps(EngineStamp.load(path).to_dict())) == {**STAMP, "options": [], "lean_runtime": None}
    path.write_text(json.dumps(STAMP | entries))
    with pytest.raises(EngineError, match=message):
        EngineStamp.load(path)


def test_timings_that_are_none_are_told(copy: Path, capsys: pytest.CaptureFixture[str]) -> None:
    edit(copy, "calibration", value=[{"cpu": "a", "threads": {}}])
    assert cli.main(["info", str(copy)]) == 0
    assert "a damaged record; run `xlm-runtime autotune` again" in " ".join(capsys.readouterr().out.split())
