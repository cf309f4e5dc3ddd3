"""Measure `tfrec.serve` on loopback: load, overload, swaps.

python -m benchmarks.serving --model saved_models/hm_scann

The server runs as a process of its own, the clients in this one. Four measurements, each printed with its
criterion: two minutes at half saturation (p99/p50 <= 3, no errors), a version swapped in under that load
(throughput >= 0.9 of before, no errors), sixty swaps (memory <= 1.15 of after the fifth, no errors), twice the
saturation (goodput >= 0.9 of the peak, the rest refused).
"""

from __future__ import annotations

import argparse
import asyncio
import gc
import json
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import numpy as np
import psutil
from tqdm import tqdm

from tfrec.publish import find_version, keep_last, publish_version, read_manifest
from tfrec.warmup import read_warmup

CLIENTS = 32
WRITTEN = {"format", "schema_version", "created", "name", "version", "files"}  # parts of a manifest of its own


@dataclass
class Answers:
    """What clients got: when each request began, seconds from the start, how long it took, and its status."""

    began: np.ndarray
    took: np.ndarray
    status: np.ndarray

    def goodput(self, start: float = 0.0, stop: float = np.inf) -> float:
        """Requests answered with 200 a second, of those that ended between two times."""
        ended = self.began + self.took
        stop = min(stop, float(ended.max(initial=0)))
        inside = (ended >= start) & (ended < stop) & (self.status == 200)
        return float(inside.sum()) / max(stop - start, 1e-9)

    def errors(self, allowed: tuple[int, ...] = (200,)) -> int:
        """Requests that were answered otherwise, or not at all."""
        return int((~np.isin(self.status, allowed)).sum())

    def percentile(self, share: float) -> float:
        """Milliseconds within which that share of the good answers came."""
        return float(np.percentile(self.took[self.status == 200], 100 * share) * 1000)


async def offer(
    url: str,
    bodies: list[bytes],
    *,
    seconds: float,
    rate: float = 0.0,
    clients: int = CLIENTS,
    beside: Callable[[], Any] | None = None,
) -> Answers:
    """Ask the server for some seconds.

    Args:
        url: of the signature.
        bodies: of the requests, in turn.
        seconds: how long.
        rate: requests a second, sent whatever becomes of those before (Poisson arrivals); 0 for `clients` that
            each wait for their answer before they ask again.
        clients: see `rate`.
        beside: run in a thread a third of the way through.
    """
    found: list[tuple[float, float, int]] = []
    random = np.random.default_rng(0)
    connections = Connections(url)
    requests = [connections.request(body) for body in bodies]
    began = time.perf_counter()

    async def ask(number: int) -> None:
        start = time.perf_counter()
        status = await connections.ask(requests[number % len(requests)])
        found.append((start - began, time.perf_counter() - start, status))

    async def client(number: int) -> None:
        while time.perf_counter() < began + seconds:
            await ask(number)
            number += clients

    async def later() -> None:
        await asyncio.sleep(seconds / 3)
        if beside:
            await asyncio.to_thread(beside)

    tasks = [asyncio.create_task(later())]
    if rate:
        due = np.cumsum(random.exponential(1 / rate, int(seconds * rate)))
        for number, when in enumerate(due):
            if (early := began + when - time.perf_counter()) > 0:
                await asyncio.sleep(early)
            elif number % 64 == 0:
                await asyncio.sleep(0)  # behind with asking: let the answers in
            tasks.append(asyncio.create_task(ask(number)))
    else:
        tasks += [asyncio.create_task(client(number)) for number in range(clients)]
    await asyncio.gather(*tasks)
    connections.close()
    return Answers(*(np.array(column) for column in zip(*found)))


class Connections:
    """Connections that stay open, with as little work for each request as can be: the server shares the cores.

    Args:
        url: of the signature.
    """

    def __init__(self, url: str):
        self._parts = urlsplit(url)
        self._idle: list[_Connection] = []

    def request(self, body: bytes) -> bytes:
        """The bytes of a POST request."""
        head = f"POST {self._parts.path} HTTP/1.1\r\nHost: {self._parts.netloc}\r\nContent-Length: {len(body)}\r\n\r\n"
        return head.encode() + body

    async def ask(self, request: bytes) -> int:
        """Send a request: its status, 0 where the connection failed."""
        try:
            while self._idle and self._idle[-1].closed:  # by the server, which waits for no client forever
                self._idle.pop()
            if self._idle:
                connection = self._idle.pop()
            else:
                loop, (host, port) = asyncio.get_running_loop(), (self._parts.hostname, self._parts.port)
                _, connection = await loop.create_connection(_Connection, host, port)
            status = await connection.ask(request)
        except OSError:
            return 0
        if not connection.closed:
            self._idle.append(connection)
        return status

    def close(self) -> None:
        """Close them."""
        for connection in self._idle:
            connection.transport.close()


class _Connection(asyncio.Protocol):
    """One connection; answers have a Content-Length, as all of the server's have."""

    closed = False
    _answer: asyncio.Future[int] | None = None

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        assert isinstance(transport, asyncio.WriteTransport)
        self.transport = transport

    def ask(self, request: bytes) -> asyncio.Future[int]:
        self._answer, self._received = asyncio.get_running_loop().create_future(), b""
        self.transport.write(request)
        return self._answer

    def data_received(self, data: bytes) -> None:
        self._received += data
        head, ended, body = self._received.partition(b"\r\n\r\n")
        if ended and len(body) >= int(head.lower().partition(b"content-length: ")[2].split(b"\r", 1)[0]):
            self.closed = self.closed or b"connection: close" in head.lower()
            assert self._answer is not None
            self._answer.set_result(int(head.split(b" ", 2)[1]))

    def connection_lost(self, error: Exception | None) -> None:
        self.closed = True
        if self._answer and not self._answer.done():
            self._answer.set_exception(ConnectionResetError())


@contextmanager
def server(model: Path) -> Iterator[tuple[str, psutil.Process]]:
    """A server process of the model: the address of its default signature, and the process."""
    command = [sys.executable, "-m", "tfrec.serve", "--model", str(model), "--port", "0", "--no-grpc"]
    with subprocess.Popen([*command, "--poll-seconds", "0.2"], stderr=subprocess.PIPE, text=True) as process:
        assert process.stderr is not None
        for line in process.stderr:
            if line.startswith("{") and json.loads(line).get("event") == "started":
                break
        else:
            raise SystemExit(f"the server did not start (exit code {process.wait()})")
        # Nobody reads its log: a pipe that is full would stop it.
        drain = subprocess.Popen(["cat"], stdin=process.stderr, stdout=subprocess.DEVNULL)
        try:
            port = json.loads(line)["port"]
            yield f"http://127.0.0.1:{port}/v1/models/{model.name}:predict", psutil.Process(process.pid)
        finally:
            process.send_signal(signal.SIGTERM)
            process.wait(60)
            drain.wait(60)


def republish(version: Path, folder: Path, number: int) -> None:
    """Publish a copy of a version under another number."""
    manifest = read_manifest(version)

    def write(path: Path) -> dict[str, Any]:
        for name in manifest["files"]:
            (path / name).parent.mkdir(parents=True, exist_ok=True)
            shutil.copyfile(version / name, path / name)
        return {key: value for key, value in manifest.items() if key not in WRITTEN}

    publish_version(folder, number, write)


def bodies_of(version: Path) -> list[bytes]:
    """Requests for twelve items with one to eight purchases, of the items that the version's warm-up names."""
    named = next(inputs["history"] for signature, inputs in read_warmup(version) if signature == "recommend")
    items = sorted({item.decode() for item in named.flat} - {""})
    items += [item for inputs in _item_inputs(version) for item in inputs]
    random = np.random.default_rng(0)
    histories = (random.choice(items, random.integers(1, 9)).tolist() for _ in range(500))
    return [json.dumps({"inputs": {"history": [history], "k": [12]}}).encode() for history in histories]


def _item_inputs(version: Path) -> Iterator[list[str]]:
    for signature, inputs in read_warmup(version):
        if signature == "similar":
            yield [item.decode() for item in inputs["item_id"]]


def newest_served(url: str) -> int:
    """The newest version that the server has in service."""
    import urllib.request

    with urllib.request.urlopen(url.removesuffix(":predict"), timeout=30) as response:
        states = json.load(response)["model_version_status"]
    return max(int(one["version"]) for one in states if one["state"] == "AVAILABLE")


def swap_to(version: Path, folder: Path, number: int, url: str) -> None:
    """Publish, and wait until it is served."""
    republish(version, folder, number)
    while newest_served(url) != number:
        time.sleep(0.05)
    keep_last(folder, 2)


def measure(options: argparse.Namespace, say: Callable[[str], object] = print) -> dict[str, Any]:
    """Run all measurements, print each, and return the figures."""
    source = find_version(options.model)
    bodies = bodies_of(source)
    gc.collect()
    gc.freeze()  # the clients' own pauses are not the server's
    with tempfile.TemporaryDirectory() as root:
        folder = Path(root) / options.model.name
        republish(source, folder, 1)
        with server(folder) as (url, process):

            def run(**how: Any) -> Answers:
                return asyncio.run(offer(url, bodies, **how))

            run(seconds=min(3.0, options.seconds))  # connections, caches
            peak = run(seconds=options.peak_seconds).goodput()
            half = run(seconds=options.seconds, rate=peak / 2)
            figures: dict[str, Any] = {"peak": peak, "p50": half.percentile(0.5), "p99": half.percentile(0.99)}
            figures["ratio"], figures["errors"] = figures["p99"] / figures["p50"], half.errors()
            say(f"saturation: {peak:.0f} requests/s by {CLIENTS} clients")
            say(
                f"{options.seconds:.0f} s at {peak / 2:.0f}/s: p50 {figures['p50']:.2f} ms, p99 {figures['p99']:.2f} ms, "
                f"p99/p50 {figures['ratio']:.2f} (<= 3), {figures['errors']} errors of {len(half.took)} (0)"
            )

            spent: list[float] = []

            def swap() -> None:
                start = time.perf_counter()
                swap_to(source, folder, 2, url)
                spent.append(time.perf_counter() - start)

            swapped = run(seconds=options.swap_seconds, rate=peak / 2, beside=swap)
            start = options.swap_seconds / 3
            before, during = swapped.goodput(0, start), swapped.goodput(start, start + max(spent[0], 1.0))
            figures |= {"swap_ratio": during / before, "swap_errors": swapped.errors(), "swap_seconds": spent[0]}
            say(
                f"a swap of {spent[0]:.1f} s at {peak / 2:.0f}/s: {during:.0f}/s, {during / before:.2f} of before "
                f"(>= 0.9), {swapped.errors()} errors (0)"
            )

            memory: list[int] = []

            def swaps() -> None:
                for number in tqdm(range(3, 3 + options.swaps), desc="swaps", unit="swap"):
                    swap_to(source, folder, number, url)
                    memory.append(process.memory_info().rss)

            many = asyncio.run(_while(url, bodies, peak / 8, swaps))
            settled = memory[min(4, len(memory) - 1)]
            figures |= {"rss_ratio": memory[-1] / settled, "swaps_errors": many.errors()}
            say(
                f"{options.swaps} swaps: memory {memory[-1] >> 20} MiB, {memory[-1] / settled:.3f} of after the fifth "
                f"(<= 1.15), {many.errors()} errors of {len(many.took)} (0)"
            )

            over = run(seconds=options.peak_seconds, rate=2 * peak)
            good = over.goodput(0, options.peak_seconds)
            figures |= {"goodput_ratio": good / peak, "overload_errors": over.errors((200, 429))}
            say(
                f"twice the saturation: {good:.0f}/s answered, {good / peak:.2f} of the peak (>= 0.9), "
                f"{np.mean(over.status == 429):.0%} refused with 429, {over.errors((200, 429))} other errors (0)"
            )
    return figures


async def _while(url: str, bodies: list[bytes], rate: float, work: Callable[[], Any]) -> Answers:
    """Ask at a low rate for as long as some work takes."""
    parts = []
    job = asyncio.create_task(asyncio.to_thread(work))
    while not job.done():
        parts.append(await offer(url, bodies, seconds=2.0, rate=max(rate, 2.0)))
    await job
    return Answers(*(np.concatenate(columns) for columns in zip(*((a.began, a.took, a.status) for a in parts))))


def main(arguments: list[str] | None = None) -> int:
    """Measure; 0 when every criterion is met, 1 when one is not."""
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks.serving", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--model", type=Path, default=Path("saved_models/demo_scann"), help="folder of a model")
    parser.add_argument("--seconds", type=float, default=120.0, help="at half saturation (default: %(default)s)")
    parser.add_argument("--peak-seconds", type=float, default=10.0, help="at saturation (default: %(default)s)")
    parser.add_argument("--swap-seconds", type=float, default=60.0, help="around one swap (default: %(default)s)")
    parser.add_argument("--swaps", type=int, default=60, help="in a row (default: %(default)s)")
    parser.add_argument("--json", type=Path, metavar="FILE", help="also write the figures here")
    options = parser.parse_args(arguments)
    figures = measure(options)
    if options.json:
        options.json.write_text(json.dumps(figures, indent=1) + "\n", encoding="utf-8")
    met = (
        figures["ratio"] <= 3
        and figures["swap_ratio"] >= 0.9
        and figures["rss_ratio"] <= 1.15
        and figures["goodput_ratio"] >= 0.9
        and not any(figures[name] for name in ("errors", "swap_errors", "swaps_errors", "overload_errors"))
    )
    print("every criterion is met" if met else "a criterion is not met")
    return 0 if met else 1


if __name__ == "__main__":
    sys.exit(main())
