"""A trimmed checkpoint beside the one it comes from: tokens of texts, and outputs of models."""

from __future__ import annotations

import warnings
from collections import Counter
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch

from xlm_export.checkpoint.checkpoint import Checkpoint, load_checkpoint
from xlm_export.errors import VerificationError
from xlm_export.tracing.graph import ExportGraph
from xlm_export.trimming.texts import Text
from xlm_export.trimming.words import Selection
from xlm_export.verification.batches import BatchMaker
from xlm_export.verification.compare import compare
from xlm_export.verification.report import VerificationReport
from xlm_runtime.sessions import Array
from xlm_runtime.tasks import find_task
from xlm_runtime.tokenization import XLMTokenizer


@dataclass
class TokenChanges:
    """What a smaller vocabulary does to texts.

    Attributes:
        texts: how many; one counts once for each language that it may come in.
        same: how many of them have the same tokens.
        tokens: with all words.
        changed: how many of these are others now.
        tokens_now: with the smaller vocabulary.
        unknown, unknown_now: how many are `<unk>`.
    """

    texts: int = 0
    same: int = 0
    tokens: int = 0
    changed: int = 0
    tokens_now: int = 0
    unknown: int = 0
    unknown_now: int = 0


def token_changes(
    full: XLMTokenizer, trimmed: XLMTokenizer, selection: Selection, texts: Iterable[Text]
) -> TokenChanges:
    """Compare the tokens of texts.

    Raises:
        VerificationError: a text whose words are all kept has others.
    """
    found, kept, unknown = TokenChanges(), set(selection.ids), full.unk_token_id
    for text in texts:
        for lang in text.langs:
            before = full.encoder.ids(text.text, lang)
            now = [selection.ids[index] for index in trimmed.encoder.ids(text.text, lang)]
            if before != now and kept.issuperset(before):
                raise VerificationError(
                    f"The text {text.text!r:.80} has other tokens, though its words are all kept; please report this."
                )
            found.texts += 1
            found.same += before == now
            found.tokens += len(before)
            found.changed += (Counter(before) - Counter(now)).total()
            found.tokens_now += len(now)
            found.unknown += before.count(unknown)  # type: ignore[arg-type]  # None is in no list
            found.unknown_now += now.count(unknown)  # type: ignore[arg-type]
    return found


def compare_models(full: Checkpoint, trimmed_folder: Path, selection: Selection) -> VerificationReport:
    """Both models in float32 on drawn batches of kept words, scores of words as far as these are kept.

    Args:
        full: the checkpoint with all words.
        trimmed_folder: the trimmed one.

    Raises:
        VerificationError: they differ beyond rounding.
    """
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of the same checkpoint, a second time
        trimmed = load_checkpoint(trimmed_folder)
    task = find_task(full.architecture, None, full.config.causal)
    before, now = ExportGraph(full.model, task), ExportGraph(trimmed.model, task)
    choices = "num_choices" in task.rows
    maker = BatchMaker([spec.name for spec in now.inputs], trimmed.config, choices=choices, arbitrary=True)
    report = VerificationReport.of("fp32", "torch", now.outputs)
    ids = np.array(selection.ids)
    for case in maker.seeded():
        want = _outputs(before, case.inputs | {"input_ids": ids[case.inputs["input_ids"]]})
        for spec in now.outputs:
            if spec.axes[-1:] == ("vocab_size",):
                want[spec.name] = want[spec.name][..., ids]
        compare(report, task, now.outputs, case, _outputs(now, case.inputs), want)
        report.cases.append(case.name)
    if report.failures:
        raise VerificationError(f"The trimmed model answers otherwise; nothing was written.\n{report.table()}")
    return report


def _outputs(graph: ExportGraph, inputs: Mapping[str, Array]) -> dict[str, Array]:
    given = {name: torch.from_numpy(value) for name, value in inputs.items()}
    with torch.inference_mode():
        tensors = graph(given)
    return {spec.name: tensor.numpy() for spec, tensor in zip(graph.outputs, tensors, strict=True)}
