"""Questions a second on XQuAD beside transformers' model in torch: `python -m benchmarks.question_answering`.

    [--data ../shared/data] [--head beam|simple] [--layers 6] [--dim 512] [--heads 8] [--questions 20] [--rounds 3]
    [--threads 2] [--json results.json]

Weights are seeded, since speed does not depend on what was learnt; the vocabulary is that of the 15-language model.
Both answer the same windows, language after language in turn, in one process with the same number of threads. Ours is
timed from text to answers: tokenising, windows, batches, the graph, decoding. transformers' is timed for its model
alone, on windows that are cut and padded beforehand: in our batches (by length, under the same budget of tokens), and
as they come, eight at a time. Processor time tells what a machine that others use as well would hide; with more than
one thread it holds the time that threads wait for each other.
"""

from __future__ import annotations

import argparse
import dataclasses
import json
import platform
import shutil
import statistics
import tempfile
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import onnxruntime
import torch
import transformers
from safetensors.torch import save_file

from benchmarks.checkpoints import SHARED, official_config
from xlm_export import export
from xlm_export.families.xlm import modeling
from xlm_runtime import pipeline
from xlm_runtime.model.batching import pad_rows, plan_batches
from xlm_runtime.question_answering.features import Question, Window, WindowBuilder, window_inputs
from xlm_runtime.question_answering.options import QuestionAnsweringOptions, resolve_options
from xlm_runtime.question_answering.squad_files import read_squad

LANGUAGES = ("en", "de", "es", "ru", "zh", "ar")
MODEL = "xlm-mlm-tlm-xnli15-1024"
HEADS = {"beam": "XLMForQuestionAnswering", "simple": "XLMForQuestionAnsweringSimple"}
OURS, BATCHED, PLAIN = "xlm_runtime, text to answers", "transformers, our batches", "transformers, batches of 8"
PLAIN_BATCH = 8


def write_checkpoint(folder: Path, data: Path, head: str, layers: int, dim: int, heads: int) -> Path:
    """A seeded checkpoint with the 15-language vocabulary."""
    folder.mkdir(parents=True)
    config = dataclasses.replace(
        official_config(MODEL, layers),
        emb_dim=dim,
        n_heads=heads,
        embed_init_std=dim**-0.5,
        architectures=[HEADS[head]],
    )
    torch.manual_seed(0)
    model = getattr(modeling, HEADS[head])(config)
    save_file(dict(model.state_dict()), folder / "model.safetensors", metadata={"format": "pt"})
    (folder / "config.json").write_text(json.dumps(config.to_dict()), encoding="utf-8")
    for name in ("vocab.json", "merges.txt", "tokenizer_config.json"):
        shutil.copyfile(data / MODEL / name, folder / name)
    return folder


class Peer:
    """transformers' model, fed with windows."""

    def __init__(self, checkpoint: Path, head: str) -> None:
        self.model: Any = getattr(transformers, HEADS[head]).from_pretrained(checkpoint).eval()
        self.beam = head == "beam"

    def inputs(self, windows: Sequence[Window]) -> dict[str, torch.Tensor]:
        arrays: dict[str, Any] = dict(pad_rows(windows, self.model.config.pad_token_id))
        if self.beam:
            arrays.update(window_inputs(windows, mask_cls=True))
        return {name: torch.from_numpy(value) for name, value in arrays.items()}

    @torch.inference_mode()
    def run(self, batches: Sequence[dict[str, torch.Tensor]]) -> list[Any]:
        return [self.model(**batch) for batch in batches]


def read_questions(data: Path, lang: str, count: int) -> list[Question]:
    """`count` questions of a language, from all of its paragraphs."""
    examples = read_squad(data / "xquad" / f"xquad.{lang}.json").examples
    return [Question(item.question, item.context, lang) for item in examples[:: max(1, len(examples) // count)][:count]]


def agreement(qa: Any, options: QuestionAnsweringOptions, peer: Peer, questions: list[Question]) -> float:
    """The largest difference between ours and transformers' logits of the best answers."""
    ours = [decodings[0] for decodings in qa.decode(questions, options, 1)]
    builder = WindowBuilder(qa.model.tokenizer, "first-sep")
    worst = 0.0
    for question, decoding in zip(questions, ours, strict=True):
        windows = question_windows(qa, builder, question, options)
        outputs = []
        for window in windows:
            (output,) = peer.run([peer.inputs([window])])
            outputs.append({name: value[0].numpy() for name, value in output.items()})
        theirs = qa.decode_windows(windows, outputs, options, 1)
        worst = max(worst, abs(theirs.null_logit - decoding.null_logit))
        if theirs.spans and decoding.spans:
            worst = max(worst, abs(theirs.spans[0].logit - decoding.spans[0].logit))
    return worst


def question_windows(
    qa: Any, builder: WindowBuilder, question: Question, options: QuestionAnsweringOptions
) -> list[Window]:
    lang_id = qa.model.languages.number(question.lang)
    return builder.windows(question.question, question.context, options, lang=question.lang, lang_id=lang_id)


def timed(call: Callable[[], Any]) -> np.ndarray:
    """Seconds of a call, and seconds of processor time."""
    began = time.perf_counter(), time.process_time()
    call()
    return np.array((time.perf_counter() - began[0], time.process_time() - began[1]))


def measure(options: argparse.Namespace) -> dict[str, Any]:
    torch.set_num_threads(options.threads)
    with tempfile.TemporaryDirectory() as folder:
        checkpoint = write_checkpoint(
            Path(folder, "checkpoint"), options.data, options.head, options.layers, options.dim, options.heads
        )
        bundle = export(checkpoint, Path(folder, "bundle"))
        qa = pipeline("question-answering", bundle.folder, threads=options.threads, engine_cache=False)
        peer = Peer(checkpoint, options.head)
        settings = resolve_options(512)
        builder = WindowBuilder(qa.model.tokenizer, "first-sep")
        questions = {lang: read_questions(options.data, lang, options.questions) for lang in LANGUAGES}
        windows = {
            lang: [window for item in items for window in question_windows(qa, builder, item, settings)]
            for lang, items in questions.items()
        }
        calls: dict[str, dict[str, Callable[[], Any]]] = {}
        for lang, items in questions.items():
            cut = windows[lang]
            plan = plan_batches([len(window) for window in cut], qa.model.batching.max_tokens)
            batched = [peer.inputs([cut[i] for i in batch]) for batch in plan]
            plain = [peer.inputs(cut[i : i + PLAIN_BATCH]) for i in range(0, len(cut), PLAIN_BATCH)]
            asked = [{"question": item.question, "context": item.context, "lang": lang} for item in items]
            calls[lang] = {
                OURS: lambda asked=asked: qa(asked),
                BATCHED: lambda batches=batched: peer.run(batches),
                PLAIN: lambda batches=plain: peer.run(batches),
            }
        for call in calls["en"].values():  # the first shapes allocate memory
            call()
        measured: dict[str, list[np.ndarray]] = {name: [] for name in (OURS, BATCHED, PLAIN)}
        for number in range(options.rounds):
            total = {name: np.zeros(2) for name in measured}
            for position, lang in enumerate(LANGUAGES):
                names = list(measured)
                shift = (number + position) % len(names)  # each is first, second and third in turn
                for name in names[shift:] + names[:shift]:
                    total[name] += timed(calls[lang][name])
            for name, value in total.items():
                measured[name].append(value)
        seconds = {name: statistics.median(value[0] for value in values) for name, values in measured.items()}
        processor = {name: statistics.median(value[1] for value in values) for name, values in measured.items()}
        count = sum(map(len, questions.values()))
        tokens = [len(window) for cut in windows.values() for window in cut]
        return {
            "head": options.head,
            "model": f"{options.layers} layers × {options.dim}, {qa.model.config.vocab_size} words",
            "threads": options.threads,
            "questions": count,
            "windows": len(tokens),
            "tokens": sum(tokens),
            "rounds": options.rounds,
            "largest_logit_difference": agreement(qa, settings, peer, [items[0] for items in questions.values()]),
            "seconds": seconds,
            "processor_seconds": processor,
            "questions_per_second": {name: count / value for name, value in seconds.items()},
            "tokens_per_second": {name: sum(tokens) / value for name, value in seconds.items()},
            "versions": {
                "python": platform.python_version(),
                "numpy": np.__version__,
                "onnxruntime": onnxruntime.__version__,
                "torch": torch.__version__,
                "transformers": transformers.__version__,
            },
        }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, default=SHARED)
    parser.add_argument("--head", choices=HEADS, default="beam")
    parser.add_argument("--layers", type=int, default=6)
    parser.add_argument("--dim", type=int, default=512)
    parser.add_argument("--heads", type=int, default=8)
    parser.add_argument("--questions", type=int, default=20, help="of each language")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--json", type=Path, help="write the figures there")
    options = parser.parse_args()
    if not (options.data / "xquad").is_dir():
        raise SystemExit(f"'{options.data}' has no folder xquad; name the reference data with --data.")
    figures = measure(options)
    print("| | questions/s | tokens/s | s | processor s |\n|---|---|---|---|---|")
    for name, seconds in figures["seconds"].items():
        rates = figures["questions_per_second"][name], figures["tokens_per_second"][name]
        print(
            f"| {name} | {rates[0]:.2f} | {rates[1]:.0f} | {seconds:.1f} | {figures['processor_seconds'][name]:.1f} |"
        )
    print(
        f"\n{figures['head']} head, {figures['model']}; {figures['questions']} questions of XQuAD in "
        f"{len(LANGUAGES)} languages, {figures['windows']} windows, {figures['tokens']} tokens; {figures['threads']} "
        f"threads each, medians of {figures['rounds']} rounds. Largest difference of logits: "
        f"{figures['largest_logit_difference']:.1e}."
    )
    if options.json:
        options.json.write_text(json.dumps(figures, indent=1) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
