"""An opened bundle that answers requests of an event loop, within the limits of the server."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, Iterable, Mapping, Sequence
from concurrent.futures import Future
from contextlib import aclosing
from dataclasses import replace
from typing import Any

from xlm_runtime.errors import EngineError, OverloadedError
from xlm_runtime.pipelines import pipeline
from xlm_runtime.pipelines.text_generation import TextGenerationPipeline, TextPiece
from xlm_runtime.serving.errors import RefusedError
from xlm_runtime.serving.options import Served, ServingOptions
from xlm_runtime.serving.threads import in_thread
from xlm_runtime.wire.parameters import call_arguments, parameter_names

# texts that are tokenised in the event loop, which takes a millisecond or two; longer ones in a thread
_SHORT_CHARS = 2000


class ServedModel:
    """A pipeline under a name.

    Args:
        name: in the URLs.
        task: what it is opened for.
        pipe: what `pipeline` returned.
        options: the limits.
    """

    def __init__(self, name: str, task: str, pipe: Any, options: ServingOptions) -> None:
        self.name = name
        self.task = task
        self.pipe = pipe
        self._options = options
        self._streams = 0

    @property
    def streams(self) -> bool:
        """Whether it can stream."""
        return isinstance(self.pipe, TextGenerationPipeline)

    def is_ready(self) -> bool:
        """Whether it can compute."""
        try:
            self.pipe.model.check_open()
        except EngineError:
            return False
        return True

    def arguments(self, parameters: Mapping[str, Any]) -> dict[str, Any]:
        """See `call_arguments`."""
        return call_arguments(self.pipe, parameters)

    def parameter_names(self) -> list[str]:
        """What `arguments` knows."""
        return parameter_names(self.pipe)

    async def answer(self, inputs: Any, arguments: Mapping[str, Any]) -> Any:
        """What `pipe(inputs, **arguments)` returns, out of batches that all requests share.

        Raises:
            RefusedError: more or longer texts than the limits allow; no answer in time, and then the request is
                cancelled.
            InputError, OverloadedError, EngineError, BundleError: see `Pipeline.submit`.
        """
        chars = self._check_size(inputs, arguments)
        future = (
            self.pipe.submit(inputs, **arguments)
            if chars <= _SHORT_CHARS
            else await asyncio.to_thread(self._submit, inputs, arguments)
        )
        try:
            return await asyncio.wait_for(asyncio.wrap_future(future), self._options.timeout_s)
        except asyncio.TimeoutError:
            raise self._too_late() from None

    async def stream(self, text: Any, arguments: Mapping[str, Any]) -> AsyncGenerator[TextPiece, None]:
        """The pieces of a generated text. The stream ends where nobody reads it any more.

        Raises:
            RefusedError: as in `answer`; too late also while it goes on.
            OverloadedError: as many streams as may be are under way.
            InputError, EngineError: see `TextGenerationPipeline.stream_pieces`.
        """
        self._check_size(text, arguments)
        if self._streams >= self._options.max_streams:
            raise OverloadedError(
                f"{self._streams} texts are streamed already, and max_streams is {self._options.max_streams}; ask "
                "again later."
            )
        pieces = self.pipe.stream_pieces(text, **arguments)
        self._streams += 1
        return self._in_time(in_thread(pieces, self._end_stream))

    def _end_stream(self) -> None:
        self._streams -= 1

    async def _in_time(self, pieces: AsyncGenerator[TextPiece, None]) -> AsyncGenerator[TextPiece, None]:
        loop = asyncio.get_running_loop()
        end = loop.time() + self._options.timeout_s
        async with aclosing(pieces):
            while True:
                try:
                    yield await asyncio.wait_for(anext(pieces), end - loop.time())
                except StopAsyncIteration:
                    return
                except asyncio.TimeoutError:
                    raise self._too_late() from None

    def _submit(self, inputs: Any, arguments: Mapping[str, Any]) -> Future[Any]:
        future: Future[Any] = self.pipe.submit(inputs, **arguments)
        return future

    def _too_late(self) -> RefusedError:
        return RefusedError(
            504, "timeout", f"There was no answer within {self._options.timeout_s:g} seconds; the request is given up."
        )

    def _check_size(self, inputs: Any, arguments: Mapping[str, Any]) -> int:
        """The characters of a request."""
        most = self._options.max_texts
        if isinstance(inputs, list) and len(inputs) > most:
            raise RefusedError(413, "validation", f"The request has {len(inputs)} inputs; expected at most {most}.")
        chars = _characters([inputs, *(value for name, value in arguments.items() if name != "on_error")])
        if chars > self._options.max_text_chars:
            raise RefusedError(
                413,
                "validation",
                f"The texts have {chars:,} characters; expected at most {self._options.max_text_chars:,}.",
            )
        return chars


def open_models(served: Iterable[Served], options: ServingOptions) -> dict[str, ServedModel]:
    """Open every bundle, by name.

    Raises:
        XLMError: see `pipeline`.
    """
    models = {}
    for each in served:
        pipe = pipeline(
            each.task,
            each.bundle,
            options.provider,
            options.threads,
            options.precision,
            max_tokens=options.max_batch_tokens,
            gpu=options.gpu,
            engine_cache=options.engine_cache,
            cache_mb=options.cache_mb,
        )
        pipe.batching = replace(pipe.batching, max_wait_ms=options.max_wait_ms, max_queue=options.max_queue)
        models[each.name] = ServedModel(each.name, each.task, pipe, options)
    return models


def _characters(value: Any) -> int:
    """Of all strings in it."""
    if isinstance(value, str):
        return len(value)
    if isinstance(value, Mapping):
        return sum(map(_characters, value.values()))
    if isinstance(value, Sequence):
        return sum(map(_characters, value))
    return 0
