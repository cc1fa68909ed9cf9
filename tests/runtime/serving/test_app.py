"""The application: limits, errors, tokens, health, metrics and logs; both protocols are tested beside this."""

from __future__ import annotations

import asyncio
import json
import threading
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
from starlette.testclient import TestClient

from tests.conftest import Bundles
from tests.runtime.answers import same
from tests.runtime.serving.conftest import Serve
from xlm_runtime import pipeline
from xlm_runtime.errors import EngineError
from xlm_runtime.serving.app import make_app
from xlm_runtime.serving.logs import start_logging
from xlm_runtime.serving.models import ServedModel
from xlm_runtime.serving.options import ServingOptions

SECONDS = 60
LABELS = "/models/text-classification"
INFER = "/v2/models/text-classification/infer"
TEXT = "The old town."


def tensor(*texts: str) -> dict[str, Any]:
    return {"inputs": [{"name": "text", "datatype": "BYTES", "shape": [len(texts)], "data": list(texts)}]}


class Held:
    """A server whose model computes only while it is let."""

    def __init__(self, folder: Path, **options: Any) -> None:
        self.pipe = pipeline("text-classification", folder, threads=1)
        self.batches: list[int] = []
        self.goes_on = threading.Event()
        self.begun = threading.Semaphore(0)
        forward = self.pipe.forward

        def held(batch: Any, wanted: Any) -> Any:
            self.batches.append(len(batch))
            self.begun.release()
            assert self.goes_on.wait(SECONDS)
            return forward(batch, wanted)

        self.pipe.forward = held  # type: ignore[method-assign]
        self.options = ServingOptions(threads=1, **options)
        self.pipe.batching = self.pipe.batching.__class__(max_queue=self.options.max_queue)
        models = {
            "text-classification": ServedModel("text-classification", "text-classification", self.pipe, self.options)
        }
        self.app = make_app(models, self.options)

    @contextmanager
    def running(self) -> Any:
        with TestClient(self.app) as client:
            try:
                yield client
            finally:
                self.goes_on.set()


@pytest.mark.parametrize(
    ("path", "body", "status", "message"),
    [
        (LABELS, b"{", 400, "The body is not JSON: "),
        (LABELS, b"\xff", 400, "The body is not UTF-8 (invalid start byte at byte 0)."),
        (LABELS, b"[" * 100_000, 400, "The body is not JSON that can be read: it is nested too deeply."),
        (LABELS, b"[1]", 400, "The body is a JSON list; expected an object."),
        (LABELS, {}, 400, "'inputs' is missing; expected a string, an object, or a list of them."),
        (LABELS, {"inputs": " "}, 400, "The text is empty; give at least one word."),
        (LABELS, {"inputs": [TEXT, 3]}, 400, "item 2: An input must be a string"),
        (LABELS, {"inputs": TEXT, "parameters": {"topk": 1}}, 400, "Unknown parameter 'topk'; this model has "),
        (LABELS, {"inputs": TEXT, "parameters": [1]}, 400, "'parameters' is a list; expected an object."),
        (LABELS, {"inputs": TEXT, "stream": True}, 400, "'stream' is true, but text-classification has nothing"),
        (LABELS, {"inputs": ["a"] * 257}, 413, "The request has 257 inputs; expected at most 256."),
        (LABELS, {"inputs": "a" * 100_001}, 413, "The texts have 100,001 characters; expected at most 100,000."),
        (LABELS, {"inputs": "é" * 600_000}, 413, "The body has more than 1,048,576 bytes"),
        ("/models/nobody", {"inputs": TEXT}, 404, "There is no model 'nobody'; served are feature-extraction, "),
        ("/models", {"inputs": TEXT}, 404, "Not Found"),
        ("/health", {}, 405, "Method Not Allowed"),
        (INFER, tensor(TEXT, " "), 400, "item 2: The text is empty"),
        (INFER, tensor('{"text": '), 400, "not a JSON object: "),
        (INFER, tensor(TEXT) | {"parameters": {"on_error": "skip"}}, 400, "Unknown on_error 'skip'; expected one of"),
        (INFER, tensor(TEXT) | {"outputs": [{"name": "label"}]}, 400, "Unknown output 'label'; the model has "),
        (INFER, {"inputs": []}, 400, "The request has 0 inputs; expected a list with one object, named 'text'."),
        (
            INFER,
            {"inputs": [{"name": "text", "datatype": "FP32", "shape": [1], "data": [1]}]},
            400,
            "The input is 'text' of datatype 'FP32'; expected 'text' of BYTES.",
        ),
        (
            INFER,
            {"inputs": [{"name": "text", "datatype": "BYTES", "shape": [1, 2], "data": ["a", "b"]}]},
            400,
            "The input's shape is [1, 2]; expected [n] or [n, 1] for n texts.",
        ),
        (
            INFER,
            {"inputs": [{"name": "text", "datatype": "BYTES", "shape": [2], "data": ["a"]}]},
            400,
            "The input's data are no 2 strings, as its shape [2] says.",
        ),
        (
            INFER,
            {"inputs": [{"name": "text", "datatype": "BYTES", "shape": [1], "parameters": {"binary_data_size": 5}}]},
            400,
            "The input has no data in its JSON; send texts as strings (tritonclient: binary_data=False).",
        ),
    ],
)
def test_what_is_refused(client: TestClient, path: str, body: Any, status: int, message: str) -> None:
    content = body if isinstance(body, bytes) else json.dumps(body, ensure_ascii=False).encode()
    reply = client.post(path, content=content)
    assert (reply.status_code, reply.headers["content-type"]) == (status, "application/json")
    assert reply.json()["error"].startswith(message)


def test_only_who_has_the_token_is_answered(serve: Serve) -> None:
    client = serve("text-classification", token="s3cret")
    for given in (
        {},
        {"Authorization": "Bearer s3cre"},
        {"Authorization": "s3cret"},
        {"Authorization": "Basic s3cret"},
    ):
        for path in ("/", LABELS, INFER, "/metrics", "/docs", "/openapi.json", "/v2", "/nowhere"):
            reply = client.post(path, json={"inputs": TEXT}, headers=given)
            assert (reply.status_code, reply.headers["www-authenticate"]) == (401, "Bearer")
            assert "s3cret" not in reply.text
    for path in ("/health", "/v2/health/live", "/v2/health/ready"):
        assert client.get(path).status_code == 200
    assert client.post("/", json={"inputs": TEXT}, headers={"authorization": "bearer s3cret"}).status_code == 200
    assert "s3cret" not in repr(ServingOptions(token="s3cret"))


def test_a_full_queue_is_429_and_what_waits_shares_a_batch(bundles: Bundles) -> None:
    server = Held(bundles("text-classification"), max_queue=2)
    with server.running() as client:
        first = server.pipe.submit(TEXT)
        assert server.begun.acquire(timeout=SECONDS)
        waiting = [server.pipe.submit(TEXT) for _ in range(2)]
        for path, body in ((LABELS, {"inputs": TEXT}), (INFER, tensor(TEXT))):
            refused = client.post(path, json=body)
            assert (refused.status_code, refused.headers["retry-after"]) == (429, "1")
            assert refused.json()["error_type"] == "overloaded"
        server.goes_on.set()
        for future in (first, *waiting):
            future.result(SECONDS)
        figures = client.get("/metrics").text
    assert server.batches == [1, 2]
    assert 'xlm_batch_rows_sum{model="text-classification"} 3.0' in figures
    assert 'xlm_queue_seconds_count{model="text-classification"} 3.0' in figures
    assert 'xlm_requests_total{model="text-classification",protocol="hugging-face",status="429"} 1.0' in figures


def test_a_request_that_takes_too_long_is_504_and_cancelled(bundles: Bundles) -> None:
    server = Held(bundles("text-classification"), timeout_s=0.2)
    with server.running() as client:
        late = [client.post(LABELS, json={"inputs": TEXT}) for _ in range(2)]
        server.goes_on.set()
        server.pipe.submit(TEXT).result(SECONDS)
    assert [reply.status_code for reply in late] == [504, 504]
    assert late[0].json() == {
        "error": "There was no answer within 0.2 seconds; the request is given up.",
        "error_type": "timeout",
    }
    assert server.batches == [1, 1]  # the second one was never computed


def test_an_engine_that_fails_is_503_and_logged_without_texts(
    bundles: Bundles, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    server = Held(bundles("text-classification"), timeout_s=SECONDS)
    server.goes_on.set()
    log = tmp_path / "log"
    start_logging(str(log))
    with server.running() as client:
        assert client.get("/health").json() == {"live": True, "ready": True}
        assert client.post(LABELS, json={"inputs": "a secret text"}).status_code == 200
        for error, status, kind in (
            (EngineError("out of memory at 'a secret text'"), 503, "engine"),
            (ArithmeticError("'a secret text'"), 500, "internal"),
        ):

            def fails(batch: Any, options: Any, error: Exception = error) -> Any:
                raise error

            server.pipe.forward = fails  # type: ignore[method-assign]
            reply = client.post(LABELS, json={"inputs": "a secret text"})
            assert (reply.status_code, reply.json()["error_type"]) == (status, kind)
        assert reply.json()["error"] == "The server failed (ArithmeticError); its log says where."
        server.pipe.close()
        assert client.get("/health").status_code == client.get("/v2/health/ready").status_code == 503
        assert client.get("/v2/models/text-classification/ready").json()["ready"] is False
        assert client.get("/v2/health/live").status_code == 200
        assert client.post(LABELS, json={"inputs": TEXT}).status_code == 503
    start_logging(None)
    lines = [json.loads(line) for line in log.read_text().splitlines()]
    assert "secret" not in log.read_text()
    assert [line["event"] for line in lines] == [
        "ready",
        "request",
        "error",
        "request",
        "error",
        "request",
        "request",
        "error",
        "request",
    ]
    assert {key: lines[1][key] for key in ("level", "model", "protocol", "status", "texts")} == {
        "level": "info",
        "model": "text-classification",
        "protocol": "hugging-face",
        "status": 200,
        "texts": 1,
    }
    assert lines[4]["error"] == "ArithmeticError"
    assert lines[4]["id"] == lines[5]["id"]
    assert any("test_app.py" in place for place in lines[4]["places"])


def test_a_client_that_goes_away_cancels_its_request(bundles: Bundles) -> None:
    server = Held(bundles("text-classification"))
    model = ServedModel("labels", "text-classification", server.pipe, server.options)

    async def go() -> list[Any]:
        tasks = [asyncio.create_task(model.answer(text, {})) for text in (TEXT, "A ship.", "A road.")]
        await asyncio.to_thread(server.begun.acquire, timeout=SECONDS)
        tasks[1].cancel()
        server.goes_on.set()
        return await asyncio.gather(*tasks, return_exceptions=True)

    answers = asyncio.run(go())
    assert isinstance(answers[1], asyncio.CancelledError)
    same([answers[0], answers[2]], pipeline("text-classification", bundles("text-classification"))([TEXT, "A road."]))
    server.pipe.close()


def test_long_texts_are_tokenised_in_a_thread(client: TestClient, bundles: Bundles) -> None:
    text = "The old town. " * 200
    reply = client.post(LABELS, json={"inputs": text, "parameters": {"truncation": True, "top_k": 1}})
    same(reply.json(), [[pipeline("text-classification", bundles("text-classification"))(text, truncation=True)]])


def test_docs_show_the_models_and_their_parameters(client: TestClient) -> None:
    assert "swagger" in client.get("/docs").text
    described = client.get("/openapi.json").json()
    assert "| text-classification | text-classification | function_to_apply, lang, " in described["info"]["description"]
    assert "requestBody" in described["paths"]["/models/{name}"]["post"]
    assert "requestBody" in described["paths"]["/v2/models/{name}/infer"]["post"]
    assert "/" not in described["paths"]  # there are several models
