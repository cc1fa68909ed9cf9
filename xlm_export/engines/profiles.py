"""Optimisation profiles: which shapes an engine is built for, from sizes of axes to shapes of a graph's inputs."""

from __future__ import annotations

import re
from dataclasses import dataclass

from xlm_runtime.bundle import Graph
from xlm_runtime.bundle.engine_stamp import EngineProfile
from xlm_runtime.config import XLMConfig
from xlm_runtime.errors import InputError
from xlm_runtime.tasks import TensorSpec

SEQUENCES = (32, 128, 384, 512)
BATCHES = (1, 8, 32)

# preset → batches, sequences; every sequence is cut to the model's positions, and "long" is the longest one
PRESETS: dict[str, tuple[tuple[int, ...], tuple[int, ...]]] = {
    "default": (BATCHES, SEQUENCES),
    "latency": ((1,), SEQUENCES),
    "throughput": ((8, 32), (128, 512)),
    "long": ((1, 8), (2**31,)),
}

# Choices of a question: smallest, optimal, largest.
CHOICES = (1, 4, 8)

# Most positions with logits in one call. Each takes vocab_size numbers of device memory: 1,024 of 95,000 words in half
# precision are 195 MB.
MOST_KEPT = 1024

_SIZES = re.compile(r"(\d+)x(?:(\d+)x)?(\d+)(?:\+(\d+))?")

Range = tuple[int, int, int]


@dataclass(frozen=True)
class Sizes:
    """One end of a custom profile, `BATCHxSEQUENCE`, `BATCHxCHOICESxSEQUENCE` or `BATCHxSEQUENCE+PAST`."""

    batch: int
    sequence: int
    choices: int | None
    past: int | None


def preset_profiles(name: str, graph: Graph, config: XLMConfig) -> tuple[EngineProfile, ...]:
    """The profiles of a preset: one for each batch and sequence, for any smaller shape too, but best at the largest.

    Prompts of a graph with a cache have these profiles; beside them stands one that decodes token by token for each
    batch, with a past up to the model's positions.

    Raises:
        InputError: no such preset.
    """
    if name not in PRESETS:
        raise InputError(f"Unknown profiles '{name}'; expected one of {', '.join(PRESETS)}.")
    batches, wanted = PRESETS[name]
    longest = config.max_position_embeddings
    sequences = sorted({min(sequence, longest) for sequence in wanted})
    made = []
    for sequence in sequences:
        for batch in batches:
            axes = {"batch": (1, batch, batch), "sequence": (1, sequence, sequence)}
            axes |= {"num_choices": CHOICES, "past_sequence": (0, 0, longest)}
            made.append(_profile(f"{batch}x{sequence}", axes, graph, config))
    if graph.has_cache:
        for batch in batches:
            axes = {"batch": (1, batch, batch), "sequence": (1, 1, 1), "past_sequence": (0, longest // 2, longest)}
            made.append(_profile(f"{batch}x1, decoding", axes, graph, config))
    return tuple(made)


def custom_profile(text: str, graph: Graph, config: XLMConfig) -> EngineProfile:
    """A profile from `min:opt:max`, each `BATCHxSEQUENCE`, with `+PAST` for a graph with a cache.

    Graphs for multiple choice take `BATCHxCHOICESxSEQUENCE`. Without `+PAST` any past up to the model's positions fits.

    Raises:
        InputError: something else, sizes out of order, or sizes that the graph has no axis for.
    """
    parts = [_SIZES.fullmatch(part) for part in text.split(":")]
    if len(parts) != 3 or not all(parts):
        raise InputError(
            f"Unknown profile '{text}'; expected min:opt:max, each as BATCHxSEQUENCE, for example 1x1:8x128:32x384 "
            "(BATCHxCHOICESxSEQUENCE for multiple choice, BATCHxSEQUENCE+PAST for a graph with a cache)."
        )
    ends = [_read(match) for match in parts if match]
    longest = config.max_position_embeddings
    axes: dict[str, Range] = {
        "batch": _range([end.batch for end in ends], "batch", text),
        "sequence": _range([end.sequence for end in ends], "sequence", text),
        "num_choices": CHOICES,
        "past_sequence": (0, 0, longest),
    }
    choices = [end.choices for end in ends if end.choices is not None]
    past = [end.past for end in ends if end.past is not None]
    if choices:
        if len(choices) < 3 or not any("num_choices" in spec.axes for spec in graph.inputs):
            raise InputError(f"The profile '{text}' names choices; write them in all three shapes, and for graphs of "
                             "the task multiple-choice alone.")  # fmt: skip
        axes["num_choices"] = _range(choices, "choices", text)
    if past:
        if len(past) < 3 or not graph.has_cache:
            raise InputError(
                f"The profile '{text}' names a past; write +PAST in all three shapes, and only for graphs with a cache."
            )
        axes["past_sequence"] = _range(past, "past", text, smallest=0)
    for axis in ("sequence", "past_sequence"):
        if axes[axis][2] > longest:
            name = "sequence" if axis == "sequence" else "past"
            raise InputError(f"The profile '{text}' has a {name} of {axes[axis][2]}, but the model has only {longest} "
                             "positions.")  # fmt: skip
    return _profile(text, axes, graph, config)


def _read(match: re.Match[str]) -> Sizes:
    batch, choices, sequence, past = (None if group is None else int(group) for group in match.groups())
    return Sizes(batch or 0, sequence or 0, choices, past)


def _range(sizes: list[int], axis: str, text: str, smallest: int = 1) -> Range:
    low, best, high = sizes
    if not smallest <= low <= best <= high:
        raise InputError(f"The profile '{text}' has {axis} {low}:{best}:{high}; expected {smallest} or more, and "
                         "min ≤ opt ≤ max.")  # fmt: skip
    return low, best, high


def _profile(name: str, axes: dict[str, Range], graph: Graph, config: XLMConfig) -> EngineProfile:
    """Shapes of every input that the graph declares."""
    rows = axes["batch"]
    kept = min(rows[2] * axes["sequence"][2], MOST_KEPT)
    sizes = axes | {"kept": (1, min(rows[1], kept), kept)}
    return EngineProfile(name, {spec.name: _shapes(spec, sizes, config) for spec in graph.inputs})


def _shapes(
    spec: TensorSpec, sizes: dict[str, Range], config: XLMConfig
) -> tuple[tuple[int, ...], tuple[int, ...], tuple[int, ...]]:
    def size(axis: str, end: int) -> int:
        parts = axis.split(" + ")  # "past_sequence + sequence"
        return sum(sizes[part][end] if part in sizes else int(getattr(config, part)) for part in parts)

    low, best, high = (tuple(size(axis, end) for axis in spec.axes) for end in range(3))
    return low, best, high
