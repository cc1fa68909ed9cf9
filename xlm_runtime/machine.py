"""This machine: how many CPUs this process may use, what they are, and which packages are installed."""

from __future__ import annotations

import math
import os
import platform
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import Any

from xlm_runtime.errors import EngineError, InputError, MissingExtraError

# more than any machine has CPUs, fewer than any refuses to start
_MOST_THREADS = 1024


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


def check_threads(threads: int | None) -> None:
    """Whether it is a number of threads that engines can start, or None for as many as there are CPUs.

    Raises:
        InputError: it is not.
    """
    if threads is not None and not 1 <= threads <= _MOST_THREADS:
        raise InputError(f"threads is {threads}; expected a positive number, at most {_MOST_THREADS:,}.")


def user_cache_folder() -> Path | None:
    """Where this user's programs keep what they can make again: `$XDG_CACHE_HOME/xlm-onnx`, by default
    `~/.cache/xlm-onnx`; the system's own place on macOS and Windows. None for a user without a home."""
    variable, *inner = _CACHES.get(platform.system(), _CACHES["Linux"])
    named = Path(os.environ.get(variable, ""))
    if named.is_absolute():
        return named / "xlm-onnx"
    try:
        return Path.home().joinpath(*inner, "xlm-onnx")
    except RuntimeError:
        return None


# system → the variable that names the folder, and where it is in a home
_CACHES = {
    "Linux": ("XDG_CACHE_HOME", ".cache"),
    "Darwin": ("XDG_CACHE_HOME", "Library", "Caches"),
    "Windows": ("LOCALAPPDATA", "AppData", "Local"),
}


def _cgroup_quota(processes: Path, groups: Path) -> float | None:
    """The smallest quota among the process's group and those around it, in CPUs, or None."""
    folders = _cgroups("cpu", _CPU_QUOTAS, processes, groups)
    quotas = [_quota_v2(folder) if name == _CPU_QUOTAS[2] else _quota_v1(folder) for folder, name in folders]
    return min((quota for quota in quotas if quota is not None), default=None)


# version of control groups → file
_MEMORY_LIMITS = {2: "memory.max", 1: "memory.limit_in_bytes"}
_CPU_QUOTAS = {2: "cpu.max", 1: "cpu.cfs_quota_us"}


def available_memory(
    info: Path = Path("/proc/meminfo"),
    processes: Path = Path("/proc/self/cgroup"),
    groups: Path = Path("/sys/fs/cgroup"),
) -> int | None:
    """Bytes that this process can take: what the system has left, or a control group's limit; None if nobody tells.

    Args:
        info: Linux's account of its memory, in kB.
        processes, groups: see `available_cpus`.
    """
    found = [int(value.split()[0]) * 1024 for value in cpuinfo("MemAvailable", info)]
    limits = [_read_number(folder / name) for folder, name in _cgroups("memory", _MEMORY_LIMITS, processes, groups)]
    return min([*found, *(limit for limit in limits if limit is not None)], default=None)


def _cgroups(controller: str, files: dict[int, str], processes: Path, groups: Path) -> Iterator[tuple[Path, str]]:
    """Folders of the process's control group and of those around it, and the file there that has the limit."""
    try:
        lines = processes.read_text(encoding="utf-8").splitlines()
    except OSError:
        return
    for line in lines:
        _, controllers, group = line.split(":", 2)
        # a group's path is as the host sees it, while the mount may show only the container's own part:
        # then the group's folders are not there, and the mount's root, the last of the parents, has the limits
        inner = PurePosixPath(group.lstrip("/"))
        if not controllers:
            yield from ((groups / part, files[2]) for part in (inner, *inner.parents))
        elif controller in controllers.split(","):
            own = groups / controller
            mount = next((folder for folder in (groups / controllers, own) if folder.is_dir()), own)
            yield from ((mount / part, files[1]) for part in (inner, *inner.parents))


def _read_number(file: Path) -> int | None:
    try:
        return int(file.read_text(encoding="utf-8"))
    except (OSError, ValueError):  # "max"
        return None


def _quota_v2(folder: Path) -> float | None:
    try:
        quota, period = (folder / "cpu.max").read_text(encoding="utf-8").split()
        return None if quota == "max" else int(quota) / int(period)
    except (OSError, ValueError, ZeroDivisionError):
        return None


def _quota_v1(folder: Path) -> float | None:
    quota, period = (_read_number(folder / f"cpu.cfs_{name}_us") for name in ("quota", "period"))
    return quota / period if quota is not None and quota > 0 and period else None


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


@dataclass(frozen=True)
class Machine:
    """What measured times hold for: the CPU's name, the GPU's or None, threads, and the providers' packages."""

    cpu: str
    gpu: str | None
    threads: int
    versions: dict[str, str]


def this_machine(threads: int, gpu: str | None, packages: Iterable[str]) -> Machine:
    """The machine at hand.

    Args:
        gpu: the GPU's name, see `visible_gpu`.
        packages: whose versions matter.
    """
    return Machine(cpu_name(), gpu, threads, installed_versions(packages))


def cpu_name(info: Path = Path("/proc/cpuinfo")) -> str:
    """As the system names it: "AMD EPYC 9V74 80-Core Processor"; its architecture where it has no name."""
    named = next((name for name in cpuinfo("model name", info) if name), "")
    return named or platform.processor() or platform.machine()


def visible_gpu(device: int = 0) -> tuple[str, str] | None:
    """Name and architecture of a CUDA device; None where there is none, or no driver or no cuda-bindings.

    Raises:
        InputError: there are devices, but none with this number.
    """
    try:
        runtime = open_cuda(device, "provider='auto'", "gpu")
    except (EngineError, MissingExtraError):
        return None
    error, properties = runtime.cudaGetDeviceProperties(device)
    return describe_gpu(properties) if error == runtime.cudaError_t.cudaSuccess else None


def describe_gpu(properties: Any) -> tuple[str, str]:
    """Name and architecture, such as ("NVIDIA H200", "sm90"), out of CUDA's properties of a device."""
    return properties.name.decode().rstrip("\0"), f"sm{properties.major}{properties.minor}"


def open_cuda(index: int, purpose: str, extra: str) -> Any:
    """CUDA's runtime library, once it is known to see device number `index`.

    Args:
        purpose: who asks, for messages: "provider='tensorrt'".
        extra: the extra that installs cuda-bindings there.

    Raises:
        MissingExtraError: cuda-bindings is not installed.
        InputError: no device has this number.
        EngineError: there is no driver, an old one, or no device.
    """
    try:
        from cuda.bindings import runtime
    except ImportError as error:
        raise MissingExtraError("cuda-bindings", extra, purpose) from error
    count = _count_devices(runtime, purpose)
    if not 0 <= index < count:
        raise InputError(f"device is {index}; expected 0 to {count - 1}, since {count} CUDA device(s) are visible.")
    return runtime


def _count_devices(runtime: Any, purpose: str) -> int:
    """How many devices are visible.

    Raises:
        EngineError: none, or the driver is missing or older than cuda-bindings.
    """
    error, count = runtime.cudaGetDeviceCount()
    errors = runtime.cudaError_t
    if error == errors.cudaSuccess and count:
        return int(count)
    driver, built_for = runtime.cudaDriverGetVersion()[1], runtime.cudaRuntimeGetVersion()[1]
    if not driver:
        raise EngineError(
            f"{purpose} needs an NVIDIA GPU, but no NVIDIA driver is there. Run it on a machine with one; a container "
            "sees the host's driver when it is started with --gpus all."
        )
    if error == errors.cudaErrorInsufficientDriver:
        raise EngineError(
            f"{purpose}: the NVIDIA driver supports CUDA {_cuda_version(driver)}, but cuda-bindings was built for CUDA "
            f"{_cuda_version(built_for)}. Upgrade the driver, or pip install 'cuda-bindings=={driver // 1000}.*'."
        )
    if error in (errors.cudaErrorNoDevice, errors.cudaSuccess):
        raise EngineError(
            f"{purpose} needs an NVIDIA GPU, but the driver sees none. Check nvidia-smi and CUDA_VISIBLE_DEVICES; a "
            "container has to be started with --gpus all."
        )
    what = runtime.cudaGetErrorString(error)[1].decode()
    raise EngineError(f"{purpose}: CUDA could not start: {what} ({error.name}). Check nvidia-smi.")


def _cuda_version(number: int) -> str:
    return f"{number // 1000}.{number % 1000 // 10}"


# feature → the names that /proc/cpuinfo has for it, on x86 and on ARM
_X86_FLAGS = {
    "avx2": {"avx2"},
    "avx512": {"avx512f"},
    "vnni": {"avx512_vnni", "avx_vnni"},
    "avx512_bf16": {"avx512_bf16"},
    "amx_int8": {"amx_int8"},
    "amx_bf16": {"amx_bf16"},
}
_ARM_FLAGS = {"arm_dot": {"asimddp"}, "arm_i8mm": {"i8mm"}, "arm_bf16": {"bf16"}}


@dataclass(frozen=True)
class CpuFeatures:
    """Instruction sets that matter for small numbers: avx2, avx512, vnni, avx512_bf16, amx_int8, amx_bf16, arm_dot,
    arm_i8mm, arm_bf16.

    `known` is False where the system does not list them; nothing is then concluded.
    """

    architecture: str
    found: frozenset[str]
    known: bool = True

    @property
    def int8(self) -> bool:
        """Products of 8 bits summed in 32: fast, and exact."""
        return bool(self.found & {"vnni", "amx_int8", "arm_dot", "arm_i8mm"})

    @property
    def bf16(self) -> bool:
        return bool(self.found & {"avx512_bf16", "amx_bf16", "arm_bf16"})

    @property
    def saturates(self) -> bool:
        """Whether sums of uint8 × int8 pass through 16 bits, where two products of large numbers do not fit (x86
        without VNNI)."""
        return self.known and self.architecture == "x86" and not self.found & {"vnni", "amx_int8"}

    def __str__(self) -> str:
        return ", ".join(sorted(self.found)) or "none of the instructions for small numbers"


def cpu_features(info: Path = Path("/proc/cpuinfo"), machine: str | None = None) -> CpuFeatures:
    """Read what the system lists.

    Args:
        info: Linux's list.
        machine: as `platform.machine` gives it, by default this machine's.
    """
    name = (platform.machine() if machine is None else machine).lower()
    arm = name in ("aarch64", "arm64")
    architecture = "x86" if name in ("x86_64", "amd64", "i386", "i686") else "arm" if arm else name
    listed = [set(values.split()) for key in ("flags", "Features") for values in cpuinfo(key, info)]
    if not listed:
        # every 64-bit ARM chip that macOS runs on has dot products
        apple = arm and machine is None and platform.system() == "Darwin"
        return CpuFeatures(architecture, frozenset({"arm_dot"} if apple else ()), known=apple)
    common = set.intersection(*listed)  # cores may differ
    flags = _X86_FLAGS if architecture == "x86" else _ARM_FLAGS
    return CpuFeatures(architecture, frozenset(feature for feature, names in flags.items() if names & common))


def cpuinfo(key: str, info: Path = Path("/proc/cpuinfo")) -> list[str]:
    """What Linux's list has under a key, one entry a core; none where there is no such list."""
    try:
        lines = info.read_text(encoding="utf-8", errors="replace").splitlines()
    except OSError:
        return []
    pairs = (line.partition(":") for line in lines)
    return [value.strip() for name, _, value in pairs if name.strip() == key]
