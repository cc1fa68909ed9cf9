"""Generation of text, token by token: options, cache, decoders, processors of scores, search and streaming."""

from xlm_runtime.generation.options import GenerationOptions

__all__ = ["GenerationOptions"]
