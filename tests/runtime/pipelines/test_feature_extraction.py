"""Hidden states and pooled vectors."""

from __future__ import annotations

import numpy as np
import pytest

from tests.conftest import Bundles
from tests.runtime.reference import Reference
from tests.runtime.texts import LANGS, TEXTS, TOO_LONG
from tests.tolerances import RUNTIME_FP32
from xlm_runtime import InputError, pipeline


@pytest.fixture(scope="module")
def pipe(bundles: Bundles):
    return pipeline("feature-extraction", bundles("feature-extraction"))


@pytest.fixture(scope="module")
def reference(bundles: Bundles) -> Reference:
    return Reference(bundles("feature-extraction"))


@pytest.mark.parametrize("langs", [None, "de", LANGS])
def test_each_text_has_the_vectors_it_has_alone(pipe, reference: Reference, langs) -> None:
    answers = pipe(TEXTS, lang=langs)
    assert len(answers) == len(TEXTS)
    for i, (text, vectors) in enumerate(zip(TEXTS, answers, strict=True)):
        lang = langs[i] if isinstance(langs, list) else langs
        ids = reference.ids(text, lang=lang)
        assert vectors.shape == (len(ids), reference.config.emb_dim)
        assert vectors.dtype == np.float32
        np.testing.assert_allclose(vectors, reference.run(ids, lang), rtol=RUNTIME_FP32, atol=RUNTIME_FP32)


def test_the_language_changes_the_vectors(pipe) -> None:
    assert np.abs(pipe("Anna", lang="de") - pipe("Anna", lang="fr")).max() > 0.01
    assert np.abs(pipe("Anna") - pipe("Anna", lang="en")).max() > 0.01  # none, and not the configuration's lang_id


def test_pooling(pipe) -> None:
    whole = pipe(TEXTS)
    for pooling, expected in (("mean", [w.mean(axis=0) for w in whole]), ("first", [w[0] for w in whole])):
        pooled = pipe(TEXTS, pooling=pooling)
        np.testing.assert_allclose(np.stack(pooled), np.stack(expected), rtol=1e-5, atol=1e-6)
        unit = np.stack(pipe(TEXTS, pooling=pooling, normalize=True))
        np.testing.assert_allclose(np.linalg.norm(unit, axis=1), 1, rtol=1e-5)
        np.testing.assert_allclose(
            unit * np.linalg.norm(expected, axis=1, keepdims=True), expected, rtol=1e-4, atol=1e-5
        )
    with pytest.raises(InputError, match="Unknown pooling 'max'; expected one of none, mean, first"):
        pipe("Anna", pooling="max")


def test_truncation_is_a_choice(pipe, reference: Reference) -> None:
    tokens = len(reference.ids(TOO_LONG))
    with pytest.raises(InputError, match=f"has {tokens} tokens.*only 64 positions.*truncation=True"):
        pipe(TOO_LONG)
    assert pipe(TOO_LONG, truncation=True).shape == (64, 32)


def windowed(reference: Reference, text: str, longest: int, stride: int) -> np.ndarray:
    """The text's vectors, each from the window in which its token is farthest from the ends: token by token."""
    start, *tokens, end = reference.ids(text)
    room = longest - 2
    begins = [*range(0, len(tokens) - room, room - stride), len(tokens) - room]
    windows = [reference.run([start, *tokens[begin : begin + room], end]) for begin in begins]
    rows = [windows[0][0]]
    for place in range(len(tokens)):
        left = [place - begin if begin else 10**6 for begin in begins]
        right = [begin + room - 1 - place if begin < begins[-1] else 10**6 for begin in begins]
        shown = [begin <= place < begin + room for begin in begins]
        best = max(range(len(begins)), key=lambda i: (shown[i], min(left[i], right[i])))
        rows.append(windows[best][place - begins[best] + 1])
    return np.stack([*rows, windows[-1][-1]])


@pytest.mark.parametrize(("longest", "stride"), [(64, 0), (64, 20), (64, 61), (17, 5)])
def test_windows_without_seams(pipe, reference: Reference, longest: int, stride: int) -> None:
    limits = {"stride": stride, "max_length": longest}
    expected = windowed(reference, TOO_LONG, longest, stride)
    long, short = pipe([TOO_LONG, TEXTS[3]], **limits)
    np.testing.assert_allclose(long, expected, rtol=RUNTIME_FP32, atol=RUNTIME_FP32)
    np.testing.assert_allclose(short, pipe(TEXTS[3]), rtol=RUNTIME_FP32, atol=RUNTIME_FP32)
    mean = pipe(TOO_LONG, pooling="mean", **limits)
    np.testing.assert_allclose(mean, expected.mean(axis=0), rtol=RUNTIME_FP32, atol=RUNTIME_FP32)


def test_windows_that_do_not_fit(pipe) -> None:
    for stride, longest in ((62, None), (-1, None), (3, 5), (True, None), ("8", None)):
        with pytest.raises(InputError, match=r"^stride is .*; windows of \d+ tokens, special ones included, can share"):
            pipe(TOO_LONG, stride=stride, max_length=longest)
    with pytest.raises(InputError, match="choose one"):
        pipe(TOO_LONG, stride=8, truncation=True)


def test_unknown_options_are_refused(pipe) -> None:
    with pytest.raises(TypeError, match="poolin"):
        pipe("Anna", poolin="mean")
