"""The command `text-generation`: streams, and scores of texts."""

from __future__ import annotations

import io
import json
import sys
from collections.abc import Callable
from types import SimpleNamespace

import pytest

from tests.conftest import Bundles
from tests.runtime.texts import TEXTS
from xlm_runtime import GenerationOptions, pipeline
from xlm_runtime.cli import main as cli

Run = Callable[..., tuple[int, str, str]]


@pytest.fixture
def run(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> Run:
    def call(*arguments: object, stdin: str | None = None) -> tuple[int, str, str]:
        stream = SimpleNamespace(buffer=io.BytesIO((stdin or "").encode()), isatty=lambda: stdin is None)
        monkeypatch.setattr(sys, "stdin", stream)
        code = cli.main(["text-generation", *(str(argument) for argument in arguments)])
        out, err = capsys.readouterr()
        return code, out, err

    return call


@pytest.mark.parametrize("name", ["text-generation", "text-generation-bidirectional"])
def test_scores_as_json_equal_the_pipelines(run: Run, bundles: Bundles, name: str) -> None:
    pipe = pipeline("text-generation", bundles(name))
    lines = "\n".join([TEXTS[0], json.dumps({"text": TEXTS[1], "lang": "de"})])
    code, out, err = run(bundles(name), "--score", "--lang", "en", "--prompt-start", "<s>", "--json", "-", stdin=lines)
    assert (code, err) == (0, "")
    for line, text, lang in zip(out.splitlines(), TEXTS, ("en", "de"), strict=False):
        answer, expected = json.loads(line), pipe.score(text, lang=lang, prompt_start="<s>")
        assert answer["tokens"] == expected["tokens"]
        assert answer["ids"] == pipe.model.tokenizer.encode(text, lang=lang, add_special_tokens=False)
        assert answer["perplexity"] == pytest.approx(expected["perplexity"], rel=1e-4)
        assert answer["token_log_probs"] == pytest.approx(expected["token_log_probs"], abs=1e-4)
    assert len(out.splitlines()) == 2


def test_scores_as_a_table(run: Run, bundles: Bundles) -> None:
    expected = pipeline("text-generation", bundles("text-generation")).score(TEXTS[0], lang="en")
    code, out, err = run(bundles("text-generation"), "--score", TEXTS[0], "--lang", "en")
    assert (code, err) == (0, "")
    text, first, *tokens = [line.split() for line in out.splitlines()]
    assert text == TEXTS[0].split()
    assert first == [f"{expected['perplexity']:.4f}", "perplexity", "of", str(len(expected["ids"])), "tokens"]
    pairs = zip(expected["token_log_probs"], expected["tokens"], strict=True)
    assert tokens == [[f"{log_prob:.4f}", token] for log_prob, token in pairs]


def test_score_generates_nothing(run: Run, bundles: Bundles) -> None:
    options = ("--num-beams", "2", "--sample", "--stream")
    code, out, err = run(bundles("text-generation"), "--score", TEXTS[0], *options)
    assert (code, out) == (1, "")
    assert "--score reads texts and generates none; leave out --sample, --num-beams, --stream." in err
    code, _, err = run(bundles("text-generation"), "--score", "-", stdin="the old town\n\n")
    assert code == 1
    assert "nothing to score: give at least one word" in err


def test_a_stream_prints_the_text(run: Run, bundles: Bundles) -> None:
    folder = bundles("text-generation")
    code, out, err = run(folder, TEXTS[0], "--stream", "--lang", "en", "--max-new-tokens", "8")
    assert (code, err) == (0, "")
    answer = pipeline("text-generation", folder)(TEXTS[0], GenerationOptions(max_new_tokens=8), lang="en")
    assert out == answer["generated_text"] + "\n"
    assert "choose one" in run(folder, TEXTS[0], "--stream", "--json")[2]
