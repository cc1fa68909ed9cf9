"""The encoder with its heads, all on one body, and how they are written: the body once, each head as a shard."""

from __future__ import annotations

import dataclasses
import json
import shutil
from pathlib import Path

import torch
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

from examples.train_demo.batches import ENTITY_LABELS, MASK
from examples.train_demo.facts import LANGUAGES
from examples.train_demo.tasks import NLI_LABELS
from examples.train_demo.vocabulary import LANG2ID, POSITIONS, write_json
from xlm_export.families.xlm import modeling
from xlm_export.families.xlm.modeling import XLMConfig, XLMModel, XLMPreTrainedModel
from xlm_export.families.xlm.modeling.model import sinusoidal_embeddings

# folder → model class and labels
HEADS: dict[str, tuple[str, tuple[str, ...] | None]] = {
    "fill-mask": ("XLMWithLMHeadModel", None),
    "language-id": ("XLMForSequenceClassification", LANGUAGES),
    "nli": ("XLMForSequenceClassification", NLI_LABELS),
    "ner": ("XLMForTokenClassification", ENTITY_LABELS),
    "qa": ("XLMForQuestionAnswering", None),
    "choice": ("XLMForMultipleChoice", None),
}
BODY, CAUSAL = "body", "clm"
VOCABULARY_FILES = ("vocab.json", "merges.txt", "tokenizer_config.json")
_PREFIX = "transformer."


def make_config(vocab_size: int, dim: int, layers: int, causal: bool = False) -> XLMConfig:
    """Without dropout."""
    return XLMConfig(
        vocab_size=vocab_size,
        emb_dim=dim,
        n_layers=layers,
        n_heads=4,
        dropout=0.0,
        attention_dropout=0.0,
        summary_first_dropout=0.0,
        causal=causal,
        n_langs=len(LANGUAGES),
        lang2id=LANG2ID,
        lang_id=LANG2ID["en"],
        default_lang="en",  # what batches.py reads a text as whose language it does not name
        max_position_embeddings=POSITIONS,
        embed_init_std=0.04,
        init_std=0.06,
        mask_index=MASK,
        mask_token_id=MASK,
    )


@torch.no_grad()
def start_as_sinusoids(body: XLMModel) -> None:
    """Learned positions that begin as sinusoids, as strong as the word embeddings.

    Between sinusoids "the word before" is one linear map; between random vectors it is none.
    """
    table = body.position_embeddings.weight
    waves = sinusoidal_embeddings(*table.shape)
    table.copy_(waves * (body.config.embed_init_std / waves.std()))


@torch.no_grad()
def start_as_matching(body: XLMModel, gain: float = 0.8) -> None:
    """Half of the heads begin with keys equal to queries, so that tokens look for their like (Trockman & Kolter 2023).

    Together with sinusoids that is the same word elsewhere and the words around.
    """
    width = body.config.emb_dim // body.config.n_heads
    for attention in body.attentions:
        for head in range(body.config.n_heads // 2):
            rows = slice(head * width, (head + 1) * width)
            projection = nn.init.orthogonal_(torch.empty(width, body.config.emb_dim)) * gain
            attention.q_lin.weight[rows] = projection
            attention.k_lin.weight[rows] = projection


class Encoder(nn.Module):
    """One body and every head; `heads[name]` is a whole model of the project, the body being shared."""

    def __init__(self, config: XLMConfig) -> None:
        super().__init__()
        self.config = config
        self.body = XLMModel(config)
        start_as_sinusoids(self.body)
        start_as_matching(self.body)
        self.heads = nn.ModuleDict()
        for name, (architecture, labels) in HEADS.items():
            head = getattr(modeling, architecture)(_head_config(config, architecture, labels))
            head.transformer = self.body
            if name == "fill-mask":
                head.tie_weights()
            self.heads[name] = head

    def save(self, folder: Path, vocabulary: Path) -> None:
        """Write `body/` and a folder for each head, in half precision."""
        body = {_PREFIX + name: tensor for name, tensor in self.body.state_dict().items()}
        _write_folder(folder / BODY, dataclasses.replace(self.config, architectures=["XLMModel"]), vocabulary)
        _save(body, folder / BODY / "model.safetensors")
        for name, head in self.heads.items():
            _write_folder(folder / name, head.config, vocabulary)
            own = {key: value for key, value in head.state_dict().items() if not key.startswith(_PREFIX)}
            own.pop("pred_layer.proj.weight", None)  # tied to the body's embeddings
            _save(own, folder / name / "head.safetensors")
            places = dict.fromkeys(body, f"../{BODY}/model.safetensors") | dict.fromkeys(own, "head.safetensors")
            size = sum(2 * tensor.numel() for tensor in (*body.values(), *own.values()))
            index = {"metadata": {"total_size": size}, "weight_map": places}
            write_json(folder / name / "model.safetensors.index.json", index)

    @torch.no_grad()
    def load(self, folder: Path) -> None:
        """Take the weights that `save` wrote."""
        body = load_file(folder / BODY / "model.safetensors")
        self.body.load_state_dict({name.removeprefix(_PREFIX): tensor for name, tensor in body.items()})
        for name, head in self.heads.items():
            unexpected = head.load_state_dict(load_file(folder / name / "head.safetensors"), strict=False)[1]
            if unexpected:
                raise ValueError(f"'{folder / name}' holds {', '.join(unexpected)}, which {name} has no place for.")


def save_causal(model: XLMPreTrainedModel, folder: Path, vocabulary: Path) -> None:
    """Write the causal model, in half precision."""
    _write_folder(folder / CAUSAL, dataclasses.replace(model.config, architectures=["XLMWithLMHeadModel"]), vocabulary)
    tensors = model.state_dict()
    tensors.pop("pred_layer.proj.weight", None)
    _save(tensors, folder / CAUSAL / "model.safetensors")


def _head_config(config: XLMConfig, architecture: str, labels: tuple[str, ...] | None) -> XLMConfig:
    values = dataclasses.replace(config, architectures=[architecture])
    return dataclasses.replace(values, id2label=dict(enumerate(labels))) if labels else values


def _write_folder(folder: Path, config: XLMConfig, vocabulary: Path) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "config.json").write_text(json.dumps(config.to_dict(), indent=2) + "\n", encoding="utf-8")
    for name in VOCABULARY_FILES:
        shutil.copyfile(vocabulary / name, folder / name)


def _save(tensors: dict[str, Tensor], path: Path) -> None:
    half = {name: tensor.detach().to(torch.float16).contiguous() for name, tensor in tensors.items()}
    save_file(half, path, metadata={"format": "pt"})
