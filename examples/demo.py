"""From a checkpoint to answers: export every task, verify it against torch, then answer with the numpy runtime.

The checkpoints are the small trained ones of `examples/checkpoints`; their model card says what they can and cannot do.
"""

from __future__ import annotations

import argparse
import statistics
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from xlm_export import export
from xlm_runtime import GenerationOptions, pipeline

CHECKPOINTS = Path(__file__).resolve().parent / "checkpoints"
ENGLISH = "Clara Harlow found work at Maple Press."
PARAGRAPH = "Greta Weber wohnt seit langem in Dresden. Es war der 3. Mai 1984, als Jonas Fischer zur Welt kam."


def best(answer: Any) -> str:
    return f"{answer['label']} ({answer['score']:.2f})"


def answered(answer: Any) -> str:
    return f"{answer['answer'] or 'no answer'} ({answer['score']:.2f})"


# task, checkpoint, input, its options, how to show the answer
ROWS: list[tuple[str, str, Any, dict[str, Any], Callable[[Any], str]]] = [
    ("feature-extraction", "body", "Anna Miller lives in London.", {"lang": "en"},
     lambda a: f"{a.shape[0]} tokens × {a.shape[1]} numbers"),
    ("fill-mask", "fill-mask", "Анна Мельник <mask> в городе Казань.", {"lang": "ru"},
     lambda a: f"{a[0]['token_str']} ({a[0]['score']:.2f})"),
    ("text-classification", "language-id", "Le vieux phare est au bord de la mer.", {}, best),
    ("zero-shot-classification", "nli", "Holger Seidel hat im Laden einen Stuhl gekauft.",
     {"lang": "de", "candidate_labels": ["Arbeit", "Einkauf", "Wohnen"],
      "hypothesis_template": "In diesem Beispiel geht es um {}."},
     lambda a: f"{a['labels'][0]} ({a['scores'][0]:.2f})"),
    ("token-classification", "ner", ENGLISH,
     {"lang": "en", "aggregation_strategy": "first"},
     lambda a: ", ".join(f"{ENGLISH[group['start'] : group['end']]} {group['entity_group']}" for group in a)),
    ("multiple-choice", "choice", {"prompt": "Где живёт Егор Кравец?",
                                   "choices": ["Рязань", "самовар", "16 сентября 2009 года"]},
     {"lang": "ru"}, lambda a: f"{a['choice']} ({a['score']:.2f})"),
    ("question-answering", "qa", {"question": "Wann kam Jonas Fischer zur Welt?", "context": PARAGRAPH},
     {"lang": "de", "handle_impossible_answer": True}, answered),
    ("question-answering", "qa", {"question": "Was hat Greta Weber gekauft?", "context": PARAGRAPH},
     {"lang": "de", "handle_impossible_answer": True}, answered),
    ("text-generation", "clm", "For a long time",
     {"lang": "en", "options": GenerationOptions(max_new_tokens=7)}, lambda a: a["generated_text"]),
]  # fmt: skip


def milliseconds(call: Callable[[], Any], repeats: int = 20) -> float:
    """Median time of a call, after one to warm up."""
    times = []
    for _ in range(repeats + 1):
        began = time.perf_counter()
        call()
        times.append((time.perf_counter() - began) * 1000)
    return statistics.median(times[1:])


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--checkpoints", type=Path, default=CHECKPOINTS, help="folder of the demo checkpoints")
    checkpoints = parser.parse_args().checkpoints
    lines, bundles = [], {}
    with tempfile.TemporaryDirectory() as folder:
        for task, name, text, options, show in ROWS:
            if name not in bundles:
                print(f"export and verify {name} …", flush=True)
                bundles[name] = export(checkpoints / name, Path(folder, name))
            bundle = bundles[name]
            difference = max(error["max_absolute"] for error in bundle.verification["outputs"].values())
            answer = pipeline(task, model=bundle.folder)
            shown = text if isinstance(text, str) else text.get("question", text.get("prompt"))
            ms = milliseconds(lambda: answer(text, **options))  # noqa: B023  # called at once
            lines.append((task, shown[:29], show(answer(text, **options))[:33], f"{ms:.2f}", f"{difference:.0e}"))
    print(f"\n{'task':<25}{'input':<30}{'answer':<34}{'ms':>5} {'diff':>5}")
    for line in lines:
        print(f"{line[0]:<25}{line[1]:<30}{line[2]:<34}{line[3]:>5} {line[4]:>5}")
    print("\nms: text to answer, median of 20.  diff: the largest difference between the graph's outputs and torch's")
    print("in the verification.  The question's paragraph: " + PARAGRAPH[:42] + "…")


if __name__ == "__main__":
    main()
