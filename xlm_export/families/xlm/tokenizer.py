"""What XLM's tokenizer needs in a bundle."""

from __future__ import annotations

import json
from pathlib import Path

from xlm_runtime.tokenization import XLMTokenizer
from xlm_runtime.tokenization.sacremoses_tables import read_tables


def write_tokenizer(tokenizer: XLMTokenizer, folder: Path) -> None:
    """Its own files, and the Moses tables of its languages, so that the runtime needs no sacremoses."""
    tokenizer.save_pretrained(folder)
    tables = read_tables(tokenizer.lang2id or ())
    (folder / "moses.json").write_text(json.dumps(tables, ensure_ascii=False) + "\n", encoding="utf-8")
