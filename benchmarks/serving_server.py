"""The server of one model for the load test: `python -m benchmarks.serving_server SPEC PORT`, where SPEC is JSON.

SPEC: {"way": one of `serving_report`, "bundle": …, "checkpoint": …, "provider": …, "precision": …, "threads": N}

All ways have the same HTTP layer, the product's own; what differs is what stands behind it.
"""

from __future__ import annotations

import json
import sys
from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path
from typing import Any

import uvicorn

from benchmarks.serving_models import TASK
from benchmarks.serving_report import ALONE, BATCHED, TRANSFORMERS
from xlm_runtime import pipeline
from xlm_runtime.serving.app import make_app
from xlm_runtime.serving.models import ServedModel
from xlm_runtime.serving.options import ServingOptions


class Open:
    """Stands for the model of a pipeline, which the server asks whether it can compute."""

    def check_open(self) -> None:
        pass


class OneAtATime:
    """A pipeline for the server that answers one request after the other, in a thread.

    Args:
        pipe: ours, or transformers'.
    """

    def __init__(self, pipe: Any) -> None:
        self.model = Open()
        self.observe = None  # the server puts what counts batches here
        self._pipe = pipe
        self._thread = ThreadPoolExecutor(1)

    def __call__(self, inputs: str, *, top_k: int | None = 1, on_error: str = "raise") -> Any:
        return self._pipe(inputs, top_k=top_k)

    def submit(self, inputs: str, **arguments: Any) -> Future[Any]:
        return self._thread.submit(self, inputs, **arguments)

    def close(self) -> None:
        self._thread.shutdown()


def ours(spec: dict[str, Any]) -> Any:
    return pipeline(TASK, spec["bundle"], spec["provider"], spec["threads"], spec["precision"])


def transformers_pipeline(spec: dict[str, Any]) -> Any:
    """With the language embedding that the checkpoint wants by default, which transformers does not know of."""
    import torch
    import transformers

    torch.set_num_threads(spec["threads"])
    transformers.logging.set_verbosity_error()
    pipe = transformers.pipeline(TASK, model=spec["checkpoint"], device="cpu")
    config = json.loads(Path(spec["checkpoint"], "config.json").read_text(encoding="utf-8"))
    if "default_lang" in config:
        number = config["lang2id"][config["default_lang"]]

        def add_langs(model: Any, arguments: Any, named: dict[str, Any]) -> Any:
            return arguments, {**named, "langs": torch.full_like(named["input_ids"], number)}

        pipe.model.register_forward_pre_hook(add_langs, with_kwargs=True)
    return pipe


WAYS: dict[str, Callable[[dict[str, Any]], Any]] = {
    BATCHED: ours,
    ALONE: lambda spec: OneAtATime(ours(spec)),
    TRANSFORMERS: lambda spec: OneAtATime(transformers_pipeline(spec)),
}


def main() -> None:
    spec, port = json.loads(sys.argv[1]), int(sys.argv[2])
    options = ServingOptions()
    model = ServedModel("served", TASK, WAYS[spec["way"]](spec), options)
    app = make_app({"served": model}, options)
    uvicorn.run(app, host="127.0.0.1", port=port, access_log=False, log_level="warning")


if __name__ == "__main__":
    main()
