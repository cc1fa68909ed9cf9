"""From the lines of a report to a summary (JSON) and tables (Markdown, and what fits a terminal)."""

from __future__ import annotations

import json
import statistics
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

from benchmarks.machine import QUIET
from benchmarks.protocol import summary
from benchmarks.targets import TARGETS_ABOUT, target_cells
from benchmarks.workloads import ALL_LOGITS, AS_GIVEN, AS_IT_COMES, AT_MASK, ONE_BY_ONE, OWN, SORTED

LETTERS = {AS_IT_COMES: "P", ONE_BY_ONE: "1", SORTED: "S", OWN: "O", AT_MASK: "m", ALL_LOGITS: "a", AS_GIVEN: ""}
MEANING = {
    AS_IT_COMES: "padded as it comes", ONE_BY_ONE: "one by one", SORTED: SORTED, OWN: "the runtime's own batches",
    AT_MASK: "logits at the mask alone", ALL_LOGITS: "logits at every position",
}  # fmt: skip
EAGER = "transformers fp32"
Records = list[dict[str, Any]]


def read_report(path: Path) -> Records:
    """All whole lines; the last one of a run that was killed may be half written.

    Raises:
        ValueError: a line before the last is damaged.
    """
    lines = path.read_text(encoding="utf-8").splitlines()
    records = []
    for number, line in enumerate(lines):
        try:
            records.append(json.loads(line))
        except ValueError as error:
            if number + 1 < len(lines):
                raise ValueError(f"line {number + 1} is damaged") from error
    return records


def summarize(records: Records) -> dict[str, Any]:
    """Head, contenders and workloads, each number with its spread.

    Raises:
        ValueError: nothing was measured.
    """
    heads = _of(records, "run")
    if not heads or not _of(records, "sample"):
        raise ValueError("it holds no measurement")
    rounds = _of(records, "round")
    found = {key: value for key, value in heads[0].items() if key != "kind"}
    found["finished"] = bool(_of(records, "end"))
    loads = [item["load"] for item in rounds]
    others = [item["other_cpus"] for item in rounds]
    found["noise"] = {
        "load": max(loads, default=None), "other_cpus": statistics.median(others) if others else None,
        "other_cpus_max": max(others, default=None),
    }  # fmt: skip
    found["contenders"] = [_contender(item, records) for item in _of(records, "contender")]
    found["missing"] = list({item["contender"]: item["reason"] for item in _of(records, "missing")}.items())
    failed = {
        (item["contender"], item["workload"], item.get("way", "")): item["reason"] for item in _of(records, "failed")
    }
    found["failed"] = [[*key, reason] for key, reason in failed.items()]
    sides = {item["name"]: item["side"] for item in found["contenders"]}
    asked = {item["name"]: item for item in _of(records, "workload")}  # several phases may ask the same
    workloads = [_workload(item, records, sides) for item in asked.values()]
    found["workloads"] = [item for item in workloads if item["rows"]]
    sweeps = [item["bytes"] / item["seconds"] / 1e9 for item in _of(records, "bandwidth")]
    found["bandwidth_gb_s"] = summary(sweeps) if sweeps else None
    rates = [item["operations_per_second"] / 1e12 for item in _of(records, "rate")]
    found["rate_tera"] = summary(rates) if rates else None
    found["clocks"] = [item["gpu"] for item in _of(records, "clocks")]
    found["prepared"] = [[item["what"], item["seconds"]] for item in _of(records, "prepared")]
    return found


def _of(records: Records, kind: str) -> Records:
    return [item for item in records if item["kind"] == kind]


def _contender(item: dict[str, Any], records: Records) -> dict[str, Any]:
    """Its start, memory and correctness; of a contender in several phases, each phase is an entry."""
    name, task = item["name"], item["task"]
    position = records.index(item)
    rest = records[position + 1 :]
    later = next((i for i, each in enumerate(rest) if each["kind"] == "contender" and each["task"] != task), len(rest))
    own = [each for each in rest[:later] if each.get("contender") == name]
    starts = _of(own, "start")
    entry = {key: item[key] for key in ("name", "task", "side", "about", "reference")}
    if starts:
        for key in ("import", "load", "first_answer"):
            values = [each[key] for each in starts if each[key] is not None]
            entry |= {key: summary(values)} if values else {}
        entry["rss_mb"] = statistics.median(each["rss_mb"] for each in starts)
        entry["about"] = "; ".join(text for text in (item["about"], starts[-1]["about"]) if text)
    for each in _of(own, "memory"):
        entry["peak_mb"] = each["peak_mb"]
    for each in _of(records, "quality"):
        if each["contender"] == name and each["task"] == task:
            entry["accuracy"], entry["accuracy_rows"] = each["accuracy"], each["rows"]
    for each in _of(own, "check"):
        entry["check"] = {key: value for key, value in each.items() if key not in ("kind", "contender")}
    return entry


def _workload(item: dict[str, Any], records: Records, sides: dict[str, str]) -> dict[str, Any]:
    """Rows, best and ratios; of "decode" everything is a step's."""
    samples = [each for each in _of(records, "sample") if each["workload"] == item["name"]]
    steps = item["new_tokens"] if item["do"] == "decode" else 1
    samples = [{**each, "seconds": [seconds / steps for seconds in each["seconds"]]} for each in samples]
    rows = []
    for name, side in sides.items():
        own = [each for each in samples if each["contender"] == name]
        measured = [each for each in own if each["phase"] == "round"]
        if not measured:
            continue
        totals = [sum(each["seconds"]) for each in measured]
        row = {
            "contender": name, "side": side, "way": measured[0]["way"], "seconds": summary(totals),
            "tokens": measured[0]["tokens"], "ways": _ways(own), "rounds": _rounds(measured),
            "rows": measured[0]["rows"],
        }  # fmt: skip
        if item["do"] in ("generate", "decode"):
            row["new_tokens"] = item["new_tokens"] // steps * measured[0]["rows"]
        if any(len(each["seconds"]) > 1 for each in measured):
            row["group_seconds"] = summary([value for each in measured for value in each["seconds"]])
        rows.append(row)
    bound = _computed_bound(item, records, rows)
    rows += [bound] if bound else []
    best = {side: min((row for row in rows if row["side"] == side), key=_median, default=None)
            for side in ("peer", "ours", "bound")}  # fmt: skip
    found = {"name": item["name"], "about": item["about"], "task": item["task"], "do": item["do"], "rows": rows,
             "new_tokens": item["new_tokens"]}  # fmt: skip
    found["best"] = {side: row["contender"] for side, row in best.items() if row is not None}
    eager = next((row for row in rows if row["contender"] == EAGER), None)
    ours = best["ours"]
    if ours is not None:
        found["ratios"] = {
            "best_peer": _ratio(best["peer"], ours),
            "best_peer_range": _ratio_range(best["peer"], ours),
            "bound": _ratio(ours, best["bound"]),
            "eager_padded": eager["ways"].get(AS_IT_COMES, eager["ways"].get(ALL_LOGITS)) / _median(ours)
            if eager
            else None,
        }
    return found


def _computed_bound(item: dict[str, Any], records: Records, rows: list[dict[str, Any]]) -> dict[str, Any] | None:
    """The larger of operations over the measured rate and weights' bytes over the measured bandwidth, where a suite
    measures rates: 12·dim² multiply-adds a token and layer, and in each step of generation the projection to the words.
    """
    rates = [each["operations_per_second"] for each in _of(records, "rate")]
    sizes = next((each for each in _of(records, "sizes") if each["task"] == item["task"]), None)
    if not rates or sizes is None or not rows:
        return None
    bandwidth = statistics.median(each["bytes"] / each["seconds"] for each in _of(records, "bandwidth"))
    body = 12 * sizes["dim"] ** 2 * sizes["layers"]
    generates = item["do"] in ("generate", "decode")
    weights = body + (sizes["vocab"] * sizes["dim"] if generates else 0)
    steps = item["new_tokens"] if item["do"] == "generate" else 1
    tokens = rows[0]["new_tokens"] if generates else rows[0]["tokens"]
    by_operations = 2 * weights * tokens / statistics.median(rates)
    by_bytes = steps * weights * sizes["bytes"] / bandwidth
    seconds = summary([max(by_operations, by_bytes)])
    name = "bound, operations" if by_operations > by_bytes else "bound, bytes"
    return {"contender": name, "side": "bound", "way": AS_GIVEN, "seconds": seconds, "tokens": tokens, "ways": {}}


def _rounds(samples: Records) -> list[float]:
    """Median seconds of each round's draws."""
    times: dict[int, list[float]] = {}
    for each in samples:
        times.setdefault(each["round"], []).append(sum(each["seconds"]))
    return [statistics.median(values) for _, values in sorted(times.items())]


def _ways(samples: Records) -> dict[str, float]:
    """Way → median seconds of all measured draws, those that chose the way included."""
    times: dict[str, list[float]] = {}
    for each in samples:
        if each["phase"] != "warm-up":
            times.setdefault(each["way"], []).append(sum(each["seconds"]))
    return {way: statistics.median(values) for way, values in times.items()}


def _median(row: dict[str, Any]) -> float:
    return float(row["seconds"]["median"])


def _ratio_range(slower: dict[str, Any] | None, faster: dict[str, Any]) -> list[float] | None:
    """The lowest and the highest ratio of a single round, in which both had the same draws and the same machine."""
    if slower is None or not slower.get("rounds"):
        return None
    ratios = [a / b for a, b in zip(slower["rounds"], faster["rounds"], strict=False)]
    return [min(ratios), max(ratios)]


def _ratio(slower: dict[str, Any] | None, faster: dict[str, Any] | None) -> float | None:
    return _median(slower) / _median(faster) if slower and faster else None


def write_tables(found: dict[str, Any], prefix: Path) -> str:
    """Write `prefix`.json and `prefix`.md; returns the main table for a terminal."""
    Path(f"{prefix}.json").write_text(json.dumps(found, indent=1, ensure_ascii=False) + "\n", encoding="utf-8")
    Path(f"{prefix}.md").write_text(markdown(found, prefix.name), encoding="utf-8")
    return terminal(found)


def speed_cells(found: dict[str, Any]) -> list[list[str]]:
    """Header and a row for each contender: median ms and the letter of its way, * at each side's fastest."""
    workloads = found["workloads"]
    table = [["ms", *(item["name"] for item in workloads)]]
    names = list(dict.fromkeys(row["contender"] for item in workloads for row in item["rows"]))
    order = {"bound": 0, "ours": 1, "peer": 2}
    sides = {row["contender"]: row["side"] for item in workloads for row in item["rows"]}
    for name in sorted(names, key=lambda name: order[sides[name]]):
        cells = []
        for item in workloads:
            row = next((row for row in item["rows"] if row["contender"] == name), None)
            if row is None:
                cells.append("")
                continue
            star = "*" if item["best"].get(row["side"]) == name and row["side"] != "bound" else ""
            letter = "" if row["side"] == "bound" else LETTERS[row["way"]]
            cells.append(f"{number(1000 * _median(row))}{star} {letter}".rstrip())
        table.append([name, *cells])
    return table


def ratio_cells(found: dict[str, Any]) -> list[list[str]]:
    table = [["our fastest", *(item["name"] for item in found["workloads"])]]
    named = (
        ("best_peer", "times the best peer"),
        ("best_peer_range", "in single rounds"),
        ("eager_padded", "times transformers, padded"),
        ("bound", "of the bound's time"),
    )
    for key, title in named:
        values = [item.get("ratios", {}).get(key) for item in found["workloads"]]
        if any(value is not None for value in values):
            table.append([title, *map(_ratio_cell, values)])
    return table


def rate_cells(found: dict[str, Any]) -> list[list[str]]:
    """Texts a second where texts are asked, milliseconds a token of each row where text is generated."""
    asked = [item for item in found["workloads"] if item["do"] in ("texts", "generate", "decode")]
    units = {"texts": "texts/s", "generate": "ms a step, prompt included", "decode": "ms a step"}
    table = [["", *(f"{item['name']}, {units[item['do']]}" for item in asked)]]
    names = dict.fromkeys(row["contender"] for item in asked for row in item["rows"] if row["side"] != "bound")
    for name in names if asked else ():
        cells = []
        for item in asked:
            row = next((row for row in item["rows"] if row["contender"] == name), None)
            if row is None:
                cells.append("")
            elif item["do"] == "texts":
                cells.append(f"{row['rows'] / _median(row):,.0f}")
            else:
                cells.append(number(1000 * _median(row) / (item["new_tokens"] if item["do"] == "generate" else 1)))
        table.append([name, *cells])
    return table


def _ratio_cell(value: Any) -> str:
    if value is None:
        return ""
    return f"{value[0]:.2f}–{value[1]:.2f}" if isinstance(value, list) else f"{value:.2f}"


def terminal(found: dict[str, Any]) -> str:
    """The speeds, and what our fastest is beside peers and bound, as aligned text."""
    speeds, ratios = speed_cells(found), ratio_cells(found)
    widths = [max(len(row[i]) for row in [*speeds, *ratios]) for i in range(len(speeds[0]))]
    lines = []
    for table in (speeds, ratios):
        for row in table:
            lines.append(
                "  ".join([row[0].ljust(widths[0]), *(c.rjust(w) for c, w in zip(row[1:], widths[1:], strict=True))])
            )
        lines.append("")
    return "\n".join([*lines, legend(found), *warnings(found)])


def legend(found: dict[str, Any]) -> str:
    used = {row["way"] for item in found["workloads"] for row in item["rows"] if row["side"] != "bound"}
    ways = [f"{LETTERS[way]} {MEANING[way]}" for way in LETTERS if way in used and LETTERS[way]]
    return "medians; * the fastest of its side; " + ", ".join(ways)


def warnings(found: dict[str, Any]) -> list[str]:
    lines = []
    if not found["finished"]:
        lines.append("warning: the run was cut short")
    other = found["noise"]["other_cpus_max"]
    if other is not None and other > QUIET:
        lines.append(f"warning: not a quiet machine; other programs used up to {other:.1f} CPUs")
    return lines


def markdown(found: dict[str, Any], name: str) -> str:
    """The whole report."""
    parts = [f"# {found['suite']} benchmark, {found['started'][:10]}", machine_text(found), f"![]({name}.png)"]
    parts += warnings(found)
    parts += [
        "## Speed",
        f"Milliseconds; {legend(found)}.",
        table_text(speed_cells(found)),
        table_text(ratio_cells(found)),
    ]
    if found["suite"] == "gpu":
        parts += ["### Targets", TARGETS_ABOUT, table_text(target_cells(found["workloads"]))]
    parts += ["### Rates", table_text(rate_cells(found))] if len(rate_cells(found)) > 1 else []
    parts += ["### Workloads", *(f"- `{item['name']}`: {item['about']}" for item in found["workloads"])]
    parts += ["## Correctness and quality", CORRECTNESS, table_text(check_cells(found))]
    parts += quality_parts(found)
    together = TOGETHER if found["settings"].get("together") else ""
    parts += ["## Start and memory", STARTING + together, table_text(start_cells(found))]
    parts += [
        "## Spread",
        "Milliseconds of a draw; of a workload in groups also of each group (latency).",
        table_text(spread_cells(found)),
    ]
    parts += ["## Every way tried", "Milliseconds, medians.", table_text(way_cells(found))]
    notes = [f"- {item['name']} ({item['task']}): {item['about']}" for item in found["contenders"] if item["about"]]
    if notes:
        parts += ["## Contenders", *dict.fromkeys(notes)]
    if found["missing"] or found["failed"]:
        parts += ["## Not measured", *(f"- {name}: {reason}" for name, reason in found["missing"])]
        parts += [f"- {' · '.join(filter(None, where))}: {reason}" for *where, reason in found["failed"]]
    return _join(parts)


CORRECTNESS = (
    "Logits beside transformers' in fp32, each sequence alone and without padding: the largest difference, the largest "
    "logit, the share of rows with the same best label or word, and the mean Kullback-Leibler divergence in nats. "
    "optimum's export is compared with transformers on the inputs that it has."
)
QUALITY = (
    "Accuracy of a trained checkpoint on held-out pairs (natural language inference), with the same engines and "
    "recipes on its weights. optimum's export knows no languages."
)
STARTING = (
    "Medians of fresh processes: seconds to import libraries and to load the model, milliseconds to the first answer "
    "(16 tokens); memory with mapped files, after the first answer and at its highest in the whole run."
)

TOGETHER = " Here all contenders started at the same time, so times of starting are no measurement."


def machine_text(found: dict[str, Any]) -> str:
    about, settings = found["machine"], found["settings"]
    noise = found["noise"]
    lines = [
        f"{about['cpu']}, {about['cpus']} CPUs ({', '.join(about['cpu_features'])}), {about['memory_gb']} GB, "
        f"{about['system']}; {settings['threads']} threads on CPUs {settings['cpus']}.",
        f"Model: {found.get('model', '')}, seeded weights. {settings['rounds']} interleaved rounds.",
        "Versions: Python "
        + about["python"]
        + ", "
        + ", ".join(f"{k} {v}" for k, v in about["versions"].items())
        + ".",
    ]
    if found.get("gpu"):
        lines.insert(1, "GPU: " + ", ".join(f"{key} {value}" for key, value in found["gpu"].items()) + ".")
    if found["prepared"]:
        lines.append(
            "Preparation: " + "; ".join(f"{what} {seconds:.0f} s" for what, seconds in found["prepared"]) + "."
        )
    if found["bandwidth_gb_s"]:
        lines.append(f"Memory at {found['bandwidth_gb_s']['median']:.0f} GB/s.")
    if found["rate_tera"]:
        lines.append(f"Matrix products at {found['rate_tera']['median']:.3g} tera-operations a second.")
    if clocks := [item for item in found["clocks"] if item]:
        lines.append("Clocks and temperature, first and last: " + "; ".join(map(str, (clocks[0], clocks[-1]))) + ".")
    if noise["other_cpus"] is not None:
        lines.append(
            f"Load average at most {noise['load']:.1f}; other programs used {noise['other_cpus']:.2f} CPUs (median of "
            f"rounds), {noise['other_cpus_max']:.2f} at most."
        )
    return "\n".join([*lines, f"`{found['command']}`"])


def check_cells(found: dict[str, Any]) -> list[list[str]]:
    table = [["contender", "task", "largest difference", "largest logit", "same best", "divergence", "rows"]]
    for item in found["contenders"]:
        if check := item.get("check"):
            table.append(
                [item["name"], item["task"], f"{check['max_difference']:.1e}", f"{check['max_logit']:.2f}",
                 f"{check['agreement']:.1%}", f"{check['divergence']:.1e}", str(check["rows"])]
            )  # fmt: skip
    return table


def quality_parts(found: dict[str, Any]) -> list[str]:
    """Accuracy on a trained checkpoint, where the run had one."""
    rows = [item for item in found["contenders"] if "accuracy" in item]
    if not rows:
        return []
    table = [["contender", "accuracy", "pairs"]]
    table += [[item["name"], f"{item['accuracy']:.2%}", str(item["accuracy_rows"])] for item in rows]
    return ["### On the trained checkpoint", QUALITY, table_text(table)]


def start_cells(found: dict[str, Any]) -> list[list[str]]:
    table = [["contender", "task", "import s", "load s", "first answer ms", "MB", "peak MB"]]
    for item in found["contenders"]:
        if "first_answer" in item and item["side"] != "bound":
            table.append(
                [item["name"], item["task"], f"{item['import']['median']:.2f}", f"{item['load']['median']:.2f}",
                 number(1000 * item["first_answer"]["median"]), f"{item['rss_mb']:.0f}",
                 f"{item['peak_mb']:.0f}" if "peak_mb" in item else ""]
            )  # fmt: skip
    return table


def spread_cells(found: dict[str, Any]) -> list[list[str]]:
    table = [["workload", "contender", "n", "median", "p25", "p75", "p95", "p99", "min", "max", "tokens/s"]]
    for item in found["workloads"]:
        for row in item["rows"]:
            tokens = row.get("new_tokens", row["tokens"])
            rate = f"{tokens / _median(row):,.0f}"
            table.append([item["name"], row["contender"], *_spread(row["seconds"]), rate])
            if "group_seconds" in row:
                table.append([item["name"], f"{row['contender']}, a group", *_spread(row["group_seconds"]), ""])
    return table


def way_cells(found: dict[str, Any]) -> list[list[str]]:
    ways = list(dict.fromkeys(way for item in found["workloads"] for row in item["rows"] for way in row["ways"]))
    table = [["workload", "contender", *ways]]
    for item in found["workloads"]:
        for row in item["rows"]:
            if len(row["ways"]) > 1:
                cells = [number(1000 * row["ways"][way]) if way in row["ways"] else "" for way in ways]
                table.append([item["name"], row["contender"], *cells])
    return table


def _spread(values: dict[str, Any]) -> Iterable[str]:
    yield str(values["n"])
    for key in ("median", "p25", "p75", "p95", "p99", "min", "max"):
        yield "–" if values[key] is None else number(1000 * values[key])


def number(value: float) -> str:
    """Three figures, none of them after the point from 100 on."""
    return f"{value:.0f}" if value >= 99.95 else f"{value:.1f}" if value >= 9.995 else f"{value:.2f}"


def table_text(table: Sequence[Sequence[str]]) -> str:
    """A Markdown table; empty without rows."""
    if len(table) < 2:
        return ""
    lines = ["| " + " | ".join(row) + " |" for row in table]
    return "\n".join([lines[0], "|---" * len(table[0]) + "|", *lines[1:]])


def _join(parts: Sequence[str]) -> str:
    """Paragraphs; items of a list stay together."""
    text = ""
    for part in filter(None, parts):
        glued = part.startswith("- ") and text.rstrip("\n").rpartition("\n")[2].startswith("- ")
        text = text.rstrip("\n") + ("\n" if glued else "\n\n" if text else "") + part + "\n"
    return text
