"""Bodies of requests: read within their limit, and as JSON."""

from __future__ import annotations

import json
from collections.abc import AsyncIterator
from typing import Any

from xlm_runtime.errors import InputError
from xlm_runtime.serving.errors import RefusedError


async def read_body(chunks: AsyncIterator[bytes], most: int) -> bytes:
    """The whole body.

    Raises:
        RefusedError: it has more bytes than it may; the rest of them is not read.
    """
    body = bytearray()
    async for chunk in chunks:
        body += chunk
        if len(body) > most:
            raise RefusedError(413, "validation", f"The body has more than {most:,} bytes, the most that is taken.")
    return bytes(body)


def read_object(body: bytes) -> dict[str, Any]:
    """The body as a JSON object.

    Raises:
        InputError: it is none.
    """
    try:
        value = json.loads(body.decode("utf-8"))
        if b"\\ud" in body.lower():
            json.dumps(value, ensure_ascii=False).encode()
    except UnicodeDecodeError as error:
        raise InputError(f"The body is not UTF-8 ({error.reason} at byte {error.start}).") from error
    except UnicodeEncodeError as error:
        raise InputError("The body has half of a surrogate pair by itself, which is no character.") from error
    except RecursionError as error:
        raise InputError("The body is not JSON that can be read: it is nested too deeply.") from error
    except ValueError as error:
        raise InputError(f"The body is not JSON: {error}.") from error
    if not isinstance(value, dict):
        raise InputError(f"The body is a JSON {type(value).__name__}; expected an object.")
    return value


def take(values: dict[str, Any], key: str, kind: type, default: Any) -> Any:
    """Take the value of a key out of an object; null counts as absent.

    Raises:
        InputError: it is of another type.
    """
    value = values.pop(key, None)
    if value is None:
        return default
    if not isinstance(value, kind):
        raise InputError(f"'{key}' is a {type(value).__name__}; expected {_KINDS[kind]}.")
    return value


_KINDS: dict[type, str] = {dict: "an object", list: "a list", bool: "true or false", str: "a string"}
