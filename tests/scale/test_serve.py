"""A real Ray Serve with two bundles, asked over HTTP in both protocols (`make test-scale`)."""

from __future__ import annotations

import json
import urllib.error
import urllib.request
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import psutil
import pytest
from huggingface_hub import InferenceClient

from tests.conftest import Bundles
from tests.runtime.answers import same
from tests.scale.rayserve import Server, serving
from tests.scale.tritonserver import PYTHON
from xlm_runtime import pipeline

pytestmark = [
    pytest.mark.scale,
    pytest.mark.skipif(not PYTHON.is_file(), reason="`make test-scale` makes the environment"),
]
TOKEN = "s3cret"
TEXTS = ["The old town.", "Маяк стоит на берегу."]


def ask(server: Server, path: str, body: Any = None, token: str = TOKEN) -> tuple[int, dict[str, str], str]:
    """Status, headers and text of an answer."""
    data = None if body is None else json.dumps(body).encode()
    request = urllib.request.Request(f"{server.url}{path}", data, {"Authorization": f"Bearer {token}"})
    try:
        with urllib.request.urlopen(request, timeout=60) as reply:
            return reply.status, {name.lower(): value for name, value in reply.headers.items()}, reply.read().decode()
    except urllib.error.HTTPError as error:
        return error.code, {name.lower(): value for name, value in error.headers.items()}, error.read().decode()


def infer(*texts: str, **parameters: Any) -> dict[str, Any]:
    tensor = {"name": "text", "datatype": "BYTES", "shape": [len(texts), 1], "data": list(texts)}
    return {"inputs": [tensor], "parameters": parameters}


@pytest.mark.slow(seconds=60)
def test_a_server_answers_as_the_pipelines_do(bundles: Bundles, tmp_path: Path) -> None:
    labels, generate = (pipeline(task, bundles(task)) for task in ("text-classification", "text-generation"))
    folders = f"labels={bundles('text-classification')}", bundles("text-generation")
    limits = "--max-queue", 2, "--timeout", 4, "--max-body-bytes", 20_000
    with serving(tmp_path, *folders, *limits, XLM_SERVE_TOKEN=TOKEN) as server:
        hub = InferenceClient(model=f"{server.url}/models/labels", token=TOKEN)
        same([dict(each) for each in hub.text_classification(TEXTS[0])], labels(TEXTS[0], top_k=None))
        status, _, text = ask(server, "/v2/models/labels/infer", infer(*TEXTS, top_k=2))
        assert status == 200, text
        same(list(map(json.loads, json.loads(text)["outputs"][0]["data"])), labels(TEXTS, top_k=2))
        hub = InferenceClient(model=f"{server.url}/models/text-generation", token=TOKEN)
        pieces = list(hub.text_generation(TEXTS[0], max_new_tokens=8, stream=True))
        assert "".join(pieces) == generate(TEXTS[0], generate.defaults.replace(max_new_tokens=8))["generated_text"]
        assert len(pieces) > 1
        assert ask(server, "/models/labels", {"inputs": TEXTS[0]}, token="wrong")[0] == 401
        assert ask(server, "/models/labels", {"inputs": "a" * 20_000})[0] == 413
        assert ask(server, "/models/labels", {"inputs": " "})[0] == 400

        # one that computes for longer than anyone waits, and behind it a queue that is full
        patient = {"max_new_tokens": 40, "num_beams": 64, "ignore_eos": True}
        slow = {"inputs": ["The old"] * 256, "parameters": patient}
        with ThreadPoolExecutor(4) as callers:
            asked = [callers.submit(ask, server, "/models/text-generation", slow) for _ in range(4)]
            replies = [each.result() for each in asked]
        assert {status for status, _, _ in replies} == {429, 504}
        assert {headers.get("retry-after") for status, headers, _ in replies if status == 429} == {"1"}
        figures = ask(server, "/metrics")[2]
        assert 'xlm_batch_rows_sum{model="labels"} 3.0' in figures
        assert 'xlm_requests_total{model="labels",protocol="open-inference",status="200"} 1.0' in figures

        (replica,) = (
            process
            for process in psutil.Process(server.process.pid).children(recursive=True)
            if "ServeReplica" in " ".join(process.cmdline())
        )
        replica.kill()
        psutil.wait_procs([replica])
        server.wait()
        status, _, text = ask(server, "/models/labels", {"inputs": TEXTS[0]})
        assert status == 200, text
        # figures of the replica that is gone are still there
        assert 'xlm_batch_rows_sum{model="labels"} 4.0' in ask(server, "/metrics")[2]
        assert server.interrupt() == 130
    lines = server.text().splitlines()
    assert lines[-1] == "xlm-runtime: interrupted"
    requests = [json.loads(line) for line in lines if line.startswith('{"time"')]
    assert {"labels", "text-generation"} <= {line.get("model") for line in requests}
    assert not any(secret in server.text() for secret in (TOKEN, TEXTS[0], TEXTS[1]))
