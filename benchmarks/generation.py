"""Milliseconds a generated token: `python -m benchmarks.generation [--layers N] [--json FILE]`.

One process, two threads, greedy, seeded weights of the size of xlm-clm-ende-1024 made causal. For each batch and
context, in turns: this project's runtime in each precision, a loop over this project's torch model with its cache, and
transformers' `generate`. `stream` is one bare product of a vector and all the weights that a step reads, in ONNX
Runtime: no decoder of batch 1 can be faster. Milliseconds a step of the whole batch, the best of all rounds and in
brackets the median.
"""

from __future__ import annotations

import argparse
import gc
import json
import os
import statistics
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import torch

from benchmarks.checkpoints import write_checkpoint
from xlm_export import export, load_checkpoint
from xlm_export.quantization import RECIPES, quantize
from xlm_runtime import GenerationOptions, XLMConfig, pipeline
from xlm_runtime.bundle import Bundle
from xlm_runtime.generation.decoder import Prompt
from xlm_runtime.generation.search import make_strategy, search

NAME = "xlm-clm-ende-1024"
Steps = Callable[[np.ndarray, int], Iterator[float]]


def write_model(folder: Path, layers: int | None, recipes: list[str]) -> None:
    """The checkpoint, made causal, and its bundle with a graph for each recipe; what is there is kept."""
    if not (folder / "checkpoint" / "config.json").is_file():
        write_checkpoint(folder / "checkpoint", NAME, n_layers=layers, causal=True)
    if not (folder / "bundle" / "bundle.json").is_file():
        export(folder / "checkpoint", folder / "bundle", verify=False)
    there = {graph.recipe for graph in Bundle.load(folder / "bundle").graphs}
    for recipe in recipes:
        if recipe not in there:
            quantize(folder / "bundle", recipe)


def transformers_steps(folder: Path) -> Steps:
    """`generate` runs everything again for each token, so its first token costs what every one costs: one a round."""
    import transformers

    transformers.logging.set_verbosity_error()
    model = transformers.XLMWithLMHeadModel.from_pretrained(folder / "checkpoint").eval()

    def steps(ids: np.ndarray, count: int) -> Iterator[float]:
        # since 5.24 it would cache the mask token behind the text
        options = {
            "max_new_tokens": 1, "do_sample": False, "use_cache": False, "pad_token_id": 2, "eos_token_id": None,
        }  # fmt: skip
        began = time.perf_counter()
        model.generate(torch.from_numpy(ids), **options)
        yield time.perf_counter() - began

    return steps


def torch_steps(folder: Path) -> Steps:
    """The reference model with its own cache."""
    model: Any = load_checkpoint(folder / "checkpoint").model

    @torch.inference_mode()
    def steps(ids: np.ndarray, count: int) -> Iterator[float]:
        new, cache = torch.from_numpy(ids), model.transformer.empty_cache(len(ids))
        mask = torch.ones_like(new)
        for i in range(count + 1):
            began = time.perf_counter()
            output = model(new, mask, langs=torch.zeros_like(new), cache=cache, logits_to_keep=1)
            new, cache = output.logits[:, -1:].argmax(-1), cache.append(output.present)
            mask = torch.cat((mask, torch.ones_like(new)), dim=1)
            if i:  # the first is the prompt's
                yield time.perf_counter() - began

    return steps


def runtime_steps(folder: Path, precision: str, threads: int) -> Steps:
    """This project's search loop, from scores to tokens and back."""
    pipe = pipeline("text-generation", folder / "bundle", threads=threads, precision=precision, engine_cache=False)

    def steps(ids: np.ndarray, count: int) -> Iterator[float]:
        prompts = [Prompt(row.tolist()) for row in ids]
        options = GenerationOptions(max_new_tokens=count + 1, ignore_eos=True)
        strategy = make_strategy(prompts, options, [], lambda new: "length" if len(new) > count else None)
        running = search(pipe.decoder(), prompts, strategy)
        next(running)
        began = time.perf_counter()
        for _ in running:
            yield time.perf_counter() - began
            began = time.perf_counter()

    return steps


def weights_read(config: XLMConfig) -> int:
    """Numbers in the matrices that a step multiplies with: 12·emb_dim² a layer, and the projection to the words."""
    return config.n_layers * 12 * config.emb_dim**2 + config.vocab_size * config.emb_dim


def bare_products(config: XLMConfig, threads: int) -> dict[str, Steps]:
    """One vector times one matrix with as many numbers as a step reads, in fp32 and in int8."""
    import onnxruntime
    from onnx import TensorProto, helper, numpy_helper

    rows, columns = config.emb_dim, weights_read(config) // config.emb_dim
    rng = np.random.default_rng(0)
    found: dict[str, Steps] = {}
    for precision, operator in (("fp32", "MatMul"), ("int8", "MatMulInteger")):
        whole = precision == "int8"
        weights = rng.integers(-127, 128, (rows, columns), np.int8)
        stored = weights if whole else weights.astype(np.float32)
        vector = np.ones((1, rows), np.uint8 if whole else np.float32)
        kinds = (TensorProto.UINT8, TensorProto.INT32) if whole else (TensorProto.FLOAT, TensorProto.FLOAT)
        graph = helper.make_graph(
            [helper.make_node(operator, ["x", "w"], ["y"])],
            "product",
            [helper.make_tensor_value_info("x", kinds[0], vector.shape)],
            [helper.make_tensor_value_info("y", kinds[1], (1, columns))],
            [numpy_helper.from_array(stored, "w")],
        )
        model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)], ir_version=10)
        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads = threads
        session = onnxruntime.InferenceSession(model.SerializeToString(), options)
        found[f"stream {precision}"] = _timed(session, {"x": vector})
        del model, graph, weights, stored
        gc.collect()
    return found


def _timed(session: Any, feed: dict[str, np.ndarray]) -> Steps:
    def steps(ids: np.ndarray, count: int) -> Iterator[float]:
        for _ in range(count):
            began = time.perf_counter()
            session.run(None, feed)
            yield time.perf_counter() - began

    return steps


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--layers", type=int, help="cut the model to so many layers")
    parser.add_argument("--context", type=int, nargs="+", default=[32, 48, 128, 200, 400])
    parser.add_argument("--batch", type=int, nargs="+", default=[1, 8])
    parser.add_argument("--tokens", type=int, default=16, help="steps of each round")
    parser.add_argument("--rounds", type=int, default=4)
    parser.add_argument("--slow-rounds", type=int, default=2, help="rounds of torch and transformers")
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--recipes", nargs="*", choices=RECIPES, default=["int8-dynamic"])
    parser.add_argument("--folder", type=Path, help="keep checkpoint and bundle here, and use those that are there")
    parser.add_argument("--json", type=Path)
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    times: dict[tuple[str, int, int], list[float]] = {}
    with tempfile.TemporaryDirectory() as name:
        folder = options.folder or Path(name)
        write_model(folder, options.layers, options.recipes)
        config = XLMConfig.from_pretrained(folder / "bundle")
        contenders: dict[str, Steps] = bare_products(config, options.threads)
        # graph, by its recipe → the precision of its products
        precisions = {"fp32": "fp32", **{recipe: RECIPES[recipe].precision for recipe in options.recipes}}
        for graph in precisions:
            contenders[graph] = runtime_steps(folder, graph, options.threads)
        contenders |= {"torch, cached": torch_steps(folder), "transformers": transformers_steps(folder)}
        rng = np.random.default_rng(0)
        print("| batch × context | " + " | ".join(contenders) + " |\n|---" + "|---" * len(contenders) + "|")
        for batch in options.batch:
            for context in options.context:
                ids = rng.integers(14, config.vocab_size, (batch, context))
                for i in range(options.rounds):
                    for contender, steps in contenders.items():
                        if i < options.slow_rounds or contender not in ("torch, cached", "transformers"):
                            times.setdefault((contender, batch, context), []).extend(steps(ids, options.tokens))
                row = [times[contender, batch, context] for contender in contenders]
                cells = [f"{1000 * min(values):.1f} ({1000 * statistics.median(values):.1f})" for values in row]
                print(f"| {batch} × {context} | " + " | ".join(cells) + " |", flush=True)
    for batch in options.batch:
        for context in options.context:
            best = {contender: min(times[contender, batch, context]) for contender in contenders}
            ratios = [
                f"{graph} {best[graph] / best[f'stream {precision}']:.2f} of its stream, "
                f"{best['transformers'] / best[graph]:.0f} times transformers"
                for graph, precision in precisions.items()
                if f"stream {precision}" in best
            ]
            print(f"{batch} × {context}: {'; '.join(ratios)}")
    print(f"load average {os.getloadavg()[0]:.1f}")
    if options.json:
        rows = [
            {"contender": contender, "batch": batch, "context": context, "ms": [1000 * value for value in values]}
            for (contender, batch, context), values in times.items()
        ]
        options.json.write_text(json.dumps(rows, indent=1) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
