"""The one table of the commands of `xlm-runtime`. A command's module is imported when the command runs."""

from __future__ import annotations

from xlm_runtime.cli.arguments import Command

_TASKS = "xlm_runtime.cli.tasks"
COMMANDS = {
    "feature-extraction": Command("vectors of texts", _TASKS),
    "fill-mask": Command("words for the masks in texts, written <mask>", _TASKS),
    "text-generation": Command("text that continues prompts; with --score how probable texts are", _TASKS),
    "text-classification": Command("labels of texts, or of pairs of texts given as JSON", _TASKS),
    "zero-shot-classification": Command("scores of labels that the model was not trained on", _TASKS),
    "multiple-choice": Command("which of several choices fits a prompt", _TASKS),
    "token-classification": Command("labelled tokens, such as names", _TASKS),
    "question-answering": Command(
        "answers out of a context, to questions given as texts or as JSON with question, context and lang", _TASKS
    ),
    "serve": Command("a server of bundles over HTTP, by Ray Serve", "xlm_runtime.cli.serve"),
    "evaluate": Command("figures on a SQuAD file", "xlm_runtime.cli.evaluate"),
    "autotune": Command("time providers on this machine, for --provider auto", "xlm_runtime.cli.autotune"),
    "calibrate": Command(None, "xlm_runtime.cli.autotune"),
    "info": Command("what a bundle holds", "xlm_runtime.cli.info"),
}
