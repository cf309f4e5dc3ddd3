"""A server of `tfrec.serve` in a thread of its own, and what tests ask it with."""

import asyncio
import contextlib
import http.client
import json
import shutil
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from tests.serving_fakes import make_run
from tfrec import export
from tfrec.index.indexes import ExactIndex
from tfrec.index.tuning import IndexReport
from tfrec.publish import publish_version, read_manifest
from tfrec.runs.run import Run
from tfrec.serve.model_config import models_of_folders
from tfrec.serve.options import ServeOptions
from tfrec.serve.server import Server

FAST = {"port": 0, "grpc_port": 0, "poll_seconds": 0.1, "stop_seconds": 5.0, "timeout": 120.0}


class Running:
    """A started server.

    Attributes:
        server: the server itself.
        loop: its event loop.
    """

    def __init__(self, server: Server, loop: asyncio.AbstractEventLoop):
        self.server, self.loop = server, loop

    @property
    def port(self) -> int:
        return self.server.port

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.port}"

    def stop(self) -> None:
        asyncio.run_coroutine_threadsafe(self.server.stop(), self.loop).result(300)

    def ask(self, method: str, path: str, body: Any = None, headers: dict | None = None) -> tuple[int, Any]:
        """Send a request on a connection of its own: status and parsed JSON (bytes where it is none)."""
        status, answer, _ = ask(self.port, method, path, body, headers)
        return status, answer

    def predict(self, place: str = "/v1/models/shop", **body: Any) -> tuple[int, Any]:
        return self.ask("POST", f"{place}:predict", body)


def ask(port: int, method: str, path: str, body: Any = None, headers: dict | None = None) -> tuple[int, Any, dict]:
    """Send a request: status, parsed JSON, headers."""
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=300)
    try:
        sent = body if isinstance(body, bytes | None) else json.dumps(body).encode()
        connection.request(method, path, sent, headers or {})
        response = connection.getresponse()
        answer = response.read()
        if "json" in response.headers.get("Content-Type", ""):
            answer = json.loads(answer, parse_constant=lambda name: 1 / 0)  # NaN is no JSON
        return response.status, answer, dict(response.headers)
    finally:
        connection.close()


@contextlib.contextmanager
def running(*folders: Path, read_configs=None, latest: int = 1, **options: Any) -> Iterator[Running]:
    """Run a server until the end of the block."""
    configs = read_configs or (lambda: models_of_folders(folders, latest))
    loop = asyncio.new_event_loop()
    thread = threading.Thread(target=loop.run_forever, daemon=True)
    thread.start()
    try:
        server = Server(configs, ServeOptions(**{**FAST, **options}))
        asyncio.run_coroutine_threadsafe(server.start(), loop).result(900)
        started = Running(server, loop)
        try:
            yield started
        finally:
            started.stop()
    finally:
        loop.call_soon_threadsafe(loop.stop)
        thread.join(10)
        loop.close()


def publish_exact(run: Run, root: Path, *, max_k: int = 500) -> Path:
    """Publish the exact model `shop` of a run alone, which takes half as long as `export_run`."""
    report = IndexReport("exact", *run.item_vectors.shape)
    write = export._writer(run, "shop", ExactIndex(run.item_vectors), report, max_k)
    return publish_version(root / "shop", 1, write)


def small_shop(root: Path) -> None:
    """Publish the exact model `shop` of `make_run(60)`, for the fixture `shared`."""
    publish_exact(make_run(60), root)


def plain_shop(root: Path) -> None:
    """The same without photos, texts, attributes and customers: few signatures, soon loaded."""
    publish_exact(make_run(60, modalities=frozenset(), attributes=None, users=None), root)


def large_shop(root: Path) -> None:
    """Publish both models of `make_run(1200)`, which is enough for ScaNN, with `max_k` 100."""
    export.export_run(make_run(1200), "shop", root, max_k=100, say=lambda text: None)


def republish(version: Path, folder: Path, number: int, **told) -> Path:
    """Publish a copy of a published version under another number, or as another model; `told` in its manifest."""
    manifest = read_manifest(version)
    info = {
        key: manifest[key]
        for key in manifest.keys() - {"format", "schema_version", "created", "name", "version", "files"}
    }

    def write(path: Path) -> dict:
        for name in manifest["files"]:
            (path / name).parent.mkdir(parents=True, exist_ok=True)
            shutil.copyfile(version / name, path / name)
        return info | told

    return publish_version(folder, number, write)


def until(condition, seconds: float = 300.0) -> None:
    """Wait for a condition, or fail."""
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline, "it did not happen in time"
        time.sleep(0.02)
