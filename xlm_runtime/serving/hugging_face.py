"""Hugging Face's inference JSON: `{"inputs": …, "parameters": {…}}` → what its API answers for the task.

Shapes are those that `huggingface_hub.InferenceClient` reads; where it takes any, those of transformers' pipelines.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from xlm_runtime.errors import InputError
from xlm_runtime.pipelines.on_error import FailedItem
from xlm_runtime.serving.requests import take

# what clients of Text Generation Inference send, and what may be passed by where it asks for nothing
_OF_ITS_SERVER = ("decoder_input_details", "watermark", "grammar", "adapter_id", "top_n_tokens", "best_of")


@dataclass(frozen=True)
class Asked:
    """A request.

    Attributes:
        inputs: one, or a list of them.
        parameters: of the pipeline's call, see `call_arguments`.
        stream: whether the text is to be sent as it is generated.
        full_text: whether a generated text is to follow its prompt.
        details: whether the tokens are to be told, too.
    """

    inputs: Any
    parameters: Mapping[str, Any]
    stream: bool = False
    full_text: bool = False
    details: bool = False


@dataclass(frozen=True)
class _Task:
    """How a task's requests and answers differ from the pipeline's.

    Attributes:
        answer: the answer to one input, and what that was → what the API answers.
        defaults: parameters that the API has where a request says nothing.
        names: parameters that the API calls otherwise, and how the pipeline calls them.
    """

    answer: Callable[[Any, Asked, Any], Any] = lambda answer, asked, given: answer
    defaults: Mapping[str, Any] = field(default_factory=dict)
    names: Mapping[str, str] = field(default_factory=dict)


def read_request(task: str, body: dict[str, Any]) -> Asked:
    """What a body asks for. Parameters may stand beside the inputs, too, as clients send them for vectors.

    Raises:
        InputError: no inputs, or a part of another type.
    """
    values = dict(body)
    inputs = values.pop("inputs", None)
    if not isinstance(inputs, (str, dict, list)):
        raise InputError(f"'inputs' is {_kind(inputs)}; expected a string, an object, or a list of them.")
    take(values, "options", dict, {})  # of a cache and of models that sleep, which are not here
    stream = take(values, "stream", bool, False)
    given = take(values, "parameters", dict, {})
    given = {name: value for name, value in {**values, **given}.items() if value is not None}
    row = _TASKS.get(task, _Task())
    if task == "text-generation":
        given = {name: value for name, value in given.items() if value or name not in _OF_ITS_SERVER}
        full_text, details = take(given, "return_full_text", bool, not stream), take(given, "details", bool, False)
        parameters = given | ({"return_scores": True} if details and not stream else {})
        asked = Asked(inputs, _renamed(parameters, row.names), stream, full_text, details)
    else:
        if stream:
            raise InputError(f"'stream' is true, but {task} has nothing to stream.")
        asked = Asked(inputs, {**row.defaults, **_renamed(given, row.names)})
    return asked


def shape_answer(task: str, asked: Asked, answer: Any) -> Any:
    """What the API answers, from what the pipeline returned for `asked.inputs`."""
    row = _TASKS.get(task, _Task())

    def shape(answer: Any, asked: Asked, given: Any) -> Any:
        return answer.to_dict() if isinstance(answer, FailedItem) else row.answer(answer, asked, given)

    if isinstance(asked.inputs, list):
        return [shape(one, asked, given) for one, given in zip(answer, asked.inputs, strict=True)]
    return shape(answer, asked, asked.inputs)


def full_text(given: Any, generated: str) -> str:
    """A prompt and what follows it, as transformers joins them."""
    prompt = given if isinstance(given, str) else given["text"]
    return f"{prompt} {generated}" if prompt and generated else prompt + generated


FINISH_REASONS = {"eos": "eos_token", "stop": "stop_sequence", "length": "length"}
"""How a text ended, as Text Generation Inference calls it."""


def _renamed(given: Mapping[str, Any], names: Mapping[str, str]) -> dict[str, Any]:
    return {names.get(name, name): value for name, value in given.items()}


def _vectors(answer: Any, asked: Asked, given: Any) -> Any:
    """One text's tokens as a batch of one, as transformers has them; pooled, a list with a vector for each text."""
    return answer if answer.ndim == 1 and isinstance(asked.inputs, list) else np.expand_dims(answer, 0)


def _labels(answer: Any, asked: Asked, given: Any) -> Any:
    """Always a list of labels, and for one text a list of that, which the client reads the first of."""
    labels = answer if isinstance(answer, list) else [answer]
    return labels if isinstance(asked.inputs, list) else [labels]


def _ranking(answer: Any, asked: Asked, given: Any) -> Any:
    pairs = zip(answer["labels"], answer["scores"], strict=True)
    return [{"label": label, "score": score} for label, score in pairs]


def _span(answer: Any, asked: Asked, given: Any) -> Any:
    if isinstance(answer, list):
        return [_span(each, asked, given) for each in answer]
    return {key: answer[key] for key in ("score", "start", "end", "answer")}


def _generated(answer: Any, asked: Asked, given: Any) -> Any:
    """A list of sequences, which the client reads the first of."""
    return [_sequence(each, asked, given) for each in (answer if isinstance(answer, list) else [answer])]


def _sequence(answer: Mapping[str, Any], asked: Asked, given: Any) -> dict[str, Any]:
    text = answer["generated_text"]
    shown: dict[str, Any] = {"generated_text": full_text(given, text) if asked.full_text else text}
    if asked.details:
        shown["details"] = {
            "finish_reason": FINISH_REASONS[answer["ending"]],
            "generated_tokens": len(answer["ids"]),
            "seed": asked.parameters.get("seed"),
            "prefill": [],
            "tokens": _tokens(answer["ids"], answer["token_log_probs"]),
        }
    return shown


def _tokens(ids: Sequence[int], log_probs: Sequence[float]) -> list[dict[str, Any]]:
    return [{"id": token, "logprob": score} for token, score in zip(ids, log_probs, strict=True)]


def _kind(value: Any) -> str:
    return "missing" if value is None else f"a {type(value).__name__}"


_TASKS = {
    "feature-extraction": _Task(_vectors, names={"truncate": "truncation"}),
    "text-classification": _Task(_labels, {"top_k": None}),
    "token-classification": _Task(defaults={"aggregation_strategy": "simple"}),
    "zero-shot-classification": _Task(_ranking),
    "question-answering": _Task(_span),
    "text-generation": _Task(_generated, names={"stop_sequences": "stop"}),
}
