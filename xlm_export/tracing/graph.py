"""A model as its graph sees it: named tensors in, the task's outputs in order."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from xlm_export.families.layouts import PackedBatch
from xlm_export.families.model import FamilyModel
from xlm_export.families.past import PastKeyValues
from xlm_runtime.tasks import PAST, Task, TensorSpec, graph_inputs, graph_outputs

TORCH_DTYPES = {"fp32": torch.float32, "fp16": torch.float16, "bf16": torch.bfloat16}


class ExportGraph(nn.Module):
    """Wraps a model so that it takes the inputs and gives the outputs that the table of tasks lists for it.

    `inputs` and `outputs` are the graph's, in its order. With `cache` the graph takes the keys and values of past
    tokens and gives those of the new ones. In the packed layout its inputs are a `PackedBatch`.
    """

    def __init__(
        self,
        model: FamilyModel,
        task: Task,
        optional_inputs: tuple[str, ...] = (),
        hidden_states: bool = False,
        attentions: bool = False,
        cache: bool = False,
        layout: str = "padded",
    ) -> None:
        super().__init__()
        self.model = model
        self.task = task
        self.inputs: tuple[TensorSpec, ...] = graph_inputs(task, model.config, optional_inputs, cache, layout)
        self.outputs: tuple[TensorSpec, ...] = graph_outputs(
            task, model.config, hidden_states, attentions, cache, layout
        )
        self.hidden_states = hidden_states
        self.attentions = attentions
        self.cache = cache
        self.layout = layout
        self.optional_inputs = optional_inputs

    def padded(self) -> ExportGraph:
        """The graph that answers the same in the padded layout."""
        return self if self.layout == "padded" else ExportGraph(self.model, self.task, self.optional_inputs)

    def forward(self, inputs: dict[str, Tensor]) -> tuple[Tensor, ...]:
        """Tensors by the names of `self.inputs` → tensors in the order of `self.outputs`."""
        if self.layout == "packed":
            return self.model.forward_packed(PackedBatch(**inputs))
        wanted = {"output_hidden_states": self.hidden_states, "output_attentions": self.attentions}
        if self.task.kept == "logit_positions":
            past = self._past(inputs) if self.cache else None
            kept_out = ("logit_positions", *(spec.name for spec in self.inputs if "past_sequence" in spec.axes))
            body = {name: value for name, value in inputs.items() if name not in kept_out}
            output = self.model.body(**body, **wanted, cache=past)
            kept = output.last_hidden_state.flatten(0, 1).index_select(0, inputs["logit_positions"])
            main = [self.model.project(kept)]
            if self.cache:
                main += [tensor for layer in output.present.layers for tensor in layer]
        else:
            output = self.model(**inputs, **wanted)
            main = [getattr(output, spec.name) for spec in self.task.outputs]
        return (*main, *self._by_choice(output.hidden_states, inputs), *self._by_choice(output.attentions, inputs))

    def _past(self, inputs: dict[str, Tensor]) -> PastKeyValues:
        layers = range(self.model.config.n_layers)
        return PastKeyValues(tuple((inputs[f"{PAST}{i}.key"], inputs[f"{PAST}{i}.value"]) for i in layers))

    def _by_choice(self, layers: tuple[Tensor, ...] | None, inputs: dict[str, Tensor]) -> list[Tensor]:
        """Layers of a multiple-choice model, (batch * num_choices, …), as (batch, num_choices, …)."""
        if layers is None or len(self.task.rows) == 1:
            return list(layers or ())
        mask = inputs["attention_mask"]
        return [layer.reshape(mask.shape[0], mask.shape[1], *layer.shape[1:]) for layer in layers]
