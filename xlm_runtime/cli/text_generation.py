"""`xlm-runtime text-generation`: its options, its answers as rows, and text as it appears."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Callable
from typing import Any

from xlm_runtime.cli.arguments import number, whole_number
from xlm_runtime.cli.inputs import text_option
from xlm_runtime.errors import InputError
from xlm_runtime.generation.config_file import bundle_defaults
from xlm_runtime.model.model import BundleModel
from xlm_runtime.pipelines.text_generation import TextGenerationOptions
from xlm_runtime.pipelines.text_scoring import TextScoringOptions

Rows = list[list[str]]

_EARLY = {"yes": True, "no": False, "never": "never"}
# options that take a number, under the names of `GenerationOptions`
_NUMBERS: tuple[tuple[str, Callable[[str], float], str], ...] = (
    ("max_new_tokens", whole_number, "most tokens to generate (default: the checkpoint's, or 32)"),
    ("min_new_tokens", whole_number, "no end before so many tokens"),
    ("temperature", number, "with --sample: above 1 more varied, below 1 less"),
    ("top_k", whole_number, "with --sample: draw among the N best tokens"),
    ("top_p", number, "with --sample: draw among the best tokens that have this probability"),
    ("seed", whole_number, "with --sample: makes draws repeatable"),
    ("num_beams", whole_number, "beam search with so many beams"),
    ("length_penalty", number, "with --num-beams: above 1 favours longer texts"),
    ("num_return_sequences", whole_number, "texts for each prompt (beams, or draws)"),
    ("repetition_penalty", number, "above 1 makes tokens that were there less likely"),
    ("no_repeat_ngram_size", whole_number, "no N tokens in a row come twice"),
)


def add_options(parser: argparse.ArgumentParser) -> None:
    """The options of the command; those not given are the bundle's defaults."""
    parser.add_argument(
        "--sample", action=argparse.BooleanOptionalAction, help="draw tokens instead of taking the best ones"
    )
    for name, kind, text in _NUMBERS:
        flag = "--" + name.replace("_", "-")
        parser.add_argument(flag, type=kind, metavar="X" if kind is number else "N", help=text)
    parser.add_argument("--early-stopping", choices=_EARLY, help="with --num-beams: when to end (default: no)")
    for name, text in (("--bad-words", "never generated"), ("--stop", "the text ends before it")):
        parser.add_argument(name, type=text_option, action="append", metavar="TEXT", help=f"{text}; can be repeated")
    parser.add_argument("--ignore-eos", action="store_true", help="go on past the end of a text")
    parser.add_argument("--prompt-start", metavar="TOKEN", help="token before the prompt (default: </s>), '' for none")
    parser.add_argument(
        "--return-scores", action="store_true", help="also the score; tokens' log-probabilities in JSON"
    )
    parser.add_argument("--stream", action="store_true", help="print text as it is generated")
    parser.add_argument(
        "--score",
        action="store_true",
        help="generate nothing: perplexity of the texts, and each token's log-probability",
    )


def read_options(args: argparse.Namespace) -> Callable[[BundleModel], TextGenerationOptions | TextScoringOptions]:
    """The pipeline's options for an opened model, or with --score those of its scoring.

    Raises:
        InputError: options that contradict each other; also when the function that is returned is called.
    """
    given: dict[str, Any] = {} if args.sample is None else {"do_sample": args.sample}
    given |= {name: True for name in ("ignore_eos", "return_scores") if getattr(args, name)}
    given |= {name: getattr(args, name) for name, _, _ in _NUMBERS if getattr(args, name) is not None}
    if args.early_stopping is not None:
        given["early_stopping"] = _EARLY[args.early_stopping]
    for name in ("bad_words", "stop"):
        if getattr(args, name):
            given[name] = tuple(getattr(args, name))
    if args.stream and args.json:
        raise InputError("--stream prints bare text, --json one value a line; choose one.")
    if args.score:
        others = [*given, *(["stream"] if args.stream else [])]
        if others:
            named = ", ".join("--" + ("sample" if name == "do_sample" else name.replace("_", "-")) for name in others)
            raise InputError(f"--score reads texts and generates none; leave out {named}.")
        return lambda model: TextScoringOptions(args.prompt_start)
    return lambda model: TextGenerationOptions(bundle_defaults(model.bundle).replace(**given), args.prompt_start)


def answer_rows(answer: Any) -> Rows:
    """Rows of a table: score (where asked for), ending and text of each result; of a scored text its tokens."""
    if "perplexity" in answer:
        tokens = zip(answer["token_log_probs"], answer["tokens"], strict=True)
        rows = [[f"{log_prob:.4f}", token] for log_prob, token in tokens]
        return [[f"{answer['perplexity']:.4f}", f"perplexity of {len(rows)} tokens"], *rows]
    results = answer if isinstance(answer, list) else [answer]
    scores = [[f"{result['score']:.4f}"] if "score" in result else [] for result in results]
    return [[*score, result["ending"], result["generated_text"]] for score, result in zip(scores, results, strict=True)]


def stream(pipe: Any, item: Any, lang: str | None, options: TextGenerationOptions) -> None:
    """Print what follows a prompt, piece by piece, and a line's end behind it."""
    for piece in pipe.stream(item, options.generation, lang=lang, prompt_start=options.prompt_start):
        sys.stdout.write(piece)
        sys.stdout.flush()
    print(flush=True)
