"""A row of the exporter's table of families."""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from torch import Tensor

from xlm_export.families.model import FamilyModel
from xlm_export.onnx_graph.names import WeightNames
from xlm_runtime.families import Family
from xlm_runtime.tokenization import XLMTokenizer

# The two heads of the table of tasks that loading treats apart: none, and the one of pre-training.
NO_HEAD, LM_HEAD = "Model", "WithLMHeadModel"


def _write_tokenizer(tokenizer: XLMTokenizer, folder: Path) -> None:
    tokenizer.save_pretrained(folder)


def _nothing_to_convert(folder: Path, target: Path, vocab_size: int) -> bool:
    return False


def _learned_positions(config: Any) -> None:
    return None


def _no_languages(body: Any, number: int | None) -> None:
    return None


def _all_passes(config: Any) -> Mapping[str, str]:
    return {}


def _all_matches(config: Any) -> Mapping[str, int]:
    return {}


@dataclass(frozen=True)
class ExportFamily:
    """What torch and ONNX graphs have to know of a family."""

    runtime: Family
    """Its row in the runtime's table."""
    models: Mapping[str, type[FamilyModel]]
    """Head, as in the table of tasks → model class."""
    names: WeightNames
    head_tensors: tuple[tuple[str, str], ...]
    """Which head a weight file holds, by a tensor that no other head has: (tensor, head), the telling ones first."""
    dropped: re.Pattern[str] = re.compile(r"(?!)")
    """Finds names of tensors that files may hold and inference does not need, such as a loss's."""
    convert_tokenizer: Callable[[Path, Path, int], bool] = _nothing_to_convert
    """Writes a tokenizer in Hugging Face's format into the second folder, for a model of so many words, where the first
    has one in the family's original format; whether it has."""
    write_tokenizer: Callable[[XLMTokenizer, Path], None] = _write_tokenizer
    """Writes what its tokenizer needs into a bundle's folder."""
    fixed_positions: Callable[[Any], Tensor | None] = _learned_positions
    """Configuration → the table of positions that it prescribes, which a file may leave out; None for a learned one."""
    fix_language: Callable[[Any, int | None], None] = _no_languages
    """Makes of a transformer one that reads no `langs`: all texts are in the language of this number, or in none. For
    families without language embeddings there is nothing to do."""
    absent_passes: Callable[[Any], Mapping[str, str]] = _all_passes
    """Configuration → which of the optimiser's passes its graphs have nothing for, and why."""
    fewest_matches: Callable[[Any], Mapping[str, int]] = _all_matches
    """Configuration → passes that some of its layers have less for than XLM's, and how often each matches at least."""

    @property
    def architectures(self) -> tuple[str, ...]:
        """The names of its model classes, as `config.json` has them."""
        return tuple(map(self.runtime.architecture, self.models))

    def head_of(self, architecture: str) -> str:
        """The head of one of its model classes."""
        return architecture.removeprefix(self.runtime.prefix)
