"""Language models whose graphs score every token, behind the inputs of those that score the asked ones alone."""

from __future__ import annotations

from collections.abc import Callable, Mapping

from xlm_runtime.sessions import Array, Session, start_run


class FullLogitsSession:
    """The session of a graph without `logit_positions`: `Session` for callers that give them.

    Args:
        session: the graph's; its `logits` are (batch, sequence, vocab_size).
    """

    def __init__(self, session: Session) -> None:
        self._session = session

    @property
    def input_names(self) -> tuple[str, ...]:
        return (*self._session.input_names, "logit_positions")

    @property
    def output_names(self) -> tuple[str, ...]:
        return self._session.output_names

    def run(self, inputs: Mapping[str, Array]) -> dict[str, Array]:
        """As the graph's, with `logits` (kept, vocab_size) at `logit_positions`, flat indices into batch·sequence."""
        return self.start(inputs)()

    def start(self, inputs: Mapping[str, Array]) -> Callable[[], dict[str, Array]]:
        wait = start_run(self._session, {name: value for name, value in inputs.items() if name != "logit_positions"})

        def chosen() -> dict[str, Array]:
            outputs = wait()
            logits = outputs["logits"]
            return {**outputs, "logits": logits.reshape(-1, logits.shape[-1])[inputs["logit_positions"]]}

        return chosen
