"""XLM's tokenizer on numpy and the standard library: `XLMTokenizer.from_pretrained(folder)`."""

from xlm_runtime.tokenization.encoding import BatchEncoding
from xlm_runtime.tokenization.tokenizer import XLMTokenizer
from xlm_runtime.tokenization.vocabulary import AddedToken

__all__ = ["AddedToken", "BatchEncoding", "XLMTokenizer"]
