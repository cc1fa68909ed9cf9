"""What may be asked of a generation, checked once."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import Any

from xlm_runtime.errors import InputError

EARLY_STOPPING = (True, False, "never")
_MOST = 1e30  # a number that is none is not below it either
# what only matters when tokens are drawn, and with beams, with the value that says nothing
_DRAWN: dict[str, Any] = {"temperature": 1.0, "top_k": None, "top_p": 1.0, "seed": None}
_OF_BEAMS: dict[str, Any] = {"length_penalty": 1.0, "early_stopping": False}


# each beam and each sequence is a row of the batch, with a cache of its own
_MOST_ROWS = 16384


@dataclass(frozen=True)
class GenerationOptions:
    """How text is generated. Names and meanings are Hugging Face's where it has the option.

    Args:
        max_new_tokens: most tokens to generate; prompt and new tokens together must fit the model's positions.
        min_new_tokens: no end of the text before so many tokens.
        do_sample: draw tokens; otherwise take the best one (or the best sequences, with `num_beams`).
        temperature: scores are divided by it before drawing.
        top_k: draw among the so many best tokens.
        top_p: draw among the fewest best tokens whose probabilities reach this (Holtzman et al. 2020).
        seed: makes draws repeatable. Each text draws from its own stream, so its batch does not matter.
        num_beams: sequences kept side by side; 1 is no beam search.
        length_penalty: finished beams are ranked by score / length^length_penalty.
        early_stopping: True ends as soon as `num_beams` sequences are finished, False when the best running one cannot
            win at its present length, "never" when it cannot win at any length.
        num_return_sequences: results for each text: the best beams, or so many draws.
        repetition_penalty: scores of tokens that are there already, prompt included, are divided (or, when negative,
            multiplied) by it (Keskar et al. 2019).
        no_repeat_ngram_size: no sequence of so many tokens occurs twice, prompt included; 0 allows all.
        bad_words: words or phrases that are never generated.
        bad_words_ids: the same by their ids.
        stop: strings at which the text ends, themselves left out.
        eos_token_id: ids that end a text; by default those of the bundle's `generation_config.json`, or else the
            configuration's.
        ignore_eos: go on past the end of a text, to `max_new_tokens`.
        return_scores: also return each token's log-probability under the model, and the sequence's score.

    Raises:
        InputError: a value out of its range, or options that contradict each other.
    """

    max_new_tokens: int = 32
    min_new_tokens: int = 0
    do_sample: bool = False
    temperature: float = 1.0
    top_k: int | None = None
    top_p: float = 1.0
    seed: int | None = None
    num_beams: int = 1
    length_penalty: float = 1.0
    early_stopping: bool | str = False
    num_return_sequences: int = 1
    repetition_penalty: float = 1.0
    no_repeat_ngram_size: int = 0
    bad_words: tuple[str, ...] = ()
    bad_words_ids: tuple[tuple[int, ...], ...] = ()
    stop: tuple[str, ...] = ()
    eos_token_id: int | tuple[int, ...] | None = None
    ignore_eos: bool = False
    return_scores: bool = False

    def __post_init__(self) -> None:
        for name, least in (
            ("max_new_tokens", 1),
            ("min_new_tokens", 0),
            ("top_k", 1),
            ("num_beams", 1),
            ("num_return_sequences", 1),
            ("no_repeat_ngram_size", 0),
            ("seed", 0),
        ):
            value = getattr(self, name)
            if value is not None and (not isinstance(value, int) or isinstance(value, bool) or value < least):
                raise InputError(f"{name} is {value!r}; expected a whole number, {least} or more.")
        for name in ("num_beams", "num_return_sequences"):
            if getattr(self, name) > _MOST_ROWS:
                raise InputError(f"{name} is {getattr(self, name)}; expected at most {_MOST_ROWS:,}.")
        for name in ("do_sample", "ignore_eos", "return_scores"):
            if not isinstance(getattr(self, name), bool):
                raise InputError(f"{name} is {getattr(self, name)!r}; expected True or False.")
        for name in ("temperature", "repetition_penalty", "top_p", "length_penalty"):
            value = getattr(self, name)
            if not isinstance(value, (int, float)) or isinstance(value, bool) or not -_MOST < value < _MOST:
                raise InputError(f"{name} is {value!r}; expected a number.")
        for name in ("temperature", "repetition_penalty"):
            if not getattr(self, name) > 0:
                raise InputError(f"{name} is {getattr(self, name)}; expected a number above 0.")
        if not 0 < self.top_p <= 1:
            raise InputError(f"top_p is {self.top_p}; expected a probability above 0 and at most 1.")
        if not any(self.early_stopping is value for value in (True, False)) and self.early_stopping != "never":
            raise InputError(f"early_stopping is {self.early_stopping!r}; expected True, False or 'never'.")
        for name in ("bad_words", "stop"):
            value = getattr(self, name)
            if not isinstance(value, (list, tuple)) or not all(
                isinstance(text, str) and text.strip() for text in value
            ):
                raise InputError(f"{name} is {value!r}; expected a tuple of strings, none of them empty.")
        if not all(isinstance(ids, tuple) and ids and set(map(type, ids)) == {int} for ids in self.bad_words_ids):
            raise InputError(f"bad_words_ids is {self.bad_words_ids!r}; expected a tuple of tuples of ids.")
        self._check_contradictions()

    def replace(self, **changes: Any) -> GenerationOptions:
        """These options with some in place of others; what then no longer matters, such as a temperature without
        draws, is left out, unless it is among the changes.

        Raises:
            InputError: as `GenerationOptions` itself.
        """
        return GenerationOptions(**{**relevant({**asdict(self), **changes}), **changes})

    def _check_contradictions(self) -> None:
        if self.min_new_tokens > self.max_new_tokens:
            raise InputError(
                f"min_new_tokens {self.min_new_tokens} is above max_new_tokens {self.max_new_tokens}; raise the latter."
            )
        if self.ignore_eos and (self.eos_token_id is not None or self.min_new_tokens):
            raise InputError("ignore_eos makes eos_token_id and min_new_tokens meaningless; leave one of them out.")
        if not self.do_sample:
            given = [name for name, default in _DRAWN.items() if getattr(self, name) != default]
            if given:
                raise InputError(f"{', '.join(given)} only matter when tokens are drawn; set do_sample=True.")
        if self.num_beams == 1:
            if any(getattr(self, name) != default for name, default in _OF_BEAMS.items()):
                raise InputError("length_penalty and early_stopping only matter with beams; set num_beams above 1.")
            if self.num_return_sequences > 1 and not self.do_sample:
                raise InputError(
                    f"num_return_sequences is {self.num_return_sequences}, but taking the best token has one result; "
                    "set num_beams or do_sample=True."
                )
            return
        if self.do_sample:
            raise InputError("num_beams and do_sample=True exclude each other here; choose one.")
        if self.num_return_sequences > self.num_beams:
            raise InputError(
                f"num_return_sequences {self.num_return_sequences} is above num_beams {self.num_beams}; raise the "
                "latter."
            )


def relevant(values: dict[str, Any]) -> dict[str, Any]:
    """Values of `GenerationOptions` without those that others make meaningless."""
    beams = values.get("num_beams", 1)
    unused = [] if values.get("do_sample") else [*_DRAWN]
    unused += [] if isinstance(beams, int) and beams > 1 else _OF_BEAMS
    unused += ["eos_token_id", "min_new_tokens"] if values.get("ignore_eos") else []
    return {name: value for name, value in values.items() if name not in unused}
