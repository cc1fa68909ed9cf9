"""The one table of model families: model type, as `config.json` names it → configuration, tokenizer, prompts.

A family has Hugging Face's name in front of its model classes: XLM + ForSequenceClassification. What torch has to know
of it stands in the exporter's table, `xlm_export.families.table`.
"""

from __future__ import annotations

from dataclasses import dataclass
from importlib import import_module
from pathlib import Path
from typing import TYPE_CHECKING

from xlm_runtime.config import XLMConfig, other_model_error, read_config_file
from xlm_runtime.flaubert_config import FlaubertConfig

if TYPE_CHECKING:
    from xlm_runtime.tokenization import XLMTokenizer


@dataclass(frozen=True)
class Family:
    """A row of the table."""

    prefix: str
    """What its model classes' names begin with."""
    config: type[XLMConfig]
    """The configuration: `XLMConfig`, or a subclass with a `model_type` and options of its own."""
    tokenizer: str
    """The tokenizer's class as "module:name", for it is loaded when it is needed: `XLMTokenizer`, or one that has its
    methods."""
    prompt_start: str | None = "sep_token_id"
    """The tokenizer's attribute with the token that a prompt of text-generation begins with; None for none."""
    prompt_mask: bool = True
    """Whether a bidirectional model is asked for the next token by the mask token at the prompt's end."""

    @property
    def model_type(self) -> str:
        return self.config.model_type

    def architecture(self, head: str) -> str:
        """The model class with a head of the table of tasks, such as XLMForSequenceClassification."""
        return self.prefix + head

    def read_tokenizer(self, folder: str | Path) -> XLMTokenizer:
        """The tokenizer of a checkpoint or bundle, to which line ends and tabs are spaces.

        Raises:
            BundleError: files that are missing or not what they should be.
        """
        module, _, name = self.tokenizer.partition(":")
        tokenizer: XLMTokenizer = getattr(import_module(module), name).from_pretrained(folder, whitespace="space")
        return tokenizer

    def prompt_start_id(self, tokenizer: XLMTokenizer) -> int | None:
        """The token that a prompt begins with; None where there is none."""
        return None if self.prompt_start is None else getattr(tokenizer, self.prompt_start)

    def prompt_mask_id(self, config: XLMConfig, tokenizer: XLMTokenizer) -> int | None:
        """The token in whose place the next one is to come; None for models that read from left to right."""
        if config.causal or not self.prompt_mask:
            return None
        return config.mask_token_id if config.mask_token_id is not None else tokenizer.mask_token_id


# A prompt begins with </s>: XLM was trained on streams in which it stands before every sentence.
XLM = Family("XLM", XLMConfig, "xlm_runtime.tokenization:XLMTokenizer", prompt_start="sep_token_id")

# trained as XLM was, and asked for the next word in the same way
FLAUBERT = Family("Flaubert", FlaubertConfig, "xlm_runtime.tokenization.flaubert:FlaubertTokenizer")

FAMILIES: dict[str, Family] = {family.model_type: family for family in (XLM, FLAUBERT)}


def family_of(config: XLMConfig) -> Family:
    """The row of a configuration."""
    return FAMILIES[config.model_type]


def read_config(folder: str | Path) -> XLMConfig:
    """Read `config.json` in `folder` into its family's configuration; without a model type it is that of the model
    class which `architectures` names, or XLM's.

    Raises:
        BundleError: the file is missing, not JSON, or describes a model of no family in the table.
        InputError: options of another type or out of range, or that contradict each other.
    """
    values = read_config_file(folder)
    model_type = values["model_type"] if "model_type" in values else _type_of_classes(values.get("architectures"))
    if not isinstance(model_type, str) or model_type not in FAMILIES:
        raise other_model_error(model_type, tuple(FAMILIES))
    return FAMILIES[model_type].config.from_dict(values)


def _type_of_classes(names: object) -> str:
    """The model type that a list of model classes tells."""
    first = str(names[0]) if isinstance(names, list) and names else ""
    return next((family.model_type for family in FAMILIES.values() if first.startswith(family.prefix)), XLM.model_type)
