"""The table of providers: what it says is there, and a row is all that a new provider takes."""

from __future__ import annotations

import importlib
import json
import shutil
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from tests.conftest import Bundles
from tests.tolerances import RUNTIME_FP32
from xlm_runtime import InputError, pipeline
from xlm_runtime.autotune import measure
from xlm_runtime.bundle import Bundle
from xlm_runtime.cli.main import main
from xlm_runtime.filled_sizes import Multiples
from xlm_runtime.model.choose import choose
from xlm_runtime.providers import PROVIDERS, Provider, auto_order, building_providers, gpu_providers, verifying_provider
from xlm_runtime.sessions import GraphSource, Session, open_session
from xlm_runtime.sessions.session import Array, SessionOptions
from xlm_runtime.tasks import LAYOUTS

TASK = "text-classification"
TEXT = "Der alte Leuchtturm steht am Meer."


class ToySession:
    """Computes with ONNX Runtime and notes the shapes of its calls."""

    def __init__(self, session: Session, shapes: list[tuple[int, ...]]) -> None:
        self._session = session
        self._shapes = shapes
        self.input_names, self.output_names = session.input_names, session.output_names

    def run(self, inputs: Mapping[str, Array]) -> dict[str, Array]:
        self._shapes.append(inputs["input_ids"].shape)
        return self._session.run(inputs)


class ToyOpener:
    """What the row names: `opened` are the sources and options that it was given."""

    def __init__(self) -> None:
        self.opened: list[tuple[GraphSource, Provider, SessionOptions]] = []
        self.shapes: list[tuple[int, ...]] = []

    def __call__(self, source: GraphSource, provider: Provider, options: SessionOptions) -> Session:
        self.opened.append((source, provider, options))
        return ToySession(open_session(source, "cpu", options.threads), self.shapes)


TOY = ToyOpener()


@pytest.fixture
def toy(monkeypatch: pytest.MonkeyPatch) -> ToyOpener:
    """A machine on which provider "toy" is in the table."""
    row = Provider(
        name="toy",
        module="json",
        packages=("toy-engine",),
        extra="toy",
        device="cpu",
        opener=f"{__name__}:TOY",
        targets=("toy-target", None),
        max_tokens={"padded": 40, "packed": 40},
        filling=Multiples(8, 8),
        builds=True,
        auto_rank=-1,
    )
    monkeypatch.setitem(PROVIDERS, "toy", row)
    TOY.opened.clear()
    TOY.shapes.clear()
    return TOY


@pytest.mark.parametrize("row", PROVIDERS.values(), ids=PROVIDERS)
def test_every_row_names_what_is_there(row: Provider) -> None:
    module, _, function = row.opener.partition(":")
    assert callable(getattr(importlib.import_module(module), function))
    assert set(row.layouts) <= set(LAYOUTS) <= set(row.max_tokens)
    assert None in row.targets
    assert row.reads_engines == (row.module is None)


def test_what_follows_from_the_table() -> None:
    assert gpu_providers() == ("cuda", "tensorrt", "tensorrt-ep")
    assert building_providers() == ("cpu", "openvino", "tensorrt", "tensorrt-ep")
    assert auto_order() == ("tensorrt", "cuda", "cpu", "openvino")
    assert [verifying_provider(precision) for precision in ("fp32", "fp16", "bf16")] == ["cpu", "cpu", "openvino"]


def test_a_row_is_a_provider(toy: ToyOpener, bundles: Bundles, tmp_path: Path) -> None:
    expected = pipeline(TASK, bundles(TASK))([TEXT] * 8)
    opened = pipeline(TASK, bundles(TASK), "toy", engine_cache=tmp_path)
    found = opened([TEXT] * 8)
    assert [item["label"] for item in found] == [item["label"] for item in expected]
    assert [item["score"] for item in found] == pytest.approx([item["score"] for item in expected], abs=RUNTIME_FP32)
    ((source, provider, options),) = toy.opened
    assert (source.path.name, source.bundle and source.bundle.task) == ("model.onnx", TASK)
    assert (provider.name, options.engine_cache) == ("toy", tmp_path)
    assert len(toy.shapes) > 1, "its budget of tokens"
    assert max(rows * length for rows, length in toy.shapes) <= 40


def test_packed_batches_are_filled_up_to_its_multiples(toy: ToyOpener, bundles: Bundles) -> None:
    pipeline(TASK, bundles(f"{TASK}-packed"), "toy")([TEXT, TEXT])
    assert [shape[0] % 4 for shape in toy.shapes] == [0] * len(toy.shapes), "steps of at most a quarter of few tokens"


def test_it_is_preferred_for_graphs_of_its_target(toy: ToyOpener, bundles: Bundles, tmp_path: Path) -> None:
    folder = shutil.copytree(bundles(TASK), tmp_path / "copy")
    shutil.copy(folder / "model.onnx", folder / "toy.onnx")
    bundle = Bundle.load(folder)
    own = replace(bundle.graphs[0], file="toy.onnx", target="toy-target")
    files = bundle.files | {"toy.onnx": bundle.files["model.onnx"]}
    replace(bundle, graphs=(*bundle.graphs, own), files=files).write()
    assert pipeline(TASK, folder, "toy").model.graph.file == "toy.onnx"
    assert pipeline(TASK, folder, "cpu").model.graph.file == "model.onnx"
    assert choose(Bundle.load(folder), None, 1, None).provider == "toy", "the first in auto's order"


def test_autotune_and_the_command_line_know_it(
    toy: ToyOpener, bundles: Bundles, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    record = measure(bundles(TASK), 1, seconds=0.0)
    assert "toy" in [timing.provider for timing in record.timings]
    assert main([TASK, str(bundles(TASK)), TEXT, "--provider", "toy", "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["label"]
    with pytest.raises(SystemExit):
        main([TASK, "--help"])
    assert "toy" in capsys.readouterr().out


def test_an_unknown_provider_lists_the_table(toy: ToyOpener, bundles: Bundles) -> None:
    for open_it in (lambda: pipeline(TASK, bundles(TASK), "gpu"), lambda: open_session("model.onnx", "gpu")):
        with pytest.raises(InputError, match=r"Unknown provider 'gpu'; expected one of cpu, .*toy"):
            open_it()


def test_a_packed_graph_and_a_provider_for_padded_ones(bundles: Bundles) -> None:
    wrong: Any = bundles(f"{TASK}-packed")
    with pytest.raises(InputError, match=r"'tensorrt-ep' takes padded graphs, and 'model.onnx' is packed.*--layout"):
        pipeline(TASK, wrong, "tensorrt-ep")
