"""A process with one contender: `python -m benchmarks.worker SPEC`, where SPEC is JSON.

Each contender has a process of its own, so that its memory and its start are its own, its threads are set before any
library reads the environment, and a peer may live in another environment. It reads a JSON object a line from standard
input and answers each with one on standard output. What is timed is here: from token ids (or texts) in Python lists to
numbers in Python, batching and padding included.

SPEC: {"kind": module of benchmarks.contenders, "options": {…}, "threads": N, "cpus": [CPUs to stay on]}

    {"do": "run", "groups": [[[ids, lang, mask], …], …], "way": …, "batch_rows": N or null, "outputs": bool}
        → {"seconds": [of each group], "outputs": [of each row]}
    {"do": "texts", "groups": [[text, …], …]} → {"seconds": […]}
    {"do": "generate", "groups": as for "run", "new_tokens": N} → {"seconds": […], "outputs": [new ids of each row]}
    {"do": "decode", as for "generate"} → {"seconds": [of N tokens behind the first], "outputs": [N + 1 ids of each]}
    {"do": "sweep"} → {"seconds": S, "bytes": read from memory meanwhile}
    {"do": "rate"} → {"operations_per_second": of matrix products}
    {"do": "memory"} → {"rss_mb": now, "peak_mb": at its highest}
"""

from __future__ import annotations

import importlib
import json
import os
import resource
import sys
import time
from pathlib import Path
from typing import Any

from benchmarks.workloads import ALL_LOGITS, OWN, Row, plan


def main() -> None:
    spec = json.loads(sys.argv[1])
    # libraries print what they like; answers go through a channel of their own
    channel = os.fdopen(os.dup(1), "w", encoding="utf-8")
    os.dup2(2, 1)
    if spec.get("cpus") and hasattr(os, "sched_setaffinity"):
        os.sched_setaffinity(0, set(spec["cpus"]))

    def send(message: dict[str, Any]) -> None:
        channel.write(json.dumps(message) + "\n")
        channel.flush()

    try:
        began = time.perf_counter()
        module = importlib.import_module(f"benchmarks.contenders.{spec['kind']}")
        imported = time.perf_counter()
        model = module.open_model(spec["options"], spec["threads"])
        loaded = time.perf_counter()
        send(
            {"import": imported - began, "load": loaded - imported, "about": getattr(model, "about", None), **memory()}
        )
    except Exception as error:  # a contender that cannot start is a row of the report, whatever the reason
        send({"error": _explain(error)})
        return
    actions = {
        "run": _run,
        "texts": _texts,
        "generate": _generate,
        "decode": _decode,
        "sweep": lambda model, message: model.sweep(),
        "rate": lambda model, message: model.rate(),
        "memory": lambda model, message: memory(),
    }
    for line in sys.stdin:
        message = json.loads(line)
        try:
            send(actions[message["do"]](model, message))
        except Exception as error:
            send({"error": _explain(error)})


def _run(model: Any, message: dict[str, Any]) -> dict[str, Any]:
    way, batch_rows = message["way"], message["batch_rows"]
    seconds, outputs = [], []
    for group in message["groups"]:
        rows = [Row(*values) for values in group]
        answers: dict[int, Any] = {}
        began = time.perf_counter()
        if way == OWN:
            answers = dict(enumerate(model.answer_all(rows)))
        else:
            for batch in plan(way, [len(row) for row in rows], batch_rows):
                found = model.answer([rows[i] for i in batch], way == ALL_LOGITS)
                answers.update(zip(batch, found, strict=True))
        seconds.append(time.perf_counter() - began)
        if message["outputs"]:
            outputs += [[float(value) for value in answers[i]] for i in range(len(rows))]
    return {"seconds": seconds, "outputs": outputs}


def _texts(model: Any, message: dict[str, Any]) -> dict[str, Any]:
    seconds = []
    for group in message["groups"]:
        began = time.perf_counter()
        answers = model.answer_texts(group)
        seconds.append(time.perf_counter() - began)
        if len(answers) != len(group):
            raise ValueError(f"{len(group)} texts got {len(answers)} answers")
    return {"seconds": seconds}


def _generate(model: Any, message: dict[str, Any]) -> dict[str, Any]:
    seconds, outputs = [], []
    for group in message["groups"]:
        began = time.perf_counter()
        found = model.generate([ids for ids, _, _ in group], message["new_tokens"])
        seconds.append(time.perf_counter() - began)
        outputs += found
    if any(len(ids) != message["new_tokens"] for ids in outputs):
        raise ValueError(f"asked for {message['new_tokens']} new tokens, got {[len(ids) for ids in outputs]}")
    return {"seconds": seconds, "outputs": outputs}


def _decode(model: Any, message: dict[str, Any]) -> dict[str, Any]:
    first = _generate(model, {**message, "new_tokens": 1})
    whole = _generate(model, {**message, "new_tokens": message["new_tokens"] + 1})
    seconds = [b - a for a, b in zip(first["seconds"], whole["seconds"], strict=True)]
    return {"seconds": seconds, "outputs": whole["outputs"]}


def memory() -> dict[str, float]:
    """MB of this process, mapped files included: now, and at its highest."""
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / (1e6 if sys.platform == "darwin" else 1e6 / 1024)
    try:
        pages = int(Path("/proc/self/statm").read_text(encoding="ascii").split()[1])
    except OSError:
        return {"rss_mb": peak, "peak_mb": peak}
    return {"rss_mb": pages * os.sysconf("SC_PAGE_SIZE") / 1e6, "peak_mb": peak}


def _explain(error: Exception) -> str:
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    return f"{type(error).__name__}: {lines[0][:300] if lines else ''}"


if __name__ == "__main__":
    main()
