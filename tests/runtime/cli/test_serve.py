"""`xlm-runtime serve` before it starts anything: what cannot be served is told in a sentence."""

from __future__ import annotations

import socket
import sys
from pathlib import Path
from types import ModuleType

import pytest

from tests.conftest import Bundles
from tests.runtime.cli.conftest import Run
from xlm_runtime.cli.serve import check_address
from xlm_runtime.errors import InputError
from xlm_runtime.serving.deployment import Scaling
from xlm_runtime.serving.options import Served, ServingOptions, read_served


@pytest.fixture
def ray(monkeypatch: pytest.MonkeyPatch) -> None:
    """Something that can be imported as Ray, and is never used."""
    package = ModuleType("ray")
    package.serve = ModuleType("ray.serve")  # type: ignore[attr-defined]
    monkeypatch.setitem(sys.modules, "ray", package)
    for name in ("RAY_USAGE_STATS_ENABLED", "RAY_DISABLE_WORKER_LOG_PREFIX", "RAY_SERVE_LOG_TO_STDERR"):
        monkeypatch.setenv(name, "0")  # so that it is as before in the end


def test_without_ray_the_extra_is_named(run: Run, bundles: Bundles, monkeypatch: pytest.MonkeyPatch, ray: None) -> None:
    monkeypatch.setitem(sys.modules, "ray", None)
    code, _, err = run("serve", bundles("fill-mask"))
    assert code == 1
    assert "Please reinstall with the `serve` extra: pip install 'xlm-onnx[serve]'" in err


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["nowhere"], "Folder 'nowhere' not found; expected a bundle"),
        (["{}", "fill-mask={}"], "Two models have the name 'fill-mask': "),
        (["a b={}"], "The model's name 'a b' cannot be part of a URL; give another as NAME="),
        (["{}", "--task", "fill-masks"], "Unknown task 'fill-masks'; expected one of feature-extraction, "),
        (["{}", "--task", "question-answering"], "is for fill-mask, not for question-answering."),
        (["{}", "--replicas", "0"], "replicas is 0; expected 1 or more."),
        (["{}", "--replicas", "3", "--max-replicas", "2"], "max_replicas is 2; expected 3 (replicas) or more."),
        (["{}", "--max-queue", "0"], "max_queue is 0; expected a positive number."),
        (["{}", "--timeout", "0"], "timeout_s is 0.0; expected a positive number."),
        (["{}", "--max-wait-ms", "-1"], "max_wait_ms is -1.0; expected milliseconds"),
        (["{}", "--port", "65536"], "The port is 65536; expected a number from 1 to 65535."),
        (["{}", "--host", "192.0.2.77"], "Nothing can listen at 192.0.2.77, port 8000: "),
        (["{}", "--token-file", "/nowhere"], "No such file or directory: '/nowhere'"),
    ],
)
def test_what_is_refused(run: Run, bundles: Bundles, ray: None, options: list[str], message: str) -> None:
    code, _, err = run("serve", *(option.format(bundles("fill-mask")) for option in options))
    assert (code, err.count("\n")) == (1, 1)
    assert message in err


def test_a_port_that_is_taken_is_told_before_anything_starts() -> None:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        port = taken.getsockname()[1]
        with pytest.raises(InputError, match=f"Port {port} of 127.0.0.1 is taken by another program"):
            check_address("127.0.0.1", port)
    check_address("127.0.0.1", port)


def test_a_token_that_no_header_can_hold_is_refused() -> None:
    for token in ("", " ", "süß", "a\nb"):
        with pytest.raises(InputError, match="The token is empty, or holds what no HTTP header can"):
            ServingOptions(token=token)


def test_bundles_have_their_folders_names_or_ones_own(bundles: Bundles, monkeypatch: pytest.MonkeyPatch) -> None:
    folder = bundles("text-classification")
    monkeypatch.chdir(folder)
    given = [".", f"labels={folder}"]
    names = [Served(name, str(folder), "text-classification") for name in (folder.name, "labels")]
    assert read_served(given) == tuple(names)
    (served,) = read_served([str(folder)], "zero-shot-classification")
    assert served.task == "zero-shot-classification"
    assert Scaling(2).most == 2
    assert Scaling(2, 5).most == 5
    assert Path(served.bundle).is_absolute()
