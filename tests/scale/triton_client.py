"""What tritonclient, in an environment of its own, gets from a server, and how it reads configurations.

    python -m tests.scale.triton_client < JOB

A job is a JSON object, and so is what is printed:

- "configs", paths: each as Triton's own protobuf reads it;
- "each", requests: the answers over HTTP and over gRPC, one request after the other;
- "together", requests: the answers over gRPC to all of them at once;
- "statistics", a model: how many texts it answered, and in how many calls.
"""

from __future__ import annotations

import json
import sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
import tritonclient.grpc
import tritonclient.http
from google.protobuf import json_format, text_format
from tritonclient.grpc import model_config_pb2
from tritonclient.utils import InferenceServerException


def main() -> None:
    job = json.load(sys.stdin)
    result: dict[str, Any] = {"configs": [config(path) for path in job.get("configs", [])]}
    if "http" in job:
        http = tritonclient.http.InferenceServerClient(job["http"])
        grpc = tritonclient.grpc.InferenceServerClient(job["grpc"])
        result["each"] = [
            {"http": answer(tritonclient.http, http, request), "grpc": answer(tritonclient.grpc, grpc, request)}
            for request in job["each"]
        ]
        with ThreadPoolExecutor(len(job["together"])) as pool:
            both = pool.map(lambda request: answer(tritonclient.grpc, grpc, request), job["together"])
            result["together"] = list(both)
        (model,) = http.get_inference_statistics(job["statistics"])["model_stats"]
        result["statistics"] = [model["inference_count"], model["execution_count"]]
        result["ready"] = grpc.is_model_ready(job["statistics"])
    print(json.dumps(result))


def config(path: str) -> Any:
    message = text_format.Parse(Path(path).read_text(encoding="utf-8"), model_config_pb2.ModelConfig())
    return json_format.MessageToDict(message, preserving_proto_field_name=True)


def answer(protocol: Any, client: Any, request: dict[str, Any]) -> Any:
    """The answers to the texts, or the error."""
    texts = np.array([[text.encode()] for text in request["texts"]], dtype=np.object_)
    given = protocol.InferInput("text", list(texts.shape), "BYTES")
    given.set_data_from_numpy(texts)
    try:
        result = client.infer(request["model"], [given], parameters=request.get("parameters"))
    except InferenceServerException as error:
        return {"error": error.message()}
    return [json.loads(text) for text in result.as_numpy("answer")[:, 0]]


if __name__ == "__main__":
    main()
