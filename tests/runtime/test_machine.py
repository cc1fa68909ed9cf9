"""CPUs this process may use, from made-up control groups."""

from __future__ import annotations

import os
import platform
from pathlib import Path

import numpy as np
import pytest

from xlm_runtime.machine import available_cpus, available_memory, installed_versions, user_cache_folder


@pytest.fixture(autouse=True)
def eight_cpus(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(os, "sched_getaffinity", lambda pid: set(range(8)), raising=False)


def write(path: Path, text: str) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text)


def test_affinity_counts_where_there_is_no_quota(tmp_path: Path) -> None:
    assert available_cpus(tmp_path / "absent", tmp_path) == 8
    write(tmp_path / "self", "0::/\n")
    write(tmp_path / "cpu.max", "max 100000\n")
    assert available_cpus(tmp_path / "self", tmp_path) == 8


@pytest.mark.parametrize(("quota", "cpus"), [("250000 100000", 3), ("50000 100000", 1), ("9900000 100000", 8)])
def test_quota_of_version_2_rounds_up(tmp_path: Path, quota: str, cpus: int) -> None:
    write(tmp_path / "self", "0::/service/worker\n")
    write(tmp_path / "service/worker/cpu.max", quota)
    assert available_cpus(tmp_path / "self", tmp_path) == cpus


def test_a_group_around_may_have_the_smaller_quota(tmp_path: Path) -> None:
    write(tmp_path / "self", "0::/service/worker\n")
    write(tmp_path / "service/cpu.max", "200000 100000")
    write(tmp_path / "service/worker/cpu.max", "400000 100000")
    assert available_cpus(tmp_path / "self", tmp_path) == 2


def test_quota_of_version_1_in_a_container(tmp_path: Path) -> None:
    # the host's path of the group is not visible inside: the mount itself holds the limits
    write(tmp_path / "self", "5:cpu,cpuacct:/docker/0123\n0::/\n")
    write(tmp_path / "cpu/cpu.cfs_quota_us", "400000")
    write(tmp_path / "cpu/cpu.cfs_period_us", "100000")
    assert available_cpus(tmp_path / "self", tmp_path) == 4
    write(tmp_path / "cpu/cpu.cfs_quota_us", "-1")
    assert available_cpus(tmp_path / "self", tmp_path) == 8


def test_versions_of_what_is_installed_in_the_order_given() -> None:
    found = installed_versions(("xlm-onnx", "no-such-package", "numpy"))
    assert list(found) == ["xlm-onnx", "numpy"]
    assert found["numpy"] == np.__version__
    assert installed_versions(()) == {}


def test_memory_is_what_is_left_or_the_smallest_limit(tmp_path: Path) -> None:
    write(tmp_path / "meminfo", "MemTotal:       8000 kB\nMemAvailable:    2000 kB\n")
    write(tmp_path / "self", "0::/service\n4:memory:/old\n")
    assert available_memory(tmp_path / "absent", tmp_path / "absent", tmp_path) is None
    assert available_memory(tmp_path / "meminfo", tmp_path / "self", tmp_path) == 2000 << 10
    write(tmp_path / "memory.max", "max\n")
    write(tmp_path / "service/memory.max", str(1000 << 10))
    assert available_memory(tmp_path / "meminfo", tmp_path / "self", tmp_path) == 1000 << 10
    write(tmp_path / "memory/old/memory.limit_in_bytes", str(500 << 10))
    assert available_memory(tmp_path / "meminfo", tmp_path / "self", tmp_path) == 500 << 10


def test_the_users_cache_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(platform, "system", lambda: "Linux")
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    assert user_cache_folder() == tmp_path / "xlm-onnx"
    for value in ("", "relative"):  # which the standard tells to ignore
        monkeypatch.setenv("XDG_CACHE_HOME", value)
        monkeypatch.setenv("HOME", str(tmp_path))
        assert user_cache_folder() == tmp_path / ".cache" / "xlm-onnx"
