"""Generation against torch: loops without a cache over the reference model, and transformers' `generate`."""

from __future__ import annotations

import json
import shutil
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import transformers

from benchmarks.checkpoints import SHARED, write_checkpoint
from tests.conftest import Bundles
from tests.runtime.texts import LANGS, TEXTS
from tests.tolerances import RUNTIME_FP32
from xlm_export import export, load_checkpoint
from xlm_runtime import GenerationOptions, pipeline
from xlm_runtime.bundle import file_sha256
from xlm_runtime.generation.config_file import GENERATION_FILE
from xlm_runtime.model.cache import KeyValueCache

NEW = 16
EOS = 1
# transformers 5.24 caches the mask token that its XLM puts behind the text, and answers wrongly.
GENERATE = {"max_new_tokens": NEW, "pad_token_id": 2, "bos_token_id": 0, "eos_token_id": EOS, "use_cache": False}


def theirs(checkpoint: Path) -> Any:
    return transformers.XLMWithLMHeadModel.from_pretrained(checkpoint).eval()


def prompt_ids(tokenizer: Any, text: str, lang: str | None, start: int) -> list[int]:
    return [start, *tokenizer.convert_tokens_to_ids(tokenizer._tokenize(text, lang=lang or "en"))]


class TorchLoop:
    """Greedy and beam search that run the whole sequence for every token, one text at a time and without padding."""

    def __init__(self, checkpoint: Path) -> None:
        self.model: Any = load_checkpoint(checkpoint).model
        self.tokenizer = transformers.XLMTokenizer.from_pretrained(checkpoint)

    def log_probs(self, ids: list[int], lang: str | None) -> torch.Tensor:
        """(vocab_size), of the token behind these."""
        return self.log_probs_of([ids], lang)[0]

    @torch.inference_mode()
    def log_probs_of(self, rows: list[list[int]], lang: str | None) -> torch.Tensor:
        """(rows, vocab_size), of the token behind each of these rows, which are of one length."""
        config = self.model.config
        lang_id = config.lang_id if lang is None else config.lang2id[lang]
        ids = torch.tensor(rows)
        output = self.model(ids, langs=torch.full_like(ids, lang_id), logits_to_keep=1)
        return output.logits[:, -1].log_softmax(-1)

    def greedy(self, text: str, lang: str | None, count: int) -> list[int]:
        ids = prompt_ids(self.tokenizer, text, lang, EOS)
        prompt = len(ids)
        while len(ids) < prompt + count and (len(ids) == prompt or ids[-1] != EOS):
            ids.append(int(self.log_probs(ids, lang).argmax()))
        return ids[prompt:]

    def beam(self, text: str, lang: str | None, count: int, beams: int) -> tuple[list[int], float]:
        """The textbook's search: all continuations of all beams, the best kept, finished ones by score / length."""
        prompt = prompt_ids(self.tokenizer, text, lang, EOS)
        running: list[tuple[float, list[int]]] = [(0.0, [])]
        finished: list[tuple[float, list[int]]] = []
        for step in range(1, count + 1):
            candidates = []
            rows = self.log_probs_of([[*prompt, *new] for _, new in running], lang)
            for (score, new), row in zip(running, rows, strict=True):
                values, tokens = row.topk(2 * beams)
                candidates += [(score + v, [*new, t]) for v, t in zip(values.tolist(), tokens.tolist(), strict=True)]
            candidates.sort(key=lambda item: -item[0])
            running = []
            for rank, (score, new) in enumerate(candidates[: 2 * beams]):
                if new[-1] != EOS and step < count:
                    running.append((score, new))
                elif rank < beams:
                    finished.append((score / step, new))
            running = running[:beams]
            finished = sorted(finished, key=lambda item: -item[0])[:beams]
            if not running or (len(finished) == beams and running[0][0] / step <= finished[-1][0]):
                break
        return finished[0][1], finished[0][0]


@pytest.fixture(scope="module")
def causal(bundles: Bundles) -> tuple[Any, TorchLoop]:
    folder = bundles("text-generation")
    return pipeline("text-generation", folder), TorchLoop(folder.parent / "checkpoints" / "text-generation")


def test_greedy_equals_the_uncached_loop(causal: tuple[Any, TorchLoop]) -> None:
    pipe, loop = causal
    answers = pipe(TEXTS, GenerationOptions(max_new_tokens=NEW), lang=LANGS)
    for text, lang, answer in zip(TEXTS, LANGS, answers, strict=True):
        assert answer["ids"] == loop.greedy(text, lang, NEW)


def test_greedy_in_openvino_equals_the_uncached_loop(bundles: Bundles, causal: tuple[Any, TorchLoop]) -> None:
    pytest.importorskip("openvino")
    pipe, loop = pipeline("text-generation", bundles("text-generation"), provider="openvino"), causal[1]
    answers = pipe(TEXTS[:3], GenerationOptions(max_new_tokens=NEW), lang=LANGS[:3])
    for text, lang, answer in zip(TEXTS, LANGS, answers, strict=False):
        assert answer["ids"] == loop.greedy(text, lang, NEW)


@pytest.mark.parametrize("seed", range(4))
def test_a_cache_edited_at_random_equals_whole_sequences(causal: tuple[Any, TorchLoop], seed: int) -> None:
    """Prompts of unequal length, then rows reordered, tokens cut off and appended, from any value so far; chunks of any
    size. After each step every row's scores are torch's for its whole sequence."""
    pipe, loop = causal
    rng = np.random.default_rng(seed)
    rows = [rng.integers(14, 400, length).tolist() for length in rng.integers(1, 9, 3)]
    longest = max(map(len, rows))
    ids = np.array([[0] * (longest - len(row)) + row for row in rows])
    mask = np.array([[0] * (longest - len(row)) + [1] * len(row) for row in rows])
    cache = KeyValueCache.create(pipe.model.config, len(rows), chunk=int(rng.integers(1, 12)))
    values: list[tuple[KeyValueCache, list[list[int]]]] = []
    for _ in range(12):
        positions = np.maximum(cache.mask.sum(axis=1, keepdims=True) + mask.cumsum(axis=1) - 1, 0)
        outputs = pipe.model.feed(
            {
                "input_ids": ids,
                "attention_mask": cache.attention_mask(mask),
                "langs": np.ones_like(ids),
                "position_ids": positions,
                "logit_positions": np.arange(1, len(ids) + 1) * ids.shape[1] - 1,
                **cache.inputs,
            }
        )
        for row, got in zip(rows, outputs["logits"], strict=True):
            want = loop.log_probs(row, "en")
            np.testing.assert_allclose(torch.from_numpy(got).log_softmax(-1), want, atol=RUNTIME_FP32)
        values.append((cache.append(outputs, mask), rows))
        cache, rows = values[int(rng.integers(max(0, len(values) - 3), len(values)))]
        parents = rng.integers(0, len(rows), int(rng.integers(1, 4))).tolist()
        cut = int(rng.integers(0, min(map(len, rows))))  # at least one token stays in each row
        cache = cache.reorder(parents).trim(stop=cache.length - cut).without_padding()
        ids = rng.integers(14, 400, (len(parents), int(rng.integers(1, 4))))
        mask = np.ones_like(ids)
        kept = [rows[parent][: len(rows[parent]) - cut] for parent in parents]
        rows = [old + new for old, new in zip(kept, ids.tolist(), strict=True)]


@pytest.mark.parametrize("beams", [2, pytest.param(5, marks=pytest.mark.slow)])
def test_beams_equal_the_uncached_loop(causal: tuple[Any, TorchLoop], beams: int) -> None:
    pipe, loop = causal
    answers = pipe(TEXTS, GenerationOptions(max_new_tokens=NEW, num_beams=beams, return_scores=True), lang=LANGS)
    for text, lang, answer in zip(TEXTS, LANGS, answers, strict=True):
        ids, score = loop.beam(text, lang, NEW, beams)
        assert answer["ids"] == ids
        np.testing.assert_allclose(answer["score"], score, atol=RUNTIME_FP32)


def test_perplexity_equals_torchs_loss(causal: tuple[Any, TorchLoop]) -> None:
    pipe, loop = causal
    for text, lang, answer in zip(TEXTS, LANGS, pipe.score(TEXTS, lang=LANGS), strict=True):
        ids = torch.tensor([prompt_ids(loop.tokenizer, text, lang, EOS)])
        langs = torch.full_like(ids, loop.model.config.lang2id[lang])
        with torch.inference_mode():
            logits = loop.model(ids, langs=langs).logits[0, :-1]
        loss = torch.nn.functional.cross_entropy(logits, ids[0, 1:])
        np.testing.assert_allclose(np.log(answer["perplexity"]), loss.item(), rtol=RUNTIME_FP32)


def samples(pipe: Any, text: str, count: int) -> np.ndarray:
    wanted = GenerationOptions(
        max_new_tokens=1, do_sample=True, seed=7, num_return_sequences=count, temperature=2.0, ignore_eos=True
    )
    return np.array([answer["ids"][0] for answer in pipe(text, wanted, lang="en")])


def test_draws_follow_torchs_distribution(causal: tuple[Any, TorchLoop]) -> None:
    """Pearson's chi-squared test of 5,000 first tokens, those expected under 5 times in one class."""
    pipe, loop = causal
    drawn = samples(pipe, TEXTS[0], 5000)
    log_probs = loop.log_probs(prompt_ids(loop.tokenizer, TEXTS[0], "en", EOS), "en")
    expected = (log_probs.double() / 2).softmax(-1).numpy() * len(drawn)
    counts = np.bincount(drawn, minlength=len(expected))
    often = expected >= 5
    expected = np.append(expected[often], expected[~often].sum())
    counts = np.append(counts[often], counts[~often].sum())
    freedom = len(expected) - 1
    statistic = ((counts - expected) ** 2 / expected).sum()
    assert freedom > 10
    assert statistic < freedom + 4 * (2 * freedom) ** 0.5, "four standard deviations above the mean"


@pytest.mark.parametrize(
    "options",
    [
        pytest.param({}, id="greedy"),
        pytest.param({"repetition_penalty": 1.7, "no_repeat_ngram_size": 2}, id="processors"),
        pytest.param({"num_beams": 3, "repetition_penalty": 1.3, "min_new_tokens": 4}, id="beams and processors"),
        pytest.param({"num_beams": 3}, id="beams", marks=pytest.mark.slow),
        pytest.param(
            {"num_beams": 4, "num_return_sequences": 4, "length_penalty": 0.5, "early_stopping": True},
            id="n best, early",
            marks=pytest.mark.slow,
        ),
        pytest.param(
            {"num_beams": 3, "length_penalty": 2.0, "early_stopping": "never"}, id="never", marks=pytest.mark.slow
        ),
    ],
)
def test_the_mask_token_mode_equals_transformers(bundles: Bundles, options: dict[str, Any]) -> None:
    folder = bundles("text-generation-bidirectional")
    checkpoint = folder.parent / "checkpoints" / "text-generation-bidirectional"
    model, tokenizer = theirs(checkpoint), transformers.XLMTokenizer.from_pretrained(checkpoint)
    pipe = pipeline("text-generation", folder)
    wanted = GenerationOptions(max_new_tokens=NEW, return_scores=True, **options)
    for text, answer in zip(TEXTS, pipe(TEXTS, wanted, prompt_start="<s>"), strict=True):
        ids = prompt_ids(tokenizer, text, None, 0)
        with torch.inference_mode():
            output = model.generate(
                torch.tensor([ids]),
                **GENERATE,
                **options,
                do_sample=False,
                return_dict_in_generate=True,
                output_scores=True,
            )
        answers = answer if isinstance(answer, list) else [answer]
        for sequence, ours in zip(output.sequences.tolist(), answers, strict=True):
            new = sequence[len(ids) :]
            assert ours["ids"] == new[: len(ours["ids"])]
            assert set(new[len(ours["ids"]) :]) <= {2}, "padding behind the end"
        if "num_beams" in options:
            got = [ours["score"] for ours in answers]
            np.testing.assert_allclose(got, output.sequences_scores.numpy(), atol=RUNTIME_FP32)


@pytest.mark.parametrize(
    "values",
    [
        {"eos_token_id": [1, 60, 90, 120, 200, 250], "no_repeat_ngram_size": 2, "max_new_tokens": 12},
        {"eos_token_id": [1, 60, 90, 120, 200, 250], "num_beams": 3, "length_penalty": 0.7, "early_stopping": True,
         "max_new_tokens": 10},
        {"eos_token_id": 1, "bad_words_ids": [[60], [90, 120]], "suppress_tokens": [200, 250], "max_new_tokens": 8,
         "repetition_penalty": 1.4, "temperature": 0.3, "top_k": 5, "min_new_tokens": 3},
        {"bos_token_id": 0, "pad_token_id": 2, "_from_model_config": True, "max_new_tokens": 6},
    ],
    ids=["several ends", "beams", "words that are not to come", "no end"],
)  # fmt: skip
def test_the_checkpoints_generation_config(bundles: Bundles, values: dict[str, Any], tmp_path: Path) -> None:
    """What a call does not say comes from the file, as in transformers."""
    folder = Path(shutil.copytree(bundles("text-generation-bidirectional"), tmp_path / "bundle"))
    original = bundles("text-generation-bidirectional").parent / "checkpoints" / "text-generation-bidirectional"
    checkpoint = Path(shutil.copytree(original, tmp_path / "checkpoint"))
    config = json.loads((checkpoint / "config.json").read_text(encoding="utf-8")) | {
        "eos_token_id": [*range(9, 255, 4)]
    }
    contents = json.loads((folder / "bundle.json").read_text(encoding="utf-8"))
    for name, content in (("config.json", config), (GENERATION_FILE, values)):
        for place in (checkpoint, folder):
            (place / name).write_text(json.dumps(content), encoding="utf-8")
        contents["files"][name] = file_sha256(folder / name)
    (folder / "bundle.json").write_text(json.dumps(contents), encoding="utf-8")
    model, tokenizer = theirs(checkpoint), transformers.XLMTokenizer.from_pretrained(checkpoint)
    pipe = pipeline("text-generation", folder)
    for text, answer in zip(TEXTS, pipe(TEXTS, prompt_start="<s>"), strict=True):
        ids = prompt_ids(tokenizer, text, None, 0)
        with torch.inference_mode():
            new = model.generate(torch.tensor([ids]), use_cache=False, pad_token_id=2)[0].tolist()[len(ids) :]
        assert answer["ids"] == new[: len(answer["ids"])]
        assert set(new[len(answer["ids"]) :]) <= {2}


CAUSAL = {
    "xlm-clm-ende-1024": {
        "Der alte Leuchtturm steht am Rand der kleinen Stadt": "de",
        "In winter only two ships go": "en",
    },
    "xlm-clm-enfr-1024": {"Le vieux phare se dresse au bord": "fr", "In winter only two ships go": "en"},
}


@pytest.fixture(scope="module", params=CAUSAL)
def official(
    request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory
) -> tuple[Any, TorchLoop, dict[str, str]]:
    """A causal official configuration, two of its layers with drawn weights: English-German with its own vocabulary,
    English-French, whose vocabulary is not among the reference data, with letters and numbered words."""
    folder = tmp_path_factory.mktemp("official")
    published = json.loads((SHARED / "xlm_official_configs.json").read_text(encoding="utf-8"))["configs"][request.param]
    write_checkpoint(folder / "checkpoint", request.param, n_layers=2)
    path = folder / "checkpoint" / "config.json"
    # published with causal=false; the mask and language options are the file's
    values = json.loads(path.read_text()) | published | {"n_layers": 2, "causal": True}
    path.write_text(json.dumps(values), encoding="utf-8")
    bundle = export(folder / "checkpoint", folder / "bundle")
    assert (bundle.task, bundle.verification["status"]) == ("text-generation", "passed")
    assert (bundle.config.vocab_size, bundle.config.lang2id) == (published["vocab_size"], published["lang2id"])
    return pipeline("text-generation", folder / "bundle"), TorchLoop(folder / "checkpoint"), CAUSAL[request.param]


@pytest.mark.whole
@pytest.mark.shared
@pytest.mark.skipif(not SHARED.is_dir(), reason="the reference data folder ../shared/data is absent")
def test_the_official_causal_configurations(official: tuple[Any, TorchLoop, dict[str, str]]) -> None:
    pipe, loop, prompts = official
    texts, langs = list(prompts), list(prompts.values())
    wanted = GenerationOptions(max_new_tokens=24, ignore_eos=False)
    for text, lang, answer in zip(texts, langs, pipe(texts, wanted, lang=langs), strict=True):
        assert answer["ids"] == loop.greedy(text, lang, 24)
    wanted = replace(wanted, num_beams=4, return_scores=True)
    for text, lang, answer in zip(texts, langs, pipe(texts, wanted, lang=langs), strict=True):
        ids, score = loop.beam(text, lang, 24, 4)
        assert answer["ids"] == ids
        np.testing.assert_allclose(answer["score"], score, atol=RUNTIME_FP32)
