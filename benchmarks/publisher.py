"""A publisher as a process of its own, as it is beside a real server: its copying and hashing delays no client."""

from __future__ import annotations

import json
import multiprocessing
import shutil
import time
import urllib.request
from dataclasses import dataclass
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any

import psutil
from tqdm import tqdm

from tfrec.publish import keep_last, publish_version, read_manifest

WRITTEN = {"format", "schema_version", "created", "name", "version", "files"}  # parts of a manifest of its own
KEEP = 2


@dataclass(frozen=True)
class Swap:
    """A version that was published and taken into service.

    Attributes:
        began: when it was published, on the clock `time.monotonic`.
        seconds: until it was served.
        memory: bytes that the server held then.
    """

    began: float
    seconds: float
    memory: int


class Publisher:
    """Publishes copies of a version one after the other, and waits until each is served.

    Args:
        version: what to copy.
        folder: of the model served.
        url: of the model's status.
        server: the server's process id.
    """

    def __init__(self, version: Path, folder: Path, url: str, server: int):
        context = multiprocessing.get_context("spawn")
        self._pipe, theirs = context.Pipe()
        self._process = context.Process(target=_work, args=(theirs, version, folder, url, server), daemon=True)
        self._process.start()
        theirs.close()  # so that the end of the process is the end of the pipe
        self._pipe.recv()  # it is ready: from here on it takes no time to start

    def begin(self, swaps: int, *, after: float = 0.0) -> None:
        """Have so many versions published, some seconds from now."""
        self._pipe.send((swaps, after))

    @property
    def done(self) -> bool:
        """Whether all of them are served."""
        return self._pipe.poll()

    def swaps(self) -> list[Swap]:
        """What became of them, once they are served."""
        return self._pipe.recv()

    def close(self) -> None:
        """End the process."""
        self._process.terminate()
        self._process.join()


def _work(pipe: Connection, version: Path, folder: Path, url: str, server: int) -> None:
    process, number = psutil.Process(server), 1
    pipe.send("ready")
    while True:
        swaps, after = pipe.recv()
        time.sleep(after)
        found = []
        for _ in tqdm(range(swaps), desc="swaps", unit="swap", disable=swaps == 1):
            number += 1
            began = time.monotonic()
            republish(version, folder, number)
            while newest_served(url) != number:
                time.sleep(0.05)
            found.append(Swap(began, time.monotonic() - began, process.memory_info().rss))
            keep_last(folder, KEEP)
        pipe.send(found)


def republish(version: Path, folder: Path, number: int) -> None:
    """Publish a copy of a version under another number."""
    manifest = read_manifest(version)

    def write(path: Path) -> dict[str, Any]:
        for name in manifest["files"]:
            (path / name).parent.mkdir(parents=True, exist_ok=True)
            shutil.copyfile(version / name, path / name)
        return {key: value for key, value in manifest.items() if key not in WRITTEN}

    publish_version(folder, number, write)


def newest_served(url: str) -> int:
    """The newest version that the server has in service."""
    with urllib.request.urlopen(url, timeout=30) as response:
        states = json.load(response)["model_version_status"]
    return max(int(one["version"]) for one in states if one["state"] == "AVAILABLE")
