"""What a device can do at most, measured with torch: the rate of matrix products and of memory.

options: `device`, `precision` (of the products), `dim`. `sweep` and `rate` are asked in every round.
"""

from __future__ import annotations

import time
from typing import Any

import torch

COPY_BYTES = {"cuda": 1 << 31, "cpu": 1 << 26}
ROWS = {"cuda": (2048, 4096, 8192), "cpu": (256,)}
DTYPES = {"fp32": torch.float32, "bf16": torch.bfloat16, "fp16": torch.float16}


class DeviceRates:
    def __init__(self, options: dict[str, Any], threads: int) -> None:
        torch.set_num_threads(threads)
        self._device = torch.device(options["device"])
        dtype, dim = DTYPES[options["precision"]], options["dim"]
        kind = self._device.type
        self._source = torch.ones(COPY_BYTES[kind] // 4, device=self._device)
        self._target = torch.empty_like(self._source)
        self._weights = torch.ones((4 * dim, dim), dtype=dtype, device=self._device)
        self._inputs = [torch.ones((rows, dim), dtype=dtype, device=self._device) for rows in ROWS[kind]]
        self.rate()
        self.sweep()

    def sweep(self) -> dict[str, float]:
        """Copy an array: it is read and written."""
        seconds = self._time(lambda: self._target.copy_(self._source))
        return {"seconds": seconds, "bytes": 2 * self._source.nbytes}

    def rate(self) -> dict[str, float]:
        """The fastest product of tokens with the FFN's weights, operations (2 a multiply-add) a second."""
        best = 0.0
        for rows in self._inputs:
            seconds = self._time(lambda rows=rows: rows @ self._weights.T)
            best = max(best, 2 * rows.shape[0] * self._weights.numel() / seconds)
        return {"operations_per_second": best}

    def _time(self, act: Any, repeats: int = 10) -> float:
        """Seconds of one call; calls are queued one behind the other as in a model."""
        act()
        self._wait()
        began = time.perf_counter()
        for _ in range(repeats):
            act()
        self._wait()
        return (time.perf_counter() - began) / repeats

    def _wait(self) -> None:
        if self._device.type == "cuda":
            torch.cuda.synchronize(self._device)


def open_model(options: dict[str, Any], threads: int) -> DeviceRates:
    return DeviceRates(options, threads)
