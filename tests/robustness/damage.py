"""Seeded damage to bundles: a copy of one, an edit, and what opening it comes to."""

from __future__ import annotations

import contextlib
import io
import json
import os
import random
import shutil
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any
from zlib import crc32

from xlm_runtime import XLMError, pipeline
from xlm_runtime.bundle import BUNDLE_FILE, Bundle, file_sha256
from xlm_runtime.cli.main import main
from xlm_runtime.tokenization.word_files import TOKEN_INDEX

TASK, TEXT = "text-classification", "The old lighthouse stands at the edge of the small town."
Edit = Callable[[Path, random.Random], object]

ODD_VALUES: tuple[Any, ...] = (
    *(None, True, False, 0, 1, -1, 7, 2**31, 10**9, 10**30, 0.5, 1e308, float("nan"), float("inf")),
    *(
        "",
        "a",
        "passed",
        "failed",
        "../x",
        "/etc/passwd",
        "model.onnx",
        "bundle.json",
        "\x00",
        "\ud800",
        "é" * 300,
        "1",
    ),
    *([], {}, [[]], [None], ["a"], {"a": None}, {"file": "model.onnx"}, {"status": "passed"}, [1] * 50),
)


def copy_bundle(source: Path, folder: Path) -> Path:
    """A copy whose files are links: an edit writes a file anew."""
    folder.mkdir(parents=True)
    for path in source.iterdir():
        os.link(path, folder / path.name)
    return folder


def rewrite(path: Path, content: bytes) -> None:
    path.unlink()
    path.write_bytes(content)


def note_hash(folder: Path, name: str) -> None:
    """As somebody does who means harm."""
    contents = json.loads((folder / BUNDLE_FILE).read_text(encoding="utf-8"))
    contents["files"][name] = file_sha256(folder / name)
    rewrite(folder / BUNDLE_FILE, json.dumps(contents).encode())


def edit_values(values: Any, rng: random.Random) -> Any:
    """Change one place of a JSON value, at any depth: another value, a key less, a key more, or much deeper."""
    places: list[tuple[Any, Any]] = []
    level = [values]
    while level:
        nested = [item for item in level if isinstance(item, (dict, list)) and item]
        keys = [(item, key) for item in nested for key in (item if isinstance(item, dict) else range(len(item)))]
        places += keys
        level = [item[key] for item, key in keys]
    inner, key = rng.choice(places)
    kind = rng.randrange(6)
    if kind == 0:
        del inner[key]
    elif kind == 1 and isinstance(inner, dict):
        inner[rng.choice(["x", "", "../x", "file", "status"])] = inner.pop(key)
    elif kind == 2:
        inner[key] = [inner[key]]
    elif kind == 3:
        deep: Any = inner[key]
        for _ in range(rng.choice([3, 60, 70, 300])):
            deep = {"a": deep} if rng.random() < 0.5 else [deep]
        inner[key] = deep
    else:
        inner[key] = rng.choice(ODD_VALUES)
    return values


def edit_json(name: str) -> Edit:
    def edit(folder: Path, rng: random.Random) -> None:
        values = json.loads((folder / name).read_text(encoding="utf-8"))
        for _ in range(rng.choice([1, 1, 1, 3])):
            values = edit_values(values, rng) or {"x": 1}
        rewrite(folder / name, json.dumps(values).encode())
        if name != BUNDLE_FILE:
            note_hash(folder, name)

    return edit


def edit_bytes(folder: Path, rng: random.Random) -> None:
    """Turn bits, cut off, repeat or insert bytes of any file, as disks and copies do."""
    path = rng.choice(sorted(folder.iterdir()))
    content = bytearray(path.read_bytes())
    at = rng.randrange(len(content))
    kind = rng.randrange(4)
    if kind == 0:
        content[at] ^= 1 << rng.randrange(8)
    elif kind == 1:
        del content[at:]
    elif kind == 2:
        content[at:at] = content[at : at + rng.randrange(1, 100)]
    else:
        content[at : at + 16] = rng.randbytes(16)
    rewrite(path, bytes(content))


def edit_index(folder: Path, rng: random.Random) -> None:
    """Overwrite numbers of the tokenizer's index, mostly with a checksum that fits, and note its hash."""
    path = folder / TOKEN_INDEX
    content = bytearray(path.read_bytes())
    for _ in range(rng.choice([1, 2, 8, 100])):
        at = rng.randrange(len(content) - 4)
        content[at : at + 4] = rng.choice([rng.randbytes(4), bytes(4), bytes([rng.randrange(256), 0, 0, 0])])
    if rng.random() < 0.8:
        content[:8] = path.read_bytes()[:8]
        content[12:16] = crc32(content[24:]).to_bytes(4, "little")
    rewrite(path, bytes(content))
    note_hash(folder, TOKEN_INDEX)


def edit_paths(folder: Path, rng: random.Random) -> None:
    """Something else in a file's place, or a name that leads out of the folder."""
    name = rng.choice(sorted(path.name for path in folder.iterdir()))
    path, secret = folder / name, folder.parent / "secret"
    secret.write_bytes(path.read_bytes())
    kind = rng.randrange(9)
    if kind < 6:
        path.unlink()
    if kind == 0:
        os.mkfifo(path)
    elif kind == 1:
        path.mkdir()
    elif kind == 2:
        path.symlink_to(rng.choice(["../secret", secret, "/etc/passwd", "/dev/zero", "absent", name]))
    elif kind == 3:
        path.symlink_to("/dev/zero")
    elif kind == 4:
        path.touch()
    elif kind > 5:
        contents = json.loads((folder / BUNDLE_FILE).read_text(encoding="utf-8"))
        outside = rng.choice(["../secret", str(secret), "../secret.onnx", "a/b", "..", ".", "c:\\x", "x" * 300])
        if kind == 6:
            contents["files"][outside] = file_sha256(secret)
        elif kind == 7:
            contents["graphs"][0]["file"] = outside
        else:
            contents["graphs"][0]["weights_in"] = [outside]
        rewrite(folder / BUNDLE_FILE, json.dumps(contents).encode())


def outcome(folder: Path) -> tuple[str, Any]:
    """What loading, answering and `info` come to: the kind of it, and the answer where there is one.

    Anything but an answer or an error of this project is raised.
    """
    with contextlib.redirect_stdout(io.StringIO()), contextlib.redirect_stderr(io.StringIO()):
        assert main(["info", str(folder)]) in (0, 1)
        assert main(["info", "--json", str(folder)]) in (0, 1)
    try:
        Bundle.load(folder)
        answer = pipeline(TASK, folder)(TEXT, top_k=None)
    except XLMError as error:
        return type(error).__name__, None
    return "answer", answer


def run_edits(source: Path, scratch: Path, edit: Edit, count: int, seed: int, same_answer: bool) -> Counter[str]:
    """Edit a bundle so many times and count what came of it.

    Args:
        same_answer: an edited bundle that answers at all has to give the answer that it gave before.
    """
    _, before = outcome(source)
    found: Counter[str] = Counter()
    for number in range(count):
        folder = copy_bundle(source, scratch / "bundle")
        edit(folder, random.Random(f"{seed} {number}"))
        try:
            kind, answer = outcome(folder)
        except Exception as error:
            raise AssertionError(f"edit {number} of seed {seed}: {error!r}") from error
        if kind == "answer" and same_answer:
            assert [item["label"] for item in answer] == [item["label"] for item in before], f"edit {number}"
            assert all(abs(a["score"] - b["score"]) < 1e-4 for a, b in zip(answer, before, strict=True))
        found[kind] += 1
        shutil.rmtree(folder)
        (scratch / "secret").unlink(missing_ok=True)
    return found
