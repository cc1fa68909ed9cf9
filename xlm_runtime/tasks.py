"""The one table of tasks: task name → head of the model, graph inputs and outputs with their axes.

Read by the exporter (what to trace), by the verifier (what to compare) and by the runtime (what to feed). Axis names
are the graphs' symbolic dimensions; numbers that depend on the configuration are named after its options.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

from xlm_runtime.config import XLMConfig
from xlm_runtime.errors import InputError
from xlm_runtime.families import FAMILIES


@dataclass(frozen=True)
class TensorSpec:
    """A graph's input or output. `dtype` is a numpy name; "float" stands for the graph's precision."""

    name: str
    dtype: str
    axes: tuple[str, ...]


@dataclass(frozen=True)
class Beam:
    """Two outputs that list tokens, best first: their places in the row, and their probabilities.

    `starts` is set for ends: the output of the starts that they belong to. Ends are (end, start), flattened, so that
    with n starts every nth end, from the first on, is one of the best start.
    """

    index: str
    probability: str
    starts: str | None = None


@dataclass(frozen=True)
class Task:
    """A row of the table."""

    name: str
    head: str
    """What Hugging Face's names of the model classes have behind the family's (`xlm_runtime.families`)."""
    rows: tuple[str, ...]
    """The leading axes of a batch."""
    outputs: tuple[TensorSpec, ...]
    extra_inputs: tuple[TensorSpec, ...] = ()
    token_outputs: tuple[str, ...] = ()
    """Outputs with one entry a token, meaningless at padding."""
    scores: tuple[str, ...] = ()
    """Outputs that choose: their last axis holds the scores of what is chosen among, be it labels, words, or a row's
    tokens."""
    vectors: tuple[str, ...] = ()
    """Outputs whose last axis is a vector, which has a direction."""
    beams: tuple[Beam, ...] = ()
    kept: str = "tokens"
    """What the head reads of the last layer: each of the "tokens" for itself; whole "rows"; the "summary", one token of
    a sequence or, with `summary_type` "mean", its row; or the tokens at "logit_positions"."""
    may_cache: bool = False
    """Whether a causal checkpoint's graph takes the keys and values of past tokens and gives those of new ones."""


PAST, PRESENT = "past_key_values.", "present."
"""What the names of a cache's inputs and outputs begin with."""
NEXT = "next_"
"""What the names of outputs begin with that are the next step's inputs."""
FILL = {"p_mask": 1}
"""What inputs hold at padding, 0 where nothing is said: p_mask 1 is a token that cannot be an answer, and of all others
0 is harmless where the mask is 0."""
ROWS = ("batch",)
LM_OUTPUTS = (TensorSpec("logits", "float", ("kept", "vocab_size")),)
LOGIT_POSITIONS = (TensorSpec("logit_positions", "int64", ("kept",)),)
TOTAL = "past_sequence + sequence"
CHOICES = ("batch", "num_choices")
LAYOUTS = ("padded", "packed")

TASKS: tuple[Task, ...] = (
    Task(
        "feature-extraction",
        "Model",
        ROWS,
        outputs=(TensorSpec("last_hidden_state", "float", ("batch", "sequence", "emb_dim")),),
        token_outputs=("last_hidden_state",),
        vectors=("last_hidden_state",),
    ),
    Task(
        "fill-mask",
        "WithLMHeadModel",
        ROWS,
        outputs=LM_OUTPUTS,
        extra_inputs=LOGIT_POSITIONS,
        scores=("logits",),
        kept="logit_positions",
    ),
    Task(
        "text-generation",
        "WithLMHeadModel",
        ROWS,
        outputs=LM_OUTPUTS,
        extra_inputs=LOGIT_POSITIONS,
        scores=("logits",),
        kept="logit_positions",
        may_cache=True,
    ),
    Task(
        "text-classification",
        "ForSequenceClassification",
        ROWS,
        outputs=(TensorSpec("logits", "float", ("batch", "num_labels")),),
        scores=("logits",),
        kept="summary",
    ),
    Task(
        "multiple-choice",
        "ForMultipleChoice",
        CHOICES,
        outputs=(TensorSpec("logits", "float", ("batch", "num_choices")),),
        scores=("logits",),
        kept="summary",
    ),
    Task(
        "token-classification",
        "ForTokenClassification",
        ROWS,
        outputs=(TensorSpec("logits", "float", ("batch", "sequence", "num_labels")),),
        token_outputs=("logits",),
        scores=("logits",),
    ),
    Task(
        "question-answering",
        "ForQuestionAnswering",
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
        beams=(
            Beam("start_top_index", "start_top_log_probs"),
            Beam("end_top_index", "end_top_log_probs", starts="start_top_index"),
        ),
        kept="rows",
    ),
    Task(
        "question-answering",
        "ForQuestionAnsweringSimple",
        ROWS,
        outputs=(
            TensorSpec("start_logits", "float", ("batch", "sequence")),
            TensorSpec("end_logits", "float", ("batch", "sequence")),
        ),
        token_outputs=("start_logits", "end_logits"),
        scores=("start_logits", "end_logits"),
    ),
)

TASK_NAMES = tuple(dict.fromkeys(task.name for task in TASKS))
OPTIONAL_INPUTS = ("token_type_ids", "position_ids", "inputs_embeds")


def find_task(architecture: str, name: str | None = None, causal: bool = False) -> Task:
    """The row of a model class, of any family; `name` checks that the task fits it.

    Args:
        causal: whether the model reads from left to right: without a `name` a language model that does so is for
            text-generation, one that does not for fill-mask.

    Raises:
        InputError: no such task, a task that this model class does not answer, or a model class of no family.
    """
    if name is not None and name not in TASK_NAMES:
        raise InputError(f"Unknown task '{name}'; expected one of {', '.join(TASK_NAMES)}.")
    classes = {family.architecture(task.head): task.head for family in FAMILIES.values() for task in TASKS}
    if architecture not in classes:
        raise InputError(f"Unknown model class '{architecture}'; expected one of {', '.join(classes)}.")
    answered = [task for task in TASKS if task.head == classes[architecture]]
    fitting = [task for task in answered if name in (None, task.name)]
    if fitting:
        return next((task for task in fitting if causal and task.may_cache), fitting[0])
    known = " or ".join(task.name for task in answered)
    raise InputError(f"A checkpoint of {architecture} answers the task {known}, not '{name}'.")


def with_full_logits(task: Task, layout: str = "padded") -> Task:
    """The row of a language model whose graph scores every token, as programs expect that know no `logit_positions`.

    Raises:
        InputError: another task, or a layout that only our own runtime reads.
    """
    if task.kept != "logit_positions" or layout != "padded":
        raise InputError(
            f"Scores of every token were asked for, in the {layout} layout of the task {task.name}; language models' "
            "graphs in the padded layout have them. Leave out --full-logits."
        )
    (logits,) = task.outputs
    every = TensorSpec(logits.name, logits.dtype, (*task.rows, "sequence", *logits.axes[1:]))
    return replace(
        task, outputs=(every,), extra_inputs=(), token_outputs=(logits.name,), kept="tokens", may_cache=False
    )


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
    task: Task, config: XLMConfig, optional: tuple[str, ...] = (), cache: bool = False, layout: str = "padded"
) -> tuple[TensorSpec, ...]:
    """The inputs of a task's graph, in the graph's order.

    Args:
        optional: names out of `OPTIONAL_INPUTS`; `inputs_embeds` takes the place of `input_ids`.
        cache: with keys and values of past tokens. The tokens are then the new ones, the mask is over past and new,
            and positions are always given, because rows may have pasts of different lengths behind padding. The past
            may have room behind its tokens, which the mask closes.
        layout: "padded", or "packed": the tokens of all rows on one axis, with the places where they stand.

    Raises:
        InputError: a name that is no optional input or no layout, or a cache in the packed layout.
    """
    for name in optional:
        if name not in OPTIONAL_INPUTS:
            raise InputError(f"Unknown optional input '{name}'; expected some of {', '.join(OPTIONAL_INPUTS)}.")
    if layout not in LAYOUTS:
        raise InputError(f"Unknown layout '{layout}'; expected one of {', '.join(LAYOUTS)}.")
    if layout == "packed":
        if cache:
            raise InputError(
                "A packed graph keeps no cache: a step of generation has one token a row, and nothing to pack. Leave "
                "out --layout packed, or give --no-cache (cache=False) for a graph that reads each text anew."
            )
        return _packed_inputs(task, config, optional)
    tokens = (*task.rows, "sequence")
    first = TensorSpec("input_ids", "int64", tokens)
    if "inputs_embeds" in optional:
        first = TensorSpec("inputs_embeds", "float", (*tokens, "emb_dim"))
    inputs = [first, TensorSpec("attention_mask", "int64", (*task.rows, TOTAL) if cache else tokens)]
    if config.uses_langs:
        inputs.append(TensorSpec("langs", "int64", tokens))
    more = (*optional, "position_ids") if cache else optional
    inputs += [TensorSpec(name, "int64", tokens) for name in OPTIONAL_INPUTS[:2] if name in more]
    past = cache_specs(config, PAST, "past_sequence") if cache else ()
    return (*inputs, *task.extra_inputs, *past)


def reads_rows(task: Task, config: XLMConfig) -> bool:
    """Whether the head looks at whole rows, so that in a packed graph each is a pack of its own."""
    return task.kept == "rows" or (task.kept == "summary" and config.summary_type == "mean")


def _packed_inputs(task: Task, config: XLMConfig, optional: tuple[str, ...]) -> tuple[TensorSpec, ...]:
    """`graph_inputs` in the packed layout; `xlm_runtime.model.packing` says what they hold."""
    by_rows = reads_rows(task, config)
    places = (*(task.rows if by_rows else ("packs",)), "longest")
    embeds = "inputs_embeds" in optional
    inputs = [TensorSpec("inputs_embeds", "float", ("tokens", "emb_dim"))] if embeds else []
    of_tokens = {
        "input_ids": not embeds,
        "position_ids": True,
        "langs": config.uses_langs,
        "token_type_ids": "token_type_ids" in optional,
        "token_index": True,
    }
    inputs += [TensorSpec(name, "int64", ("tokens",)) for name, there in of_tokens.items() if there]
    inputs += [TensorSpec(name, "int64", places) for name in ("padded_index", "segment_ids")]
    if by_rows:
        for spec in task.extra_inputs:
            axes = tuple("longest" if axis == "sequence" else axis for axis in spec.axes)
            inputs.append(TensorSpec(spec.name, spec.dtype, axes))
    elif task.kept != "tokens":
        kept = ("kept",) if task.kept == "logit_positions" else task.rows
        inputs += [TensorSpec(name, "int64", kept) for name in ("kept_index", "kept_token_index")]
        inputs.append(TensorSpec("kept_padded_index", "int64", ("packs", "most_kept")))
    return tuple(inputs)


TOKEN_OFFSET = "token_offset"
ROW_INPUTS = (
    TensorSpec(TOKEN_OFFSET, "int32", ("rows", "longest")),
    TensorSpec("cumulative_sequence_length", "int32", ("row_bounds",)),
)
"""What attention of a packed graph for CUDA reads in place of `segment_ids`: where the tokens of each row stand."""
_ROW_LAYOUT = ("token_index", "padded_index")


def cuda_packed_inputs(task: Task, config: XLMConfig, packed: tuple[TensorSpec, ...]) -> tuple[TensorSpec, ...]:
    """The inputs of a packed graph that was rewritten for CUDA: attention there tells rows apart by `ROW_INPUTS`.

    A row is a sequence, and stands for itself: batch · num_choices of them for multiple choice. Heads that look at
    whole rows have their indices as before; others read no places.

    Args:
        packed: the portable graph's inputs, see `graph_inputs`.
    """
    gone = {"segment_ids", "kept_token_index", "kept_padded_index", *(() if reads_rows(task, config) else _ROW_LAYOUT)}
    return (*(spec for spec in packed if spec.name not in gone), *ROW_INPUTS)


def graph_outputs(
    task: Task,
    config: XLMConfig,
    hidden_states: bool,
    attentions: bool,
    cache: bool = False,
    layout: str = "padded",
) -> tuple[TensorSpec, ...]:
    """The outputs of a task's graph, in the graph's order.

    Raises:
        InputError: hidden states or attentions in the packed layout.
    """
    if layout == "packed":
        if hidden_states or attentions:
            raise InputError(
                "A packed graph has no outputs for each layer's hidden states or attentions: its last layer computes "
                "only what the head reads. Leave out --layout packed, or --hidden-states and --attentions."
            )
        return tuple(
            TensorSpec(spec.name, spec.dtype, ("tokens", *spec.axes[len(task.rows) + 1 :]))
            if spec.name in task.token_outputs
            else spec
            for spec in task.outputs
        )
    outputs = [*task.outputs, *(cache_specs(config, PRESENT, "sequence") if cache else ())]
    if hidden_states:
        axes = (*task.rows, "sequence", "emb_dim")
        outputs += [TensorSpec(f"hidden_states.{i}", "float", axes) for i in range(config.n_layers + 1)]
    if attentions:
        axes = (*task.rows, "n_heads", "sequence", TOTAL if cache else "sequence")
        outputs += [TensorSpec(f"attentions.{i}", "float", axes) for i in range(config.n_layers)]
    return tuple(outputs)


SEQLENS_K = "seqlens_k"
"""The input of a graph with a static cache that no other graph has."""
FED_BACK = ("input_ids", "position_ids", SEQLENS_K)
"""Its inputs that its `next_*` outputs are the next ones of, the first among them all in this order, so that one copy
brings them there."""


def static_cache_specs(
    inputs: tuple[TensorSpec, ...], outputs: tuple[TensorSpec, ...]
) -> tuple[tuple[TensorSpec, ...], tuple[TensorSpec, ...]]:
    """Inputs and outputs of a graph whose cache is static, out of those of the graph with a cache that it is made of.

    Rows are padded on the right. `seqlens_k` is a row's number of tokens, those of this call included, less 1: what
    lies behind them is not read. Keys and values have room for all tokens to come, which `past_sequence` is the size
    of, and `present.*` are the same arrays with the new tokens in their places. `next_*` are the inputs of a step that
    appends the best token at each of the `logit_positions`, one for each row.
    """
    fed = {spec.name: spec for spec in inputs} | {SEQLENS_K: TensorSpec(SEQLENS_K, "int32", ROWS)}
    taken = [fed[name] for name in FED_BACK]
    taken += [spec for spec in inputs if spec.name not in (*FED_BACK, "attention_mask")]
    given = [
        replace(spec, axes=tuple("past_sequence" if axis == "sequence" else axis for axis in spec.axes))
        if spec.name.startswith(PRESENT)
        else spec
        for spec in outputs
    ]
    following = [
        TensorSpec(f"{NEXT}{name}", fed[name].dtype, ROWS if name == SEQLENS_K else ("kept", "1")) for name in FED_BACK
    ]
    return tuple(taken), (*following, *given)


def cache_specs(config: XLMConfig, prefix: str, length: str) -> tuple[TensorSpec, ...]:
    """Key and value of every layer, under the names `{prefix}{layer}.key` and `{prefix}{layer}.value`."""
    axes = ("batch", "n_heads", length, "head_dim")
    names = [f"{prefix}{layer}.{part}" for layer in range(config.n_layers) for part in ("key", "value")]
    return tuple(TensorSpec(name, "float", axes) for name in names)
