"""What FlauBERT's tokenizer needs in a bundle."""

from __future__ import annotations

import json
from pathlib import Path

from xlm_runtime.tokenization import XLMTokenizer
from xlm_runtime.tokenization.flaubert import LANG
from xlm_runtime.tokenization.sacremoses_tables import read_tables


def write_tokenizer(tokenizer: XLMTokenizer, folder: Path) -> None:
    """Its own files, and the Moses tables for French, as which it splits every text."""
    tokenizer.save_pretrained(folder)
    (folder / "moses.json").write_text(json.dumps(read_tables((LANG,)), ensure_ascii=False) + "\n", encoding="utf-8")
