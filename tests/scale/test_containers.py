"""docker/: the linters' opinion, what its files say of each other, and the images' commands in fresh environments."""

from __future__ import annotations

import json
import os
import shutil
import signal
import socket
import subprocess
import tempfile
import time
import urllib.error
import urllib.request
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml

from tests.conftest import Bundles
from tests.paths import ROOT
from tests.runtime.answers import same
from tests.scale.dockerfile import OURS, Image, build, read_dockerfile, start
from tests.scale.tritonserver import PYTHON
from xlm_runtime import pipeline

DOCKER = ROOT / "docker"
DOCKERFILES = sorted(DOCKER.glob("*.Dockerfile"))
BASE_MB = 130  # python:3.11-slim, unpacked
LIMIT_MB = 350

pytestmark = [
    pytest.mark.scale,
    pytest.mark.skipif(not PYTHON.is_file(), reason="`make test-scale` makes the environment"),
]


def lint(*command: str | Path) -> None:
    done = subprocess.run(
        [PYTHON.with_name(str(command[0])), *command[1:]], capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stdout + done.stderr


def test_linters_find_nothing() -> None:
    lint("hadolint", *DOCKERFILES)
    lint("check-jsonschema", "--builtin-schema", "vendor.compose-spec", DOCKER / "compose.yaml")


@pytest.mark.parametrize("dockerfile", DOCKERFILES, ids=lambda path: path.stem)
def test_compose_and_prometheus_speak_of_what_the_image_has(dockerfile: Path) -> None:
    compose = yaml.safe_load((DOCKER / "compose.yaml").read_text(encoding="utf-8"))
    prometheus = yaml.safe_load((DOCKER / "prometheus.yml").read_text(encoding="utf-8"))
    found = dict(read_dockerfile(dockerfile))  # the last stage's
    entrypoint, (bundle,) = json.loads(found["ENTRYPOINT"]), json.loads(found["CMD"])
    port = found["EXPOSE"]
    assert entrypoint[entrypoint.index("--port") + 1] == port
    assert f":{port}/" in found["HEALTHCHECK"]
    assert int(found["USER"].split(":")[0]) > 0

    serve, watch = compose["services"]["serve"], compose["services"]["prometheus"]
    assert (DOCKER / serve["build"]["context"]).resolve() == ROOT
    assert ROOT / serve["build"]["dockerfile"] in DOCKERFILES
    for service in (serve, watch):
        assert service["read_only"] is True
        assert service["cap_drop"] == ["ALL"]
        assert all(published.startswith("127.0.0.1:") for published in service["ports"])
    assert serve["ports"] == [f"127.0.0.1:{port}:{port}"]
    assert [volume.rsplit(":", 2)[1:] for volume in serve["volumes"]] == [[bundle, "ro"]]
    mounted = dict(volume.split(":")[:2] for volume in watch["volumes"])
    assert f"--config.file={mounted['./prometheus.yml']}" in watch["command"]
    (job,) = prometheus["scrape_configs"]
    assert job["static_configs"] == [{"targets": [f"serve:{port}"]}]


@pytest.fixture
def folder() -> Iterator[Path]:
    """A folder that every user may read, which pytest's own are not."""
    made = Path(tempfile.mkdtemp(prefix="xlm-image-"))
    made.chmod(0o755)
    yield made
    shutil.rmtree(made)


def files(folder: Path) -> dict[str, int]:
    return {str(path): path.lstat().st_mtime_ns for path in folder.rglob("*")}


def ask(url: str, body: Any = None) -> Any:
    data = None if body is None else json.dumps(body).encode()
    with urllib.request.urlopen(urllib.request.Request(url, data), timeout=30) as page:
        text = page.read().decode()
    return text if url.endswith("/metrics") else json.loads(text)


def wait_until_healthy(image: Image, port: str, server: subprocess.Popen[bytes], log: Path) -> None:
    command = [image.here(word).replace(f":{image.port}/", f":{port}/") for word in image.health]
    for _ in range(300):
        if server.poll() is None and subprocess.run(command, capture_output=True, check=False).returncode == 0:
            return
        if server.poll() is not None:
            break
        time.sleep(0.2)
    pytest.fail(f"the server is not ready\n{log.read_text(encoding='utf-8')[-5000:]}")


@pytest.mark.slow(seconds=40)
@pytest.mark.parametrize(("name", "options"), [("cpu", []), ("gpu", ["--provider", "cpu"])])
def test_an_images_commands_make_a_server(
    name: str, options: list[str], bundles: Bundles, folder: Path, tmp_path: Path
) -> None:
    image = build(DOCKER / f"{name}.Dockerfile", folder / "root", f"{PYTHON.parent}:{os.environ['PATH']}")
    if name == "cpu":
        size = sum(path.lstat().st_size for path in (image.root / OURS.lstrip("/")).rglob("*")) / 1e6
        assert size + BASE_MB < LIMIT_MB
    bundle = Path(shutil.copytree(bundles("text-classification"), folder / "bundle"))
    before = files(folder)
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        port = str(listener.getsockname()[1])
    log = tmp_path / "log"
    with log.open("wb") as output:
        arguments = [str(bundle), *options, "--host", "127.0.0.1", "--port", port]
        server = start(image, arguments, {"PATH": os.environ["PATH"]}, stdout=output, stderr=output)
    try:
        wait_until_healthy(image, port, server, log)
        text = "The old town."
        found = ask(f"http://127.0.0.1:{port}/models/bundle", {"inputs": text})
        metrics = ask(f"http://127.0.0.1:{port}/metrics")
    finally:
        server.send_signal(signal.SIGTERM)
        server.wait(60)
    with pipeline("text-classification", bundle) as pipe:
        same(found[0], pipe(text, top_k=None))
    assert "xlm_" in metrics
    assert files(folder) == before  # so the root file system may be read-only
