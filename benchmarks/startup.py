"""What starting costs: `python -m benchmarks.startup [--name NAME] [--layers N] [--rounds N] [--json FILE]`.

Import: `import xlm_runtime` beside `import numpy`, each in fresh processes, interleaved.

Starting: a classifier of this project and of its peers, each in fresh processes with two threads, interleaved, files in
the system's cache. The time is from the process's start to its first answer to a text, imports included; the first
start, which fills caches, is a column of its own. Memory is read when that answer is there (`/proc/PID/smaps_rollup`):
a process's own (pages that it wrote), and its proportional set size, where a page that several processes have counts in
parts. The last column is that of four processes together, by that of one alone.
"""

from __future__ import annotations

import argparse
import json
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from contextlib import ExitStack
from dataclasses import dataclass, field
from pathlib import Path

from benchmarks.prepare import OPTIMUM, Prepared, Size, code_folder, only_graph, prepare, prepare_checkpoint
from benchmarks.process import ROOT
from xlm_runtime.bundle import Bundle

TASK = "text-classification"
TEXT = "Der alte Leuchtturm steht am Rand der kleinen Stadt."
THREADS = 2
TOGETHER = 4

CLOCK = "import sys, time; began = time.perf_counter(); {}; print(time.perf_counter() - began)"
IMPORTS = {
    "import numpy": "import numpy",
    "import xlm_runtime": "import xlm_runtime, numpy",
    "from xlm_runtime import pipeline, XLMTokenizer": "from xlm_runtime import pipeline, XLMTokenizer",
}

# Programs that answer the text in argv[1] and then wait; argv[2:] are files and folders.
_WAIT = "\nprint('answered', flush=True); sys.stdin.read()"
OURS = f"""import sys; from xlm_runtime import pipeline
pipe = pipeline({TASK!r}, sys.argv[2], sys.argv[3], {THREADS}, engine_cache=sys.argv[4] or False)
assert pipe(sys.argv[1])["label"]"""
OPTIMUM_CLASSES = f"""import sys, onnxruntime
from optimum.onnxruntime import ORTModelForSequenceClassification; from transformers import XLMTokenizer
options = onnxruntime.SessionOptions(); options.intra_op_num_threads = {THREADS}
tokenizer = XLMTokenizer.from_pretrained(sys.argv[3])
model = ORTModelForSequenceClassification.from_pretrained(
    sys.argv[2], file_name="model_quantized.onnx", session_options=options)
assert model(**tokenizer(sys.argv[1], return_tensors="pt", return_token_type_ids=True)).logits.argmax() >= 0"""
TRANSFORMERS = f"""import sys, torch; from transformers import XLMForSequenceClassification, XLMTokenizer
torch.set_num_threads({THREADS})
tokenizer = XLMTokenizer.from_pretrained(sys.argv[2])
model = XLMForSequenceClassification.from_pretrained(sys.argv[2]).eval()
with torch.inference_mode(): assert model(**tokenizer(sys.argv[1], return_tensors="pt")).logits.argmax() >= 0"""
# graphs alone: no tokenizer, 16 tokens
_FEED = """
import numpy
def feed(names):
    ids = numpy.arange(20, 36)[None]
    whole = {"input_ids": ids, "attention_mask": numpy.ones_like(ids)}
    return {name: whole.get(name, numpy.zeros_like(ids)) for name in names}
"""
ONNXRUNTIME = f"""import sys, onnxruntime{_FEED}
options = onnxruntime.SessionOptions(); options.intra_op_num_threads = {THREADS}
session = onnxruntime.InferenceSession(sys.argv[2], options)
session.run(None, feed([item.name for item in session.get_inputs()]))"""
OPENVINO = f"""import sys, openvino{_FEED}
core = openvino.Core(); core.set_property({{"CACHE_DIR": sys.argv[3]}})
model = core.compile_model(sys.argv[2], "CPU", {{"INFERENCE_NUM_THREADS": {THREADS}, "PERFORMANCE_HINT": "LATENCY"}})
model(feed([port.get_any_name() for port in model.inputs]))"""


@dataclass
class Contender:
    """A program that answers one text.

    Args:
        code: Python, see `OURS`.
        arguments: of the program, behind the text.
        python: the environment's interpreter.
    """

    name: str
    code: str
    arguments: Sequence[str]
    python: str = sys.executable
    first: float = 0.0
    seconds: list[float] = field(default_factory=list)
    own: list[float] = field(default_factory=list)
    proportional: list[float] = field(default_factory=list)
    together: float = 0.0

    def row(self) -> dict[str, str | float]:
        """The figures: seconds and MB; `together` by the memory of one."""
        one = statistics.median(self.proportional)
        return {
            "contender": self.name,
            "first_start_s": self.first,
            "start_s": statistics.median(self.seconds),
            "own_mb": statistics.median(self.own),
            "proportional_mb": one,
            "four_by_one": self.together / one,
        }


@dataclass(frozen=True)
class Memory:
    """MB of a process: pages that it wrote, and its proportional set size."""

    own: float
    proportional: float


def read_memory(pid: int) -> Memory:
    """What the system tells of a process; Linux alone has it."""
    lines = Path(f"/proc/{pid}/smaps_rollup").read_text(encoding="ascii").splitlines()[1:]
    kilobytes = {name: int(value.split()[0]) for name, _, value in (line.partition(":") for line in lines)}
    return Memory(kilobytes["Private_Dirty"] * 1024 / 1e6, kilobytes["Pss"] * 1024 / 1e6)


class Running:
    """A contender's process, from its start to the first answer; it waits until the block ends.

    Raises:
        SystemExit: it ended without an answer.
    """

    def __init__(self, contender: Contender, text: str = TEXT) -> None:
        command = [contender.python, "-c", contender.code + _WAIT, text, *contender.arguments]
        began = time.perf_counter()
        pipes = subprocess.PIPE
        self._process = subprocess.Popen(command, cwd=ROOT, stdin=pipes, stdout=pipes, stderr=pipes, text=True)
        assert self._process.stdout is not None
        line = self._process.stdout.readline()
        self.seconds = time.perf_counter() - began
        if line.strip() != "answered":
            raise SystemExit(f"{contender.name} failed: {line}{self._process.communicate()[1]}")

    def __enter__(self) -> Running:
        return self

    def __exit__(self, *exception: object) -> None:
        self._process.communicate()

    def memory(self) -> Memory:
        return read_memory(self._process.pid)


def measure(contenders: Sequence[Contender], rounds: int) -> None:
    """Start each once, and then round after round; then several of each at once."""
    for contender in contenders:
        with Running(contender) as process:
            contender.first = process.seconds
    for _ in range(rounds):
        for contender in contenders:
            with Running(contender) as process:
                memory = process.memory()
            contender.seconds.append(process.seconds)
            contender.own.append(memory.own)
            contender.proportional.append(memory.proportional)
    for contender in contenders:
        with ExitStack() as stack:
            processes = [stack.enter_context(Running(contender)) for _ in range(TOGETHER)]
            contender.together = sum(process.memory().proportional for process in processes)


def list_contenders(made: Prepared, folder: Path) -> list[Contender]:
    """Those whose graphs could be made; `folder` takes their caches, and views of bundles with one graph each."""
    listed = []
    for layout, precision, provider, cached in (
        ("packed", "int8", "cpu", True),
        ("packed", "int8", "cpu", False),
        ("packed", "fp32", "cpu", True),
        ("packed", "fp32", "cpu", False),
        ("packed", "int8", "openvino", True),
    ):
        source = made.bundles.get(f"{layout} int8-static")
        if source is None:
            continue
        bundle = Bundle.load(source)
        view = only_graph(bundle, bundle.graph(precision), folder)
        cache = folder / f"cache-{precision}-{provider}" if cached else ""
        name = f"ours, {precision} {layout}, {provider}{', with its cache' if cached else ''}"
        listed.append(Contender(name, OURS, [str(view), provider, str(cache)]))
    if made.optimum is not None:
        graph = str(made.optimum / "model_quantized.onnx")
        arguments = [str(made.optimum), str(made.checkpoint)]
        listed.append(Contender("optimum, int8", OPTIMUM_CLASSES, arguments, str(OPTIMUM)))
        listed.append(Contender("optimum's int8 graph alone, onnxruntime", ONNXRUNTIME, [graph]))
    padded = made.bundles.get("padded int8-static")
    if padded is not None:
        graph = str(padded / Bundle.load(padded).graph("int8").file)
        listed.append(Contender("our padded int8 graph alone, onnxruntime", ONNXRUNTIME, [graph]))
        listed.append(Contender("the same, openvino with CACHE_DIR", OPENVINO, [graph, str(folder / "openvino")]))
    listed.append(Contender("transformers, fp32", TRANSFORMERS, [str(made.checkpoint)]))
    return listed


def medians(codes: dict[str, str], rounds: int) -> dict[str, float]:
    """Median ms of each code, in a fresh process each time, round after round."""
    times: dict[str, list[float]] = {name: [] for name in codes}
    for _ in range(rounds):
        for name, code in codes.items():
            command = [sys.executable, "-c", CLOCK.format(code)]
            output = subprocess.run(command, check=True, capture_output=True, text=True).stdout
            times[name].append(float(output) * 1000)
    return {name: statistics.median(values) for name, values in times.items()}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--name", default="xlm-mlm-tlm-xnli15-1024", help="the official configuration (%(default)s)")
    parser.add_argument("--layers", type=int, help="cut the model to this many layers")
    parser.add_argument("--dim", type=int, help="narrow the model to so many columns")
    parser.add_argument("--vocab", type=int, help="words of the vocabulary")
    parser.add_argument("--rounds", type=int, default=5, help="(%(default)s)")
    parser.add_argument("--no-peers", action="store_true", help="measure this project alone")
    parser.add_argument("--work", type=Path, default=ROOT / "build" / "benchmarks", help="models are kept here")
    parser.add_argument("--json", type=Path, metavar="FILE", help="write the figures there")
    options = parser.parse_args()
    imports = medians(IMPORTS, 3 * options.rounds)
    size = Size(options.name, options.layers, options.dim, options.vocab)
    folder = options.work / size.folder
    made = prepare(
        code_folder(folder),
        TASK,
        prepare_checkpoint(folder, TASK, size),
        variants=["int8-static"],
        peers=not options.no_peers,
        nncf=False,
        optimum=OPTIMUM,
        progress=lambda what: print(what, file=sys.stderr),
    )
    for what, reason in made.missing.items():
        print(f"{what} is left out: {reason}", file=sys.stderr)
    with tempfile.TemporaryDirectory(dir=folder) as caches:
        contenders = list_contenders(made, Path(caches))
        if options.no_peers:
            contenders = [contender for contender in contenders if contender.code == OURS]
        measure(contenders, options.rounds)
    print("| what | ms |\n|---|---|")
    for name, value in imports.items():
        print(f"| {name} | {value:.1f} |")
    print("\n| contender | first start, s | start, s | own MB | proportional MB | four by one |")
    print("|---|---|---|---|---|---|")
    rows = [contender.row() for contender in contenders]
    for row in rows:
        name, *figures = row.values()
        print(f"| {name} | " + " | ".join(f"{float(figure):.2f}" for figure in figures) + " |")
    print(f"\n{size.folder}, {THREADS} threads; medians of {options.rounds} fresh processes.")
    if options.json:
        options.json.write_text(json.dumps({"imports_ms": imports, "starts": rows}, indent=1) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
