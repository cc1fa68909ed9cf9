"""Model repositories in a real tritonserver, asked by tritonclient (`make test-scale`)."""

from __future__ import annotations

import json
import re
import shutil
import subprocess
import urllib.request
from pathlib import Path
from typing import Any

import pytest

from tests.conftest import Bundles
from tests.export.triton.test_models import with_engines
from tests.paths import ROOT
from tests.runtime.answers import same
from tests.scale.tritonserver import PYTHON, running
from xlm_export.triton import write_repository
from xlm_export.triton.options import ServingOptions
from xlm_runtime import pipeline

pytestmark = [
    pytest.mark.scale,
    pytest.mark.skipif(not PYTHON.is_file(), reason="`make test-scale` makes the environment"),
]


def client(job: dict[str, Any]) -> Any:
    """What `tests.scale.triton_client` prints."""
    command = [str(PYTHON), "-m", "tests.scale.triton_client"]
    done = subprocess.run(command, cwd=ROOT, input=json.dumps(job), capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr[-3000:]
    return json.loads(done.stdout)


def test_tritons_protobuf_reads_every_configuration(bundles: Bundles, tmp_path: Path) -> None:
    folder = Path(shutil.copytree(bundles("text-classification"), tmp_path / "bundle"))
    with_engines(folder, "tensorrt")
    repository = tmp_path / "models"
    write_repository(folder, repository, ServingOptions(provider="auto", threads=2), backends=("python", "tensorrt"))
    for name in ("fill-mask", "question-answering"):
        write_repository(bundles(name), repository, backends=("python", "onnxruntime"))
    paths = sorted(repository.glob("*/config.pbtxt"))
    configs = {config["name"]: config for config in client({"configs": list(map(str, paths))})["configs"]}
    assert list(configs) == [path.parent.name for path in paths]
    assert len(configs) == 6
    labels = configs["text-classification"]
    assert labels["max_batch_size"] == 32
    assert labels["input"] == [{"name": "text", "data_type": "TYPE_STRING", "dims": ["1"]}]
    assert labels["parameters"]["threads"] == {"string_value": "2"}
    assert "max_batch_size" not in configs["fill-mask-onnxruntime"]
    question = configs["question-answering-onnxruntime"]
    assert question["input"][-1] == {"name": "cls_index", "data_type": "TYPE_INT64", "dims": ["1"], "reshape": {}}
    engine = configs["text-classification-tensorrt"]
    assert engine["dynamic_batching"]["preferred_batch_size"] == [8, 32]
    assert engine["instance_group"][0]["kind"] == "KIND_GPU"
    assert len(engine["instance_group"][0]["profile"]) > 1


def request(model: str, *texts: str, **parameters: Any) -> dict[str, Any]:
    return {"model": model, "texts": texts, "parameters": parameters or None}


@pytest.mark.slow(seconds=60)
def test_a_server_answers_as_the_pipelines_do(bundles: Bundles, tmp_path: Path) -> None:
    repository = tmp_path / "models"
    tasks = ("text-classification", "fill-mask", "question-answering", "text-generation")
    for task in tasks:
        write_repository(bundles(task), repository)
    patient = ServingOptions(task="zero-shot-classification", max_batch=8, max_queue_delay_us=1_000_000)
    write_repository(bundles("text-classification"), repository, patient)
    labels, masks, questions, generate = (pipeline(task, bundles(task)) for task in tasks)
    zero_shot = pipeline("zero-shot-classification", bundles("text-classification"))
    texts = ["The old town.", "Маяк стоит на берегу.", "Ein altes Haus."]
    question = {"question": "Where?", "context": "The old town is by the sea."}
    generated = {"max_new_tokens": 4, "do_sample": True, "temperature": 0.7, "seed": 3}
    expected = [
        (request("text-classification", *texts), labels(texts)),
        (request("text-classification", texts[1], top_k="null", lang="ru"), [labels(texts[1], top_k=None, lang="ru")]),
        (
            request("fill-mask", "The <mask> town.", targets='["a", "o"]'),
            [masks("The <mask> town.", targets=["a", "o"])],
        ),
        (request("question-answering", json.dumps(question), top_k=2), [questions(question, top_k=2)]),
        (
            request("text-generation", "The old", **generated),
            [generate("The old", generate.defaults.replace(**generated))],
        ),
        (request("text-classification", texts[0], " "), "item 2: The text is empty; give at least one word."),
        (request("text-classification", texts[0], top_k=0), "top_k is 0; expected a positive number"),
        (request("text-classification", *texts * 11), "<= 32"),
        (request("fill-mask", "No mask"), "No mask in the text 'No mask'"),
    ]
    together = [request(patient.task, text, candidate_labels="a, b") for text in (*texts, " ")]
    with running(repository, tmp_path) as addresses:
        found = client(
            {
                "http": addresses.http,
                "grpc": addresses.grpc,
                "each": [asked for asked, _ in expected],
                "together": together,
                "statistics": patient.task,
            }
        )
        url = f"http://{addresses.http}/v2/models/text-classification/generate"
        with urllib.request.urlopen(url, b'{"text": "The old town.", "top_k": 2}', timeout=10) as page:
            simple = json.load(page)
        with urllib.request.urlopen(f"http://{addresses.metrics}/metrics", timeout=10) as page:
            metrics = page.read().decode()
    for (asked, answer), answers in zip(expected, found["each"], strict=True):
        for protocol in ("http", "grpc"):
            if isinstance(answer, str):
                assert answer in answers[protocol]["error"], asked
            else:
                same(answers[protocol], answer)
    same(json.loads(simple["answer"]), labels(texts[0], top_k=2))
    *answered, failed = found["together"]
    same([answers[0] for answers in answered], zero_shot(texts, "a, b"))
    assert failed == {"error": "The text is empty; give at least one word."}
    inferences, executions = found["statistics"]
    assert inferences == 4
    assert executions < 4  # those that came within a second were one call
    assert found["ready"]
    counted = re.findall(r'nv_inference_request_success{model="fill-mask",version="1"} (\d+)', metrics)
    assert counted == ["4"]  # two over each protocol; the backend counts those that it answered with an error, too
