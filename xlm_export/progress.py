"""How long jobs say where they are."""

from __future__ import annotations

from collections.abc import Callable

Progress = Callable[[str, int], None]
"""Called before each step with its name, and the number of steps to follow it as far as that is known."""


class Steps:
    """Names each step of a job, and counts those to follow.

    Args:
        progress: whom to tell; None for nobody.
        left: steps that the job has for certain.
    """

    def __init__(self, progress: Progress | None = None, left: int = 0) -> None:
        self._progress, self.left = progress, left

    def __call__(self, name: str) -> None:
        """Begin a step."""
        self.left = max(0, self.left - 1)
        if self._progress is not None:
            self._progress(name, self.left)

    def expect(self, more: int) -> None:
        """Further steps turn out to follow; negative: fewer than were expected."""
        self.left += more
