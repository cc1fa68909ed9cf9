"""The progress bar of `xlm-export`."""

from __future__ import annotations

from typing import Any

from tqdm import tqdm


class Bar:
    """Shows the step under way; full once its block ends without an error."""

    def __init__(self) -> None:
        self._bar: Any = tqdm(total=1, bar_format="{desc:<40}|{bar:20}| {elapsed}", leave=False, disable=None)
        self._started = False

    def __call__(self, step: str, left: int) -> None:
        """Begin a step, with so many to follow; a `Progress`."""
        self._bar.update(int(self._started))
        self._bar.total = self._bar.n + 1 + left
        self._bar.set_description_str(step)
        self._started = True

    def __enter__(self) -> Bar:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: object, traceback: object) -> None:
        if kind is None:
            self._bar.update(int(self._started))
        self._bar.close()
