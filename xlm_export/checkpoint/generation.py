"""A checkpoint's `generation_config.json`, checked before it goes into a bundle."""

from __future__ import annotations

import json
import warnings
from pathlib import Path

from xlm_export.checkpoint.tensors import listed
from xlm_runtime.config import XLMConfig
from xlm_runtime.generation.config_file import (
    GENERATION_FILE,
    generation_options,
    read_generation_config,
    without_support,
)


def checked_generation_config(folder: Path, config: XLMConfig) -> str | None:
    """The file's text for a bundle, None where the checkpoint has none.

    A warning names the options that are not offered, and which would have changed what is generated.

    Raises:
        BundleError: the file holds no JSON object.
        InputError: an option of another type or out of its range.
    """
    values = read_generation_config(folder)
    if values is None:
        return None
    generation_options(values, config.vocab_size)
    missing = without_support(values)
    if missing:
        warnings.warn(
            f"{GENERATION_FILE} in path '{folder}' asks for {listed(missing)}, which generation here does not have: "
            "texts will differ from transformers' there.",
            stacklevel=3,
        )
    return json.dumps(values, indent=2, ensure_ascii=False) + "\n"
