"""This project's torch classifier on packed tokens, each attention one call of `torch.nn.attention.varlen`.

No padding is computed, as in the runtime's packed graphs, and behind its last attention only what the head reads.

options: `checkpoint`, `precision` (fp16 or bf16 on a card), `compile` (with dynamic shapes), `graphs` (each shape of a
batch is captured in a CUDA graph when it comes for the first time), `device`. The kernel is CUDA's; on the CPU rows
attend one by one, and a captured graph is a call into the same tensors, so that answers can be checked there.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from itertools import chain, pairwise
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional

from benchmarks.contenders.labels import label_rows
from benchmarks.workloads import Row
from xlm_export.checkpoint.checkpoint import load_checkpoint
from xlm_runtime.tokenization import XLMTokenizer

DTYPES = {"fp32": torch.float32, "bf16": torch.bfloat16, "fp16": torch.float16}
WARM_UP = 3  # calls before a capture, in which libraries take their workspaces
# query, key, value (tokens, heads, head_dim), bounds of the rows (rows + 1,) int32, the longest row → as query
Attend = Callable[[Tensor, Tensor, Tensor, Tensor, int], Tensor]


def cuda_attention() -> Attend:
    from torch.nn.attention.varlen import varlen_attn

    return lambda query, key, value, bounds, longest: varlen_attn(query, key, value, bounds, bounds, longest, longest)


@torch.library.custom_op("xlm_benchmarks::attend_row_by_row", mutates_args=())
def attend_row_by_row(query: Tensor, key: Tensor, value: Tensor, bounds: Tensor, longest: int) -> Tensor:
    """What CUDA's kernel computes, each row by itself. An operator, so that it may be compiled around."""
    found = torch.empty_like(query, memory_format=torch.contiguous_format)
    ends = bounds.tolist()
    for start, end in pairwise(ends):
        heads = (x[start:end].transpose(0, 1) for x in (query, key, value))
        found[start:end] = functional.scaled_dot_product_attention(*heads).transpose(0, 1)
    return found


@attend_row_by_row.register_fake
def _(query: Tensor, key: Tensor, value: Tensor, bounds: Tensor, longest: int) -> Tensor:
    return torch.empty_like(query, memory_format=torch.contiguous_format)


class PackedClassifier(nn.Module):
    """The checkpoint's modules on the token axis, with one product for query, key and value."""

    def __init__(self, model: Any, attend: Attend) -> None:
        super().__init__()
        if model.config.causal or model.config.summary_type != "first":
            raise ValueError("packed in torch: a bidirectional classifier that reads the first token of each row")
        self.body, self.head, self.attend = model.transformer, model.sequence_summary, attend
        self.heads = model.config.n_heads
        self.qkv = nn.ModuleList(_joined(each.q_lin, each.k_lin, each.v_lin) for each in self.body.attentions)

    def forward(
        self, input_ids: Tensor, position_ids: Tensor, bounds: Tensor, longest: int, langs: Tensor | None = None
    ) -> Tensor:
        """Ids, positions and languages (tokens,), `bounds` (rows + 1,) int32 → logits (rows, labels)."""
        body = self.body
        added = [body.position_embeddings(position_ids)]
        if langs is not None:
            added.append(body.lang_embeddings(langs))
        hidden = body.layer_norm_emb(body.embeddings(input_ids), *added)
        last = len(self.qkv) - 1
        for i, qkv in enumerate(self.qkv):
            query, key, value = qkv(hidden).view(hidden.shape[0], 3, self.heads, -1).unbind(1)
            context = self.attend(query, key, value, bounds, longest).flatten(1)
            if i == last:
                first = bounds[:-1].long()
                hidden, context = hidden[first], context[first]
            hidden = body.layer_norm1[i](hidden, body.attentions[i].out_lin(context))
            hidden = body.layer_norm2[i](hidden, body.ffns[i](hidden))
        logits: Tensor = self.head.project(hidden)
        return logits


def _joined(*layers: nn.Linear) -> nn.Linear:
    joined = nn.Linear(layers[0].in_features, sum(layer.out_features for layer in layers))
    joined.weight = nn.Parameter(torch.cat([layer.weight for layer in layers]))
    joined.bias = nn.Parameter(torch.cat([layer.bias for layer in layers]))
    return joined


class CapturedCall:
    """One shape of batch: its inputs and answer in buffers that stay, on the host in pinned memory."""

    def __init__(self, forward: Callable[..., Tensor], inputs: dict[str, Tensor], longest: int) -> None:
        device = inputs["bounds"].device
        on_card = device.type == "cuda"
        self._device = device
        self._inputs = inputs
        self._host = {name: torch.empty_like(x, device="cpu", pin_memory=on_card) for name, x in inputs.items()}

        def call() -> Tensor:
            return forward(**inputs, longest=longest)

        for _ in range(WARM_UP):
            output = call()
        self._replay: Callable[[], Any] = lambda: output.copy_(call())
        if on_card:
            torch.cuda.synchronize(device)
            graph = torch.cuda.CUDAGraph()
            with torch.cuda.graph(graph):
                output = call()
            self._replay = graph.replay
        self._output = output
        self._answer = torch.empty_like(output, device="cpu", pin_memory=on_card)

    def __call__(self, arrays: dict[str, np.ndarray]) -> np.ndarray:
        for name, host in self._host.items():
            host.numpy()[:] = arrays[name]
            self._inputs[name].copy_(host, non_blocking=True)
        self._replay()
        self._answer.copy_(self._output, non_blocking=True)
        if self._device.type == "cuda":
            torch.cuda.synchronize(self._device)
        return self._answer.float().numpy().copy()


class TorchPacked:
    def __init__(self, options: dict[str, Any], threads: int) -> None:
        torch.set_num_threads(threads)
        self._device = torch.device(options["device"])
        loaded = load_checkpoint(options["checkpoint"], "text-classification")
        self._config = loaded.config
        attend: Attend = cuda_attention() if self._device.type == "cuda" else attend_row_by_row
        model = PackedClassifier(loaded.model, attend).eval().to(self._device, DTYPES[options["precision"]])
        self._forward: Callable[..., Tensor] = torch.compile(model, dynamic=True) if options["compile"] else model
        self._captured: dict[tuple[int, int, int], CapturedCall] | None = {} if options["graphs"] else None
        self._folder = Path(options["checkpoint"])
        self._tokenizer: XLMTokenizer | None = None

    @torch.inference_mode()
    def answer(self, rows: Sequence[Row], all_logits: bool) -> np.ndarray:
        arrays, longest = pack(rows)
        if not self._config.uses_langs:
            del arrays["langs"]
        if self._captured is None:
            return self._forward(**self._inputs(arrays), longest=longest).float().cpu().numpy()
        shape = (len(arrays["input_ids"]), len(rows), longest)
        if shape not in self._captured:
            self._captured[shape] = CapturedCall(self._forward, self._inputs(arrays), longest)
        return self._captured[shape](arrays)

    def answer_texts(self, texts: list[str]) -> list[str]:
        """With this project's tokenizer, since torch has none."""
        if self._tokenizer is None:
            self._tokenizer = XLMTokenizer.from_pretrained(self._folder)
        rows = [Row(self._tokenizer(text)["input_ids"]) for text in texts]
        return label_rows(rows, lambda batch: self.answer(batch, False), self._config.id2label)

    def _inputs(self, arrays: dict[str, np.ndarray]) -> dict[str, Tensor]:
        return {name: torch.from_numpy(array).to(self._device) for name, array in arrays.items()}


def pack(rows: Sequence[Row]) -> tuple[dict[str, np.ndarray], int]:
    """What `PackedClassifier.forward` takes, and the longest row."""
    lengths = np.array([len(row) for row in rows])
    bounds = np.concatenate(([0], lengths.cumsum()))
    ids = np.fromiter(chain.from_iterable(row.input_ids for row in rows), np.int64, int(bounds[-1]))
    arrays = {
        "input_ids": ids,
        "position_ids": np.arange(len(ids)) - np.repeat(bounds[:-1], lengths),
        "langs": np.repeat(np.array([row.lang_id for row in rows]), lengths),
        "bounds": bounds.astype(np.int32),
    }
    return arrays, int(lengths.max())


def open_model(options: dict[str, Any], threads: int) -> TorchPacked:
    return TorchPacked(options, threads)
