"""A graph's entry in a bundle's table of contents."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from xlm_runtime.tasks import SEQLENS_K, TOKEN_OFFSET, TensorSpec


@dataclass(frozen=True)
class Graph:
    """One graph of a bundle.

    `precision` is fp32, fp16, bf16, int8 or int4; `layout` is padded or packed; tensors whose dtype is "float" have
    the type that `precision` computes in. `target` is None for a graph of standard operators, else what it was
    rewritten for, such as "onnxruntime-cpu" ("engine" in `bundle.json`). `weights_in` names other files of the bundle
    that the graph reads weights from. `recipe` is the one that quantised the graph; older bundles do not say.
    """

    file: str
    precision: str
    layout: str
    opset: int
    inputs: tuple[TensorSpec, ...]
    outputs: tuple[TensorSpec, ...]
    target: str | None = None
    weights_in: tuple[str, ...] = ()
    recipe: str | None = None

    @property
    def has_cache(self) -> bool:
        """Whether it takes the keys and values of past tokens and gives those of new ones."""
        return any("past_sequence" in spec.axes for spec in self.inputs)

    @property
    def has_static_cache(self) -> bool:
        """Whether its keys and values stay in place, with room for all tokens; see `tasks.static_cache_specs`."""
        return any(spec.name == SEQLENS_K for spec in self.inputs)

    @property
    def is_packed(self) -> bool:
        return self.layout == "packed"

    @property
    def tells_rows(self) -> bool:
        """Whether it is packed and its attention knows where rows begin, so that it takes tokens that no row has."""
        return any(spec.name == TOKEN_OFFSET for spec in self.inputs)

    @property
    def is_portable(self) -> bool:
        """Whether it is made of standard operators, which every provider has."""
        return self.target is None

    @property
    def quality(self) -> str:
        """What graphs that answer alike have in common: the recipe, or the precision of one that no recipe made."""
        return self.recipe or self.precision

    @property
    def title(self) -> str:
        """What tells it from the bundle's other graphs, such as "int8-static packed (onnxruntime-cpu)"."""
        layout = " packed" if self.is_packed else ""
        return f"{self.quality}{layout}" + (f" ({self.target})" if self.target else "")

    @property
    def file_name(self) -> str:
        """The name that a further graph's file gets: model[.packed].RECIPE-or-precision[.TARGET].onnx."""
        parts = ("model", "packed" if self.is_packed else None, self.quality, self.target)
        return ".".join(part for part in (*parts, "onnx") if part)

    @classmethod
    def from_dict(cls, values: dict[str, Any]) -> Graph:
        sections = {
            name: tuple(TensorSpec(item["name"], item["dtype"], _axes(item["axes"])) for item in values[name])
            for name in ("inputs", "outputs")
        }
        return cls(
            values["file"],
            values["precision"],
            values["layout"],
            values["opset"],
            **sections,
            target=values.get("engine"),
            weights_in=tuple(values.get("weights_in", ())),
            recipe=values.get("recipe"),
        )

    def to_dict(self) -> dict[str, Any]:
        def listed(specs: tuple[TensorSpec, ...]) -> list[dict[str, Any]]:
            return [{"name": spec.name, "dtype": spec.dtype, "axes": list(spec.axes)} for spec in specs]

        values = {
            "file": self.file,
            "precision": self.precision,
            "layout": self.layout,
            "opset": self.opset,
            "inputs": listed(self.inputs),
            "outputs": listed(self.outputs),
        }
        if self.target is not None:
            values["engine"] = self.target
        if self.weights_in:
            values["weights_in"] = list(self.weights_in)
        if self.recipe is not None:
            values["recipe"] = self.recipe
        return values


def _axes(names: list[str]) -> tuple[str, ...]:
    """The axes of a tensor; packs were called lines in bundles of version 0.1.0."""
    return tuple("packs" if name == "lines" else name for name in names)
