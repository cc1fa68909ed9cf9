"""What a `config.json` may hold: every option's type, as its class declares it, and its range.

The files come from anywhere. Whatever passes here may be computed with: no option has another type than it says, and
no size takes more memory than a model of this kind could ask for.
"""

from __future__ import annotations

import dataclasses
import json
import sys
from types import NoneType, UnionType
from typing import Any, Union, get_args, get_origin, get_type_hints

from xlm_runtime.errors import InputError

# least and most, both included; the most is far above any model of the family
RANGES: dict[str, tuple[float, float]] = {
    "vocab_size": (1, 10_000_000),
    "emb_dim": (1, 65_536),
    "n_layers": (1, 512),
    "n_heads": (1, 65_536),
    "n_langs": (1, 100_000),
    "max_position_embeddings": (1, 131_072),
    "start_n_top": (1, 10_000),
    "end_n_top": (1, 10_000),
    "dropout": (0, 1),
    "attention_dropout": (0, 1),
    "summary_first_dropout": (0, 1),
    "summary_last_dropout": (0, 1),
    "layerdrop": (0, 1),
    "layer_norm_eps": (0, 1),
    "init_std": (0, 1000),
    "embed_init_std": (0, 1000),
    "asm_div_value": (1, 1000),
}
MOST_LABELS = 100_000
# words of the vocabulary, by their ids
TOKEN_IDS = ("pad_token_id", "eos_token_id", "mask_token_id")

_EXPECTED: dict[Any, tuple[str, str]] = {  # one, several
    int: ("a whole number", "whole numbers"),
    float: ("a number", "numbers"),
    bool: ("true or false", "true or false"),
    str: ("a string", "strings"),
    NoneType: ("null", "nulls"),
}


def check_options(config: object) -> None:
    """Whether each option of a configuration has its declared type and lies in its range.

    Raises:
        InputError: the first option that does not; the message names it, its value and what was expected.
    """
    for name, kind in _kinds(type(config)).items():
        value = getattr(config, name)
        if not _fits(value, kind):
            raise InputError(f"{name} is {shown(value)}; expected {_expected(kind)}.")
        least, most = RANGES.get(name, (-sys.float_info.max, sys.float_info.max))
        if name in RANGES and not least <= value <= most:
            raise InputError(f"{name} is {shown(value)}; expected {least:,} to {most:,}.")
    vocab_size = getattr(config, "vocab_size", 0)
    for name in TOKEN_IDS:
        value = getattr(config, name)
        for index in value if isinstance(value, list) else [value]:
            if index is not None and not 0 <= index < vocab_size:
                raise InputError(
                    f"{name} is {shown(value)}; expected the id of a token, 0 to {vocab_size - 1}: vocab_size is "
                    f"{vocab_size}."
                )


def read_labels(value: Any) -> dict[int, str]:
    """`id2label`: numbers and truth values become strings, as JSON writes them.

    Raises:
        InputError: keys other than 0 to the number of labels - 1, or a label that is null, a list or an object.
    """
    labels = by_index("id2label", value)
    if sorted(labels) != list(range(len(labels))) or not labels:
        found = ", ".join(map(str, sorted(labels)[:5])) + (", …" if len(labels) > 5 else "")
        last = max(len(labels) - 1, 0)
        raise InputError(
            f"id2label has the keys {found or 'of no label'}; expected 0 to {last}, one for each of the head's "
            "outputs. Number the labels from 0 without gaps in config.json."
        )
    for index, label in labels.items():
        if not isinstance(label, (str, bool, int, float)):
            raise InputError(
                f"id2label has {shown(label)} for {index}; expected a name. Give each label one in config.json, such "
                f"as 'LABEL_{index}'."
            )
    return {index: label if isinstance(label, str) else json.dumps(label) for index, label in sorted(labels.items())}


def numbered_labels(count: Any) -> dict[int, str]:
    """Labels for a configuration that only says how many there are.

    Raises:
        InputError: no number from 1 to `MOST_LABELS`.
    """
    if not _fits(count, int) or not 1 <= count <= MOST_LABELS:
        raise InputError(f"num_labels is {shown(count)}; expected a whole number from 1 to {MOST_LABELS:,}.")
    return {index: f"LABEL_{index}" for index in range(count)}


def check_count(count: Any, labels: Any) -> None:
    """Whether a configuration that says how many labels there are has as many.

    Raises:
        InputError: it has not. transformers 4 believes the labels then, and transformers 5 the number.
    """
    if isinstance(labels, dict) and (not _fits(count, int) or count != len(labels)):
        raise InputError(
            f"num_labels is {shown(count)}, but id2label has {len(labels)} labels. Take the wrong one out of "
            "config.json."
        )


def by_index(name: str, value: Any) -> dict[int, Any]:
    """An object whose keys are numbers, which JSON has as strings.

    Raises:
        InputError: it is none, has another key, too many entries, or one number twice.
    """
    if not isinstance(value, dict) or len(value) > MOST_LABELS:
        raise InputError(f"{name} is {shown(value)}; expected an object of at most {MOST_LABELS:,} entries, by number.")
    found: dict[int, Any] = {}
    for key, entry in value.items():
        if not (_fits(key, int) or (isinstance(key, str) and key.isascii() and key.lstrip("-").isdigit())):
            raise InputError(f"{name} has the key {shown(key)}; expected whole numbers.")
        index = _whole(name, key)
        if index in found:
            raise InputError(f"{name} has the key {index} twice.")
        found[index] = entry
    return found


def shown(value: Any, most: int = 60) -> str:
    """A value as it stands in a file, cut where it is long."""
    try:
        text = json.dumps(value, ensure_ascii=False)
    except (TypeError, ValueError, RecursionError):
        text = type(value).__name__
    return text if len(text) <= most else text[:most] + "…"


def _kinds(cls: type) -> dict[str, Any]:
    hints = get_type_hints(cls)
    return {option.name: hints[option.name] for option in dataclasses.fields(cls)}


def _whole(name: str, key: int | str) -> int:
    try:
        return int(key)
    except ValueError as error:  # "--1", or more digits than Python reads
        raise InputError(f"{name} has the key {shown(key)}; expected whole numbers.") from error


def _fits(value: Any, kind: Any) -> bool:
    origin, inner = get_origin(kind), get_args(kind)
    if origin in (Union, UnionType):
        return any(_fits(value, each) for each in inner)
    if origin is list:
        return isinstance(value, list) and all(_fits(item, inner[0]) for item in value)
    if origin is dict:
        return isinstance(value, dict) and all(_fits(k, inner[0]) and _fits(v, inner[1]) for k, v in value.items())
    if kind is float:  # finite
        number = isinstance(value, (int, float)) and not isinstance(value, bool)
        return number and -sys.float_info.max <= value <= sys.float_info.max
    return isinstance(value, kind) and (kind is bool or not isinstance(value, bool))


def _expected(kind: Any) -> str:
    origin, inner = get_origin(kind), get_args(kind)
    if origin in (Union, UnionType):
        return " or ".join(map(_expected, inner))
    if origin is list:
        return f"a list of {_EXPECTED[inner[0]][1]}"
    if origin is dict:
        return f"an object of {_EXPECTED[inner[1]][1]} by {_EXPECTED[inner[0]][1]}"
    return _EXPECTED[kind][0]
