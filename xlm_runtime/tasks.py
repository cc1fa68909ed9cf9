"""The one table of tasks: task name → model class, graph inputs and outputs with their axes.

Read by the exporter (what to trace), by the verifier (what to compare) and by the runtime (what to feed). Axis names
are the graphs' symbolic dimensions; numbers that depend on the configuration are named after its options.
"""

from __future__ import annotations

from dataclasses import dataclass

from xlm_runtime.config import XLMConfig
from xlm_runtime.errors import InputError


@dataclass(frozen=True)
class TensorSpec:
    """A graph's input or output. `dtype` is a numpy name; "float" stands for the graph's precision."""

    name: str
    dtype: str
    axes: tuple[str, ...]


@dataclass(frozen=True)
class Task:
    """A row of the table."""

    name: str
    architecture: str
    rows: tuple[str, ...]
    """The leading axes of a batch."""
    outputs: tuple[TensorSpec, ...]
    extra_inputs: tuple[TensorSpec, ...] = ()
    token_outputs: tuple[str, ...] = ()
    """Outputs with one entry a token, meaningless at padding."""
    may_cache: bool = False
    """Whether a causal checkpoint's graph takes the keys and values of past tokens and gives those of new ones."""


ROWS = ("batch",)
LM_OUTPUTS = (TensorSpec("logits", "float", ("kept", "vocab_size")),)
LOGIT_POSITIONS = (TensorSpec("logit_positions", "int64", ("kept",)),)
TOTAL = "past_sequence + sequence"
CHOICES = ("batch", "num_choices")

TASKS: tuple[Task, ...] = (
    Task(
        "feature-extraction",
        "XLMModel",
        ROWS,
        outputs=(TensorSpec("last_hidden_state", "float", ("batch", "sequence", "emb_dim")),),
        token_outputs=("last_hidden_state",),
    ),
    Task(
        "fill-mask",
        "XLMWithLMHeadModel",
        ROWS,
        outputs=LM_OUTPUTS,
        extra_inputs=LOGIT_POSITIONS,
    ),
    Task(
        "text-generation",
        "XLMWithLMHeadModel",
        ROWS,
        outputs=LM_OUTPUTS,
        extra_inputs=LOGIT_POSITIONS,
        may_cache=True,
    ),
    Task(
        "text-classification",
        "XLMForSequenceClassification",
        ROWS,
        outputs=(TensorSpec("logits", "float", ("batch", "num_labels")),),
    ),
    Task(
        "multiple-choice",
        "XLMForMultipleChoice",
        CHOICES,
        outputs=(TensorSpec("logits", "float", ("batch", "num_choices")),),
    ),
    Task(
        "token-classification",
        "XLMForTokenClassification",
        ROWS,
        outputs=(TensorSpec("logits", "float", ("batch", "sequence", "num_labels")),),
        token_outputs=("logits",),
    ),
    Task(
        "question-answering",
        "XLMForQuestionAnswering",
        ROWS,
        outputs=(
            TensorSpec("start_top_log_probs", "float32", ("batch", "start_n_top")),
            TensorSpec("start_top_index", "int64", ("batch", "start_n_top")),
            TensorSpec("end_top_log_probs", "float32", ("batch", "end_n_top * start_n_top")),
            TensorSpec("end_top_index", "int64", ("batch", "end_n_top * start_n_top")),
            TensorSpec("cls_logits", "float32", ("batch",)),
        ),
        extra_inputs=(
            TensorSpec("p_mask", "float32", ("batch", "sequence")),
            TensorSpec("cls_index", "int64", ("batch",)),
        ),
    ),
    Task(
        "question-answering",
        "XLMForQuestionAnsweringSimple",
        ROWS,
        outputs=(
            TensorSpec("start_logits", "float", ("batch", "sequence")),
            TensorSpec("end_logits", "float", ("batch", "sequence")),
        ),
        token_outputs=("start_logits", "end_logits"),
    ),
)

TASK_NAMES = tuple(dict.fromkeys(task.name for task in TASKS))
OPTIONAL_INPUTS = ("token_type_ids", "position_ids", "inputs_embeds")


def find_task(architecture: str, name: str | None = None, causal: bool = False) -> Task:
    """The row of a model class; `name` checks that the task fits it.

    Args:
        causal: whether the model reads from left to right: without a `name` a language model that does so is for
            text-generation, one that does not for fill-mask.

    Raises:
        InputError: no such task, or a task that this model class does not answer.
    """
    if name is not None and name not in TASK_NAMES:
        raise InputError(f"Unknown task '{name}'; expected one of {', '.join(TASK_NAMES)}.")
    fitting = [task for task in TASKS if task.architecture == architecture and name in (None, task.name)]
    if fitting:
        return next((task for task in fitting if causal and task.may_cache), fitting[0])
    known = " or ".join(task.name for task in TASKS if task.architecture == architecture)
    raise InputError(f"A checkpoint of {architecture} answers the task {known}, not '{name}'.")


def uses_cache(task: Task, config: XLMConfig, wanted: bool | None = None) -> bool:
    """Whether a task's graph keeps keys and values; by default wherever that is exact.

    Raises:
        InputError: a cache is `wanted` where there can be none.
    """
    if wanted and not task.may_cache:
        raise InputError(f"A cache was asked for, but the task {task.name} reads each text once; leave out --cache.")
    if wanted and not config.causal:
        raise InputError(
            "A cache was asked for, but the checkpoint is bidirectional (causal is false in its config.json): every "
            "new token changes the keys and values of all earlier ones, so none can be kept. Leave out --cache; the "
            "graph then computes the whole sequence for each token, with the mask token at its end."
        )
    return task.may_cache and config.causal and wanted is not False


def graph_inputs(
    task: Task, config: XLMConfig, optional: tuple[str, ...] = (), cache: bool = False
) -> tuple[TensorSpec, ...]:
    """The inputs of a task's graph, in the graph's order.

    Args:
        optional: names out of `OPTIONAL_INPUTS`; `inputs_embeds` takes the place of `input_ids`.
        cache: with keys and values of past tokens. The tokens are then the new ones, the mask is over past and new,
            and positions are always given, because rows may have pasts of different lengths behind padding. The past
            may have room behind its tokens, which the mask closes.

    Raises:
        InputError: a name that is no optional input.
    """
    for name in optional:
        if name not in OPTIONAL_INPUTS:
            raise InputError(f"Unknown optional input '{name}'; expected some of {', '.join(OPTIONAL_INPUTS)}.")
    tokens = (*task.rows, "sequence")
    first = TensorSpec("input_ids", "int64", tokens)
    if "inputs_embeds" in optional:
        first = TensorSpec("inputs_embeds", "float", (*tokens, "emb_dim"))
    inputs = [first, TensorSpec("attention_mask", "int64", (*task.rows, TOTAL) if cache else tokens)]
    if config.uses_langs:
        inputs.append(TensorSpec("langs", "int64", tokens))
    more = (*optional, "position_ids") if cache else optional
    inputs += [TensorSpec(name, "int64", tokens) for name in OPTIONAL_INPUTS[:2] if name in more]
    past = cache_specs(config, "past_key_values", "past_sequence") if cache else ()
    return (*inputs, *task.extra_inputs, *past)


def graph_outputs(
    task: Task, config: XLMConfig, hidden_states: bool, attentions: bool, cache: bool = False
) -> tuple[TensorSpec, ...]:
    """The outputs of a task's graph, in the graph's order."""
    outputs = [*task.outputs, *(cache_specs(config, "present", "sequence") if cache else ())]
    if hidden_states:
        axes = (*task.rows, "sequence", "emb_dim")
        outputs += [TensorSpec(f"hidden_states.{i}", "float", axes) for i in range(config.n_layers + 1)]
    if attentions:
        axes = (*task.rows, "n_heads", "sequence", TOTAL if cache else "sequence")
        outputs += [TensorSpec(f"attentions.{i}", "float", axes) for i in range(config.n_layers)]
    return tuple(outputs)


def cache_specs(config: XLMConfig, prefix: str, length: str) -> tuple[TensorSpec, ...]:
    """Key and value of every layer, under the names `prefix.{layer}.key` and `prefix.{layer}.value`."""
    axes = ("batch", "n_heads", length, "head_dim")
    names = [f"{prefix}.{layer}.{part}" for layer in range(config.n_layers) for part in ("key", "value")]
    return tuple(TensorSpec(name, "float", axes) for name in names)
