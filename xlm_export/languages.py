"""Which language embedding a checkpoint was trained with: the task's metric with none, with each text's own, with each.

Nothing in a checkpoint tells it, so labelled data have to.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from pathlib import Path

from xlm_export.progress import Progress, Steps
from xlm_export.quantization.metric import METRICS, read_data, score
from xlm_runtime.bundle import Bundle
from xlm_runtime.errors import InputError
from xlm_runtime.model.languages import NO_LANG
from xlm_runtime.pipelines import pipeline
from xlm_runtime.question_answering.squad_files import SquadFile


@dataclass(frozen=True)
class LanguageScore:
    """One way to feed `langs`.

    Attributes:
        langs: "none", "own" for each text's own, or a language that all texts get.
        value: the metric, of which more is better.
        remedy: what to do to have it this way.
    """

    langs: str
    value: float
    remedy: str


def compare_languages(
    bundle: str | Path, data: str | Path, *, provider: str = "cpu", progress: Progress | None = None
) -> tuple[str, list[LanguageScore]]:
    """The metric of a bundle's first graph on labelled data, for each way to feed `langs`, the best first.

    Where two are equally good, none goes before each text's own, and that before one language for all.

    Args:
        data: a file as `xlm-export quantize --data` takes it.

    Returns:
        The metric's name, and the scores.

    Raises:
        InputError: a file that cannot be used, or a bundle whose graphs read no `langs`.
    """
    found = Bundle.load(bundle)
    if not (found.config.uses_langs and found.knows_no_lang):
        raise InputError(
            f"The graphs of the bundle '{bundle}' read no `langs`, or are of a version that knows languages alone; "
            "export the checkpoint again, with --langs input."
        )
    labelled = read_data(found.task, Path(data))
    answer = pipeline(found.task, found.folder, provider)
    languages = answer.model.languages
    named = [labelled.lang] if isinstance(labelled, SquadFile) else [row.get("lang") for row in labelled]
    has_own = any(lang is not None for lang in named)
    known = languages.numbers or {str(number): number for number in range(found.config.n_langs)}
    is_default = found.config.default_lang is None and found.task != "text-generation"
    ways = [("none", NO_LANG, "nothing, it is the default" if is_default else "xlm-export export --langs none")]
    if has_own:
        ways.append(("own", NO_LANG, "lang=... with each text (--lang)"))
    ways += [(name, number, f"xlm-export export --default-lang {name}") for name, number in known.items()]
    steps = Steps(progress, len(ways))
    scores = []
    for name, number, remedy in ways:
        steps(f"measure with langs {name}")
        answer.model.languages = replace(languages, default=number, prompt=number)
        value = score(answer, found.task, labelled, with_languages=name == "own")
        scores.append(LanguageScore(name, value, remedy))
    return METRICS[found.task][0], sorted(scores, key=lambda each: -each.value)
