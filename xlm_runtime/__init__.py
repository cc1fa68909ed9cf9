"""Answers from XLM models with numpy: load what `xlm-export` wrote. Names are imported when they are first used."""

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from xlm_runtime.bundle import Bundle
    from xlm_runtime.config import XLMConfig
    from xlm_runtime.errors import BundleError, EngineError, InputError, MissingExtraError, OverloadedError, XLMError
    from xlm_runtime.generation import GenerationOptions
    from xlm_runtime.pipelines import pipeline
    from xlm_runtime.pipelines.on_error import FailedItem
    from xlm_runtime.sessions import GpuOptions
    from xlm_runtime.tokenization import XLMTokenizer

__all__ = [
    "Bundle",
    "BundleError",
    "EngineError",
    "FailedItem",
    "GenerationOptions",
    "GpuOptions",
    "InputError",
    "MissingExtraError",
    "OverloadedError",
    "XLMConfig",
    "XLMError",
    "XLMTokenizer",
    "pipeline",
]

_MODULES = {
    "Bundle": "bundle",
    "FailedItem": "pipelines.on_error",
    "GenerationOptions": "generation",
    "GpuOptions": "sessions",
    "XLMConfig": "config",
    "XLMTokenizer": "tokenization",
    "pipeline": "pipelines",
}


def __getattr__(name: str) -> Any:
    if name not in __all__:
        raise AttributeError(f"module 'xlm_runtime' has no attribute '{name}'")
    return getattr(import_module(f"xlm_runtime.{_MODULES.get(name, 'errors')}"), name)
