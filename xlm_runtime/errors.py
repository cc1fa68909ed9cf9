"""Errors of the runtime. Each also derives from the builtin class that a caller would expect to catch."""

from __future__ import annotations


class XLMError(Exception):
    """Base of every error that this project raises on purpose."""


class InputError(XLMError, ValueError):
    """A text, option or language that cannot be used. The message names the value and what was expected.

    Args:
        message: what is wrong.
        item: which of many inputs it is about, counted from 1; None where it is about all, or there is only one.

    Attributes:
        message: without the item.
        item: as given.
    """

    def __init__(self, message: str, item: int | None = None) -> None:
        super().__init__(message if item is None else f"item {item}: {message}")
        self.message = message
        self.item = item


class BundleError(XLMError, ValueError):
    """A bundle or model folder whose files are missing, changed, contradictory or of a newer format."""


class EngineError(XLMError, RuntimeError):
    """A provider, TensorRT engine or device that was asked for and is not there, or that failed."""


class OverloadedError(XLMError, RuntimeError):
    """As many requests wait as may: this one was not taken, and can be made again later."""


class MissingExtraError(XLMError, ImportError):
    """An optional package is needed and not installed. The message names the extra that brings it."""

    def __init__(self, package: str, extra: str, purpose: str) -> None:
        super().__init__(
            f"{purpose} needs the package '{package}', which is not installed. "
            f"Please reinstall with the `{extra}` extra: pip install 'xlm-onnx[{extra}]'"
        )
