"""`FlaubertConfig`: XLM's options, and the two that FlauBERT has beyond them."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from xlm_runtime.config import XLMConfig


@dataclass(kw_only=True)
class FlaubertConfig(XLMConfig):
    """Hyper-parameters of a FlauBERT checkpoint: every option of Hugging Face's `FlaubertConfig`.

    Raises:
        InputError: as `XLMConfig`.
    """

    model_type: ClassVar[str] = "flaubert"

    pre_norm: bool = False
    """Whether a layer normalises what attention and the FFN read, rather than its sums."""
    layerdrop: float = 0.0
    """How often training left out a layer (Fan et al. 2020); answers come from all of them."""
