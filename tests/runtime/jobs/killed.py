"""A job in processes of its own, each killed by SIGKILL at a random call, until one ends: SOURCE OUTPUT SEED KILLS."""

from __future__ import annotations

import os
import random
import signal
import sys
from pathlib import Path
from types import FrameType
from typing import Any

from tests.runtime.jobs.echo import run
from xlm_runtime.jobs.formats import find_format


def run_until_call(source: Path, output: Path, call: int) -> int:
    """Run the job; the process ends at its call with this number. Returns how many calls there were."""
    calls = 0

    def count(frame: FrameType, event: str, argument: Any) -> None:
        nonlocal calls
        calls += event in ("call", "c_call")
        if calls == call:
            os.kill(os.getpid(), signal.SIGKILL)

    sys.setprofile(count)
    run(source, output)
    sys.setprofile(None)
    return calls


def in_a_child(source: Path, output: Path, call: int) -> int:
    child = os.fork()
    if child == 0:
        status = 1
        try:
            run_until_call(source, output, call)
            status = 0
        finally:
            os._exit(status)
    return os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])


def main(source: Path, output: Path, seed: int, kills: int) -> None:
    rng = random.Random(seed)
    find_format(output, None, "").require()  # imported once for all
    most = run_until_call(source, output.with_name(f"whole{output.suffix}"), 0)
    for _ in range(kills):
        code = in_a_child(source, output, rng.randint(most // 20, most))
        if code != -signal.SIGKILL:  # that one came to its end, or failed
            sys.exit(code)
        if output.exists() and not output.with_name(f"{output.name}.part.json").exists():  # all but its last breath
            return
    sys.exit(in_a_child(source, output, 0))


if __name__ == "__main__":
    main(Path(sys.argv[1]), Path(sys.argv[2]), int(sys.argv[3]), int(sys.argv[4]))
