"""What the load test found, as a summary and as tables."""

from __future__ import annotations

import json
import statistics
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

from benchmarks.report import number, table_text

BATCHED, ALONE, TRANSFORMERS, RAY = "batched", "one call each", "transformers", "Ray Serve"
FIGURES = ("requests_per_second", "p50", "p95", "p99", "cpu_ms")
ADDED_MS = 1.0  # at most, by the batcher, at one client

ABOUT_CLOSED = (
    "Clients that each ask for the next text as soon as they have the last one's answer: requests a second, and ms "
    "from the request's first byte to the answer's last. CPU ms is what a request cost the clients, on the same cores."
)
ABOUT_OPEN = (
    "Requests at random times (a Poisson process) at a fixed rate on average, whether or not answers come: ms from the "
    "planned time to the answer. A server that is slower than the rate lets a queue grow as long as the test lasts."
)
ABOUT_BARE = "The pipeline in its own process, without HTTP, asked by threads (`benchmarks.batcher`)."
ABOUT_CHECK = (
    "Answers beside those of the bare pipeline to the same texts, each asked by itself; and the last answer to each "
    "text in every measurement beside the same server's own: wrong are another label, or a score more than 0.02 away. "
    "transformers computes in fp32."
)


def summarize(records: Sequence[dict[str, Any]]) -> dict[str, Any]:
    """Head, and rows of each kind: medians over the rounds.

    Raises:
        ValueError: nothing was measured.
    """
    heads = [record for record in records if record["kind"] == "run"]
    if not heads:
        raise ValueError("it holds no measurement")
    found: dict[str, Any] = {key: value for key, value in heads[0].items() if key != "kind"}
    for kind, keys in (("closed", ("model", "clients", "way")), ("open", ("model", "rate", "way")),
                       ("bare", ("model", "clients", "way"))):  # fmt: skip
        found[kind] = list(_medians([record for record in records if record["kind"] == kind], keys))
    for kind in ("check", "missing", "noise"):
        found[kind] = [record for record in records if record["kind"] == kind]
    found["targets"] = list(targets(found))
    return found


def _medians(records: Sequence[dict[str, Any]], keys: Sequence[str]) -> Iterable[dict[str, Any]]:
    groups: dict[tuple[Any, ...], list[dict[str, Any]]] = {}
    for record in records:
        groups.setdefault(tuple(record[key] for key in keys), []).append(record)
    for values, rounds in groups.items():
        row = dict(zip(keys, values, strict=True))
        for figure in FIGURES:
            given = [each[figure] for each in rounds if each.get(figure) is not None]
            row[figure] = statistics.median(given) if given else None
        failures: dict[str, int] = {}
        for each in rounds:
            for status, count in each.get("statuses", {}).items():
                failures[status] = failures.get(status, 0) + count
        counts = {name: sum(each.get(name, 0) for each in rounds) for name in ("compared", "wrong", "unanswered")}
        yield {**row, "statuses": failures, **counts}


def targets(found: dict[str, Any]) -> Iterable[dict[str, Any]]:
    """What the batcher has to reach, and what it did. Models that were not measured with 1 and 32 clients have none."""
    for model, gain in found["gains"].items():

        def both(kind: str, clients: int, figure: str, model: str = model) -> list[float]:
            """The batcher's and that of one call each, where both were measured."""
            rows = {row["way"]: row for row in found[kind] if (row["model"], row["clients"]) == (model, clients)}
            return [rows[way][figure] for way in (BATCHED, ALONE) if way in rows]

        for kind, what in (("closed", "served"), ("bare", "bare")):
            if len(rates := both(kind, 32, "requests_per_second")) == 2:
                ratio = rates[0] / rates[1]
                about = f"{model}, {what}: times the requests/s of one call each, 32 clients"
                yield {"target": about, "wanted": f"≥ {gain}", "found": round(ratio, 2), "met": ratio >= gain}
            if len(times := both(kind, 1, "p50")) == 2:
                added = times[0] - times[1]
                about = f"{model}, {what}: ms that the batcher adds at one client"
                yield {"target": about, "wanted": f"< {ADDED_MS}", "found": round(added, 2), "met": added < ADDED_MS}


def write_report(found: dict[str, Any], prefix: Path) -> str:
    """Write `prefix`.json and `prefix`.md; returns the latter."""
    text = markdown(found, prefix.name)
    Path(f"{prefix}.json").write_text(json.dumps(found, indent=1, ensure_ascii=False) + "\n", encoding="utf-8")
    Path(f"{prefix}.md").write_text(text, encoding="utf-8")
    return text


def markdown(found: dict[str, Any], name: str) -> str:
    about = found["machine"]
    versions = ", ".join(f"{package} {version}" for package, version in about["versions"].items())
    noise = [record["other_cpus"] for record in found["noise"]]
    parts = [
        f"# {name}",
        f"{about['cpu']}, {about['cpus']} CPUs, {about['memory_gb']} GB, {about['system']}; server with "
        f"{found['threads']} threads, clients on the same CPUs. Python {about['python']}, {versions}.",
        f"Models: packed int8-static; texts of {found['lengths'][0]} to {found['lengths'][1]} tokens. "
        f"{found['rounds']} rounds of {found['seconds']} s, all ways in turns; medians.",
    ]
    if noise:
        parts.append(f"Other programs used {statistics.median(noise):.2f} CPUs (median), {max(noise):.2f} at most.")
    parts.append(f"`{found['command']}`")
    cells = [["", "wanted", "found", ""]]
    cells += [
        [item["target"], item["wanted"], f"{item['found']:.2f}", "met" if item["met"] else "missed"]
        for item in found["targets"]
    ]
    parts += ["## Targets", table_text(cells)]
    for kind, first, title, words in (
        ("closed", "clients", "Closed loop", ABOUT_CLOSED),
        ("open", "rate", "Open loop", ABOUT_OPEN),
        ("bare", "clients", "Bare pipeline", ABOUT_BARE),
    ):
        if found[kind]:
            parts += [f"## {title}", words, table_text(load_cells(found[kind], first))]
    parts += ["## Correctness", ABOUT_CHECK, table_text(check_cells(found))]
    if found["missing"]:
        parts += ["## Not measured", "\n".join(f"- {item['what']}: {item['reason']}" for item in found["missing"])]
    return "\n\n".join(part for part in parts if part) + "\n"


def load_cells(rows: Sequence[dict[str, Any]], first: str) -> list[list[str]]:
    cells = [["model", first, "way", "requests/s", "p50", "p95", "p99", "other than 200", "CPU ms"]]
    for row in rows:
        others = {status: count for status, count in row["statuses"].items() if status != "200"}
        others |= {"unanswered": row["unanswered"]} if row["unanswered"] else {}
        figures = ["–" if row[name] is None else number(row[name]) for name in FIGURES]
        odd = ", ".join(f"{status}: {count}" for status, count in others.items())
        cells.append([row["model"], number(row[first]) if first == "rate" else str(row[first]), row["way"],
                      *figures[:-1], odd, figures[-1]])  # fmt: skip
    return cells


def check_cells(found: dict[str, Any]) -> list[list[str]]:
    cells = [["model", "way", "texts", "same label", "largest difference of a score", "compared under load", "wrong"]]
    for item in found["check"]:
        rows = [row for kind in ("closed", "open") for row in found[kind]]
        mine = [row for row in rows if (row["model"], row["way"]) == (item["model"], item["way"])]
        compared, wrong = (str(sum(row[name] for row in mine)) for name in ("compared", "wrong"))
        cells.append([item["model"], item["way"], str(item["texts"]), f"{item['same_label']:.1%}",
                      f"{item['max_difference']:.1e}", compared, wrong])  # fmt: skip
    return cells
