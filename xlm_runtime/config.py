"""`XLMConfig`: the model's configuration, as Hugging Face writes it in `config.json`."""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, ClassVar, TypeVar

from xlm_runtime.checked_json import read_object
from xlm_runtime.config_values import by_index, check_count, check_options, numbered_labels, read_labels
from xlm_runtime.errors import BundleError, InputError

# Other names of the same option: Hugging Face's common names and those of the 2019 checkpoints.
ALIASES = {
    "n_words": "vocab_size",
    "hidden_size": "emb_dim",
    "num_attention_heads": "n_heads",
    "num_hidden_layers": "n_layers",
    "bos_index": "bos_token_id",
    "eos_index": "eos_token_id",
    "pad_index": "pad_token_id",
}

_FOREIGN_MODEL_TYPES = {
    "xlm-roberta": "XLM-RoBERTa is another architecture (RoBERTa with a SentencePiece vocabulary); "
    "export it with optimum.",
    "xlm-roberta-xl": "XLM-RoBERTa-XL is another architecture; export it with optimum.",
    "xlnet": "XLNet is another architecture.",
}


C = TypeVar("C", bound="XLMConfig")


@dataclass(kw_only=True)
class XLMConfig:
    """Hyper-parameters of an XLM checkpoint.

    Every option of Hugging Face's `XLMConfig`, under the same name and with the same default; `num_labels` is
    derived from `id2label`. One is our own: `default_lang`, the language that a text gets whose language nobody names;
    by default such a text gets no language embedding. Unknown options are refused here and ignored by `from_dict`,
    which reads files.

    Raises:
        InputError: options of another type or out of range, see `config_values`, sizes that contradict each other, or
            adaptive softmax without `asm_cutoffs`.
    """

    model_type: ClassVar[str] = "xlm"
    """The family's name in `config.json`."""

    vocab_size: int = 30145
    emb_dim: int = 2048
    n_layers: int = 12
    n_heads: int = 16
    dropout: float = 0.1
    attention_dropout: float = 0.1
    gelu_activation: bool = True
    sinusoidal_embeddings: bool = False
    causal: bool = False
    asm: bool = False
    asm_cutoffs: list[int] | None = None
    asm_div_value: float = 4.0
    n_langs: int = 1
    use_lang_emb: bool = True
    max_position_embeddings: int = 512
    embed_init_std: float = 2048**-0.5
    layer_norm_eps: float = 1e-12
    init_std: float = 0.02
    unk_index: int = 3
    mask_index: int = 5
    is_encoder: bool = True
    summary_type: str = "first"
    summary_use_proj: bool = True
    summary_activation: str | None = None
    summary_proj_to_labels: bool = True
    summary_first_dropout: float = 0.1
    summary_last_dropout: float = 0.0
    start_n_top: int = 5
    end_n_top: int = 5
    mask_token_id: int | None = 0
    lang_id: int | None = 0
    lang2id: dict[str, int] | None = None
    id2lang: dict[int, str] | None = None
    default_lang: str | None = None
    pad_token_id: int | None = 2
    bos_token_id: int | None = 0
    eos_token_id: int | list[int] | None = 1
    tie_word_embeddings: bool = True
    id2label: dict[int, str] = field(default_factory=lambda: {0: "LABEL_0", 1: "LABEL_1"})
    problem_type: str | None = None
    output_attentions: bool = False
    output_hidden_states: bool = False
    architectures: list[str] | None = None

    def __post_init__(self) -> None:
        self.id2label = read_labels(self.id2label)
        if self.id2lang is not None:
            self.id2lang = by_index("id2lang", self.id2lang)
        check_options(self)
        if self.id2lang is None and self.lang2id is not None:
            self.id2lang = {index: lang for lang, index in self.lang2id.items()}
        if self.emb_dim % self.n_heads:
            raise InputError(
                f"emb_dim {self.emb_dim} is not a multiple of n_heads {self.n_heads}; each head takes an equal share."
            )
        if self.sinusoidal_embeddings and self.emb_dim % 2:
            raise InputError(f"emb_dim {self.emb_dim} is odd; sinusoidal positions need pairs of sine and cosine.")
        if self.asm and not self.asm_cutoffs:
            raise InputError(
                "asm is true but asm_cutoffs is missing; give the cutoffs of the adaptive softmax, "
                f"such as asm_cutoffs=[{self.vocab_size // 8}, {self.vocab_size // 2}]."
            )
        if self.asm and self._smallest_cluster() < 1:
            raise InputError(
                f"asm_cutoffs is {self.asm_cutoffs} and asm_div_value {self.asm_div_value}; expected rising "
                f"cutoffs between 0 and vocab_size {self.vocab_size}, and a divisor that leaves emb_dim {self.emb_dim} "
                "at least 1 when it divides it once for each of them."
            )
        if self.problem_type not in (
            None,
            "regression",
            "single_label_classification",
            "multi_label_classification",
        ):
            raise InputError(
                f"problem_type is {self.problem_type!r}; expected regression, single_label_classification or "
                "multi_label_classification."
            )

    def _smallest_cluster(self) -> int:
        """Width of adaptive softmax's smallest cluster; 0 where the cutoffs are none."""
        cutoffs = self.asm_cutoffs or []
        rising = all(a < b for a, b in zip([0, *cutoffs], [*cutoffs, self.vocab_size], strict=True))
        return int(self.emb_dim // self.asm_div_value ** len(cutoffs)) if rising and len(cutoffs) < 16 else 0

    @property
    def head_dim(self) -> int:
        """Width of one attention head."""
        return self.emb_dim // self.n_heads

    @property
    def num_labels(self) -> int:
        return len(self.id2label)

    @property
    def label2id(self) -> dict[str, int]:
        return {label: index for index, label in self.id2label.items()}

    @property
    def uses_langs(self) -> bool:
        """Whether the weights hold language embeddings, so that the model reads `langs`."""
        return self.n_langs > 1 and self.use_lang_emb

    @classmethod
    def from_dict(cls: type[C], values: dict[str, Any]) -> C:
        """Read a `config.json` of any year: aliases are resolved, options of other models are ignored.

        Raises:
            BundleError: the file describes another model, such as `model_type: xlm-roberta`.
            InputError: the options contradict each other.
        """
        model_type = values.get("model_type", cls.model_type)
        if model_type != cls.model_type:
            raise other_model_error(model_type, (cls.model_type,))
        known = {option.name for option in dataclasses.fields(cls)}
        options = {ALIASES.get(name, name): value for name, value in values.items() if name in ALIASES}
        options |= {name: value for name, value in values.items() if name in known}
        if options.get("id2label") is None:
            options.pop("id2label", None)
            num_labels = values.get("num_labels", values.get("_num_labels"))
            if num_labels is not None:
                options["id2label"] = numbered_labels(num_labels)
        elif values.get("num_labels") is not None:
            check_count(values["num_labels"], options["id2label"])
        for name in ("summary_first_dropout", "summary_last_dropout", "asm_div_value"):
            if name in options and options[name] is None:
                del options[name]
        return cls(**options)

    @classmethod
    def from_pretrained(cls: type[C], folder: str | Path) -> C:
        """Read `config.json` in `folder`.

        Raises:
            BundleError: the file is missing, not JSON, or describes another model.
            InputError: the options contradict each other.
        """
        return cls.from_dict(read_config_file(folder))

    def to_dict(self) -> dict[str, Any]:
        """The options as Hugging Face writes them, `model_type` and `label2id` included."""
        values = dataclasses.asdict(self)
        values["label2id"] = self.label2id
        for name in ("asm_cutoffs", "lang2id", "id2lang", "default_lang", "problem_type", "architectures"):
            if values[name] is None:
                del values[name]
        if not self.asm:
            del values["asm_div_value"]
        return {"model_type": self.model_type, **values}


def read_config_file(folder: str | Path) -> dict[str, Any]:
    """What `config.json` in `folder` holds.

    Raises:
        BundleError: the file is missing or holds no JSON object.
    """
    try:
        return read_object(Path(folder) / "config.json")
    except FileNotFoundError:
        raise BundleError(f"File 'config.json' not found in path '{folder}'.") from None


def other_model_error(model_type: Any, expected: tuple[str, ...]) -> BundleError:
    """What to raise for a `config.json` of another model than the `expected` ones."""
    known = " or ".join(f"'{name}'" for name in expected)
    hint = f"Only model_type {known} can be loaded."
    if isinstance(model_type, str):
        hint = _FOREIGN_MODEL_TYPES.get(model_type, hint)
    return BundleError(f"config.json has model_type {model_type!r}, expected {known}. {hint}")
