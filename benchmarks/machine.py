"""The machine that a run was made on: its processor, its libraries, and what else it was doing."""

from __future__ import annotations

import os
import platform
import subprocess
import time
from pathlib import Path
from typing import Any

import psutil

from xlm_runtime.machine import cpu_features, cpu_name, installed_versions

LIBRARIES = (
    "xlm-onnx", "numpy", "torch", "transformers", "onnx", "onnxruntime", "onnxruntime-gpu", "openvino", "nncf",
    "tensorrt", "tensorrt_rtx", "triton", "uvicorn", "httptools", "uvloop", "fastapi",
)  # fmt: skip
QUIET = 0.1  # CPUs that other programs may use on a machine that counts as quiet


def describe() -> dict[str, Any]:
    """Processor, memory, system and library versions."""
    return {
        "cpu": cpu_name(),
        "cpus": os.cpu_count(),
        "cpu_features": sorted(cpu_features().found),
        "memory_gb": round(psutil.virtual_memory().total / 1e9, 1),
        "system": f"{platform.system()} {platform.machine()}",
        "python": platform.python_version(),
        "versions": installed_versions(LIBRARIES),
        "governor": _first_line(Path("/sys/devices/system/cpu/cpu0/cpufreq/scaling_governor")),
    }


def gpu() -> dict[str, str] | None:
    """Name, driver, memory, clocks (MHz), power limit of the first card as nvidia-smi tells them; None without one."""
    fields = ("name", "driver_version", "memory.total", "clocks.max.sm", "clocks.max.memory", "power.limit")
    return _nvidia_smi(fields)


def gpu_clocks() -> dict[str, str] | None:
    """Clocks of this moment, and what else the card is doing."""
    return _nvidia_smi(("clocks.sm", "clocks.mem", "temperature.gpu", "power.draw", "utilization.gpu", "memory.used"))


def _nvidia_smi(fields: tuple[str, ...]) -> dict[str, str] | None:
    command = ["nvidia-smi", f"--query-gpu={','.join(fields)}", "--format=csv,noheader"]
    try:
        output = subprocess.run(command, check=True, capture_output=True, text=True, timeout=30).stdout
    except (OSError, subprocess.SubprocessError):
        return None
    lines = output.splitlines()
    return dict(zip(fields, (value.strip() for value in lines[0].split(",")), strict=False)) if lines else None


class OtherWork:
    """CPUs that programs other than this one and its children used since the last look."""

    def __init__(self) -> None:
        self._last = self._read()

    def look(self) -> float:
        """CPUs, 0.0 on a quiet machine."""
        now = self._read()
        seconds, busy, own = (b - a for a, b in zip(self._last, now, strict=True))
        self._last = now
        return max(0.0, (busy - own) / seconds) if seconds > 0 else 0.0

    def _read(self) -> tuple[float, float, float]:
        times = psutil.cpu_times()
        # time that a hypervisor gave to other machines (steal) is lost to this one as well; guests are counted in user
        busy = sum(getattr(times, name, 0.0) for name in ("user", "nice", "system", "irq", "softirq", "steal"))
        own = 0.0
        process = psutil.Process()
        for member in [process, *process.children(recursive=True)]:
            try:
                used = member.cpu_times()
            except psutil.NoSuchProcess:
                continue
            own += used.user + used.system
        own += process.cpu_times().children_user + process.cpu_times().children_system
        return time.monotonic(), busy, own


def _first_line(path: Path) -> str | None:
    try:
        return path.read_text(encoding="utf-8").strip()
    except OSError:
        return None
