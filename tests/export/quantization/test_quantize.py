"""Quantised graphs: close to fp32 for every task, measured, limited, and the bundle as it was after any failure."""

from __future__ import annotations

import json
import shutil
import sys
from collections import Counter
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from onnxruntime.quantization import QuantType, quantize_dynamic

from tests.conftest import Bundles
from tests.runtime.texts import TEXTS
from tests.tolerances import RUNTIME_HALF, RUNTIME_INT8, RUNTIME_INT8_DYNAMIC
from xlm_export import VerificationError, verify
from xlm_export.cli.main import main
from xlm_export.onnx_graph.file import open_model
from xlm_export.quantization import RECIPES, Limits, quantize
from xlm_export.quantization.int8 import quantize_int8, rows_to_int8
from xlm_export.quantization.metric import read_data
from xlm_export.quantization.products import array, find_embeddings, find_products
from xlm_export.quantization.quality import Quality
from xlm_export.quantization.texts import Text, own_texts, read_texts
from xlm_export.verification.batches import BatchMaker
from xlm_runtime import GenerationOptions, InputError, pipeline
from xlm_runtime.bundle import Bundle
from xlm_runtime.machine import CpuFeatures
from xlm_runtime.sessions import Session, open_session, openvino_session
from xlm_runtime.sessions.openvino_session import transpose_int8_weights
from xlm_runtime.tasks import find_task

# What int8 may cost the tiny bundles, whose seeded weights are drawn wide: about three times what was measured.
INT8_DIVERGENCE = 1e-2
NAMES = [
    "feature-extraction",
    "fill-mask",
    "multiple-choice",
    "question-answering",
    "question-answering-simple",
    "text-classification",
    "text-generation",
    "token-classification",
]
FAST = {
    "int8-dynamic": ("fill-mask", "question-answering", "feature-extraction"),
    "int8-static": ("multiple-choice", "question-answering-simple"),
}
PARTS = ["layer 0 attention", "layer 0 ffn", "layer 1 attention", "layer 1 ffn", "head", "embeddings"]


def contents(folder: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in folder.iterdir()}


@pytest.fixture
def bundle(bundles: Bundles, tmp_path: Path) -> Path:
    return Path(shutil.copytree(bundles("text-classification"), tmp_path / "bundle"))


def check_prepared(session: Session, graph: Path, cache: Path) -> None:
    """The graph as ONNX Runtime prepared it computes the same bits."""
    ids = np.arange(20, 34, dtype=np.int64).reshape(2, 7)
    known = {"attention_mask": np.ones_like(ids), "langs": np.zeros_like(ids), "input_ids": ids}
    known |= {
        "logit_positions": np.arange(14),
        "cls_index": np.zeros(2, np.int64),
        "p_mask": np.zeros((2, 7), np.float32),
    }
    inputs = {name: known[name] for name in session.input_names}
    for _ in range(2):
        found = open_session(graph, engine_cache=cache).run(inputs)
        for name, expected in session.run(inputs).items():
            np.testing.assert_array_equal(found[name], expected)
    assert len(list(cache.iterdir())) == 1


@pytest.mark.parametrize(
    ("name", "recipe"),
    [
        pytest.param(name, recipe, marks=() if name in FAST[recipe] else pytest.mark.slow)
        for name in NAMES
        for recipe in FAST
    ],
)
def test_int8_of_every_task(name: str, recipe: str, bundles: Bundles, tmp_path: Path) -> None:
    folder = Path(shutil.copytree(bundles(name), tmp_path / "bundle"))
    before = contents(folder)
    made = quantize(folder, recipe)
    assert 0 < made.report["divergence"] < INT8_DIVERGENCE
    assert made.report["in_fp32"] == []
    if name == "feature-extraction":
        assert made.report["same_choice"] is None
    else:
        assert made.report["same_choice"] > 0.85  # of 26 rows or more, whose best two may be nearly equal
    assert made.report["milliseconds"]["int8"] > 0
    assert made.graph.target is None, "standard operators only"
    model = onnx.load(folder / made.graph.file)
    onnx.checker.check_model(model, full_check=True)
    assert {node.domain for node in model.graph.node} <= {"", "ai.onnx"}
    large = [item.name for item in model.graph.initializer if item.data_type == 1 and len(item.dims) == 2 and (
        item.dims[0] > 64 and item.dims[1] > 1)]  # fmt: skip
    assert large == [], "no fp32 matrix is left, embeddings included"
    assert (folder / made.graph.file).stat().st_size < 0.45 * (folder / "model.onnx").stat().st_size
    session = open_session(folder / made.graph.file)
    if name not in ("multiple-choice", "text-generation"):  # which have inputs of other shapes
        check_prepared(session, folder / made.graph.file, tmp_path / "cache")
    assert session.input_names == tuple(spec.name for spec in made.graph.inputs)
    assert session.output_names == tuple(spec.name for spec in made.graph.outputs)
    written = Bundle.load(folder)
    written.check_files()
    assert [graph.precision for graph in written.graphs] == ["fp32", "int8"]
    assert made.graph.file == f"model.{recipe}.onnx"
    assert written.verification["quantized"][made.graph.file] == made.report
    assert all((folder / item).read_bytes() == content for item, content in before.items() if item != "bundle.json")
    assert set(written.files) == {path.name for path in folder.iterdir()} - {"bundle.json"}


def test_dynamic_int8_equals_onnx_runtimes_own(bundle: Path, tmp_path: Path) -> None:
    """Products alone, by ONNX Runtime's quantiser: the same integers, so the same answers but for the order of sums."""
    made = quantize(bundle, "int8-dynamic", embeddings=False)
    quantize_dynamic(
        bundle / "model.onnx",
        tmp_path / "theirs.onnx",
        op_types_to_quantize=["MatMul", "Gemm"],
        per_channel=True,
        weight_type=QuantType.QInt8,
        extra_options={"MatMulConstBOnly": True, "WeightSymmetric": True},
    )
    written = Bundle.load(bundle)
    feeds = [case.inputs for case in BatchMaker.of(written, written.graph()).seeded()]
    fp32, ours, theirs = (
        open_session(path) for path in (bundle / "model.onnx", bundle / made.graph.file, tmp_path / "theirs.onnx")
    )
    for feed in feeds:
        want, got = theirs.run(feed)["logits"], ours.run(feed)["logits"]
        rows = feed["attention_mask"].any(axis=1)
        error = np.abs(want - fp32.run(feed)["logits"])[rows].max()
        assert np.abs(got - want)[rows].max() < 0.5 * error + 1e-5


@pytest.mark.parametrize("recipe", ["int8-dynamic", "int8-static"])
def test_padding_hardly_changes_an_answer(recipe: str, bundle: Path) -> None:
    """Dynamic scales are those of the whole batch, so that rows see their batch-mates there, within the rounding;
    static ones do not."""
    made = quantize(bundle, recipe)
    written = Bundle.load(bundle)
    maker = BatchMaker.of(written, made.graph)
    session = open_session(bundle / made.graph.file)
    rng = np.random.default_rng(0)
    rows = [rng.integers(0, 400, size) for size in (3, 40, 11, 25)]
    together = session.run(maker.feed(rows, [0, 1, 2, 3]))["logits"]
    alone = np.concatenate([session.run(maker.feed([row], [i]))["logits"] for i, row in enumerate(rows)])
    fp32 = open_session(bundle / "model.onnx").run(maker.feed(rows, [0, 1, 2, 3]))["logits"]
    scale = np.abs(fp32).max()
    assert np.abs(together - alone).max() < {"int8-dynamic": 0.05, "int8-static": 1e-4}[recipe] * scale
    assert np.abs(together - fp32).max() < 0.15 * scale


@pytest.mark.parametrize("seed", range(5))
def test_rows_to_int8(seed: int) -> None:
    rng = np.random.default_rng(seed)
    rows = (7, 5000)[seed % 2]
    values = (rng.normal(size=(rows, 33)) * rng.lognormal(0, 3, (rows, 1))).astype(np.float32)
    values[3] = 0
    for highest in (127, 63):
        quantized, scales = rows_to_int8(values, highest)
        assert quantized.dtype == np.int8
        assert np.abs(quantized).max() == highest
        assert (np.abs(quantized * scales[:, None] - values) <= scales[:, None] * 0.501).all()


def test_parts_and_shared_quantisation(bundle: Path) -> None:
    model = open_model(bundle / "model.onnx")
    assert list(dict.fromkeys(product.group for product in find_products(model))) == PARTS[:-1]
    assert len(find_embeddings(model, 422)) == 1
    quantize_int8(model, PARTS, None, vocab_size=422)
    kinds = [node.op_type for node in model.graph]
    assert kinds.count("MatMulInteger") == 2 * 6 + 1
    # queries, keys and values share one
    assert kinds.count("DynamicQuantizeLinear") == 2 * 4 + 1
    alone = open_model(bundle / "model.onnx")
    quantize_int8(alone, ["layer 1 ffn"], None, vocab_size=422)
    assert [node.op_type for node in alone.graph].count("MatMulInteger") == 2


def test_tied_embeddings_stay_one_matrix(bundles: Bundles, tmp_path: Path) -> None:
    folder = Path(shutil.copytree(bundles("fill-mask"), tmp_path / "bundle"))
    made = quantize(folder, "int8-dynamic")
    matrices = [item for item in onnx.load(folder / made.graph.file).graph.initializer if 422 in item.dims]
    assert sorted((item.data_type, len(item.dims)) for item in matrices) == [(1, 1), (1, 1), (1, 2), (3, 2)]


def test_sensitive_parts_stay_in_fp32(bundle: Path) -> None:
    everything = quantize(bundle, "int8-dynamic", per_layer=True).report
    assert sorted(everything["alone"]) == sorted(PARTS)
    assert everything["in_fp32"] == []
    limit = 0.8 * everything["divergence"]
    report = quantize(bundle, "int8-dynamic", limits=Limits(max_divergence=limit), force=True).report
    assert 0 < len(report["in_fp32"]) <= len(PARTS) // 2
    most = sorted(PARTS, key=lambda part: -everything["alone"][part])
    assert set(report["in_fp32"]) == set(most[: len(report["in_fp32"])])
    assert report["divergence"] <= limit


def test_parts_that_are_kept(bundle: Path) -> None:
    report = quantize(bundle, "int8-static", keep=["head", "layer 0 ffn"], embeddings=False).report
    assert report["in_fp32"] == ["layer 0 ffn", "head"]
    kinds = [node.op_type for node in onnx.load(bundle / "model.int8-static.onnx").graph.node]
    assert kinds.count("QuantizeLinear") == 2 * 4 + 1 - 3
    with pytest.raises(InputError, match="Unknown part 'tail' to keep; this graph has layer 0 attention"):
        quantize(bundle, "int8-static", keep=["tail"], force=True)


def test_seven_bits_where_sums_saturate(bundle: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(
        sys.modules[quantize.__module__], "cpu_features", lambda: CpuFeatures("x86", frozenset({"avx2"}))
    )
    with pytest.warns(UserWarning, match="saturate. Weights are kept to 7 bits"):
        quantize(bundle, "int8-dynamic")
    model = onnx.load(bundle / "model.int8-dynamic.onnx")
    matrices = [onnx.numpy_helper.to_array(item) for item in model.graph.initializer]
    assert max(np.abs(item).max() for item in matrices if item.dtype == np.int8) == 63


def test_int4(bundle: Path) -> None:
    made = quantize(bundle, "int4-weights")
    assert made.graph.target == "onnxruntime-cpu"
    assert 0 < made.report["divergence"] < RECIPES["int4-weights"].max_divergence
    assert "MatMulNBits" in {node.op_type for node in onnx.load(bundle / made.graph.file).graph.node}
    check_prepared(open_session(bundle / made.graph.file), bundle / made.graph.file, bundle.parent / "cache")
    assert pipeline("text-classification", bundle, precision="int4")("The old lighthouse")["label"]
    with pytest.raises(InputError, match="no graph in precision 'int4' for provider 'openvino'"):
        pipeline("text-classification", bundle, "openvino", precision="int4")


@pytest.mark.parametrize("name", ["text-classification", "fill-mask"])
def test_int4_is_smaller_than_int8(name: str, bundles: Bundles, tmp_path: Path) -> None:
    """Embeddings become int8 there, too, a tied projection reads them, and scales are kept in half precision."""
    folder = Path(shutil.copytree(bundles(name), tmp_path / "bundle"))
    made = quantize(folder, "int4-weights")
    quantize(folder, "int8-dynamic")
    assert made.report["in_fp32"] == []
    model = onnx.load(folder / made.graph.file)
    kinds = Counter(node.op_type for node in model.graph.node)
    assert (kinds["MatMulNBits"], kinds["MatMulInteger"]) == ((13, 0) if name == "text-classification" else (12, 1))
    in_fp32 = [item.name for item in model.graph.initializer if item.data_type == 1 and np.prod(item.dims) > 512]
    assert in_fp32 == []
    tables = [item for item in model.graph.initializer if item.dims[:1] == [422] and len(item.dims) == 2]
    assert sorted(item.data_type for item in tables) == [1, 3], "one int8 matrix, and its scales"
    sizes = [(folder / f"model.{end}.onnx").stat().st_size for end in ("int4-weights.onnxruntime-cpu", "int8-dynamic")]
    assert sizes[0] < sizes[1]


@pytest.mark.parametrize("name", ["text-classification", "fill-mask"])
def test_int4_of_some_parts(name: str, bundles: Bundles, tmp_path: Path) -> None:
    """What is kept computes as in fp32: the other products alone are MatMulNBits, and the bias comes after."""
    folder = Path(shutil.copytree(bundles(name), tmp_path / "bundle"))
    keep = ["head", "layer 0 attention"]
    report = quantize(folder, "int4-weights", keep=keep).report
    assert report["in_fp32"] == ["layer 0 attention", "head"]
    source, made = open_model(folder / "model.onnx"), open_model(folder / "model.int4-weights.onnxruntime-cpu.onnx")
    products = find_products(source)
    kept = [product for product in products if product.group in keep]
    left = {str(product.weight.name): product for product in find_products(made)}
    assert left.keys() == {str(product.weight.name) for product in kept}
    for product in kept:
        np.testing.assert_array_equal(array(left[str(product.weight.name)].weight), array(product.weight))
    kinds = [node.op_type for node in made.graph]
    assert kinds.count("MatMulNBits") == len(products) - len(kept) > 0


def test_sensitive_parts_of_int4_stay_in_fp32(bundle: Path) -> None:
    everything = quantize(bundle, "int4-weights", per_layer=True).report
    assert list(everything["alone"]) == PARTS
    assert all(divergence > 0 for divergence in everything["alone"].values())
    assert everything["in_fp32"] == []
    limit = 0.8 * everything["divergence"]
    report = quantize(bundle, "int4-weights", limits=Limits(max_divergence=limit), force=True).report
    assert 0 < len(report["in_fp32"]) <= len(PARTS) // 2
    most = sorted(PARTS, key=lambda part: -everything["alone"][part])
    assert set(report["in_fp32"]) == set(most[: len(report["in_fp32"])])
    assert report["divergence"] <= limit


def test_openvino_takes_the_tied_projection_as_int8(bundles: Bundles, tmp_path: Path) -> None:
    """Embeddings that are the last projection, too, lie in the file as the embeddings need them."""
    openvino = pytest.importorskip("openvino")
    folder = Path(shutil.copytree(bundles("fill-mask"), tmp_path / "bundle"))
    graph = folder / quantize(folder, "int8-static").graph.file
    model = openvino.Core().read_model(str(graph))
    before = of_int8_weights(model)
    assert before == ["Transpose"]
    assert of_int8_weights(transpose_int8_weights(openvino, model)) == []
    masked = "The <mask> stands at the edge."
    got, want = (pipeline("fill-mask", folder, name, precision="int8")(masked) for name in ("openvino", "cpu"))
    assert got[0]["token"] == want[0]["token"]
    assert got[0]["score"] == pytest.approx(want[0]["score"], rel=0.1)


def of_int8_weights(model: Any) -> list[str]:
    """The operators behind int8 constants that are neither read by rows nor turned into floating-point numbers."""
    behind = [
        use.get_node().get_type_name()
        for node in model.get_ops()
        if node.get_type_name() == "Constant" and node.get_element_type().get_type_name() == "i8"
        for use in node.output(0).get_target_inputs()
    ]
    return [name for name in behind if name not in ("Gather", "Convert")]


def test_bf16_is_for_openvino(bundle: Path) -> None:
    pytest.importorskip("openvino")
    made = quantize(bundle, "bf16")
    assert (made.graph.target, made.report["provider"]) == ("openvino", "openvino")
    assert 0 < made.report["divergence"] < RECIPES["bf16"].max_divergence
    types = {item.data_type for item in onnx.load(bundle / made.graph.file).graph.initializer if len(item.dims) == 2}
    assert onnx.TensorProto.BFLOAT16 in types
    assert pipeline("text-classification", bundle, "openvino", precision="bf16")("The old lighthouse")["label"]
    with pytest.raises(InputError, match="no graph in precision 'bf16' for provider 'cpu'"):
        pipeline("text-classification", bundle, precision="bf16")


@pytest.mark.parametrize(
    ("recipe", "tolerance"), [("int8-dynamic", RUNTIME_INT8_DYNAMIC), ("int8-static", RUNTIME_HALF["bf16"])]
)
def test_int8_is_portable(recipe: str, tolerance: float, bundle: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The same numbers in both engines, but for the bf16 that OpenVINO computes between products of fixed scales."""
    pytest.importorskip("openvino")
    quantize(bundle, recipe)

    def scores(provider: str) -> list[float]:
        return [
            answer["score"] for answer in pipeline("text-classification", bundle, provider, precision="int8")(TEXTS)
        ]

    want = scores("cpu")
    assert scores("openvino") == pytest.approx(want, abs=tolerance)
    monkeypatch.setattr(openvino_session, "compute_type", lambda *_: "f32")
    exact = RUNTIME_INT8 if recipe == "int8-static" else RUNTIME_INT8_DYNAMIC
    assert scores("openvino") == pytest.approx(want, abs=exact)


@pytest.mark.slow
def test_generation_with_int8(bundles: Bundles, tmp_path: Path) -> None:
    folder = Path(shutil.copytree(bundles("text-generation"), tmp_path / "bundle"))
    quantize(folder, "int8-dynamic")
    options = GenerationOptions(max_new_tokens=12, return_scores=True)
    fp32, int8 = (pipeline("text-generation", folder, precision=name) for name in ("fp32", "int8"))
    assert len(int8("The old lighthouse", options)["token_log_probs"]) > 0
    text = "In winter only two ships go to the island, and both are almost empty."
    assert int8.score(text)["log_likelihood"] == pytest.approx(fp32.score(text)["log_likelihood"], rel=0.05)
    verify(folder, bundles("text-generation").parent / "checkpoints" / "text-generation")
    assert Bundle.load(folder).verification["quantized"]["model.int8-dynamic.onnx"]["same_choice"] > 0.9


def test_calibration_texts(bundle: Path, tmp_path: Path) -> None:
    (tmp_path / "texts.txt").write_text("en\tThe old lighthouse\n\nZwei Schiffe fahren zur Insel.\nde\t Im Winter \n")
    assert read_texts(tmp_path / "texts.txt") == [
        Text("The old lighthouse", "en"),
        Text("Zwei Schiffe fahren zur Insel."),
        Text("Im Winter", "de"),
    ]
    report = quantize(bundle, "int8-static", calibration=tmp_path / "texts.txt").report
    assert report["texts"] == str(tmp_path / "texts.txt")
    (tmp_path / "empty.txt").write_text("\n \n")
    (tmp_path / "other.txt").write_text("xx\tsome text\n")
    (tmp_path / "latin.txt").write_bytes("Müller".encode("latin-1"))
    for name, message in (
        ("absent.txt", "not found; give a file"),
        ("empty.txt", "holds no text"),
        ("other.txt", "Unknown lang 'xx'; this bundle knows .* The text is 'some text'"),
        ("latin.txt", "is not UTF-8"),
    ):
        with pytest.raises(InputError, match=message):
            quantize(bundle, "int8-static", calibration=tmp_path / name, force=True)


def labelled(folder: Path, task: str, path: Path) -> None:
    """Data on which the fp32 graph is right, except for the last line."""
    texts = [item.text for item in own_texts()]
    answer = pipeline(task, folder)
    if task == "fill-mask":
        texts = [f"{text} <mask>" for text in texts]
        rows = [{"text": text, "answer": answer(text)[0]["token_str"]} for text in texts]
        rows[-1]["answer"] = "?"
    elif task == "multiple-choice":
        choices = ["In winter", "Two ships", "Anna"]
        rows = [{"prompt": text, "choices": choices, "label": answer(text, choices)["index"]} for text in texts]
        rows[-1]["label"] = 7
    elif task == "token-classification":
        rows = [{"text": t, "labels": [e["entity"] for e in answer(t, ignore_labels=())]} for t in texts]
    elif task == "text-generation":
        rows = [{"text": text} for text in texts]
    else:
        rows = [{"id": i, "text": text, "label": answer(text)["label"]} for i, text in enumerate(texts)]
        rows[-1]["label"] = "?"
    path.write_text("\n".join(json.dumps(row) for row in rows) + "\n")


@pytest.mark.parametrize(
    ("name", "metric", "fp32"),
    [
        ("text-classification", "accuracy", 7 / 8),
        pytest.param("fill-mask", "accuracy", 7 / 8, marks=pytest.mark.slow),
        pytest.param("multiple-choice", "accuracy", 7 / 8, marks=pytest.mark.slow),
        pytest.param("token-classification", "accuracy", 1.0, marks=pytest.mark.slow),
        pytest.param("text-generation", "-perplexity", None, marks=pytest.mark.slow),
    ],
)
def test_metric(name: str, metric: str, fp32: float | None, bundles: Bundles, tmp_path: Path) -> None:
    folder = Path(shutil.copytree(bundles(name), tmp_path / "bundle"))
    labelled(folder, name, tmp_path / "data.jsonl")
    report = quantize(folder, "int8-dynamic", data=tmp_path / "data.jsonl").report["metric"]
    assert report["name"] == metric
    if fp32 is not None:
        assert report["fp32"] == fp32
        assert report["quantized"] >= 0.6
    else:
        assert report["quantized"] == pytest.approx(report["fp32"], rel=0.1)
        assert report["fp32"] < -1
    before = contents(folder)
    with pytest.raises(VerificationError, match=f"its {metric} is .* the limit 1.5"):
        quantize(folder, "int8-dynamic", data=tmp_path / "data.jsonl", limits=Limits(min_metric=1.5), force=True)
    assert contents(folder) == before


def test_metric_of_question_answering(bundles: Bundles, tmp_path: Path) -> None:
    folder = Path(shutil.copytree(bundles("question-answering"), tmp_path / "bundle"))
    context = "Anna Miller lives in London."
    question = {"id": "1", "question": "Where?", "answers": [{"text": "London", "answer_start": 21}]}
    data = {"version": "1.1", "data": [{"title": "", "paragraphs": [{"context": context, "qas": [question]}]}]}
    (tmp_path / "squad.json").write_text(json.dumps(data))
    report = quantize(folder, "int8-dynamic", data=tmp_path / "squad.json").report["metric"]
    assert (report["name"], report["data"]) == ("F1", "squad.json")
    assert 0 <= report["fp32"] <= 100


@pytest.mark.parametrize(
    ("task", "text", "message"),
    [
        ("text-classification", '{"text": "a"}\n', 'Line 1 of .* has no "label"'),
        ("text-classification", "not json\n", "Line 1 of .* is not JSON"),
        ("text-classification", "[" * 100_000, "Line 1 of .* is not JSON"),
        ("text-classification", "\n", "holds no line"),
        ("feature-extraction", "{}\n", "The task feature-extraction has no metric"),
    ],
)
def test_data_that_cannot_be_used(task: str, text: str, message: str, tmp_path: Path) -> None:
    (tmp_path / "data.jsonl").write_text(text)
    with pytest.raises(InputError, match=message):
        read_data(task, tmp_path / "data.jsonl")


def test_lines_of_data_as_people_have_them(tmp_path: Path) -> None:
    """A byte order mark, keys of their own, and line ends that end no line of a file."""
    rows = [{"id": 1, "text": "a\u2028b", "label": "x"}, {"text": "c\x85d", "label": "y"}]
    lines = "".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows)
    (tmp_path / "data.jsonl").write_text(lines, encoding="utf-8-sig")
    assert read_data("text-classification", tmp_path / "data.jsonl") == rows
    (tmp_path / "texts.txt").write_text("de\tein\u2028Wort\n", encoding="utf-8-sig")
    assert read_texts(tmp_path / "texts.txt") == [Text("ein\u2028Wort", "de")]


@pytest.mark.parametrize(
    ("limits", "message"),
    [
        (Limits(max_divergence=1e-9), r"its divergence from fp32 is .* the limit 1e-09"),
        (Limits(min_agreement=1.01), r"it makes the same choice in [\d.]+ of the cases, the limit is 1.01"),
    ],
)
@pytest.mark.parametrize("recipe", ["int8-dynamic", "int4-weights"])
def test_over_a_limit_nothing_is_written(limits: Limits, message: str, recipe: str, bundle: Path) -> None:
    before = contents(bundle)
    with pytest.raises(VerificationError, match=message):
        quantize(bundle, recipe, limits=limits)
    assert contents(bundle) == before


@pytest.mark.parametrize("moment", ["calibrate", "count values", "quantise", "measure the time"])
def test_an_interruption_leaves_the_bundle_as_it_was(moment: str, bundle: Path) -> None:
    def interrupt(step: str, left: int) -> None:
        if step == moment:
            raise KeyboardInterrupt

    before = contents(bundle)
    with pytest.raises(KeyboardInterrupt):
        quantize(bundle, "int8-static", percentile=99, progress=interrupt)
    assert contents(bundle) == before


def test_a_graph_that_is_there_is_kept_without_force(bundle: Path) -> None:
    quantize(bundle, "int8-dynamic")
    with pytest.raises(InputError, match="has a graph by int8-dynamic already; use --force"):
        quantize(bundle, "int8-dynamic")
    quantize(bundle, "int8-static")
    quantize(bundle, "int8-dynamic", keep=["head"], force=True)
    quantize(bundle, "int4-weights")
    written = Bundle.load(bundle)
    written.check_files()
    assert [graph.precision for graph in written.graphs] == ["fp32", "int8", "int8", "int4"]
    assert [graph.recipe for graph in written.graphs] == [None, "int8-static", "int8-dynamic", "int4-weights"]
    reports = written.verification["quantized"]
    assert {graph.file: graph.recipe for graph in written.graphs[1:]} == {
        file: report["recipe"] for file, report in reports.items()
    }
    assert reports["model.int8-dynamic.onnx"]["in_fp32"] == ["head"]
    for recipe in ("int8-dynamic", "int8-static"):
        opened = pipeline("text-classification", bundle, precision=recipe)
        assert opened.model.graph.recipe == recipe
        assert opened("The old lighthouse")["label"]


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"recipe": "int2"}, "Unknown recipe 'int2'; expected one of int8-dynamic, int8-static"),
        ({"recipe": "bf16", "keep": ["head"]}, "quantises every part alike; leave out --keep"),
        ({"recipe": "bf16", "per_layer": True}, "quantises every part alike; leave out --keep and --per-layer"),
        (
            {"recipe": "int4-weights", "keep": ["embeddings"], "embeddings": False},
            "Unknown part 'embeddings' to keep; this graph has layer 0",
        ),
        ({"limits": Limits(min_metric=0.5)}, "min_metric was given without labelled data"),
        ({"data": "absent.jsonl"}, "File 'absent.jsonl' not found; give labelled data"),
    ],
)
def test_refused(options: dict[str, Any], message: str, bundle: Path) -> None:
    before = contents(bundle)
    with pytest.raises(InputError, match=message):
        quantize(bundle, options.pop("recipe", "int8-dynamic"), **options)
    assert contents(bundle) == before


def test_no_share_of_same_choices_where_nothing_is_chosen(bundles: Bundles, tmp_path: Path) -> None:
    folder = Path(shutil.copytree(bundles("feature-extraction"), tmp_path / "bundle"))
    with pytest.raises(InputError, match="feature-extraction gives vectors and chooses nothing; leave out"):
        quantize(folder, "int8-dynamic", limits=Limits(min_agreement=0.5))


def test_quality_by_hand() -> None:
    """KL(p || q) and choices of two rows, and the beam's candidates by their index."""
    quality = Quality(find_task("XLMForSequenceClassification"))
    quality.add(
        {"logits": np.log(np.array([[0.5, 0.5], [0.2, 0.8]]))},
        {"logits": np.log(np.array([[0.9, 0.1], [0.2, 0.8]]))},
        None,
    )
    assert quality.divergence == pytest.approx((0.9 * np.log(0.9 / 0.5) + 0.1 * np.log(0.1 / 0.5)) / 2)
    assert quality.same_choice == 1.0  # the first of two equal scores is chosen
    beam = Quality(find_task("XLMForQuestionAnswering"))
    want = {"start_top_index": np.array([[3, 1]]), "start_top_log_probs": np.array([[0.6, 0.4]])}
    beam.add({name: value[:, ::-1] for name, value in want.items()}, want, None)
    assert beam.divergence == pytest.approx(0, abs=1e-12)
    assert beam.same_choice == 0.0
    broken = Quality(find_task("XLMForSequenceClassification"))
    broken.add({"logits": np.array([[np.nan, 1.0]])}, {"logits": np.array([[0.0, 1.0]])}, None)
    assert not broken.finite


def test_command_line(bundle: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["quantize", str(bundle), "--recipe", "int8-dynamic", "--per-layer", "--min-agreement", "0.5"]) == 0
    out = capsys.readouterr().out
    assert "model.int8-dynamic.onnx" in out
    assert "same choice in 100.0% of the cases" in out
    assert "layer 1 ffn" in out
    assert "median of 5 passes over the first batch" in out
    assert f"answer with it: xlm-runtime text-classification {bundle} --precision int8-dynamic TEXT\n" in out
    assert json.loads((bundle / "bundle.json").read_text())["graphs"][1]["precision"] == "int8"
    assert main(["quantize", str(bundle), "--recipe", "int9"]) == 1
    assert "Unknown recipe" in capsys.readouterr().err
    assert main(["quantize", str(bundle), "--recipe", "int8-dynamic", "--force", "--max-divergence", "1e-9"]) == 1
    assert "was not added" in capsys.readouterr().err
