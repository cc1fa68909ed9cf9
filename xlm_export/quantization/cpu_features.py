"""What this CPU multiplies with, and what that means for a recipe."""

from __future__ import annotations

import platform
from dataclasses import dataclass
from pathlib import Path

# feature → the names that /proc/cpuinfo has for it: "flags" on x86, "Features" on ARM
_FLAGS = {
    "avx2": ("avx2",),
    "avx512": ("avx512f",),
    "vnni": ("avx512_vnni", "avx_vnni"),
    "avx512_bf16": ("avx512_bf16",),
    "amx_int8": ("amx_int8",),
    "amx_bf16": ("amx_bf16",),
    "arm_dot": ("asimddp",),
    "arm_i8mm": ("i8mm",),
    "arm_bf16": ("bf16",),
}


@dataclass(frozen=True)
class CpuFeatures:
    """Instruction sets out of `_FLAGS` that matter for small numbers.

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


def cpu_features(cpuinfo: Path = Path("/proc/cpuinfo"), machine: str | None = None) -> CpuFeatures:
    """Read what the system lists.

    Args:
        cpuinfo: Linux's list.
        machine: as `platform.machine` gives it, by default this machine's.
    """
    name = (platform.machine() if machine is None else machine).lower()
    x86 = name in ("x86_64", "amd64", "i386", "i686")
    arm = name in ("aarch64", "arm64")
    architecture = "x86" if x86 else "arm" if arm else name
    try:
        lines = cpuinfo.read_text(encoding="utf-8").splitlines()
    except OSError:
        # every 64-bit ARM chip that macOS runs on has dot products
        apple = arm and machine is None and platform.system() == "Darwin"
        return CpuFeatures(architecture, frozenset({"arm_dot"} if apple else ()), known=apple)
    listed: set[str] | None = None
    for line in lines:
        key, _, values = line.partition(":")
        if key.strip() in ("flags", "Features"):
            here = set(values.split())
            listed = here if listed is None else listed & here  # cores may differ: what all have
    if listed is None:
        return CpuFeatures(architecture, frozenset(), known=False)
    prefix = {"x86": ("avx2", "avx512", "vnni", "avx512_bf16", "amx_int8", "amx_bf16")}.get(
        architecture, ("arm_dot", "arm_i8mm", "arm_bf16")
    )
    found = {feature for feature in prefix if listed & set(_FLAGS[feature])}
    return CpuFeatures(architecture, frozenset(found))


def advice(recipe: str, cpu: CpuFeatures) -> str | None:
    """What to know before a recipe runs on this CPU, or None."""
    if not cpu.known:
        return None
    have = ", ".join(sorted(cpu.found)) or "none of the instructions for small numbers"
    if recipe.startswith("int8"):
        if cpu.saturates:
            return (
                f"This CPU has {have}, no VNNI: its sums of 8-bit products pass through 16 bits and saturate. Weights "
                "are kept to 7 bits, which is exact but less precise, and the graph may be no faster than fp32 here."
            )
        if not cpu.int8:
            return f"This CPU has {have}, no 8-bit dot products: the graph is smaller, and may be slower than fp32."
    if recipe == "int4-weights" and not cpu.int8:
        return f"This CPU has {have}, no 8-bit dot products, with which 4-bit weights are multiplied: expect it slow."
    if recipe == "bf16" and not cpu.bf16:
        return f"This CPU has {have}, no bf16 products: OpenVINO computes in fp32 here, the file is half as large."
    return None
