"""Runs a suite by the protocol: phases of contenders and workloads, a progress bar, a report that grows as it runs."""

from __future__ import annotations

import argparse
import datetime
import os
import sys
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
import psutil
from tqdm import tqdm

from benchmarks import machine
from benchmarks.plots import draw_plots
from benchmarks.process import ROOT, ContenderError
from benchmarks.protocol import Contender, Record, Recorder, Settings, Spec, check, measure, start_all
from benchmarks.report import read_report, summarize, write_tables
from benchmarks.workloads import Draw, Row, TextRow, Workload

REPORTS = ROOT / "benchmarks" / "reports"
OPTIONS = {"peer": "peers", "ours": "ours"}  # side → the option that chooses
Sample = Callable[[np.random.Generator], Draw]


@dataclass(frozen=True)
class Phase:
    """Contenders that run at the same time, and what they are asked.

    The first of `reference` that starts gives the right logits; `references` are others that some contenders are
    compared with, which take no part. `sample` gives each workload's draws, `checked` the sequences that are compared;
    `sizes` of the model ("layers", "dim", "vocab") and its precision's "bytes" are what bounds are computed from.
    """

    task: str
    specs: Sequence[Spec]
    workloads: Sequence[Workload]
    sample: Callable[[Workload], Sample]
    first: Row | TextRow
    reference: Sequence[Spec]
    references: Sequence[Spec]
    checked: Draw
    sizes: dict[str, int]


def add_options(parser: argparse.ArgumentParser, suite: str) -> None:
    """The options that every suite has."""
    parser.add_argument("--quick", action="store_true", help="a small model and few rounds: does everything run?")
    parser.add_argument("--only", metavar="W,…", help="only these workloads")
    parser.add_argument("--peers", metavar="P,…", help="only these peers, by the beginning of their names; '' for none")
    parser.add_argument("--ours", metavar="O,…", help="only these graphs of ours, likewise")
    parser.add_argument("--rounds", type=int, help="measured rounds (5)")
    parser.add_argument("--choice", type=int, help="draws that choose among ways to batch, after one to warm up (2)")
    parser.add_argument("--starts", type=int, help="fresh starts of each contender (3)")
    parser.add_argument("--threads", type=int, default=default_threads(), help="threads of a call (%(default)s)")
    parser.add_argument("--layers", type=int, help="cut the model to so many layers")
    parser.add_argument("--dim", type=int, help="narrow the model to so many columns")
    parser.add_argument("--vocab", type=int, help="words of the vocabulary")
    parser.add_argument("--bundle", type=Path, action="append", default=[], help="measure its graphs, too")
    parser.add_argument("--work", type=Path, default=ROOT / "build" / "benchmarks", help="models are kept here")
    parser.add_argument("--output", type=Path, metavar="PREFIX", help=f"default {REPORTS.name}/{suite}-DATE")
    parser.add_argument("--timeout", type=float, default=1800, help="seconds that one answer may take (%(default)s)")
    parser.add_argument("--render", type=Path, metavar="REPORT", help="only draw a report's tables and plots anew")


def read_options(parser: argparse.ArgumentParser, quick: Mapping[str, int]) -> argparse.Namespace | None:
    """The command line's options; None where they only ask for a report to be drawn anew, which is done here.

    Args:
        quick: what --quick sets, where another option does not.
    """
    options = parser.parse_args()
    if options.render:
        render(options.render)
        return None
    if options.quick:
        for name, value in quick.items():
            setattr(options, name, getattr(options, name) or value)
    return options


def default_threads() -> int:
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def make_settings(options: argparse.Namespace) -> Settings:
    """Raises SystemExit with one line where the numbers make no sense."""
    for name in ("rounds", "choice", "starts", "threads", "layers", "dim", "vocab"):
        value = getattr(options, name)
        if value is not None and value < 1:
            raise SystemExit(f"--{name} is {value}; expected a positive number.")
    there = sorted(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else []
    if there and options.threads > len(there):
        raise SystemExit(f"--threads is {options.threads}, but this process may use {len(there)} CPUs.")
    quick = options.quick
    return Settings(
        threads=options.threads,
        cpus=there[: options.threads],
        rounds=options.rounds or (2 if quick else 5),
        choice=options.choice or (1 if quick else 2),
        starts=options.starts or (1 if quick else 3),
        check_rows=8 if quick else 64,
        timeout=options.timeout,
    )


def choose_workloads(workloads: Sequence[Workload], only: str | None) -> list[Workload]:
    """Raises SystemExit on a name that there is not."""
    if only is None:
        return list(workloads)
    names = [name.strip() for name in only.split(",")]
    known = [workload.name for workload in workloads]
    for name in names:
        if name not in known:
            raise SystemExit(f"Unknown workload '{name}'; expected some of {', '.join(known)}.")
    return [workload for workload in workloads if workload.name in names]


def choose_contenders(specs: Sequence[Spec], peers: str | None, ours: str | None) -> list[Spec]:
    """Peers and graphs of ours whose names begin as asked (None for all), and every bound."""
    wanted = {"peer": _beginnings(peers), "ours": _beginnings(ours)}
    return [spec for spec in specs if (begin := wanted.get(spec.side)) is None or spec.name.startswith(tuple(begin))]


def check_names(specs: Sequence[Spec], peers: str | None, ours: str | None) -> None:
    """Raises SystemExit on a beginning that fits none of the contenders of all phases."""
    for side, beginnings in (("peer", _beginnings(peers)), ("ours", _beginnings(ours))):
        known = list(dict.fromkeys(spec.name for spec in specs if spec.side == side))
        for name in beginnings or []:
            if not any(each.startswith(name) for each in known):
                raise SystemExit(f"No name of --{OPTIONS[side]} begins with '{name}'; there are {', '.join(known)}.")


def may_be_chosen(option: str | None, name: str) -> bool:
    """Whether --peers or --ours may choose something whose name begins with `name`: what it may not is not made."""
    beginnings = _beginnings(option)
    return beginnings is None or any(each.startswith(name) or name.startswith(each) for each in beginnings)


def _beginnings(option: str | None) -> list[str] | None:
    return None if option is None else [name.strip() for name in option.split(",") if name.strip()]


def report_prefix(options: argparse.Namespace, suite: str) -> Path:
    """Where the report goes; never over another one."""
    stamp = datetime.datetime.now().strftime("%Y-%m-%d-%H%M%S")
    prefix: Path = options.output or REPORTS / f"{suite}-{stamp}"
    if Path(f"{prefix}.jsonl").exists():
        raise SystemExit(f"The report '{prefix}.jsonl' is already there; give another --output.")
    return prefix


def run_suite(
    suite: str,
    phases: Callable[[Record], Sequence[Phase]],
    settings: Settings,
    prefix: Path,
    about: dict[str, Any],
    after: Callable[[Record, Path], None] | None = None,
) -> dict[str, Any]:
    """Run all phases, write `prefix`.jsonl as they go and at the end .json, .md, .png and .svg; returns the summary.

    Args:
        phases: prepares what is needed and returns the phases; may record what is missing.
        about: what else the report's head says, such as the model's size.
        after: called when all speeds are measured, with what records and the file for what contenders print.
    """
    recorder = Recorder(Path(f"{prefix}.jsonl"))
    others = machine.OtherWork()
    head = {
        "kind": "run",
        "suite": suite,
        "started": datetime.datetime.now().isoformat(timespec="seconds"),
        "command": " ".join(["python -m benchmarks", suite, *sys.argv[1:]]),
        "settings": asdict(settings),
        "machine": machine.describe(),
        **about,
    }
    print(f"report: {recorder.path}")
    try:
        planned = phases(recorder)
        others.look()
        psutil.cpu_percent(2.0)  # this program does nothing meanwhile
        busy = others.look()
        recorder({**head, "load": os.getloadavg(), "other_cpus": busy})
        if busy > machine.QUIET:
            print(f"warning: other programs use {busy:.1f} CPUs; times will not be those of a quiet machine")
        with tqdm(total=sum(_steps(phase, settings) for phase in planned), disable=None) as bar:
            for phase in planned:
                _run_phase(phase, settings, Path(f"{prefix}.log"), recorder, bar)
        if after is not None:
            after(recorder, Path(f"{prefix}.log"))
        recorder({"kind": "end", "load": os.getloadavg()})
    except BaseException:
        recorder.close()
        print(f"cut short; what was measured: python -m benchmarks {suite} --render {recorder.path}", file=sys.stderr)
        raise
    recorder.close()
    return render(recorder.path)


def render(path: Path) -> dict[str, Any]:
    """Tables and plots of a report, a finished one or one cut short; prints the table.

    Raises:
        SystemExit: no report, or one in which nothing was measured.
    """
    prefix = path.with_suffix("")
    try:
        found = summarize(read_report(Path(f"{prefix}.jsonl")))
    except (OSError, ValueError) as error:
        raise SystemExit(f"The report '{prefix}.jsonl' cannot be drawn: {error}") from error
    print(write_tables(found, prefix))
    try:
        draw_plots(found, prefix)
    except ModuleNotFoundError as error:
        print(f"no plots without {error.name}; where it is installed, --render {prefix}.jsonl draws them")
    return found


def _steps(phase: Phase, settings: Settings) -> int:
    rng = np.random.default_rng(0)
    steps = 0
    for workload in phase.workloads:
        draw = phase.sample(workload)(rng)
        ways = [len(spec.ways_for(workload, draw)) for spec in phase.specs]
        steps += sum(number + settings.rounds for number in ways if number)
    return steps


def _run_phase(phase: Phase, settings: Settings, log: Path, record: Recorder, bar: Any) -> None:
    def progress(step: str) -> None:
        bar.set_description_str(f"{step[:60]:<60}")
        bar.update(1)

    for spec in phase.specs:
        record({"kind": "contender", "task": phase.task, **spec.to_dict()})
    record({"kind": "sizes", "task": phase.task, **phase.sizes})
    for workload in phase.workloads:
        record({"kind": "workload", "name": workload.name, "about": workload.about, "task": phase.task,
                "do": workload.do, "new_tokens": workload.new_tokens})  # fmt: skip
    bar.set_description_str(f"{'starting the contenders':<60}")
    running: list[Contender] = []
    try:
        generate = all(workload.do in ("generate", "decode") for workload in phase.workloads)
        several = phase.checked[0][:8] if settings.together and phase.checked else ()
        running = start_all(phase.specs, settings, log, phase.first, record, generate=generate, several=several)
        _check_phase(phase, running, settings, log, record)
        for workload in phase.workloads:
            measure(workload, running, settings, phase.sample(workload), record, progress)
            _rates(running, record)
        for contender in running:
            if contender.worker is not None and contender.worker.alive:
                record({"kind": "memory", "contender": contender.name, **contender.ask({"do": "memory"})})
    finally:
        for contender in running:
            contender.close()


def _check_phase(phase: Phase, running: Sequence[Contender], settings: Settings, log: Path, record: Record) -> None:
    """Correctness, with the references open for that long only."""
    if all(item.spec.side == "bound" for item in running):
        return  # bounds give no answers
    opened: dict[str, Contender] = {}

    def find(spec: Spec) -> Contender | None:
        there = next((item for item in running if item.name == spec.name), None)
        if there is not None:
            return there
        contender = Contender(spec, settings, log)
        try:
            contender.start()
        except ContenderError as error:
            record({"kind": "failed", "contender": spec.name, "workload": "check", "reason": str(error)})
            return None
        opened[spec.name] = contender
        return contender

    try:
        right = next((found for spec in phase.reference if (found := find(spec)) is not None), None)
        if right is None:
            return
        record({"kind": "reference", "task": phase.task, "contender": right.name})
        for spec in phase.references:
            if any(item.spec.reference == spec.name for item in running):
                find(spec)
        check(running, right, opened, phase.checked, record)
    finally:
        for contender in opened.values():
            contender.close()


def _rates(running: Sequence[Contender], record: Record) -> None:
    """What the machine can do at this moment."""
    for contender in running:
        kind = contender.spec.kind
        if kind in ("bare_products", "device_rates") and contender.worker is not None and contender.worker.alive:
            record({"kind": "bandwidth", **contender.ask({"do": "sweep"})})
            if kind == "device_rates":
                record({"kind": "rate", **contender.ask({"do": "rate"})})
                record({"kind": "clocks", "gpu": machine.gpu_clocks()})
            return
