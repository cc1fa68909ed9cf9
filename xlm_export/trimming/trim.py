"""`trim`: a checkpoint's words that texts do not need go, from embeddings, projection, vocabulary and merges.

After Load What You Need (Abdaoui et al. 2020), which does it to WordPiece; what byte-pair merges need is in `merges`.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

from xlm_export.bundle_folder import check_place, write_bundle
from xlm_export.checkpoint.checkpoint import load_source
from xlm_export.checkpoint.source import find_source
from xlm_export.checkpoint.tokenizer_files import checkpoint_tokenizer
from xlm_export.families.table import export_family
from xlm_export.progress import Progress, Steps
from xlm_export.trimming.check import TokenChanges, compare_models, token_changes
from xlm_export.trimming.files import ids_named, renumbered, save_trimmed_weights, trimmed_config, write_json
from xlm_export.trimming.texts import HELD_OUT_EVERY, Corpus, TextFile, read_texts
from xlm_export.trimming.words import Selection, check_languages, select_words, with_words
from xlm_runtime.config import read_config_file
from xlm_runtime.errors import InputError
from xlm_runtime.generation.config_file import GENERATION_FILE, read_generation_config

TRIM_FILE = "trim.json"
"""Says what was kept: `ids`, the old id of each word in the order of the new ones, and how it was done."""


@dataclass(frozen=True)
class Trimmed:
    """A trimmed checkpoint.

    Attributes:
        folder: where it is.
        ids: the old id of each of its words.
        words_before: how many words there were.
        emb_dim: numbers of a word's embedding.
        texts: how many were read.
        held_out: what words chosen by nine tenths of the texts do to the other tenth; None for too few texts.
        largest_difference: of the model's outputs to those of the checkpoint, absolute.
    """

    folder: Path
    ids: tuple[int, ...]
    words_before: int
    emb_dim: int
    texts: int
    held_out: TokenChanges | None
    largest_difference: float


def trim(
    checkpoint: str | Path,
    target: str | Path,
    texts: Sequence[str | Path],
    *,
    languages: Sequence[str] = (),
    keep_scripts: bool = False,
    min_count: int = 1,
    text_format: str | None = None,
    columns: Sequence[str] = (),
    tokenizer: str | Path | None = None,
    revision: str | None = None,
    subfolder: str | None = None,
    force: bool = False,
    progress: Progress | None = None,
) -> Trimmed:
    """Write a checkpoint that has the words of some texts alone. The folder appears whole or not at all.

    A text whose tokens are all kept gets the same tokens, under new ids, and the model the same outputs, which is
    verified at the end.

    Args:
        checkpoint: a folder as `save_pretrained` writes it, or a hub id, `id@revision`.
        target: the folder to write: weights, configuration and tokenizer as transformers reads them, and `TRIM_FILE`.
        texts: files in a format of `xlm_runtime.jobs`; "de=FILE" for one in German. See `read_texts`.
        languages: the model's languages that stay; by default all. Texts without a language are read in each of them,
            too.
        keep_scripts: keep all words that are written in the texts' scripts.
        min_count: words that the texts have less often go.
        text_format: of all files, where their names do not say it.
        columns: keys of rows that hold texts; by default those of the pipelines' inputs.
        tokenizer, revision, subfolder: see `export`.
        force: replace a trimmed checkpoint that is there.
        progress: see `Progress`.

    Raises:
        InputError: texts that cannot be read, an unknown language, a folder that is already there, or a checkpoint with
            adaptive softmax.
        CheckpointError: see `load_checkpoint`.
        VerificationError: the outcome differs from the checkpoint.
    """
    steps = Steps(progress, 5)
    target = Path(target)
    if min_count < 1:
        raise InputError(f"min_count is {min_count}; expected 1 or more.")
    check_place(target, force, TRIM_FILE)
    steps("load the checkpoint")
    source = find_source(checkpoint, revision, subfolder)
    if target.exists() and target.samefile(source.folder):
        raise InputError(f"'{target}' is the checkpoint itself; give another folder to write.")
    full = checkpoint_tokenizer(source, tokenizer)
    check_languages(full, languages)
    values, generation = read_config_file(source.folder), read_generation_config(source.folder)
    named = ids_named(values, "config.json") | ids_named(generation or {}, GENERATION_FILE)
    loaded = load_source(source)
    family, config = export_family(loaded.config), loaded.config
    if config.asm:
        raise InputError(
            f"The checkpoint '{source.name}' has adaptive softmax (asm), whose probabilities all words share: without "
            "some, the others' would change. Such checkpoints cannot be trimmed."
        )
    steps("read the texts")
    corpus = Corpus()
    for file in map(TextFile.parse, map(str, texts)):
        for text in read_texts(file, name=text_format, columns=columns, languages=languages):
            corpus.add(text, full)
    if not corpus.texts:
        raise InputError("The files hold no text, so that no word would be needed; give some with --text.")
    steps("choose words")

    def select(counts: dict[int, int]) -> Selection:
        return select_words(
            full,
            counts,
            vocab_size=config.vocab_size,
            min_count=min_count,
            keep_scripts=keep_scripts,
            also=(index for index in named if 0 <= index < config.vocab_size),
        )

    held_out = None
    if corpus.texts >= HELD_OUT_EVERY:
        part = select(corpus.counts)
        held_out = token_changes(full, with_words(full, part, languages), part, corpus.held_out)
    selection = select(corpus.counts + corpus.held_out_counts)
    with write_bundle(target, force) as folder:
        steps("write the checkpoint")
        family.write_tokenizer(with_words(full, selection, languages), folder)
        write_json(folder / "config.json", trimmed_config(values, selection, languages))
        if generation is not None:
            write_json(folder / GENERATION_FILE, renumbered(generation, selection))
        save_trimmed_weights(source.folder, folder, family, config, selection.ids)
        steps("verify")
        token_changes(full, checkpoint_tokenizer(find_source(folder)), selection, corpus.held_out)
        report = compare_models(loaded, folder, selection)
        outcome = Trimmed(
            target,
            selection.ids,
            config.vocab_size,
            config.emb_dim,
            corpus.texts,
            held_out,
            max(error.max_absolute for error in report.outputs.values()),
        )
        write_json(
            folder / TRIM_FILE,
            {
                "checkpoint": source.name,
                "sha256": loaded.sha256,
                "languages": list(languages),
                "keep_scripts": keep_scripts,
                "min_count": min_count,
                "texts": corpus.texts,
                "held_out": held_out and asdict(held_out),
                "ids": list(selection.ids),
            },
        )
    return outcome
