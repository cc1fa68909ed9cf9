"""`python -m benchmarks SUITE [options]`: each suite is a module here, and says with --help what it takes."""

from __future__ import annotations

import importlib
import sys

SUITES = {
    "cpu": "this project's graphs beside its peers on the CPU: speed, memory, start, correctness",
    "gpu": "the same on a GPU: latency from text to answer, throughput, generation",
    "generation": "milliseconds a generated token",
    "cache_designs": "where keys and values of past tokens live",
    "question_answering": "questions a second on XQuAD",
    "serving": "requests a second and latencies of the server, batched or not, beside transformers' pipeline in it",
    "tokenizer": "tokens a second beside transformers' tokenizer",
    "export_cost": "time and peak memory of an export",
    "startup": "what importing and opening cost",
    "trimming": "what a vocabulary trimmed to one language gains",
    "quality": "the demo checkpoints' figures through every engine",
}


def main() -> None:
    if len(sys.argv) < 2 or sys.argv[1] not in SUITES:
        width = max(map(len, SUITES))
        listed = "\n".join(f"  {name:<{width}}  {about}" for name, about in SUITES.items())
        wrong = len(sys.argv) > 1 and sys.argv[1] not in ("-h", "--help")
        print(
            (f"Unknown suite '{sys.argv[1]}'. " if wrong else "") + f"python -m benchmarks SUITE [options]\n\n{listed}",
            file=sys.stderr if wrong else sys.stdout,
        )
        raise SystemExit(2 if wrong or len(sys.argv) < 2 else 0)
    suite = sys.argv[1]
    sys.argv = [f"python -m benchmarks {suite}", *sys.argv[2:]]
    try:
        module = importlib.import_module(f"benchmarks.{suite}")
    except ModuleNotFoundError as error:
        extras = "pip install 'xlm-onnx[cpu,openvino,http,export,benchmarks]'"
        raise SystemExit(f"The suite {suite} needs the package '{error.name}': {extras}") from error
    module.main()


if __name__ == "__main__":
    main()
