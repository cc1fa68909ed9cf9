"""What is left of a model that was closed."""

from __future__ import annotations

from collections.abc import Mapping

from xlm_runtime.errors import EngineError
from xlm_runtime.sessions import Array


def closed_error() -> EngineError:
    """What everyone is told who asks for more."""
    return EngineError("The pipeline was closed; open the bundle again with pipeline(...).")


class ClosedSession:
    """Stands in the place of a session that was let go."""

    input_names: tuple[str, ...] = ()
    output_names: tuple[str, ...] = ()

    def run(self, inputs: Mapping[str, Array]) -> dict[str, Array]:
        """Refuses.

        Raises:
            EngineError: always.
        """
        raise closed_error()
