"""What was built: the network's layers and types, and what the builder's log and the engine say of it."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING, Any

from xlm_export.engines.trt import Message
from xlm_runtime.errors import EngineError

if TYPE_CHECKING:
    import tensorrt

# precision → TensorRT's name of the type
TYPES = {"fp32": "FLOAT", "fp16": "HALF", "bf16": "BF16"}

_PRODUCTS = ("MATRIX_MULTIPLY", "CONVOLUTION", "EINSUM", "ATTENTION", "ATTENTION_INPUT")
_IN_FLOAT32 = ("SOFTMAX", "NORMALIZATION")

_PATTERN = re.compile(r"Found (\S+) to be part of self-attention pattern")
_LAYER = re.compile(
    r"^Name: (?P<name>.*?), LayerType: (?P<type>\w+), .*?"
    r"TacticName: (?P<tactic>.*?), StreamId.*?Metadata: (?P<nodes>.*)$",
    re.MULTILINE,
)
_NODE = re.compile(r"\[ONNX Layer: (.*?)\]")
_MEMORY = re.compile(r"^(?:Total (Activation|Weights)|Max (Scratch)) Memory: (\d+) bytes")
# said of every graph: ids are int64, as the graph declares them
_EXPECTED = re.compile(r"Make sure (input|output) \S+ has Int64 binding|differs from one already registered")


@dataclass(frozen=True)
class NetworkTypes:
    """A strongly typed network's layers: layer type → data type of its output → how many.

    `products` counts matrix products by the type of their operands; `product_names` are their layers, `attention_names`
    those of the softmax of each attention, which is the one over (batch, n_heads, queries, keys).
    """

    layers: dict[str, dict[str, int]]
    products: dict[str, int]
    product_names: tuple[str, ...]
    attention_names: tuple[str, ...]

    @classmethod
    def read(cls, network: tensorrt.INetworkDefinition) -> NetworkTypes:
        """The types of a network that TensorRT's parser made."""
        layers: dict[str, Counter[str]] = {}
        products: Counter[str] = Counter()
        names: list[str] = []
        attention: list[str] = []
        for i in range(network.num_layers):
            layer = network.get_layer(i)
            kind = layer.type.name
            layers.setdefault(kind, Counter())[layer.get_output(0).dtype.name] += 1
            if kind in _PRODUCTS:
                products[layer.get_input(0).dtype.name] += 1
                names.append(layer.name)
            if kind == "SOFTMAX" and len(layer.get_output(0).shape) == 4:
                attention.append(layer.name)
        counts = {kind: dict(count) for kind, count in sorted(layers.items())}
        return cls(counts, dict(products), tuple(names), tuple(attention))

    def check(self, precision: str, graph: str) -> None:
        """Whether the network computes in `precision`: products in it, softmax and LayerNorm in float32.

        Raises:
            EngineError: it does not, so an engine of it would not be what was asked for.
        """
        wanted = TYPES[precision]
        other = {kind: count for kind, count in self.products.items() if kind != wanted}
        if other or not self.products:
            found = ", ".join(f"{count} in {kind}" for kind, count in other.items()) or "none"
            raise EngineError(
                f"An engine in {precision} was asked for, but the matrix products of '{graph}' are not in {wanted}: "
                f"{found}. Export the checkpoint with --precision {precision}."
            )
        for kind in _IN_FLOAT32:
            halves = {name: count for name, count in self.layers.get(kind, {}).items() if name != "FLOAT"}
            if halves:
                found = ", ".join(f"{count} in {name}" for name, count in halves.items())
                raise EngineError(f"Every {kind} of '{graph}' has to be in float32, but there are {found}; export it "
                                  "again with this xlm-export.")  # fmt: skip


@dataclass(frozen=True)
class EngineReport:
    """What `xlm-export engine` says and keeps beside the stamp.

    `attention` counts the network's attentions (`network`), those that the builder's log calls a self-attention pattern
    (`recognised`), and of the engine's layers, over all profiles, those that compute an attention's softmax (`softmax`)
    and those that compute both its matrix products in the same kernel (`fused`). `engine_layers` are the engine's
    layers: name, type, tactic and the graph's nodes in it. Memory is in bytes. `inspector` is what TensorRT says of the
    engine on the GPU, or a sentence that says why it was not asked. Without the builder's log `attention` and the lists
    that come from it are empty.
    """

    network: dict[str, dict[str, int]]
    products: dict[str, int]
    attention: dict[str, int]
    engine_layers: list[dict[str, str]]
    memory: dict[str, int]
    warnings: list[str]
    seconds: float
    plan_bytes: int
    inspector: dict[str, Any] | str

    def to_dict(self) -> dict[str, Any]:
        return asdict(self)

    def lines(self) -> list[str]:
        """The report for a terminal."""
        said = [f"matrix products: {_counts(self.products)}"]
        for kind, name in (("SOFTMAX", "softmax"), ("NORMALIZATION", "LayerNorm")):
            if kind in self.network:
                said.append(f"{name}: {_counts(self.network[kind])}")
        if not self.attention:
            said.append("attention: not known, since the builder's log went to another logger of this process")
        else:
            said.append("attention: {recognised} of {network} recognised, {fused} of {softmax} fused over all profiles"
                        .format_map(self.attention))  # fmt: skip
        kinds = Counter(layer["type"] for layer in self.engine_layers)
        said.append(f"layers of the engine: {', '.join(f'{count} {kind}' for kind, count in kinds.items()) or 'none'}")
        said += [f"{name} memory: {size / 1e6:.1f} MB" for name, size in self.memory.items()]
        if isinstance(self.inspector, str):
            said.append(f"engine inspector: {self.inspector}")
        else:
            largest = max(self.inspector["device_memory_of_profiles"])
            said.append(f"device memory: {largest / 1e6:.1f} MB for the largest profile")
        return said + [f"warning: {text}" for text in self.warnings]


def make_report(
    types: NetworkTypes,
    messages: Sequence[Message],
    seconds: float,
    plan_bytes: int,
    inspector: dict[str, Any] | str,
) -> EngineReport:
    """The report of a build out of its network and its log."""
    found = {match[1] for message in messages for match in _PATTERN.finditer(message.text)}
    layers = [match.groupdict() for message in messages for match in _LAYER.finditer(message.text)]
    nodes = [set(_NODE.findall(layer["nodes"])) for layer in layers]
    softmax = [names for names in nodes if not names.isdisjoint(types.attention_names)]
    attention = {
        "network": len(types.attention_names),
        "recognised": len(found.intersection(types.attention_names)),
        "softmax": len(softmax),
        "fused": sum(len(names.intersection(types.product_names)) > 1 for names in softmax),
    }
    memory: dict[str, int] = {}
    for message in messages:
        if match := _MEMORY.match(message.text):
            name = (match[1] or match[2]).lower()
            memory[name] = max(memory.get(name, 0), int(match[3]))
    warnings = [m.text for m in messages if m.severity == "WARNING" and not _EXPECTED.search(m.text)]
    return EngineReport(
        network=types.layers,
        products=types.products,
        attention=attention if layers else {},
        engine_layers=layers,
        memory=memory,
        warnings=list(dict.fromkeys(warnings)),
        seconds=round(seconds, 3),
        plan_bytes=plan_bytes,
        inspector=inspector,
    )


def _counts(counts: Counter[str] | dict[str, int]) -> str:
    return ", ".join(f"{count} in {kind}" for kind, count in counts.items()) or "none"
