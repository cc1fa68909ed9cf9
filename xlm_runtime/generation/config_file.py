"""`generation_config.json`: what a checkpoint's authors let generation do by default, as Hugging Face writes it."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from xlm_runtime.bundle import Bundle
from xlm_runtime.errors import BundleError, InputError
from xlm_runtime.generation.options import GenerationOptions, relevant

GENERATION_FILE = "generation_config.json"

_SAME = (
    "max_new_tokens",
    "min_new_tokens",
    "do_sample",
    "temperature",
    "top_p",
    "num_beams",
    "length_penalty",
    "early_stopping",
    "num_return_sequences",
    "repetition_penalty",
    "no_repeat_ngram_size",
)
_OTHERS = ("top_k", "eos_token_id", "bad_words_ids", "suppress_tokens", "stop_strings")
_TOP_K = 50  # where a file that asks for draws says nothing of it

# what does not change which text comes, or does so in models with a decoder of their own alone
_WITHOUT_EFFECT = (
    "use_cache", "cache_implementation", "cache_config", "max_cache_len", "output_attentions", "output_hidden_states",
    "output_scores", "output_logits", "return_dict_in_generate", "return_legacy_cache", "pad_token_id", "bos_token_id",
    "decoder_start_token_id", "is_assistant", "num_assistant_tokens", "num_assistant_tokens_schedule",
    "assistant_confidence_threshold", "assistant_lookbehind", "target_lookbehind", "assistant_early_exit",
    "prompt_lookup_num_tokens", "max_matching_ngram_size", "compile_config", "disable_compile", "low_memory",
    "prefill_chunk_size", "transformers_version", "_from_model_config", "_commit_hash", "_original_object_hash",
    "encoder_repetition_penalty", "encoder_no_repeat_ngram_size", "remove_invalid_values",
)  # fmt: skip
# values at which others have none either, beside null
_NEUTRAL: dict[str, tuple[Any, ...]] = {
    "max_length": (20,),  # the older default, which max_new_tokens replaces
    "min_length": (0,),
    "typical_p": (1.0,),
    "epsilon_cutoff": (0.0,),
    "eta_cutoff": (0.0,),
    "min_p": (0.0,),
    "num_beam_groups": (1,),
    "diversity_penalty": (0.0,),
    "penalty_alpha": (0.0,),
    "renormalize_logits": (False,),
    "token_healing": (False,),
    "guidance_scale": (1, 1.0),
    "begin_suppress_tokens": ([],),
    "sequence_bias": ({}, []),
    "constraints": ([],),
    "force_words_ids": ([],),
}


def read_generation_config(folder: str | Path) -> dict[str, Any] | None:
    """What the file in a folder holds; None where there is none.

    Raises:
        BundleError: it holds no JSON object.
    """
    path = Path(folder) / GENERATION_FILE
    if not path.is_file():
        return None
    try:
        values = json.loads(path.read_text(encoding="utf-8"))
    except (ValueError, RecursionError) as error:
        raise BundleError(f"File '{GENERATION_FILE}' in path '{folder}' is not JSON: {error}") from error
    if not isinstance(values, dict):
        raise BundleError(f"File '{GENERATION_FILE}' in path '{folder}' holds no JSON object.")
    return values


def generation_options(values: Mapping[str, Any], vocab_size: int) -> GenerationOptions:
    """The options that the file sets; what it leaves open is as `GenerationOptions` has it.

    As in transformers, options that only matter with others count only with them: a temperature without draws is
    none; and where the file names no end of a text, nothing ends it, whatever the configuration says. Beams and draws
    together are not offered; then it is beams.

    Raises:
        InputError: a value of another type or out of its range, named with the file.
    """
    given = {name: value for name, value in values.items() if value is not None}
    options: dict[str, Any] = {name: given[name] for name in _SAME if name in given}
    try:
        ends = _ids("eos_token_id", given.get("eos_token_id", []), vocab_size)
        options["eos_token_id"] = ends
        words = given.get("bad_words_ids", [])
        if not isinstance(words, list) or not all(isinstance(ids, list) and ids for ids in words):
            raise InputError(f"bad_words_ids is {words!r}; expected a list of lists of ids.")
        found = [_ids("bad_words_ids", ids, vocab_size) for ids in words]
        found = [ids for ids in found if len(ids) > 1 or ids[0] not in ends]  # no word forbids a text's end
        found += [(index,) for index in _ids("suppress_tokens", given.get("suppress_tokens", []), vocab_size)]
        options["bad_words_ids"] = tuple(found)
        stop = given.get("stop_strings", [])
        options["stop"] = (stop,) if isinstance(stop, str) else tuple(stop) if isinstance(stop, list) else stop
        if options.get("do_sample") and (top_k := given.get("top_k", _TOP_K)) != 0:
            options["top_k"] = top_k
        if _draws_beams(given):
            options["do_sample"] = False
        return GenerationOptions(**relevant(options))
    except InputError as error:
        raise InputError(f"File '{GENERATION_FILE}' holds options that cannot be used: {error}") from error


def without_support(values: Mapping[str, Any]) -> list[str]:
    """The file's options that would change what comes and are not offered here."""
    given = {name: value for name, value in values.items() if value is not None}
    known = {*_SAME, *_OTHERS, *_WITHOUT_EFFECT}
    found = [name for name, value in given.items() if name not in known and value not in _NEUTRAL.get(name, ())]
    if "max_new_tokens" in given:
        found = [name for name in found if name != "max_length"]  # which goes before it
    return found + (["do_sample with num_beams"] if _draws_beams(given) else [])


def bundle_defaults(bundle: Bundle) -> GenerationOptions:
    """What a bundle's generation does where nobody says otherwise.

    Raises:
        BundleError, InputError: a `generation_config.json` that is none.
    """
    values = read_generation_config(bundle.folder) if GENERATION_FILE in bundle.files else None
    return GenerationOptions() if values is None else generation_options(values, bundle.config.vocab_size)


def _draws_beams(values: Mapping[str, Any]) -> bool:
    beams = values.get("num_beams", 1)
    return values.get("do_sample") is True and isinstance(beams, int) and beams > 1


def _ids(name: str, value: Any, vocab_size: int) -> tuple[int, ...]:
    ids = value if isinstance(value, list) else [value]
    if not all(isinstance(index, int) and not isinstance(index, bool) and 0 <= index < vocab_size for index in ids):
        raise InputError(f"{name} is {value!r}; expected ids of tokens, 0 to {vocab_size - 1}.")
    return tuple(ids)
