"""What becomes of inputs that cannot be used, among others that can."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from dataclasses import asdict, dataclass
from typing import Any, TypeVar

from xlm_runtime.errors import InputError

I = TypeVar("I")  # noqa: E741
R = TypeVar("R")

ON_ERROR = ("raise", "skip", "return")


@dataclass(frozen=True)
class FailedItem:
    """Stands in place of the answer to an input that cannot be used.

    Attributes:
        item: which of the inputs, counted from 1.
        type: the error's class, such as "InputError".
        message: what is wrong with it.
    """

    item: int
    type: str
    message: str

    @classmethod
    def of(cls, error: InputError, number: int) -> FailedItem:
        """Why the input with this number cannot be used."""
        return cls(number, type(error).__name__, error.message)

    def to_dict(self) -> dict[str, Any]:
        """`{"error": {"item": …, "type": …, "message": …}}`."""
        return {"error": asdict(self)}


class FailedRows(list[Any]):
    """No rows, and why."""

    def __init__(self, failure: FailedItem) -> None:
        super().__init__()
        self.failure = failure


def try_each(inputs: Iterable[I], step: Callable[[I], R], on_error: str) -> Iterator[R | FailedItem]:
    """What `step` makes of each input; where that cannot be used, why.

    Args:
        on_error: of `ON_ERROR`; only with "raise" errors are raised.

    Raises:
        InputError: that of an input, with its number.
    """
    for number, item in enumerate(inputs, start=1):
        try:
            made = step(item)
        except InputError as error:
            if on_error == "raise":
                raise InputError(error.message, number) from error
            yield FailedItem.of(error, number)
        else:
            yield made
