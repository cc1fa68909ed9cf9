"""Ranges of activations: extremes and percentiles of histograms, against all values recorded and sorted."""

from __future__ import annotations

import shutil
from pathlib import Path

import numpy as np
import onnx
import pytest

from tests.conftest import Bundles
from xlm_export.cli.main import main
from xlm_export.onnx_graph.file import open_model
from xlm_export.quantization import calibration, quantize
from xlm_export.quantization.calibration import BINS, extremes, middle, percentile_ranges
from xlm_export.quantization.int8 import Ranges
from xlm_export.quantization.products import find_products
from xlm_export.verification.batches import BatchMaker
from xlm_runtime import InputError
from xlm_runtime.bundle import Bundle
from xlm_runtime.sessions import Array, open_session

# float32 of a value near the edge of a bin
ROUNDING = 1e-5
# what 99.99% may cost the tiny bundles, as int8 itself in test_quantization.py
PERCENTILE_DIVERGENCE = 1e-2


def seeded(bundle: Bundle) -> list[dict[str, Array]]:
    return [case.inputs for case in BatchMaker.of(bundle, bundle.graph()).seeded()]


def outer_percentiles(values: Array, percentile: float) -> tuple[float, float]:
    """The slow twin of `middle`: the least and greatest value left when as many are cut off at either end."""
    inner = 100 - (100 - percentile) / 2
    low = -np.percentile(-values, inner, method="inverted_cdf")
    return float(low), float(np.percentile(values, inner, method="inverted_cdf"))


def recorded(source: Path, feeds: list[dict[str, Array]]) -> dict[str, Array]:
    """Every value that goes into a product, by the input's name."""
    names = list({str(product.input.name): None for product in find_products(open_model(source))})
    model = onnx.load(source)
    model.graph.output.extend(onnx.helper.make_tensor_value_info(name, onnx.TensorProto.FLOAT, None) for name in names)
    path = source.with_name("recorded.onnx")
    onnx.save(model, path)
    outputs = [open_session(path).run(feed) for feed in feeds]
    path.unlink()
    return {name: np.concatenate([each[name].ravel() for each in outputs]) for name in names}


@pytest.mark.parametrize("name", ["text-classification", pytest.param("fill-mask", marks=pytest.mark.slow)])
def test_ranges_of_a_graph(name: str, bundles: Bundles, tmp_path: Path) -> None:
    written = Bundle.load(shutil.copytree(bundles(name), tmp_path / "bundle"))
    source, scratch = written.folder / "model.onnx", written.folder / "scratch.onnx"
    feeds = seeded(written)
    values = recorded(source, feeds)
    ranges = extremes(source, scratch, feeds)
    assert ranges == {name: (each.min(), each.max()) for name, each in values.items()}
    for percentile in (99.9, 98.7, 80.3, 100):
        found = percentile_ranges(source, scratch, feeds, ranges, percentile)
        assert found.keys() == ranges.keys()
        for name, (low, high) in found.items():
            bin_width = (ranges[name][1] - ranges[name][0]) / BINS
            slack = ROUNDING * np.abs(ranges[name]).max()
            want_low, want_high = outer_percentiles(values[name], percentile)
            assert want_low - bin_width - slack <= low <= want_low + slack
            assert want_high - slack <= high <= want_high + bin_width + slack
    assert not scratch.exists()


@pytest.mark.parametrize("seed", range(20))
def test_middle(seed: int) -> None:
    """Of any distribution, outliers and gaps included."""
    rng = np.random.default_rng(seed)
    size, bins = int(rng.integers(1, 5000)), int(rng.integers(1, 300))
    values = rng.normal(size=size) * rng.lognormal(0, rng.uniform(0, 4), size) + rng.normal()
    low, high = values.min(), values.max() + 1e-3
    percentile = float(rng.uniform(50.1, 100))
    got = middle(np.histogram(values, bins, (low, high))[0], low, high, percentile)
    want, width = outer_percentiles(values, percentile), (high - low) / bins
    assert want[0] - width - 1e-9 <= got[0] <= want[0] + 1e-9
    assert want[1] - 1e-9 <= got[1] <= want[1] + width + 1e-9
    everything = middle(np.histogram(values, bins, (low, high))[0], low, high, 100)
    assert everything == pytest.approx((low, high))


def test_a_constant_input_keeps_its_range(bundles: Bundles, tmp_path: Path) -> None:
    written = Bundle.load(shutil.copytree(bundles("text-classification"), tmp_path / "bundle"))
    source, scratch = written.folder / "model.onnx", written.folder / "scratch.onnx"
    feeds = seeded(written)[:1]
    ranges: Ranges = {**extremes(source, scratch, feeds)}
    first = next(iter(ranges))
    found = percentile_ranges(source, scratch, feeds, {**ranges, first: (0.5, 0.5)}, 90)
    assert found[first] == (0.5, 0.5)
    assert found.keys() == ranges.keys()


def test_the_graph_of_histograms_gives_no_activations(
    bundles: Bundles, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What a call adds to memory does not depend on how much text it has."""
    written = Bundle.load(shutil.copytree(bundles("text-classification"), tmp_path / "bundle"))
    source, scratch = written.folder / "model.onnx", written.folder / "scratch.onnx"
    feeds = seeded(written)
    ranges = extremes(source, scratch, feeds)
    shapes: list[dict[str, tuple[int, ...]]] = []

    def spy(path: Path) -> object:
        session = open_session(path)
        for feed in feeds:
            outputs = session.run(feed)
            shapes.append({name: value.shape for name, value in outputs.items() if name.endswith("/Histogram")})
            assert set(outputs) - set(shapes[-1]) == {"logits"}
        return session

    monkeypatch.setattr(calibration, "open_session", spy)
    percentile_ranges(source, scratch, feeds, ranges, 99)
    assert shapes == [dict.fromkeys((f"{name}/Histogram" for name in ranges), (BINS,))] * len(feeds)


def test_percentile_of_a_bundle(bundles: Bundles, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    folder = Path(shutil.copytree(bundles("text-classification"), tmp_path / "bundle"))

    def scales() -> dict[str, float]:
        model = open_model(folder / "model.int8-static.onnx")
        return {
            str(node.inputs[0].name): float(node.inputs[1].const_value.numpy())
            for node in model.graph
            if node.op_type == "QuantizeLinear" and node.inputs[0] and node.inputs[1] and node.inputs[1].const_value
        }

    report = quantize(folder, "int8-static").report
    assert "percentile" not in report
    of_extremes = scales()
    arguments = ["quantize", str(folder), "--recipe", "int8-static", "--force", "--percentile"]
    assert main([*arguments, "99.5"]) == 0
    assert "ranges of activations hold 99.5% of their values" in capsys.readouterr().out
    assert Bundle.load(folder).verification["quantized"]["model.int8-static.onnx"]["percentile"] == 99.5
    narrower = scales()
    assert narrower.keys() == of_extremes.keys()
    assert all(narrower[name] <= of_extremes[name] for name in narrower)
    assert sum(narrower.values()) < 0.95 * sum(of_extremes.values())
    before = (folder / "model.int8-static.onnx").read_bytes()
    assert main([*arguments, "50"]) == 1
    assert "percentile is 50; expected more than 50 and at most 100" in capsys.readouterr().err
    with pytest.raises(InputError, match="int8-dynamic has no ranges from calibration; leave out --percentile"):
        quantize(folder, "int8-dynamic", percentile=99.9, force=True)
    assert (folder / "model.int8-static.onnx").read_bytes() == before


@pytest.mark.parametrize("name", ["text-generation", "text-classification-packed", "multiple-choice"])
def test_percentiles_of_other_graphs(name: str, bundles: Bundles, tmp_path: Path) -> None:
    """With a cache, packed, with choices: inputs of other shapes, and none of them clipped much."""
    folder = Path(shutil.copytree(bundles(name), tmp_path / "bundle"))
    report = quantize(folder, "int8-static", percentile=99.99).report
    assert report["percentile"] == 99.99
    assert report["finite"]
    assert 0 < report["divergence"] < PERCENTILE_DIVERGENCE
