"""One vector for a whole sequence, used by the classification and multiple-choice heads."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor, nn
from torch.nn import functional

from xlm_export.families.layouts import PackedBatch, PaddedLayout
from xlm_runtime.config import XLMConfig
from xlm_runtime.errors import InputError

SUMMARY_TYPES = ("first", "last", "mean", "cls_index")

ACTIVATIONS: dict[str, Callable[[Tensor], Tensor]] = {
    "tanh": torch.tanh,
    "relu": functional.relu,
    "gelu": functional.gelu,
    "sigmoid": torch.sigmoid,
    "silu": functional.silu,
    "linear": lambda x: x,
}


def last_real_index(mask: Tensor) -> Tensor:
    """(batch,) int64: position of each row's last real token, 0 where there is none. `mask` (batch, sequence) bool."""
    steps = torch.arange(mask.shape[1], device=mask.device)
    return (mask * steps).amax(dim=1)


class XLMSequenceSummary(nn.Module):
    """A token's vector or the mean of all, then dropout, projection, activation and dropout as configured.

    "last", "cls_index" and "mean" read the real tokens alone, so padding does not change a sequence's answer.
    (Hugging Face's module reads the padded row.)

    Raises:
        InputError: an unknown `summary_type` or `summary_activation`; "attn" was never implemented by anyone.
    """

    def __init__(self, config: XLMConfig) -> None:
        super().__init__()
        if config.summary_type not in SUMMARY_TYPES:
            raise InputError(
                f"summary_type is '{config.summary_type}'; use one of {', '.join(SUMMARY_TYPES)}. "
                "('attn' has no implementation in any XLM release.)"
            )
        if config.summary_activation and config.summary_activation not in ACTIVATIONS:
            raise InputError(
                f"summary_activation is '{config.summary_activation}'; use null or one of {', '.join(ACTIVATIONS)}."
            )
        self.summary_type = config.summary_type
        self.activation = config.summary_activation
        self.first_dropout = config.summary_first_dropout
        self.last_dropout = config.summary_last_dropout
        self.summary: nn.Module = nn.Identity()
        if config.summary_use_proj:
            width = config.num_labels if config.summary_proj_to_labels and config.num_labels else config.emb_dim
            self.summary = nn.Linear(config.emb_dim, width)

    def forward(self, hidden: Tensor, mask: Tensor) -> Tensor:
        """(batch, sequence, emb_dim) and which tokens are real (batch, sequence) → (batch, num_labels or emb_dim)."""
        if self.summary_type == "first":
            summary = hidden[:, 0]
        elif self.summary_type == "mean":
            count = mask.sum(dim=1, keepdim=True).clamp(min=1)
            # in float32: half precision does not hold the sum of a few hundred of its larger numbers
            summary = ((hidden * mask.unsqueeze(-1)).float().sum(dim=1) / count).to(hidden.dtype)
        else:
            summary = PaddedLayout().take(hidden, last_real_index(mask).unsqueeze(1)).squeeze(1)
        return self.project(summary)

    def forward_packed(self, hidden: Tensor, batch: PackedBatch) -> Tensor:
        """The kept token of each row (batch, emb_dim), or for "mean" all (tokens, emb_dim) → as `forward`."""
        if batch.kept_index is None:
            return self.forward(batch.layout.spread(hidden), batch.mask)
        return self.project(hidden)

    def project(self, summary: Tensor) -> Tensor:
        """What follows on the summary: (batch, emb_dim) → (batch, num_labels or emb_dim)."""
        summary = functional.dropout(summary, self.first_dropout, self.training)
        summary = self.summary(summary)
        if self.activation:
            summary = ACTIVATIONS[self.activation](summary)
        return functional.dropout(summary, self.last_dropout, self.training)
