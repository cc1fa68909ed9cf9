"""Text that continues prompts, against whole sequences run again for every token."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from tests.conftest import Bundles
from tests.runtime.reference import Reference, probabilities
from tests.runtime.texts import LANGS, TEXTS, TOO_LONG
from tests.tolerances import RUNTIME_FP32
from xlm_runtime import GenerationOptions, InputError, pipeline

BOTH = ["text-generation", "text-generation-bidirectional"]
PROMPTS = [*TEXTS[:4], ""]
PROMPT_LANGS = [*LANGS[:4], None]


class Uncached:
    """Scores of the next token from the whole sequence, straight from the engine."""

    def __init__(self, folder: Path) -> None:
        self.reference = Reference(folder)
        self.causal = self.reference.config.causal

    def ids(self, text: str, lang: str | None) -> list[int]:
        return [1, *self.reference.tokenizer.encode(text, lang=lang, add_special_tokens=False)]

    def next_scores(self, ids: list[int], lang: str | None) -> np.ndarray:
        if not self.causal:
            ids = [*ids, self.reference.config.mask_token_id]
        extra: dict[str, Any] = {"logit_positions": np.array([len(ids) - 1])}
        if self.causal:
            extra["position_ids"] = np.arange(len(ids))[None]
            names = [item.name for item in self.reference.session.get_inputs()]
            extra |= {name: np.zeros((1, 4, 0, 8), np.float32) for name in names if "past" in name}
        config = self.reference.config  # prompts without a language are in lang_id's
        return self.reference.run(ids, lang or (config.id2lang or {}).get(config.lang_id), **extra)[0]

    def greedy(self, text: str, lang: str | None, count: int) -> list[int]:
        ids = self.ids(text, lang)
        prompt = len(ids)
        while len(ids) < prompt + count and (len(ids) == prompt or ids[-1] != 1):
            ids.append(int(self.next_scores(ids, lang).argmax()))
        return ids[prompt:]


@pytest.fixture(scope="module", params=BOTH)
def name(request: pytest.FixtureRequest) -> str:
    return str(request.param)


@pytest.fixture(scope="module")
def pipe(bundles: Bundles, name: str) -> Any:
    return pipeline("text-generation", bundles(name))


@pytest.fixture(scope="module")
def uncached(bundles: Bundles, name: str) -> Uncached:
    return Uncached(bundles(name))


def test_greedy_in_a_batch_of_languages(pipe: Any, uncached: Uncached) -> None:
    answers = pipe(PROMPTS, GenerationOptions(max_new_tokens=20), lang=PROMPT_LANGS)
    for text, lang, answer in zip(PROMPTS, PROMPT_LANGS, answers, strict=True):
        assert answer["ids"] == uncached.greedy(text, lang, 20)
        decode = uncached.reference.tokenizer.decode
        assert answer["generated_text"] == decode(answer["ids"], skip_special_tokens=True)
        assert answer["ending"] == ("eos" if answer["ids"][-1] == 1 else "length")
        assert set(answer) == {"generated_text", "ids", "ending"}


@pytest.mark.parametrize(
    "options",
    [
        {"num_beams": 4, "num_return_sequences": 3, "length_penalty": 0.8},
        {"do_sample": True, "seed": 11, "top_p": 0.95, "num_return_sequences": 2},
        {"repetition_penalty": 1.5, "no_repeat_ngram_size": 2, "min_new_tokens": 5, "bad_words": ("town", "hamburg")},
    ],
    ids=["beams", "draws", "processors"],
)
def test_a_row_alone_equals_the_row_in_a_batch(pipe: Any, options: dict[str, Any]) -> None:
    wanted = GenerationOptions(max_new_tokens=12, return_scores=True, **options)
    together = pipe(PROMPTS, wanted, lang=PROMPT_LANGS)
    for text, lang, answer in zip(PROMPTS, PROMPT_LANGS, together, strict=True):
        alone = pipe(text, wanted, lang=lang)
        for one, two in zip(*([x] if isinstance(x, dict) else x for x in (alone, answer)), strict=True):
            assert one["ids"] == two["ids"]
            np.testing.assert_allclose(one["token_log_probs"], two["token_log_probs"], atol=RUNTIME_FP32)
            np.testing.assert_allclose(one["score"], two["score"], atol=RUNTIME_FP32)


def test_scores(pipe: Any, uncached: Uncached) -> None:
    answer = pipe(TEXTS[0], GenerationOptions(max_new_tokens=6, return_scores=True), lang="en")
    ids = uncached.ids(TEXTS[0], "en")
    for token, value in zip(answer["ids"], answer["token_log_probs"], strict=True):
        expected = np.log(probabilities(uncached.next_scores(ids, "en"))[token])
        np.testing.assert_allclose(value, expected, atol=RUNTIME_FP32)
        ids.append(token)
    assert answer["score"] == pytest.approx(sum(answer["token_log_probs"]))


def test_score_of_texts(pipe: Any, uncached: Uncached) -> None:
    answers = pipe.score(TEXTS, lang=LANGS)
    for text, lang, answer in zip(TEXTS, LANGS, answers, strict=True):
        ids = uncached.ids(text, lang)
        assert answer["ids"] == ids[1:]
        for end in range(1, len(ids)):
            expected = np.log(probabilities(uncached.next_scores(ids[:end], lang))[ids[end]])
            np.testing.assert_allclose(answer["token_log_probs"][end - 1], expected, atol=RUNTIME_FP32)
        mean = np.mean(answer["token_log_probs"])
        assert answer["perplexity"] == pytest.approx(np.exp(-mean))
        assert answer["log_likelihood"] == pytest.approx(mean * (len(ids) - 1))
    assert pipe.score(TEXTS[0], lang="en")["perplexity"] == pytest.approx(answers[0]["perplexity"], rel=1e-3)
    with pytest.raises(InputError, match="nothing to score"):
        pipe.score("")


def test_stream_joins_to_the_answer(pipe: Any) -> None:
    for text in PROMPTS:
        for options in (
            GenerationOptions(max_new_tokens=25),
            GenerationOptions(max_new_tokens=25, do_sample=True, seed=3, stop=(" s", ".")),
        ):
            pieces = list(pipe.stream(text, options))
            assert "".join(pieces) == pipe(text, options)["generated_text"]
            assert all(pieces)


def test_pieces_tell_their_ids_and_the_last_one_the_ending(pipe: Any) -> None:
    options = GenerationOptions(max_new_tokens=12)
    *pieces, last = pipe.stream_pieces(TEXTS[0], options)
    answer = pipe(TEXTS[0], options)
    assert (last.ids, last.ending) == (answer["ids"], answer["ending"])
    assert all(piece.ending is None and piece.text for piece in pieces)
    assert [piece.ids for piece in pieces] == [answer["ids"][: len(piece.ids)] for piece in pieces]


def test_stop_ends_the_text(pipe: Any) -> None:
    whole = pipe(TEXTS[0], GenerationOptions(max_new_tokens=30))["generated_text"]
    stop = whole[len(whole) // 2 :][:3]
    if not stop.strip():
        pytest.skip("the tiny model generates nothing to stop at")
    answer = pipe(TEXTS[0], GenerationOptions(max_new_tokens=30, stop=(stop, "never there")))
    assert answer["ending"] == "stop"
    assert answer["generated_text"] == whole[: whole.index(stop)]


def test_streams_can_be_cancelled(pipe: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    calls: list[int] = []
    run = pipe.model.session.run
    monkeypatch.setattr(pipe.model.session, "run", lambda inputs: calls.append(1) or run(inputs))
    pieces = pipe.stream(TEXTS[0], GenerationOptions(max_new_tokens=40, ignore_eos=True))
    assert not calls, "nothing runs before it is asked for"
    next(pieces)
    done = len(calls)
    pieces.close()
    assert list(pieces) == []
    assert len(calls) == done < 40


def test_options_have_their_effect(pipe: Any) -> None:
    plain = pipe(TEXTS[0], GenerationOptions(max_new_tokens=10, ignore_eos=True))
    banned = plain["ids"][0]
    word = pipe.model.tokenizer.convert_ids_to_tokens(banned)
    if word.endswith("</w>") and not word.startswith("<"):
        other = pipe(TEXTS[0], GenerationOptions(max_new_tokens=10, bad_words=(word.removesuffix("</w>"),)))
        assert banned not in other["ids"]
    unique = pipe(TEXTS[0], GenerationOptions(max_new_tokens=10, no_repeat_ngram_size=1, ignore_eos=True))["ids"]
    assert len(set(unique)) == len(unique)
    stopped = pipe(TEXTS[0], GenerationOptions(max_new_tokens=10, eos_token_id=plain["ids"][3]))
    assert stopped["ids"] == plain["ids"][: plain["ids"].index(plain["ids"][3]) + 1]
    assert stopped["ending"] == "eos"
    assert pipe("The", GenerationOptions(max_new_tokens=1), prompt_start="<s>")["ids"]


def test_the_positions_are_checked_before_any_work(pipe: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(pipe.model.session, "run", lambda inputs: pytest.fail("the graph ran"))
    count = 1 + len(pipe.model.tokenizer.encode(TEXTS[0], add_special_tokens=False))
    message = f"has {count} tokens, .* max_new_tokens is 60: {count + 60} in all, .* only 64 .* at most {64 - count}"
    with pytest.raises(InputError, match=message):
        pipe(TEXTS[0], GenerationOptions(max_new_tokens=60))
    with pytest.raises(InputError, match=message):
        pipe.stream(TEXTS[0], GenerationOptions(max_new_tokens=60))
    with pytest.raises(InputError, match=r"only 64 positions\. Shorten"):
        pipe(TOO_LONG)
    with pytest.raises(InputError, match="A stream shows one text"):
        pipe.stream(TEXTS[0], GenerationOptions(num_beams=2))
    with pytest.raises(InputError, match="prompt_start is 'hello'"):
        pipe(TEXTS[0], prompt_start="hello")
    with pytest.raises(InputError, match="prompt is empty"):
        pipe("", prompt_start="")
    with pytest.raises(InputError, match="Unknown lang 'xx'"):
        pipe(TEXTS[0], lang="xx")


def test_the_longest_generation(pipe: Any, uncached: Uncached) -> None:
    count = 64 - len(uncached.ids("The", "en"))
    answer = pipe("The", GenerationOptions(max_new_tokens=count, ignore_eos=True), lang="en")
    assert len(answer["ids"]) == count


def test_streams_of_prompts_are_lazy(pipe: Any) -> None:
    def prompts() -> Iterator[str]:
        yield from TEXTS[:3]

    answers = pipe(prompts(), GenerationOptions(max_new_tokens=4))
    assert not isinstance(answers, list)
    assert [answer["ids"] for answer in answers] == [
        answer["ids"] for answer in pipe(TEXTS[:3], GenerationOptions(max_new_tokens=4))
    ]


def test_the_caches_memory_is_known_beforehand(bundles: Bundles) -> None:
    pipe = pipeline("text-generation", bundles("text-generation"))
    assert pipe.cache_bytes(rows=3, length=10) == 2 * 2 * 2 * 3 * 10 * 32 * 4
    assert pipeline("text-generation", bundles("text-generation-bidirectional")).cache_bytes(3, 10) == 0


def test_bundles_for_other_tasks_are_refused(bundles: Bundles) -> None:
    with pytest.raises(InputError, match="exported for the task fill-mask"):
        pipeline("text-generation", bundles("fill-mask"))
