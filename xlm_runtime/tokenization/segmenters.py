"""Word segmenters for languages written without spaces: Chinese, Thai, Japanese. Loaded when first needed."""

from __future__ import annotations

import importlib
from collections.abc import Callable
from pathlib import Path
from typing import Any

from xlm_runtime.errors import InputError, MissingExtraError

SEGMENTED_LANGUAGES = ("zh", "th", "ja")
# where KyTea's own `make install` puts its model under $HOME, and where Hugging Face looks for it
KYTEA_MODEL = "~/local/share/kytea/model.bin"

Segmenter = Callable[[str], list[str]]


def load_segmenter(lang: str, ja_model: str | None = None) -> Segmenter:
    """The segmenter of `zh` (rjieba), `th` (pythainlp) or `ja` (KyTea).

    Args:
        ja_model: the path of KyTea's model file; by default where its own installation puts it.

    Raises:
        MissingExtraError: the segmenter's package is not installed.
        InputError: KyTea's model file is missing.
    """
    if lang == "zh":
        jieba = _load("rjieba", "zh", "Chinese")
        return lambda text: list(jieba.cut(text))
    if lang == "th":
        thai = _load("pythainlp.tokenize", "th", "Thai")
        return lambda text: list(thai.word_tokenize(text))
    path = Path(ja_model or KYTEA_MODEL).expanduser()
    kytea = _load("Mykytea", "ja", "Japanese")
    if not path.is_file():
        raise InputError(
            f"Japanese needs KyTea's model, which is not at '{path}'. It is 'model.bin' of the KyTea release "
            "(http://www.phontron.com/kytea/); put it there, or give its path as ja_model."
        )
    model = kytea.Mykytea(f"-model {path}")
    return lambda text: list(model.getWS(text))


def _load(module: str, extra: str, language: str) -> Any:
    try:
        return importlib.import_module(module)
    except ImportError as error:
        package = {"ja": "kytea"}.get(extra, module.partition(".")[0])
        raise MissingExtraError(package, extra, f"Tokenizing {language}") from error
