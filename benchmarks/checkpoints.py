"""Seeded checkpoints of the official configurations' sizes, since speed and memory do not depend on what was learnt."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from string import ascii_lowercase

import torch
from safetensors.torch import save_file

from xlm_export.families.xlm import modeling
from xlm_export.families.xlm.modeling import XLMConfig

SHARED = Path(__file__).resolve().parents[1].parent / "shared" / "data"

# The official checkpoints' sizes, as published: vocabulary, width, layers, heads, languages, language embeddings.
OFFICIAL = {
    "xlm-mlm-en-2048": (30145, 2048, 12, 16, 1, True),
    "xlm-mlm-ende-1024": (64699, 1024, 6, 8, 2, True),
    "xlm-mlm-enfr-1024": (64139, 1024, 6, 8, 2, True),
    "xlm-mlm-enro-1024": (64592, 1024, 6, 8, 2, True),
    "xlm-mlm-tlm-xnli15-1024": (95000, 1024, 12, 8, 15, True),
    "xlm-mlm-xnli15-1024": (95000, 1024, 12, 8, 15, True),
    "xlm-clm-enfr-1024": (64139, 1024, 6, 8, 2, True),
    "xlm-clm-ende-1024": (64699, 1024, 6, 8, 2, True),
    "xlm-mlm-17-1280": (200000, 1280, 16, 16, 17, False),
    "xlm-mlm-100-1280": (200000, 1280, 16, 16, 100, False),
}
REAL_VOCABULARIES = {
    "xlm-mlm-tlm-xnli15-1024": "xlm-mlm-tlm-xnli15-1024",
    "xlm-mlm-xnli15-1024": "xlm-mlm-tlm-xnli15-1024",
    "xlm-mlm-ende-1024": "xlm-clm-ende-1024",
    "xlm-clm-ende-1024": "xlm-clm-ende-1024",
}
XNLI_LABELS = ("contradiction", "entailment", "neutral")
LANGS_XNLI = ("ar", "bg", "de", "el", "en", "es", "fr", "hi", "ru", "sw", "th", "tr", "ur", "vi", "zh")


def official_config(
    name: str, n_layers: int | None = None, *, dim: int | None = None, vocab_size: int | None = None
) -> XLMConfig:
    """The configuration of an official checkpoint, with fewer layers, columns or words on request."""
    official_words, official_dim, layers, heads, n_langs, use_lang_emb = OFFICIAL[name]
    vocab_size, dim = vocab_size or official_words, dim or official_dim
    lang2id = None
    if n_langs == len(LANGS_XNLI):
        lang2id = {lang: i for i, lang in enumerate(LANGS_XNLI)}
    elif n_langs == 2:
        lang2id = {lang: i for i, lang in enumerate(sorted((name[8:10], name[10:12])))}
    return XLMConfig(
        vocab_size=vocab_size,
        emb_dim=dim,
        n_layers=layers if n_layers is None else n_layers,
        n_heads=heads,
        n_langs=n_langs,
        use_lang_emb=use_lang_emb,
        lang2id=lang2id,
        embed_init_std=dim**-0.5,
    )


def write_checkpoint(
    folder: Path,
    name: str,
    architecture: str = "XLMWithLMHeadModel",
    n_layers: int | None = None,
    seed: int = 0,
    *,
    dim: int | None = None,
    vocab_size: int | None = None,
    causal: bool = False,
) -> int:
    """Write a seeded checkpoint of an official size; returns its parameters' bytes in float32.

    The real vocabulary is used where the reference data hold it; elsewhere letters and numbered words stand for it. A
    classifier gets the three labels of XNLI.
    """
    folder.mkdir(parents=True, exist_ok=True)
    config = official_config(name, n_layers, dim=dim, vocab_size=vocab_size)
    config.architectures = [architecture]
    config.causal = causal
    if architecture == "XLMForSequenceClassification":
        config.id2label = dict(enumerate(XNLI_LABELS))
    model = _draw(architecture, config, seed)
    state = {key: value for key, value in model.state_dict().items() if key != "pred_layer.proj.weight"}
    save_file(state, folder / "model.safetensors", metadata={"format": "pt"})
    (folder / "config.json").write_text(json.dumps(config.to_dict(), indent=2), encoding="utf-8")
    real = SHARED / REAL_VOCABULARIES.get(name, "none")
    if real.is_dir() and config.vocab_size == OFFICIAL[name][0]:
        for file in ("vocab.json", "merges.txt", "tokenizer_config.json"):
            shutil.copyfile(real / file, folder / file)
    else:
        specials = ["<s>", "</s>", "<pad>", "<unk>", *(f"<special{i}>" for i in range(10))]
        letters = [f"{letter}{end}" for letter in ascii_lowercase for end in ("", "</w>")]
        numbered = [f"w{i}</w>" for i in range(config.vocab_size - len(specials) - len(letters))]
        vocab = {word: i for i, word in enumerate([*specials, *letters, *numbered])}
        (folder / "vocab.json").write_text(json.dumps(vocab), encoding="utf-8")
        (folder / "merges.txt").write_text("", encoding="utf-8")
    return sum(value.numel() * 4 for value in state.values())


def _draw(architecture: str, config: XLMConfig, seed: int) -> torch.nn.Module:
    """A new model. Constructors draw large embeddings five times, each class those of its parts again."""
    with torch.device("meta"):
        model = getattr(modeling, architecture)(config)
    model.to_empty(device="cpu")
    torch.manual_seed(seed)
    for module in model.modules():
        if isinstance(module, torch.nn.LayerNorm):
            module.reset_parameters()
    model.init_weights()
    if hasattr(model, "tie_weights"):
        model.tie_weights()
    return model
