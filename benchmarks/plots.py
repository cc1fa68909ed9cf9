"""A report's plots: one panel a workload, one bar a contender, the bound as a line."""

from __future__ import annotations

from pathlib import Path
from typing import Any

COLOURS = {"ours": "#c8552b", "peer": "#7b8ea3"}
BOUND = "#2b2b2b"
MOST = 10  # peers of a panel: the fastest


def draw_plots(found: dict[str, Any], prefix: Path) -> None:
    """Write `prefix`.png and `prefix`.svg: times; `prefix`-start.png and .svg: load, first answer, memory."""
    import matplotlib

    matplotlib.use("Agg")
    matplotlib.rcParams.update({"font.size": 8.5, "axes.spines.top": False, "axes.spines.right": False,
                                "svg.fonttype": "none", "svg.hashsalt": "benchmarks"})  # fmt: skip
    _save(_times(found), prefix)
    started = [item for item in found["contenders"] if "load" in item and item["side"] != "bound"]
    if started:
        _save(_starts(found, started), prefix.with_name(f"{prefix.name}-start"))


def _save(figure: Any, prefix: Path) -> None:
    import matplotlib.pyplot as plt

    figure.savefig(f"{prefix}.png", dpi=150, bbox_inches="tight")
    figure.savefig(f"{prefix}.svg", bbox_inches="tight", metadata={"Date": None})
    plt.close(figure)


def _times(found: dict[str, Any]) -> Any:
    import matplotlib.pyplot as plt

    workloads = found["workloads"]
    columns = min(4, len(workloads))
    lines = -(-len(workloads) // columns)
    bars = max(len(item["rows"]) for item in workloads)
    size = (4.1 * columns, (0.9 + 0.21 * bars) * lines)
    figure, axes = plt.subplots(lines, columns, figsize=size, squeeze=False, layout="constrained")
    for axis in axes.flat[len(workloads) :]:
        axis.set_visible(False)
    for axis, item in zip(axes.flat, workloads, strict=False):
        _panel(axis, item)
    model = f" · {found['model']}" if found.get("model") else ""
    threads = found["settings"]["threads"]
    cpu = f"{found['machine']['cpu']}, {threads} thread{'s' if threads > 1 else ''}"
    what = (found.get("gpu") or {}).get("name") or cpu
    figure.suptitle(
        f"{what}{model}\nMilliseconds, median and quartiles; shorter is better\n"
        "orange: this project · grey: peers, each with its best batching · dotted: the bound",
        fontsize=9.5,
    )
    return figure


def _panel(axis: Any, item: dict[str, Any]) -> None:
    bounds = [row for row in item["rows"] if row["side"] == "bound"]
    others = sorted((row for row in item["rows"] if row["side"] != "bound"), key=_median)
    # the slowest peers are left out where there are many; ours never
    rest = [row for row in others if row["side"] == "ours"] + [row for row in others if row["side"] == "peer"][:MOST]
    rows = [*sorted(bounds, key=_median), *sorted(rest, key=_median)]
    reach = 1.18 * max(map(_median, rows))
    for position, row in enumerate(rows):
        median, (low, high) = _median(row), _quartiles(row)
        dotted = {"facecolor": "none", "edgecolor": BOUND, "linestyle": ":"}
        style = dotted if row["side"] == "bound" else {"color": COLOURS[row["side"]]}
        axis.barh(position, median, height=0.72, **style)
        if row["side"] != "bound":
            axis.plot([low, min(high, reach)], [position] * 2, color=BOUND, linewidth=1)
        axis.annotate(f" {_short(median)}", (min(max(median, high), reach), position), va="center", fontsize=7.5)
    if bounds:
        axis.axvline(min(map(_median, bounds)), color=BOUND, linestyle=":", linewidth=0.8, zorder=0)
    axis.set_yticks(range(len(rows)), [row["contender"] for row in rows])
    axis.invert_yaxis()
    axis.set_title(item["name"], fontsize=10, loc="left", fontweight="bold")
    axis.tick_params(axis="y", length=0)
    axis.set_xlim(0, reach)


def _median(row: dict[str, Any]) -> float:
    return 1000 * float(row["seconds"]["median"])


def _quartiles(row: dict[str, Any]) -> tuple[float, float]:
    times = row["seconds"]
    return tuple(1000 * (times["median"] if times[key] is None else times[key]) for key in ("p25", "p75"))


def _starts(found: dict[str, Any], started: list[dict[str, Any]]) -> Any:
    import matplotlib.pyplot as plt

    task = started[0]["task"]
    items = [item for item in started if item["task"] == task]
    panels = [
        ("load the model, s", lambda item: item["load"]["median"]),
        ("first answer, ms", lambda item: 1000 * item["first_answer"]["median"]),
        ("memory after it, MB", lambda item: item["rss_mb"]),
        ("agreement with fp32, %", lambda item: 100 * item["check"]["agreement"] if "check" in item else None),
    ]
    figure, axes = plt.subplots(
        1, len(panels), figsize=(14, 0.9 + 0.22 * len(items)), sharey=True, layout="constrained"
    )
    for axis, (title, value) in zip(axes, panels, strict=True):
        for position, item in enumerate(items):
            height = value(item)
            if height is not None:
                axis.barh(position, height, color=COLOURS[item["side"]], height=0.72)
                axis.annotate(f" {_short(height)}", (height, position), va="center", fontsize=7.5)
        axis.set_title(title, fontsize=10, loc="left", fontweight="bold")
        axis.set_xlim(0, 1.18 * max(1e-9, axis.get_xlim()[1]))
        axis.tick_params(axis="y", length=0)
    axes[0].set_yticks(range(len(items)), [item["name"] for item in items])
    axes[0].invert_yaxis()
    figure.suptitle(f"{task} · {found['machine']['cpu']}", fontsize=9.5)
    return figure


def _short(value: float) -> str:
    return f"{value:,.0f}" if value >= 99.95 else f"{value:.1f}" if value >= 0.995 else f"{value:.2g}"
