"""What tracing, verification and loading ask of a model, of whatever family."""

from __future__ import annotations

from torch import Tensor, nn

from xlm_export.families.layouts import PackedBatch
from xlm_runtime.config import XLMConfig


class FamilyModel(nn.Module):
    """A model of a family: the transformer, alone or under a head.

    Its call takes the inputs that the table of tasks lists for the padded layout, by their names, and
    `output_hidden_states` and `output_attentions`; the transformer alone takes `cache`, a `PastKeyValues`, too. It
    returns an object with the task's outputs and, by Hugging Face's names, `hidden_states`, `attentions` and `present`,
    None where they were not asked for. Parameters have Hugging Face's names.
    """

    def __init__(self, config: XLMConfig) -> None:
        super().__init__()
        self.config = config

    @property
    def body(self) -> FamilyModel:
        """The transformer without a head: the model itself where it has none."""
        raise NotImplementedError

    @property
    def word_embeddings(self) -> Tensor:
        """(vocab_size, emb_dim)."""
        raise NotImplementedError

    def forward_packed(self, batch: PackedBatch) -> tuple[Tensor, ...]:
        """The task's outputs in the packed layout, in the order of the table of tasks."""
        raise NotImplementedError

    def project(self, hidden: Tensor) -> Tensor:
        """(…, emb_dim) → (…, vocab_size), each word's score: what a language model's head does."""
        raise NotImplementedError

    def tie_weights(self) -> None:
        """Let a projection to words use the embeddings' weights, where the configuration says so."""
