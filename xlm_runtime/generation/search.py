"""The search for sequences: one loop, and the two ways to choose what comes next."""

from __future__ import annotations

from collections.abc import Callable, Generator, Sequence
from contextlib import closing
from dataclasses import dataclass, field
from typing import Protocol

import numpy as np

from xlm_runtime.generation.decoder import Decoder, Logits, Prompt
from xlm_runtime.generation.options import GenerationOptions
from xlm_runtime.generation.processors import Processor
from xlm_runtime.numerics import log_softmax, probabilities, top_k

# why a sequence ended there ("eos", "stop", "length"), None while it goes on; from its new ids
Ending = Callable[[list[int]], str | None]


# after each step the sequences of each prompt
Steps = Generator[list[list["Hypothesis"]], None, None]


@dataclass
class Hypothesis:
    """A sequence under way or finished.

    `log_probs` holds each new token's log-probability under the model, where they were asked for; `score` is their sum
    or, of finished beams, their sum after the processors / length^length_penalty.
    """

    prompt: Prompt
    new_ids: list[int] = field(default_factory=list)
    log_probs: list[float] = field(default_factory=list)
    score: float = 0.0
    ending: str | None = None

    def extended(self, token: int, log_prob: float | None, score: float) -> Hypothesis:
        log_probs = self.log_probs if log_prob is None else [*self.log_probs, log_prob]
        return Hypothesis(self.prompt, [*self.new_ids, token], log_probs, score)


class Strategy(Protocol):
    """Chooses tokens for a batch of prompts."""

    def choose(self, logits: Logits) -> tuple[list[int], list[int]]:
        """From the scores (rows, vocab_size) of the running rows: parent and token of each row that goes on."""
        ...

    def results(self) -> list[list[Hypothesis]]:
        """For each prompt its sequences, the best first; unfinished ones too."""
        ...


def search(decoder: Decoder, prompts: Sequence[Prompt], strategy: Strategy) -> Steps:
    """Generate; after each step gives the sequences of each prompt as they stand, at the end the finished ones.

    Whoever stops taking steps ends the generation.
    """
    logits = decoder.start(prompts)
    while True:
        parents, tokens = strategy.choose(logits)
        yield strategy.results()
        if not tokens:
            return
        logits = decoder.step(parents, tokens)


class SelfFeeding(Protocol):
    """A decoder that takes best tokens by itself, ahead of who reads them."""

    def greedy(self, prompts: Sequence[Prompt], steps: int) -> Generator[list[int], None, None]:
        """Each row's best next token, `steps` times, each from the ones before it."""
        ...


def feeds_itself(options: GenerationOptions, processors: list[Processor]) -> bool:
    """Whether each token is the best one and nothing else about the scores is asked for."""
    alone = options.num_beams == options.num_return_sequences == 1
    return alone and not (options.do_sample or options.return_scores or processors)


def search_greedily(decoder: SelfFeeding, prompts: Sequence[Prompt], steps: int, ending: Ending) -> Steps:
    """`search` with the best token at each step, where the decoder takes it by itself. Rows that have ended go on there
    and are not looked at; when all have, or whoever takes steps stops, so does the decoder."""
    sequences = [Hypothesis(prompt) for prompt in prompts]
    with closing(decoder.greedy(prompts, steps)) as following:
        for tokens in following:
            for i, (sequence, token) in enumerate(zip(sequences, tokens, strict=True)):
                if sequence.ending is None:
                    sequences[i] = sequence.extended(token, None, 0.0)
                    sequences[i].ending = ending(sequences[i].new_ids)
            yield [[sequence] for sequence in sequences]
            if all(sequence.ending is not None for sequence in sequences):
                return


def make_strategy(
    prompts: Sequence[Prompt], options: GenerationOptions, processors: list[Processor], ending: Ending
) -> Strategy:
    """Beam search where several beams are asked for, otherwise one token after the other, best or drawn."""
    if options.num_beams > 1:
        return BeamSearch(prompts, options, processors, ending)
    return SingleSearch(prompts, options, processors, ending)


class SingleSearch:
    """The best token, or one drawn from the distribution, row by row. Finished rows leave the batch."""

    def __init__(
        self, prompts: Sequence[Prompt], options: GenerationOptions, processors: list[Processor], ending: Ending
    ) -> None:
        self._options = options
        self._processors = processors
        self._ending = ending
        draws = range(options.num_return_sequences)
        self._all = [[Hypothesis(prompt) for _ in draws] for prompt in prompts]
        # the decoder begins with one row for each prompt, so each draw of a prompt reads its prompt's row first
        self._running = [(row, i, draw) for row, i in enumerate(range(len(prompts))) for draw in draws]
        streams = [None if options.seed is None else [options.seed, draw] for draw in draws]
        self._generators = [[np.random.default_rng(stream) for stream in streams] for _ in prompts]

    def choose(self, logits: Logits) -> tuple[list[int], list[int]]:
        running: list[tuple[int, int, int]] = []
        parents: list[int] = []
        tokens: list[int] = []
        for row, i, draw in self._running:
            sequence = self._all[i][draw]
            token, log_prob = self._next(sequence, logits[row], self._generators[i][draw])
            sequence = self._all[i][draw] = sequence.extended(token, log_prob, sequence.score + (log_prob or 0.0))
            sequence.ending = self._ending(sequence.new_ids)
            if sequence.ending is None:
                running.append((len(running), i, draw))
                parents.append(row)
                tokens.append(token)
        self._running = running
        return parents, tokens

    def results(self) -> list[list[Hypothesis]]:
        return self._all

    def _next(self, sequence: Hypothesis, logits: Logits, generator: np.random.Generator) -> tuple[int, float | None]:
        scores = logits
        if self._processors:
            scores = logits.copy()
            for process in self._processors:
                process(sequence, scores)
        token = draw(scores, generator) if self._options.do_sample else int(scores.argmax())
        return token, float(log_softmax(logits)[token]) if self._options.return_scores else None


class BeamSearch:
    """Beam search as Hugging Face's: the best continuations of all beams of a prompt, finished ones set aside.

    Of the best candidates, twice as many as beams or more, so that enough go on, only those among the first
    `num_beams` may finish a sequence.
    """

    def __init__(
        self, prompts: Sequence[Prompt], options: GenerationOptions, processors: list[Processor], ending: Ending
    ) -> None:
        self._options = options
        self._processors = processors
        self._ending = ending
        eos = options.eos_token_id
        self._candidates = max(2, 1 + (len(eos) if isinstance(eos, tuple) else 1)) * options.num_beams
        self._beams = [[Hypothesis(prompt)] for prompt in prompts]
        self._finished: list[list[Hypothesis]] = [[] for _ in prompts]

    def choose(self, logits: Logits) -> tuple[list[int], list[int]]:
        parents: list[int] = []
        tokens: list[int] = []
        first = 0
        for i, beams in enumerate(self._beams):
            if not beams:
                continue
            rows = logits[first : first + len(beams)]
            chosen = self._advance(i, beams, rows)
            self._beams[i] = [beam for _, beam in chosen]
            parents += [first + parent for parent, _ in chosen]
            tokens += [beam.new_ids[-1] for _, beam in chosen]
            first += len(beams)
        return parents, tokens

    def results(self) -> list[list[Hypothesis]]:
        wanted = self._options.num_return_sequences
        return [(finished or beams)[:wanted] for finished, beams in zip(self._finished, self._beams, strict=True)]

    def _advance(self, i: int, beams: list[Hypothesis], logits: Logits) -> list[tuple[int, Hypothesis]]:
        """The next beams of prompt `i`, each with the number of the beam it continues; none when it is done."""
        options = self._options
        model_scores = log_softmax(logits)
        scores = model_scores.copy() if self._processors else model_scores
        for beam, row in zip(beams, scores, strict=True):
            for process in self._processors:
                process(beam, row)
        totals = scores + np.array([[beam.score] for beam in beams], np.float32)
        running: list[tuple[int, Hypothesis]] = []
        for rank, flat in enumerate(top_k(totals.reshape(-1), self._candidates)):
            parent, token = divmod(int(flat), totals.shape[1])
            total = float(totals[parent, token])
            if total == -np.inf:
                break
            log_prob = float(model_scores[parent, token]) if options.return_scores else None
            beam = beams[parent].extended(token, log_prob, total)
            beam.ending = self._ending(beam.new_ids)
            if beam.ending is None:
                running.append((parent, beam))
            elif rank < options.num_beams:
                beam.score = total / len(beam.new_ids) ** options.length_penalty
                self._finished[i].append(beam)
        running = running[: options.num_beams]
        self._finished[i] = sorted(self._finished[i], key=lambda beam: -beam.score)[: options.num_beams]
        return [] if self._is_done(self._finished[i], [beam for _, beam in running]) else running

    def _is_done(self, finished: list[Hypothesis], running: list[Hypothesis]) -> bool:
        options = self._options
        if not running:
            return True
        if len(finished) < options.num_beams:
            return False
        if options.early_stopping is True:
            return True
        length = len(running[0].new_ids)
        if options.early_stopping == "never" and options.length_penalty > 0:
            length = options.max_new_tokens
        best_possible: float = running[0].score / length**options.length_penalty
        return best_possible <= finished[-1].score


def draw(scores: Logits, generator: np.random.Generator) -> int:
    """A token by its probability: the first at which the cumulative distribution exceeds a uniform number."""
    cumulative = np.cumsum(probabilities(scores))
    return int(np.searchsorted(cumulative, generator.random() * cumulative[-1], side="right"))
