"""A generated text as server-sent events, in the form of Text Generation Inference."""

from __future__ import annotations

from collections.abc import AsyncGenerator, AsyncIterator
from contextlib import aclosing
from typing import Any

from xlm_runtime.jobs.items import to_json
from xlm_runtime.pipelines.text_generation import TextPiece
from xlm_runtime.serving.errors import failure_of
from xlm_runtime.serving.hugging_face import FINISH_REASONS, Asked, full_text


async def events(pieces: AsyncGenerator[TextPiece, None], asked: Asked) -> AsyncIterator[str]:
    """An event for each piece, which is a word or more; the last one has the whole text and how it ended.

    An error while the text is generated is an event, too, and the last.
    """
    text = ""
    try:
        async with aclosing(pieces):
            number = 0
            async for piece in pieces:
                number += 1
                text += piece.text
                yield _event(_piece(number, piece, text, asked))
    except Exception as error:
        yield _event(failure_of(error).body())


def _piece(number: int, piece: TextPiece, text: str, asked: Asked) -> dict[str, Any]:
    token = {"id": piece.ids[-1], "text": piece.text, "logprob": None, "special": piece.ending == "eos"}
    if piece.ending is None:
        return {"index": number, "token": token, "generated_text": None, "details": None}
    details = {
        "finish_reason": FINISH_REASONS[piece.ending],
        "generated_tokens": len(piece.ids),
        "seed": asked.parameters.get("seed"),
    }
    whole = full_text(asked.inputs, text) if asked.full_text else text
    return {"index": number, "token": token, "generated_text": whole, "details": details}


def _event(value: dict[str, Any]) -> str:
    return f"data: {to_json(value)}\n\n"
