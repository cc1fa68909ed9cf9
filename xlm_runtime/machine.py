"""This machine: how many CPUs this process may use, what they are, and which packages are installed."""

from __future__ import annotations

import math
import os
from collections.abc import Iterable
from pathlib import Path, PurePosixPath


def available_cpus(processes: Path = Path("/proc/self/cgroup"), groups: Path = Path("/sys/fs/cgroup")) -> int:
    """CPUs of the affinity mask, fewer where a control group's quota (version 1 or 2) allows less time; at least 1.

    Args:
        processes: lists the control groups of this process.
        groups: where the control groups are mounted.
    """
    allowed = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    quota = _cgroup_quota(processes, groups)
    # a quota of 2.5 CPUs keeps three threads busy most of the time, and two never use it up
    return max(1, min(allowed, math.ceil(quota)) if quota is not None else allowed)


def _cgroup_quota(processes: Path, groups: Path) -> float | None:
    """The smallest quota among the process's group and those around it, in CPUs, or None."""
    try:
        lines = processes.read_text(encoding="utf-8").splitlines()
    except OSError:
        return None
    quotas: list[float] = []
    for line in lines:
        _, controllers, group = line.split(":", 2)
        # a group's path is as the host sees it, while the mount may show only the container's own part:
        # then the group's folders are not there, and the mount's root, the last of the parents, has the limits
        inner = PurePosixPath(group.lstrip("/"))
        if not controllers:
            quotas += [q for part in (inner, *inner.parents) if (q := _quota_v2(groups / part)) is not None]
        elif "cpu" in controllers.split(","):
            mount = next((p for p in (groups / controllers, groups / "cpu") if p.is_dir()), groups / "cpu")
            quotas += [q for part in (inner, *inner.parents) if (q := _quota_v1(mount / part)) is not None]
    return min(quotas, default=None)


def _quota_v2(folder: Path) -> float | None:
    try:
        quota, period = (folder / "cpu.max").read_text(encoding="utf-8").split()
        return None if quota == "max" else int(quota) / int(period)
    except (OSError, ValueError, ZeroDivisionError):
        return None


def _quota_v1(folder: Path) -> float | None:
    try:
        quota = int((folder / "cpu.cfs_quota_us").read_text(encoding="utf-8"))
        period = int((folder / "cpu.cfs_period_us").read_text(encoding="utf-8"))
        return quota / period if quota > 0 else None
    except (OSError, ValueError, ZeroDivisionError):
        return None


def installed_versions(packages: Iterable[str]) -> dict[str, str]:
    """The version of each package that is installed, in the order given."""
    import importlib.metadata  # slow to import, and few need it

    found: dict[str, str] = {}
    for package in packages:
        try:
            found[package] = importlib.metadata.version(package)
        except importlib.metadata.PackageNotFoundError:
            continue
    return found
