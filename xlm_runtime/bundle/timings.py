"""What `xlm-runtime autotune` keeps in a bundle: how long calls took on one machine."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import asdict, dataclass
from typing import Any

from xlm_runtime.bundle import Bundle, schema
from xlm_runtime.checked_json import check
from xlm_runtime.errors import BundleError
from xlm_runtime.machine import Machine


@dataclass(frozen=True)
class Timing:
    """A graph on a provider: workload → median of a call in ms.

    `digest` is the graph's (`Bundle.digest`): a file that is replaced keeps no time of the one before.
    """

    graph: str
    digest: str
    provider: str
    milliseconds: dict[str, float]


@dataclass(frozen=True)
class LeftOut:
    """A provider that could not be measured, on one graph or (None) on all, and why."""

    graph: str | None
    provider: str
    reason: str


@dataclass(frozen=True)
class Record:
    """Measured times of one machine; `date` is the day, as YYYY-MM-DD."""

    machine: Machine
    date: str
    timings: tuple[Timing, ...]
    left_out: tuple[LeftOut, ...] = ()

    def to_dict(self) -> dict[str, Any]:
        """An entry of the section `calibration` in `bundle.json`."""
        lists = {
            "timings": [asdict(item) for item in self.timings],
            "left_out": [asdict(item) for item in self.left_out],
        }
        return asdict(self.machine) | {"date": self.date} | lists

    @classmethod
    def from_dict(cls, values: Any, where: str = "An entry of the section 'calibration'") -> Record:
        """The record of an entry.

        Args:
            where: it stands, for the error's first words.

        Raises:
            BundleError: an entry that is not as `schema.RECORD` says.
        """
        check(values, schema.RECORD, where, "run `xlm-runtime autotune` again, or name a provider other than auto")
        machine = Machine(values["cpu"], values["gpu"], values["threads"], dict(values["versions"]))
        timings = [
            Timing(each["graph"], each["digest"], each["provider"], dict(each["milliseconds"]))
            for each in values["timings"]
        ]
        left_out = [LeftOut(each["graph"], each["provider"], each["reason"]) for each in values["left_out"]]
        return cls(machine, values["date"], tuple(timings), tuple(left_out))


def read_records(bundle: Bundle) -> list[Record]:
    """The bundle's records.

    Raises:
        BundleError: one of them is damaged.
    """
    where = f"The section 'calibration' of the bundle '{bundle.folder}'"
    return [Record.from_dict(entry, where) for entry in bundle.timings]


def replace_record(bundle: Bundle, record: Record) -> tuple[Any, ...]:
    """The bundle's section with a record in place of earlier ones of the same CPU, GPU and number of threads, and of
    damaged ones."""
    new = record.to_dict()
    same = ("cpu", "gpu", "threads")
    others = [entry for entry in bundle.timings if is_whole(entry)]
    return (*(entry for entry in others if any(entry[key] != new[key] for key in same)), new)


def relative_totals(timings: Iterable[Timing]) -> list[tuple[float, Timing]]:
    """(total, timing) of each, least first and equals in their order.

    The total is the mean, over the workloads that all timings have, of the time divided by the least time of any:
    1 is the fastest everywhere. Nothing where they have no workload in common.
    """
    listed = list(timings)
    if not listed:
        return []
    common = [name for name in listed[0].milliseconds if all(name in each.milliseconds for each in listed)]
    if not common:
        return []
    least = {name: min(each.milliseconds[name] for each in listed) for name in common}
    totals = [(sum(each.milliseconds[name] / least[name] for name in common) / len(common), each) for each in listed]
    return sorted(totals, key=lambda pair: pair[0])


def is_whole(entry: Any) -> bool:
    """Whether an entry of the section is as `Record.to_dict` makes it."""
    try:
        Record.from_dict(entry)
    except BundleError:
        return False
    return True
