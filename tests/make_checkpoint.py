"""Tiny checkpoints with seeded weights and a vocabulary of our own, in the layout that `save_pretrained` writes."""

from __future__ import annotations

import json
import unicodedata
from collections import Counter
from functools import cache
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import save_file
from torch import nn

from xlm_export.families.family import ExportFamily
from xlm_export.families.xlm.family import XLM

LANGUAGES = ("de", "en", "fr", "ru", "ar", "bg", "el", "es", "hi", "sw", "th", "tr", "ur", "vi", "zh")

SENTENCES = {
    "de": [
        "Der alte Leuchtturm steht am Rand der kleinen Stadt.",
        "Im Winter fahren nur zwei Schiffe zur Insel, und beide sind fast leer.",
        "Anna Müller wohnt in Hamburg und arbeitet seit 2011 bei der Bahn.",
    ],
    "en": [
        "The old lighthouse stands at the edge of the small town.",
        "In winter only two ships go to the island, and both are almost empty.",
        "Anna Miller lives in London and has worked for the railway since 2011.",
        "This film is very good, but the book was better than the film.",
    ],
    "fr": [
        "Le vieux phare se dresse au bord de la petite ville.",
        "En hiver, seuls deux bateaux vont à l'île et ils sont presque vides.",
        "Anna Meunier habite à Paris et travaille pour le train depuis 2011.",
    ],
    "ru": [
        "Старый маяк стоит на краю маленького города.",
        "Зимой на остров ходят только два корабля, и оба почти пустые.",
        "Анна Мельник живёт в Москве и работает на железной дороге с 2011 года.",
    ],
}

SPECIALS = ["<s>", "</s>", "<pad>", "<unk>", *(f"<special{i}>" for i in range(10))]
END = "</w>"


def make_checkpoint(
    folder: str | Path, architecture: str, seed: int = 0, family: ExportFamily = XLM, **config_options: Any
) -> Path:
    """Write a checkpoint of the family's model class `architecture` into `folder`: weights, configuration, vocabulary.

    Two layers of 32 dimensions, 4 languages and 64 positions, unless `config_options` say otherwise. Weights are drawn
    wide, so that answers differ visibly. A `vocab_size` above the vocabulary's is kept: the words behind have no name.
    """
    folder = Path(folder)
    folder.mkdir(parents=True, exist_ok=True)
    vocab, merges = learn_vocabulary()
    n_langs = config_options.get("n_langs", 4)
    lang2id = {lang: i for i, lang in enumerate(LANGUAGES[:n_langs])} if n_langs > 1 else None
    options: dict[str, Any] = {
        "vocab_size": len(vocab),
        "emb_dim": 32,
        "n_layers": 2,
        "n_heads": 4,
        "n_langs": n_langs,
        "lang_id": 1 if n_langs > 1 else 0,
        "lang2id": lang2id,
        "max_position_embeddings": 64,
        "init_std": 0.2,
        "embed_init_std": 0.5,
        "mask_index": 5,
        "mask_token_id": 5,
        "architectures": [architecture],
    }
    config = family.runtime.config(**(options | config_options))
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        model = family.models[family.head_of(architecture)](config)
        _spread(model)
    tensors = {name: tensor.contiguous() for name, tensor in model.state_dict().items()}
    if config.tie_word_embeddings and not config.asm:
        tensors.pop(family.names.projection, None)
    save_file(tensors, folder / "model.safetensors", metadata={"format": "pt"})
    _write_json(folder / "config.json", config.to_dict())
    _write_json(folder / "vocab.json", vocab)
    lines = "".join(f"{left} {right} {len(merges) - rank}\n" for rank, (left, right) in enumerate(merges))
    (folder / "merges.txt").write_text(lines, encoding="utf-8")
    tokenizer = {
        "tokenizer_class": "XLMTokenizer",
        "do_lowercase_and_remove_accent": True,
        "do_lowercase": True,  # FlauBERT's option, which reads no other of the two
        "model_max_length": config.max_position_embeddings,
    }
    if config.lang2id is not None:
        tokenizer |= {"lang2id": config.lang2id, "id2lang": {i: lang for lang, i in config.lang2id.items()}}
    _write_json(folder / "tokenizer_config.json", tokenizer)
    return folder


@cache
def learn_vocabulary(n_merges: int = 250) -> tuple[dict[str, int], list[tuple[str, str]]]:
    """Byte-pair encoding (Sennrich et al. 2016) of `SENTENCES`, lower-cased and without accents."""
    text = " ".join(sentence for sentences in SENTENCES.values() for sentence in sentences)
    text = "".join(c for c in unicodedata.normalize("NFD", text.lower()) if unicodedata.category(c) != "Mn")
    words = text.replace(",", " ,").replace(".", " .").replace("'", " '").split()
    counts = Counter(words)
    pieces = {word: [*word[:-1], word[-1] + END] for word in counts}
    letters = {*text.replace(" ", ""), *'abcdefghijklmnopqrstuvwxyz0123456789абвгдежзийклмнопрстуфхцчшщъыьэюя-?!:;()"'}
    symbols = [symbol for letter in sorted(letters) for symbol in (letter, letter + END)]
    merges: list[tuple[str, str]] = []
    while len(merges) < n_merges:
        pairs: Counter[tuple[str, str]] = Counter()
        for word, count in counts.items():
            for pair in zip(pieces[word], pieces[word][1:], strict=False):
                pairs[pair] += count
        if not pairs:
            break
        best = min(pairs, key=lambda pair: (-pairs[pair], pair))
        merges.append(best)
        pieces = {word: _merge(parts, best) for word, parts in pieces.items()}
    symbols += [left + right for left, right in merges]
    return {symbol: i for i, symbol in enumerate(dict.fromkeys([*SPECIALS, *symbols]))}, merges


def _merge(parts: list[str], pair: tuple[str, str]) -> list[str]:
    merged: list[str] = []
    for part in parts:
        if merged and (merged[-1], part) == pair:
            merged[-1] += part
        else:
            merged.append(part)
    return merged


@torch.no_grad()
def _spread(model: nn.Module) -> None:
    """Biases and LayerNorms start at 0 and 1, which would hide a mistake in them."""
    for parameter in model.parameters():
        if parameter.dim() == 1:
            parameter.add_(torch.randn_like(parameter) * 0.2)


def _write_json(path: Path, values: Any) -> None:
    path.write_text(json.dumps(values, ensure_ascii=False, indent=2) + "\n", encoding="utf-8")
