"""What the GPU suite's figures have to reach on an H100 or H200 with the whole model, beside what was measured."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

# workload → milliseconds at most, of a step for "decode"
LIMITS = {
    "1x16": 0.60,
    "1x128": 0.68,
    "text 1x128": 0.90,
    "8x128": 1.15,
    "32x128": 3.0,
    "mixed": 3.3,
    "text mixed": 4.5,
    "decode 1": 0.45,
    "decode 8": 0.60,
}
# beginning of a peer's name → how many times as fast ours has to be at least
RATIOS = {"torch SDPA compiled": 1.5, "torch packed compiled, graph": 0.95}
TARGETS_ABOUT = (
    "Our fastest, by medians of this run; ms at most on an H100 or H200 with 12 layers × 1024 (generation 6 × 1024) in "
    "half precision, and how many times as fast as a peer at least."
)


def target_cells(workloads: Sequence[dict[str, Any]]) -> list[list[str]]:
    """A row for each workload with a limit, measured or not, and for others that a peer of `RATIOS` was measured on."""
    measured = {item["name"]: item for item in workloads}
    table = [
        [
            "workload",
            "ms at most",
            "ours",
            "",
            "which",
            *(f"times {name} (≥ {least})" for name, least in RATIOS.items()),
        ]
    ]
    for name in dict.fromkeys([*LIMITS, *measured]):
        item = measured.get(name)
        rows = item["rows"] if item else []
        ours = min((row for row in rows if row["side"] == "ours"), key=_ms, default=None)
        if name not in LIMITS and not (ours and any(_find(rows, peer) for peer in RATIOS)):
            continue
        limit = LIMITS.get(name)
        table.append(
            [
                name,
                "" if limit is None else f"{limit:.2f}",
                "not measured" if ours is None else f"{_ms(ours):.3f}",
                "" if limit is None or ours is None else _met(_ms(ours) <= limit),
                "" if ours is None else ours["contender"],
                *(_ratio(_find(rows, peer), ours, least) for peer, least in RATIOS.items()),
            ]
        )
    return table


def _find(rows: Sequence[dict[str, Any]], beginning: str) -> dict[str, Any] | None:
    return next((row for row in rows if row["contender"].startswith(beginning)), None)


def _ratio(peer: dict[str, Any] | None, ours: dict[str, Any] | None, least: float) -> str:
    if peer is None or ours is None:
        return ""
    ratio = _ms(peer) / _ms(ours)
    return f"{ratio:.2f} {_met(ratio >= least)}"


def _met(yes: bool) -> str:
    return "met" if yes else "missed"


def _ms(row: dict[str, Any]) -> float:
    return 1000 * float(row["seconds"]["median"])
