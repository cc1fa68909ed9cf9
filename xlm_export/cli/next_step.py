"""What to do with a graph that was made: the command that answers with it."""

from __future__ import annotations

import shlex

from xlm_runtime.bundle import Bundle, Graph
from xlm_runtime.providers import PROVIDERS

_INPUTS = {
    "fill-mask": "'A <mask> text.'",
    "multiple-choice": "PROMPT --choice A --choice B",
    "question-answering": "--question TEXT --context TEXT",
}


def answering_command(bundle: Bundle, graph: Graph, provider: str | None = None) -> str:
    """A line with the command that answers with a graph.

    Args:
        provider: what computes it; by default the first that takes it.
    """
    takes = [row.name for row in PROVIDERS.values() if row.takes(graph.target, graph.layout, graph.precision)]
    chosen = provider or takes[0]
    words = ["xlm-runtime", bundle.task, str(bundle.folder)]
    words += [] if chosen == "cpu" else ["--provider", chosen]
    words += [] if bundle.graph(None, chosen) == graph else ["--precision", graph.quality]
    first = bundle.graph(graph.quality, chosen)
    instead = "" if first == graph else f" (which takes {first.file} as long as the bundle holds it)"
    return f"answer with it: {shlex.join(words)} {_INPUTS.get(bundle.task, 'TEXT')}{instead}"
