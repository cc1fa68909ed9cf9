"""Both protocols answer as the pipelines do; Hugging Face's own client reads what it expects."""

from __future__ import annotations

import json
from collections.abc import Iterator
from typing import Any

import numpy as np
import pytest
from huggingface_hub import InferenceClient, set_client_factory
from huggingface_hub.utils._http import default_client_factory
from starlette.testclient import TestClient

from tests.conftest import Bundles
from tests.runtime.answers import same
from tests.runtime.serving.conftest import TASKS, Serve
from xlm_runtime import pipeline

TEXTS = ["The old town.", "Маяк стоит на берегу."]
QUESTION = {"question": "Where?", "context": "The old town is by the sea."}
CHOICE = {"prompt": "The old", "choices": ["town", "sea"]}


@pytest.fixture(scope="module")
def pipes(bundles: Bundles) -> dict[str, Any]:
    return {task: pipeline(task, bundles(task), threads=1) for task in TASKS}


@pytest.fixture
def hub(client: TestClient) -> Iterator[Any]:
    """Hugging Face's client of a model of the server."""
    set_client_factory(lambda: TestClient(client.app))  # which it closes in the end
    yield lambda model: InferenceClient(model=f"http://testserver/models/{model}")
    set_client_factory(default_client_factory)


def test_hugging_faces_client_reads_every_task(hub: Any, pipes: dict[str, Any]) -> None:
    text, masked = TEXTS[0], "The <mask> town."
    labels = hub("text-classification").text_classification(text)
    same([dict(each) for each in labels], pipes["text-classification"](text, top_k=None))
    labels = hub("text-classification").text_classification(text, top_k=1, function_to_apply="sigmoid")
    same(
        [dict(each) for each in labels], pipes["text-classification"](text, top_k=None, function_to_apply="sigmoid")[:1]
    )
    filled = hub("fill-mask").fill_mask(masked, top_k=2, targets=["a", "o"])
    keys = ("score", "sequence", "token", "token_str")
    same([{key: each[key] for key in keys} for each in filled], pipes["fill-mask"](masked, top_k=2, targets=["a", "o"]))
    groups = hub("token-classification").token_classification(text, ignore_labels=[])
    theirs = pipes["token-classification"](text, aggregation_strategy="simple", ignore_labels=[])
    same([{key: each[key] for key in theirs[0]} for each in groups], theirs)
    span = hub("question-answering").question_answering(**QUESTION)
    ours = pipes["question-answering"](QUESTION)
    same(
        {key: span[key] for key in ("answer", "score", "start", "end")}, {key: ours[key] for key in span if key in ours}
    )
    vectors = hub("feature-extraction").feature_extraction(text)
    same(vectors[0], pipes["feature-extraction"](text))
    scaled = hub("feature-extraction").feature_extraction(text, normalize=True)
    same(scaled[0], pipes["feature-extraction"](text, normalize=True))


def test_hugging_faces_client_reads_generated_texts_and_streams(hub: Any, pipes: dict[str, Any]) -> None:
    generate, asked = pipes["text-generation"], {"max_new_tokens": 12, "do_sample": True, "seed": 3}
    answer = generate(TEXTS[0], generate.defaults.replace(**asked, return_scores=True))
    ask = hub("text-generation").text_generation
    assert ask(TEXTS[0], **asked, return_full_text=False) == answer["generated_text"]
    assert ask(TEXTS[0], **asked) == f"{TEXTS[0]} {answer['generated_text']}"
    details = ask(TEXTS[0], **asked, details=True, watermark=False).details
    assert (details.finish_reason, details.generated_tokens, details.seed) == ("length", len(answer["ids"]), 3)
    assert [token.id for token in details.tokens] == answer["ids"]
    same([token.logprob for token in details.tokens], answer["token_log_probs"])
    assert "".join(ask(TEXTS[0], **asked, stream=True)) == answer["generated_text"]
    *events, last = ask(TEXTS[0], **asked, stream=True, details=True)
    assert [event.index for event in events] == list(range(1, len(events) + 1))
    assert all(event.generated_text is None for event in events)
    assert (last.generated_text, last.token.id) == (answer["generated_text"], answer["ids"][-1])
    assert (last.details.finish_reason, last.details.generated_tokens) == ("length", len(answer["ids"]))


def test_several_inputs_have_an_answer_each(client: TestClient, pipes: dict[str, Any]) -> None:
    def ask(task: str, inputs: Any, **parameters: Any) -> Any:
        reply = client.post(f"/models/{task}", json={"inputs": inputs, "parameters": parameters, "options": {}})
        assert reply.status_code == 200, reply.text
        return reply.json()

    same(ask("text-classification", TEXTS), pipes["text-classification"](TEXTS, top_k=None))
    same(
        ask("text-classification", TEXTS, top_k=1, lang="ru"),
        [[each] for each in pipes["text-classification"](TEXTS, lang="ru")],
    )
    same(
        ask("question-answering", [QUESTION] * 2, top_k=2)[1][0]["start"],
        pipes["question-answering"](QUESTION)["start"],
    )
    same(ask("multiple-choice", CHOICE), pipes["multiple-choice"](CHOICE))
    same(ask("feature-extraction", TEXTS, pooling="mean"), list(pipes["feature-extraction"](TEXTS, pooling="mean")))
    assert np.shape(ask("feature-extraction", TEXTS[0], pooling="mean")) == (
        1,
        pipes["feature-extraction"].model.config.emb_dim,
    )
    assert np.ndim(ask("feature-extraction", TEXTS)[0]) == 3  # a batch of one for each, as in transformers
    failed = ask("fill-mask", ["No mask", "A <mask>."], on_error="return", top_k=1)
    assert failed[0]["error"]["message"].startswith("No mask in the text")
    same(failed[1], pipes["fill-mask"]("A <mask>.", top_k=1))
    generated = ask(
        "text-generation", TEXTS, max_new_tokens=2, num_beams=2, num_return_sequences=2, return_full_text=False
    )
    options = pipes["text-generation"].defaults.replace(max_new_tokens=2, num_beams=2, num_return_sequences=2)
    expected = pipes["text-generation"](TEXTS, options)
    assert generated == [[{"generated_text": each["generated_text"]} for each in one] for one in expected]


def test_labels_of_ones_own_come_as_pairs(serve: Serve, bundles: Bundles) -> None:
    client = serve("text-classification", task="zero-shot-classification")
    asked = {"inputs": TEXTS[0], "parameters": {"candidate_labels": ["a", "b"], "multi_label": True}}
    ranking = pipeline("zero-shot-classification", bundles("text-classification"))(
        TEXTS[0], ["a", "b"], multi_label=True
    )
    expected = [
        {"label": label, "score": score} for label, score in zip(ranking["labels"], ranking["scores"], strict=True)
    ]
    same(client.post("/", json=asked).json(), expected)


def test_open_inference(client: TestClient, pipes: dict[str, Any]) -> None:
    body = {
        "id": "42",
        "inputs": [{"name": "text", "datatype": "BYTES", "shape": [2, 1], "data": [[TEXTS[0]], [TEXTS[1]]]}],
        "outputs": [{"name": "answer"}],
        "parameters": {"top_k": 2, "binary_data_output": True},
    }
    reply = client.post("/v2/models/text-classification/infer", json=body).json()
    (output,) = reply.pop("outputs")
    assert reply == {"model_name": "text-classification", "id": "42"}
    assert {key: output[key] for key in ("name", "datatype", "shape")} == {
        "name": "answer",
        "datatype": "BYTES",
        "shape": [2, 1],
    }
    same([json.loads(answer) for answer in output["data"]], pipes["text-classification"](TEXTS, top_k=2))
    body = {
        "inputs": [{"name": "text", "datatype": "BYTES", "shape": [2], "data": [json.dumps(QUESTION), "{"]}],
        "parameters": {"on_error": "return"},
    }
    (output,) = client.post("/v2/models/question-answering/infer", json=body).json()["outputs"]
    answer, failed = map(json.loads, output["data"])
    same(answer, pipes["question-answering"](QUESTION))
    assert failed["error"]["item"] == 2


def test_open_inference_tells_what_is_there(client: TestClient) -> None:
    assert client.get("/v2").json().keys() == {"name", "version", "extensions"}
    assert client.get("/v2/health/live").json() == {"live": True}
    assert client.get("/v2/health/ready").json()["ready"] is True
    assert client.get("/v2/models/fill-mask/ready").json() == {"name": "fill-mask", "ready": True}
    column = {"datatype": "BYTES", "shape": [-1, 1]}
    assert client.get("/v2/models/fill-mask").json() == {
        "name": "fill-mask",
        "platform": "xlm-onnx_fill-mask",
        "inputs": [{"name": "text", **column}],
        "outputs": [{"name": "answer", **column}],
    }
    assert client.get("/v2/models/nobody").status_code == 404


def test_what_cannot_be_streamed_is_told_before_the_stream(serve: Serve) -> None:
    asked = {"inputs": TEXTS[0], "stream": True, "parameters": {"max_new_tokens": 3, "num_beams": 2}}
    reply = serve("text-generation").post("/", json=asked)
    assert reply.status_code == 400
    assert reply.json()["error"].startswith("A stream shows one text")
