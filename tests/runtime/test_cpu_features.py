"""What is read out of /proc/cpuinfo of other machines."""

from __future__ import annotations

from pathlib import Path

import pytest

from xlm_runtime.machine import CpuFeatures, cpu_features, cpuinfo

HASWELL = "fpu sse4_2 ssse3 fma avx avx2 bmi2"
SKYLAKE = f"{HASWELL} avx512f avx512dq avx512bw avx512vl"
# name → machine, the line's key, the flags of each core, what is found, int8?, bf16?, saturates?
MACHINES = {
    "no AVX": ("x86_64", "flags", ["fpu sse4_2 ssse3"], set(), False, False, True),
    "Haswell": ("x86_64", "flags", [HASWELL], {"avx2"}, False, False, True),
    "Skylake-X": ("AMD64", "flags", [SKYLAKE], {"avx2", "avx512"}, False, False, True),
    "Cascade Lake": ("x86_64", "flags", [f"{SKYLAKE} avx512_vnni"], {"avx2", "avx512", "vnni"}, True, False, False),
    "Alder Lake": ("x86_64", "flags", [f"{HASWELL} avx_vnni"] * 2, {"avx2", "vnni"}, True, False, False),
    "Sapphire Rapids": (
        "x86_64",
        "flags",
        [f"{SKYLAKE} avx512_vnni avx512_bf16 amx_tile amx_int8 amx_bf16"],
        {"avx2", "avx512", "vnni", "avx512_bf16", "amx_int8", "amx_bf16"},
        True,
        True,
        False,
    ),
    "Zen 5": (
        "x86_64",
        "flags",
        [f"{SKYLAKE} avx_vnni avx512_bf16 avx512_vnni"],
        {"avx2", "avx512", "vnni", "avx512_bf16"},
        True,
        True,
        False,
    ),
    "Raspberry Pi 4": ("aarch64", "Features", ["fp asimd evtstrm crc32 cpuid"], set(), False, False, False),
    "Graviton 2": ("aarch64", "Features", ["fp asimd asimddp"], {"arm_dot"}, True, False, False),
    "Graviton 3": (
        "aarch64",
        "Features",
        ["fp asimd asimddp sve svei8mm i8mm bf16"],
        {"arm_dot", "arm_i8mm", "arm_bf16"},
        True,
        True,
        False,
    ),
    "big and little cores": ("aarch64", "Features", ["fp asimd asimddp", "fp asimd"], set(), False, False, False),
}


def written(path: Path, key: str, cores: list[str]) -> Path:
    blocks = [f"processor\t: {i}\nmodel name\t: a CPU\n{key}\t\t: {flags}\n" for i, flags in enumerate(cores)]
    path.write_text("\n".join(blocks))
    return path


@pytest.mark.parametrize("name", MACHINES)
def test_machines(name: str, tmp_path: Path) -> None:
    machine, key, cores, found, int8, bf16, saturates = MACHINES[name]
    cpu = cpu_features(written(tmp_path / "cpuinfo", key, cores), machine)
    assert cpu.known
    assert cpu.found == found
    assert (cpu.int8, cpu.bf16, cpu.saturates) == (int8, bf16, saturates)


def test_a_flag_of_another_architecture_does_not_count(tmp_path: Path) -> None:
    """x86's flags have no "bf16"; if they had, it would not be ARM's."""
    assert cpu_features(written(tmp_path / "a", "flags", ["avx2 bf16 i8mm"]), "x86_64").found == {"avx2"}
    assert cpu_features(written(tmp_path / "b", "Features", ["asimd avx2"]), "arm64").found == set()


@pytest.mark.parametrize("content", [None, "processor : 0\nmodel name : a RISC-V\n"])
def test_nothing_is_concluded_where_nothing_is_known(content: str | None, tmp_path: Path) -> None:
    if content is not None:
        (tmp_path / "cpuinfo").write_text(content)
    cpu = cpu_features(tmp_path / "cpuinfo", "x86_64")
    assert cpu == CpuFeatures("x86", frozenset(), known=False)
    assert not cpu.saturates


def test_what_is_found_in_words() -> None:
    assert str(CpuFeatures("x86", frozenset({"vnni", "avx2"}))) == "avx2, vnni"
    assert str(CpuFeatures("arm", frozenset())) == "none of the instructions for small numbers"


def test_a_key_of_cpuinfo(tmp_path: Path) -> None:
    info = written(tmp_path / "cpuinfo", "flags", ["avx2", "avx2 vnni"])
    assert cpuinfo("model name", info) == ["a CPU", "a CPU"]
    assert cpuinfo("flags", info) == ["avx2", "avx2 vnni"]
    assert cpuinfo("cores", info) == cpuinfo("flags", tmp_path / "absent") == []


def test_this_machine() -> None:
    assert cpu_features().architecture
