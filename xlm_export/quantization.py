"""Weights in fewer bits: a second graph in a bundle, made from its fp32 graph and compared with it.

Decoding reads every weight once for each token, so on a CPU it is as fast as the weights are small.
"""

from __future__ import annotations

import contextlib
import logging
import os
import tempfile
from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import onnx
from onnx import numpy_helper

from xlm_export.errors import VerificationError
from xlm_export.export import write_contents
from xlm_export.verification import OutputError, argmax_agrees
from xlm_export.verification_generation import GenerationCase, generation_cases, steps
from xlm_runtime.bundle import Bundle, Graph, file_sha256
from xlm_runtime.errors import InputError
from xlm_runtime.sessions import Session, open_session
from xlm_runtime.tokenization import XLMTokenizer


@dataclass(frozen=True)
class Recipe:
    """A way to quantise.

    `relative_error` and `argmax_agreement` are what it may cost against the fp32 graph: the largest difference of a
    score as a share of the largest score, and the share of steps that choose the same token, or one that fp32 scores
    alike within that difference.
    """

    precision: str
    convert: Callable[[Path, Path], None]
    relative_error: float
    argmax_agreement: float


def int8_dynamic(source: Path, target: Path) -> None:
    """Weights of matrix products in int8, a scale for each column; activations in uint8, measured in each call.

    Only MatMul and Gemm: ONNX Runtime's quantiser breaks other operators, such as Attention.
    """
    from onnxruntime.quantization import QuantType, quantize_dynamic

    with _quiet():
        quantize_dynamic(
            source,
            target,
            op_types_to_quantize=["MatMul", "Gemm"],
            per_channel=True,
            weight_type=QuantType.QInt8,
            use_external_data_format=source.stat().st_size > _INLINE or Path(f"{source}.data").is_file(),
            extra_options={"MatMulConstBOnly": True},
        )


def int4_weights(source: Path, target: Path) -> None:
    """Weights of matrix products in 4 bits, a scale for each 32 of a column; products in int8 (MatMulNBits).

    The operator is ONNX Runtime's own, so only ONNX Runtime runs this graph.
    """
    from onnxruntime.quantization.matmul_nbits_quantizer import DefaultWeightOnlyQuantConfig, MatMulNBitsQuantizer

    model = onnx.load(source)
    _gemm_to_matmul(model)
    config = DefaultWeightOnlyQuantConfig(block_size=32, is_symmetric=True, accuracy_level=4, bits=4)
    with _quiet():
        quantizer = MatMulNBitsQuantizer(model, algo_config=config)
        quantizer.process()
        quantizer.model.save_model_to_file(str(target), False)


RECIPES = {
    "int8-dynamic": Recipe("int8", int8_dynamic, relative_error=0.1, argmax_agreement=0.9),
    "int4-weights": Recipe("int4", int4_weights, relative_error=0.3, argmax_agreement=0.8),
}
_INLINE = 2**31 - 2**24


def quantize(
    bundle: str | Path, recipe: str, *, force: bool = False, progress: Callable[[str], None] | None = None
) -> Bundle:
    """Add a quantised graph to a bundle: `model.int8.onnx` beside `model.onnx`, with how well the two agree.

    The bundle is whole at every moment: the graph's file is there before `bundle.json` names it.

    Args:
        bundle: a folder with an fp32 graph for text-generation with a cache.
        recipe: a name out of `RECIPES`.
        force: replace a graph in the recipe's precision that is already there.
        progress: called with the name of each step before it starts.

    Raises:
        InputError: an unknown recipe, a bundle without such a graph, or the quantised graph is already there.
        BundleError: files that are missing or damaged.
        VerificationError: the quantised graph is over the recipe's limits; the bundle stays as it was.
    """
    step = progress or (lambda name: None)
    if recipe not in RECIPES:
        raise InputError(f"Unknown recipe '{recipe}'; expected one of {', '.join(RECIPES)}.")
    chosen = RECIPES[recipe]
    step("check the bundle")
    written = Bundle.load(bundle)
    written.check_files()
    source = written.graph("fp32")
    if not any(spec.name == "present.0.key" for spec in source.outputs):
        raise InputError(
            f"The bundle '{bundle}' ({written.task}) has no graph with a cache; `quantize` takes bundles for "
            "text-generation that were exported from a causal checkpoint."
        )
    kept = tuple(graph for graph in written.graphs if graph.precision != chosen.precision)
    if len(kept) < len(written.graphs) and not force:
        raise InputError(
            f"The bundle '{bundle}' has a graph in {chosen.precision} already; use --force (force=True) to replace it."
        )
    target = f"model.{chosen.precision}.onnx"
    with tempfile.TemporaryDirectory(prefix=".quantize.", dir=written.folder) as folder:
        made = Path(folder, target)
        step(f"quantise with {recipe}")
        chosen.convert(written.folder / source.file, made)
        reference = open_session(written.folder / source.file)
        tokenizer = XLMTokenizer.from_pretrained(written.folder)
        step("compare with fp32")
        report = agreement(chosen, reference, open_session(made), generation_cases(source.inputs, written.config,
                                                                                   tokenizer))  # fmt: skip
        report = {"recipe": recipe, **report}
        if report["status"] == "failed":
            raise VerificationError(
                f"The graph made by {recipe} differs too much from fp32 and was not added: {report}."
            )
        old = [name for name in written.files if name == target or name.startswith(f"{target}.")]
        files = {name: digest for name, digest in written.files.items() if name not in old}
        if old:  # no moment in which bundle.json and the file it names differ
            write_contents(replace(written, graphs=kept, files=files))
        for path in sorted(Path(folder).iterdir()):
            files[path.name] = file_sha256(path)
            os.replace(path, written.folder / path.name)
    entry = Graph(target, chosen.precision, source.layout, source.opset, source.inputs, source.outputs)
    quantized = {**written.verification.get("quantized", {}), chosen.precision: report}
    verification = {**written.verification, "quantized": quantized}
    return write_contents(replace(written, graphs=(*kept, entry), files=files, verification=verification))


def agreement(recipe: Recipe, reference: Session, candidate: Session, cases: list[GenerationCase]) -> dict[str, Any]:
    """How far a quantised graph is from the fp32 graph, each keeping its own cache through the same generations.

    `same_choice` is the share of steps in which both choose the same token, however close the second one is.
    """
    error = OutputError()
    same: list[np.ndarray] = []
    for case in cases:
        pairs = zip(steps(reference, case), steps(candidate, case), strict=True)
        for want, got in pairs:
            error.not_finite += int((~np.isfinite(got["logits"])).sum())
            error.add(got["logits"], want["logits"])
            error.add_choice(argmax_agrees(got["logits"], want["logits"], recipe.relative_error))
            same.append(got["logits"].argmax(axis=-1) == want["logits"].argmax(axis=-1))
    agreed = error.argmax_agreement or 0.0
    passed = not error.not_finite and error.relative <= recipe.relative_error and agreed >= recipe.argmax_agreement
    limit = {key: value for key, value in asdict(recipe).items() if key in ("relative_error", "argmax_agreement")}
    numbers = {"logits": error.to_dict(), "same_choice": float(np.concatenate(same).mean())}
    return {"status": "passed" if passed else "failed", "limit": limit, "against": "fp32", **numbers}


def _gemm_to_matmul(model: onnx.ModelProto) -> None:
    """Gemm with a transposed constant, x · Wᵀ (+ b) → MatMul (and Add), with Wᵀ as a weight of its own."""
    weights = {item.name: item for item in model.graph.initializer}
    for i, node in reversed(list(enumerate(model.graph.node))):
        options = {attribute.name: onnx.helper.get_attribute_value(attribute) for attribute in node.attribute}
        if node.op_type != "Gemm" or node.input[1] not in weights or options.get("transA"):
            continue
        if options.get("alpha", 1.0) != 1.0 or options.get("beta", 1.0) != 1.0:
            continue
        name = node.input[1]
        if options.get("transB"):
            name = f"{node.input[1]}.transposed"
            values = np.ascontiguousarray(numpy_helper.to_array(weights[node.input[1]]).T)
            model.graph.initializer.append(numpy_helper.from_array(values, name))
        product = f"{node.output[0]}.product" if len(node.input) > 2 else node.output[0]
        made = [onnx.helper.make_node("MatMul", [node.input[0], name], [product], name=f"{node.name}.matmul")]
        if len(node.input) > 2:
            made.append(onnx.helper.make_node("Add", [product, node.input[2]], list(node.output)))
        model.graph.node.remove(node)
        for new in reversed(made):
            model.graph.node.insert(i, new)


@contextlib.contextmanager
def _quiet() -> Iterator[None]:
    """Silence the quantiser's notes; it writes them to the root logger, errors still come through."""
    logger = logging.getLogger()
    level = logger.level
    logger.setLevel(logging.ERROR)
    try:
        yield
    finally:
        logger.setLevel(level)
