"""A Dockerfile read, and its commands run in a folder that stands for the root, where no docker daemon is needed."""

from __future__ import annotations

import json
import os
import shlex
import shutil
import subprocess
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from tests.paths import ROOT

OURS = "/opt/xlm"  # the folder that the images put everything in


@dataclass
class Image:
    """What the last stage leaves. `root` stands for /, so a path of the image lies at the same place below it."""

    root: Path
    environment: dict[str, str] = field(default_factory=dict)
    user: str = "0:0"
    entrypoint: list[str] = field(default_factory=list)
    command: list[str] = field(default_factory=list)
    health: list[str] = field(default_factory=list)
    port: str = ""

    def here(self, text: str) -> str:
        """A command's text with this machine's paths."""
        return text.replace(OURS, f"{self.root}{OURS}")


def read_dockerfile(path: Path) -> list[tuple[str, str]]:
    """Instructions and their arguments, continued lines joined."""
    lines = [line for line in path.read_text(encoding="utf-8").splitlines() if line and not line.startswith("#")]
    return [
        (words[0], words[1])
        for line in "\n".join(lines).replace("\\\n", " ").splitlines()
        if (words := line.split(None, 1))
    ]


def build(dockerfile: Path, root: Path, path: str) -> Image:
    """Run a Dockerfile's stages one after the other in one folder.

    Commands of apt-get are left out, since they change the base image alone: `path` has to hold what they bring.

    Args:
        root: an empty folder.
        path: PATH of the commands.

    Raises:
        RuntimeError: a command failed; the message is what it printed.
        ValueError: an instruction that is not known here.
    """
    image = Image(root)
    folder = root
    for name, text in read_dockerfile(dockerfile):
        if name == "FROM":
            image, folder = Image(root), root
        elif name == "WORKDIR":
            folder = root / text.lstrip("/")
            folder.mkdir(parents=True)
        elif name == "COPY":
            _copy(text.split(), folder, root)
        elif name == "RUN":
            if "apt-get" not in text:
                _run(image.here(text), folder, {"PATH": path, **image.environment})
        elif name == "ENV":
            image.environment |= dict(word.split("=", 1) for word in shlex.split(text))
        elif name == "USER":
            image.user = text
        elif name == "EXPOSE":
            image.port = text
        elif name == "ENTRYPOINT":
            image.entrypoint = json.loads(text)
        elif name == "CMD":
            image.command = json.loads(text)
        elif name == "HEALTHCHECK":
            image.health = json.loads(text.partition("CMD")[2])
        else:
            raise ValueError(f"{dockerfile.name} has {name}, which this reader does not know")
    return image


def start(
    image: Image, arguments: list[str], environment: Mapping[str, str], **options: Any
) -> subprocess.Popen[bytes]:
    """The entrypoint as the image's user, where this process may become it."""
    if os.getuid() == 0:
        user, group = map(int, image.user.split(":"))
        options |= {"user": user, "group": group, "extra_groups": []}
    command = [image.here(word) for word in image.entrypoint] + arguments
    return subprocess.Popen(command, cwd="/", env={**environment, **image.environment}, **options)


def _copy(words: list[str], folder: Path, root: Path) -> None:
    if words[0].startswith("--from="):
        _, source, target = words
        if source != target or not (root / source.lstrip("/")).exists():
            raise ValueError(f"the stages share a folder, and '{source}' has to be in it at the same place: {words}")
        return
    allowed = {line[1:] for line in (ROOT / ".dockerignore").read_text(encoding="utf-8").splitlines() if line[0] == "!"}
    *sources, target = words
    for source in sources:
        if source not in allowed:
            raise ValueError(f".dockerignore leaves '{source}' out")
        if (ROOT / source).is_dir():
            shutil.copytree(ROOT / source, folder / target, ignore=shutil.ignore_patterns("__pycache__"))
        else:
            shutil.copy(ROOT / source, folder / target)


def _run(command: str, folder: Path, environment: Mapping[str, str]) -> None:
    proxies = {name: value for name, value in os.environ.items() if name.lower().endswith(("_proxy", "_ca_bundle"))}
    pip = {name: value for name, value in os.environ.items() if name.startswith("PIP_")}
    whole = {**proxies, **pip, "HOME": str(folder), **environment}
    done = subprocess.run(
        ["/bin/sh", "-ec", command], cwd=folder, env=whole, capture_output=True, text=True, check=False
    )
    if done.returncode:
        raise RuntimeError(f"{command}\n{done.stdout[-3000:]}\n{done.stderr[-3000:]}")
