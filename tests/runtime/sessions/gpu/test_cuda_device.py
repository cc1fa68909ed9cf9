"""A CUDA device: every way it can be missing has one clear error; and the fake has the real library's functions."""

from __future__ import annotations

import inspect
import re

import numpy as np
import pytest

from tests.runtime.sessions.gpu.fake_cuda import FakeRuntime, cudaError_t
from xlm_runtime import EngineError, InputError
from xlm_runtime.sessions.gpu.cuda_device import CudaDevice
from xlm_runtime.sessions.gpu.memory import Copy2D


def open_device(index: int = 0) -> CudaDevice:
    return CudaDevice(index, "provider='tensorrt'", "tensorrt")


@pytest.mark.parametrize(
    ("error", "driver", "message"),
    [
        (cudaError_t.cudaErrorInsufficientDriver, 0, "no NVIDIA driver is there.* --gpus all"),
        (cudaError_t.cudaErrorNoDevice, 0, "no NVIDIA driver is there"),
        (
            cudaError_t.cudaErrorInsufficientDriver,
            12040,
            r"driver supports CUDA 12.4, but cuda-bindings was built for CUDA 13.5. Upgrade the driver, or pip install "
            r"'cuda-bindings==12\.\*'",
        ),
        (cudaError_t.cudaErrorNoDevice, 13000, "the driver sees none. Check nvidia-smi and CUDA_VISIBLE_DEVICES"),
        (cudaError_t.cudaErrorSystemDriverMismatch, 13000, r"could not start: the fake says so \(cudaErrorSystemDriv"),
    ],
)
def test_no_device(cuda: FakeRuntime, error: cudaError_t, driver: int, message: str) -> None:
    cuda.count, cuda.driver = (error, None), driver
    with pytest.raises(EngineError, match=rf"provider='tensorrt'.*{message}"):
        open_device()


def test_a_number_without_a_device(cuda: FakeRuntime) -> None:
    with pytest.raises(InputError, match=r"device is 1; expected 0 to 0, since 1 CUDA device\(s\) are visible"):
        open_device(1)


def test_what_a_device_is(cuda: FakeRuntime) -> None:
    device = open_device()
    assert (device.name, device.architecture, device.stream) == ("Fake GPU", "sm80", 7)
    assert not device.closed


def test_memory_and_copies(cuda: FakeRuntime) -> None:
    device = open_device()
    host, back = device.host_buffer(64), device.host_buffer(64)
    host[:] = np.arange(64)
    one, other = device.allocate(64), device.allocate(64)
    device.copy_in(one, host)
    device.zero(other, 64)
    device.copy(Copy2D(target=other + 4, target_pitch=16, source=one, source_pitch=8, width=2, height=4))
    device.copy_out(back, other)
    expected = np.zeros((4, 16), np.uint8)
    expected[:, 4:6] = np.arange(64).reshape(8, 8)[:4, :2]
    np.testing.assert_array_equal(back.reshape(4, 16), expected)
    device.free(one)
    device.free_host(host)
    assert (len(cuda.blocks), len(cuda.pinned)) == (1, 1)
    device.close()
    device.close()
    assert (cuda.blocks, cuda.pinned, cuda.streams) == ({}, {}, 0)


def test_captured_work_runs_when_it_is_replayed(cuda: FakeRuntime) -> None:
    device = open_device()
    host = device.host_buffer(8)
    address = device.allocate(8)
    device.zero(address, 8)
    graph = device.capture(lambda: device.copy_in(address, host))
    for value in (3, 4):
        host[:] = value
        assert cuda.blocks[address][0] != value
        device.replay(graph)
        assert (cuda.blocks[address] == value).all(), "at the same addresses, with what is there now"
    device.release(graph)


def test_a_capture_that_is_interrupted_ends(cuda: FakeRuntime) -> None:
    device = open_device()

    def enqueue() -> None:
        raise EngineError("refused")

    with pytest.raises(EngineError, match="refused"):
        device.capture(enqueue)
    device.synchronize()


def test_a_machine_without_a_gpu_says_so() -> None:
    """The real library, where there is no device."""
    runtime = pytest.importorskip("cuda.bindings.runtime", reason="cuda-bindings is not installed")
    if runtime.cudaGetDeviceCount()[1]:
        pytest.skip("this machine has a CUDA device")
    with pytest.raises(EngineError, match="provider='tensorrt' needs an NVIDIA GPU, but"):
        open_device()


def test_the_fake_library_has_the_real_ones_functions() -> None:
    """Names, numbers of arguments, and constants of everything that `CudaDevice` uses."""
    runtime = pytest.importorskip("cuda.bindings.runtime", reason="cuda-bindings is not installed")
    functions = [name for name in vars(FakeRuntime) if name.startswith("cuda") and callable(getattr(FakeRuntime, name))]
    functions.remove("cudaError_t")
    assert len(functions) > 20
    for name in functions:
        signature = re.match(rf"{name}\((.*?)\)\s", getattr(runtime, name).__doc__ + "\n", re.DOTALL)
        assert signature is not None, name
        real = [part for part in signature.group(1).split(",") if part.strip()]
        assert len(real) == len(inspect.signature(getattr(FakeRuntime, name)).parameters) - 1, name
    for error in cudaError_t:
        assert int(getattr(runtime.cudaError_t, error.name)) == error.value
    for group in ("cudaMemcpyKind", "cudaStreamCaptureMode"):
        for name in vars(getattr(FakeRuntime, group)):
            assert hasattr(getattr(runtime, group), name)
    assert (runtime.cudaHostAllocDefault, runtime.cudaStreamNonBlocking) == (0, 1)
