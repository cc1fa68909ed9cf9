"""Language embeddings that are the same for every text, as part of the weights."""

from __future__ import annotations

import torch
from torch import nn

from xlm_export.families.xlm.modeling import XLMModel


@torch.no_grad()
def fix_language(body: XLMModel, number: int | None) -> None:
    """Make a model of one that reads no `langs`, for all texts in one language; its configuration says so, too.

    Every token has a position, so the language's vector goes into the table of positions.

    Args:
        body: the transformer, which is changed.
        number: the language's, or None for no language embedding.
    """
    if not body.config.uses_langs:
        return
    if number is not None:
        positions = body.position_embeddings.weight + body.lang_embeddings.weight[number]
        body.position_embeddings.weight = nn.Parameter(positions, requires_grad=False)
    del body.lang_embeddings
    body.config.use_lang_emb = False
