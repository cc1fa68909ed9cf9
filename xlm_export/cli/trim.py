"""`xlm-export trim`: a checkpoint without the words that its texts do not need."""

from __future__ import annotations

import argparse
from pathlib import Path

from xlm_export.cli.lists import comma_separated
from xlm_export.progress import Progress
from xlm_export.trimming import trim
from xlm_runtime.cli.arguments import whole_number
from xlm_runtime.jobs.formats import FORMATS


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("checkpoint", help="folder as save_pretrained writes it, or a hub id, org/name[@REV]")
    parser.add_argument("target", metavar="out", type=Path, help="folder to write: a checkpoint")
    parser.add_argument("--text", nargs="+", required=True, action="extend", metavar="[LANG=]FILE",
                        help="texts whose words stay; LANG= for a file in a language whose rows name none")  # fmt: skip
    parser.add_argument("--languages", type=comma_separated, default=(), metavar="A,B",
                        help="the model's languages that stay (default: all)")  # fmt: skip
    parser.add_argument("--keep-scripts", action="store_true", help="keep all words in the texts' scripts")
    parser.add_argument("--min-count", type=whole_number, default=1, metavar="N",
                        help="words that the texts have less often go (default 1)")  # fmt: skip
    parser.add_argument("--format", choices=FORMATS, help="of the texts, where their names do not say it")
    parser.add_argument("--columns", type=comma_separated, default=(), metavar="A,B",
                        help="columns (keys) that hold texts (default: those named as pipelines' inputs)")  # fmt: skip
    parser.add_argument("--tokenizer", metavar="FOLDER|ID", help="where the tokenizer is (default: the checkpoint)")
    parser.add_argument("--revision", metavar="REV", help="branch, tag or commit of a checkpoint on the hub")
    parser.add_argument("--subfolder", metavar="NAME", help="folder of the checkpoint within")
    parser.add_argument("--force", action="store_true", help="replace a trimmed checkpoint that is already there")


def run(options: argparse.Namespace, progress: Progress) -> tuple[int, list[str]]:
    """Trim; returns the exit status and what to print."""
    done = trim(
        options.checkpoint,
        options.target,
        options.text,
        languages=options.languages,
        keep_scripts=options.keep_scripts,
        min_count=options.min_count,
        text_format=options.format,
        columns=options.columns,
        tokenizer=options.tokenizer,
        revision=options.revision,
        subfolder=options.subfolder,
        force=options.force,
        progress=progress,
    )
    before, now = (count * done.emb_dim * 4 / 1e6 for count in (done.words_before, len(done.ids)))
    lines = [
        f"{options.target}: {len(done.ids):,} of {done.words_before:,} words, for {done.texts:,} texts; embeddings "
        f"{now:.1f} MB in fp32, before {before:.1f} ({1 - len(done.ids) / done.words_before:.0%} fewer)"
    ]
    seen = done.held_out
    if seen is not None and seen.tokens:
        lines.append(
            f"held out: of the words of nine tenths of the texts, the other tenth has {seen.same:,} of {seen.texts:,} "
            f"texts as before; {seen.changed:,} of {seen.tokens:,} tokens ({seen.changed / seen.tokens:.1%}) change, "
            f"texts have {seen.tokens_now / seen.tokens - 1:+.1%} tokens, {seen.unknown_now} <unk>, before "
            f"{seen.unknown}"
        )
    lines.append(f"verified: outputs differ from the checkpoint's by at most {done.largest_difference:.1e}")
    return 0, lines
