"""Generators in threads: in order, closed where nobody reads on, with their errors, and no more of them than may be."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Generator
from typing import Any

import pytest

from tests.conftest import Bundles
from xlm_runtime import pipeline
from xlm_runtime.errors import EngineError, OverloadedError
from xlm_runtime.serving.models import ServedModel
from xlm_runtime.serving.options import ServingOptions
from xlm_runtime.serving.threads import in_thread

SECONDS = 60


def test_items_come_in_order_and_then_the_error() -> None:
    def numbers() -> Generator[int, None, None]:
        yield from range(3)
        raise EngineError("out of memory")

    async def go() -> None:
        ended = asyncio.Event()
        items = in_thread(numbers(), ended.set)
        assert [await anext(items) for _ in range(3)] == [0, 1, 2]
        with pytest.raises(EngineError, match="out of memory"):
            await anext(items)
        await asyncio.wait_for(ended.wait(), SECONDS)

    asyncio.run(go())


def test_the_generator_is_closed_where_nobody_reads_on() -> None:
    closed = threading.Event()

    def numbers() -> Generator[int, None, None]:
        try:
            number = 0
            while True:
                yield (number := number + 1)
        finally:
            closed.set()

    async def go() -> None:
        ended = asyncio.Event()
        items = in_thread(numbers(), ended.set)
        assert await anext(items) == 1
        await items.aclose()
        await asyncio.wait_for(ended.wait(), SECONDS)

    asyncio.run(go())
    assert closed.is_set()


def test_streams_are_as_many_as_may_be(bundles: Bundles) -> None:
    pipe = pipeline("text-generation", bundles("text-generation"), threads=1)
    model = ServedModel("generate", "text-generation", pipe, ServingOptions(max_streams=1))
    goes_on = threading.Event()
    pieces = pipe.stream_pieces

    def held(*inputs: Any, **options: Any) -> Any:
        yield from (piece for piece in pieces(*inputs, **options) if goes_on.wait(SECONDS))

    pipe.stream_pieces = held  # type: ignore[method-assign, assignment]
    arguments = model.arguments({"max_new_tokens": 3})

    async def read(stream: Any) -> str:
        return "".join([piece.text async for piece in stream])

    async def go() -> list[str]:
        first = await model.stream("The old", arguments)
        with pytest.raises(OverloadedError, match="1 texts are streamed already, and max_streams is 1"):
            await model.stream("The old", arguments)
        goes_on.set()
        return [await read(first), await read(await model.stream("The old", arguments))]

    assert asyncio.run(go()) == [pipe("The old", **arguments)["generated_text"]] * 2
