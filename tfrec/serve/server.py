"""A running server: both interfaces, the poller, and how it starts and stops."""

from __future__ import annotations

import asyncio
import gc
import logging
import os
import signal
import sys
import threading
from collections.abc import Awaitable, Callable, Sequence
from concurrent.futures import Future, ThreadPoolExecutor, wait
from typing import TYPE_CHECKING, Any, TypeVar

from tfrec.serve.allocator import allocator_in_use
from tfrec.serve.batching import Batcher
from tfrec.serve.connections import ConnectionGuard
from tfrec.serve.errors import ServeConfigError
from tfrec.serve.first_request import ask_itself
from tfrec.serve.http_app import HttpState, build_app
from tfrec.serve.metrics import Metrics
from tfrec.serve.model_config import ModelConfig
from tfrec.serve.options import ServeOptions
from tfrec.serve.repository import Repository
from tfrec.serve.service import PredictService

if TYPE_CHECKING:
    import grpc
    from aiohttp import web

Found = TypeVar("Found")

LOG = logging.getLogger("tfrec.serve")
MAX_BYTES_AT_ONCE = 256 << 20  # of the bodies that are read or answered, of each interface
# A client connects anew after so long, which it hardly notices, and so comes to servers that were started meanwhile.
GRPC_AGE_SECONDS = 300.0
GRPC_IDLE_SECONDS = 120.0
LINGER_SECONDS = 2.0  # to read on after a refusal, so that a client that is still sending gets to see it


class Server:
    """A server on the running event loop.

    Args:
        read_configs: the models to serve; asked again at every poll.
        options: how.

    Attributes:
        port, grpc_port: where it listens, once started.
    """

    def __init__(self, read_configs: Callable[[], Sequence[ModelConfig]], options: ServeOptions):
        self._options = options
        self.metrics = Metrics()
        self.repository = Repository(read_configs, self.metrics.version_changed)
        self._batcher = Batcher(
            workers=options.workers,
            max_rows=options.max_batch_rows,
            max_pending=options.max_pending,
            timeout=options.timeout,
            observe=self.metrics.batch_ran,
        )
        self._service = PredictService(self.repository, self._batcher, options.max_request_rows, options.max_values)
        self._state = HttpState(
            self._service,
            self.metrics,
            options.token,
            own_names(options),
            options.max_bytes,
            max_bytes_at_once=max(MAX_BYTES_AT_ONCE, options.max_bytes),
            body_seconds=options.body_seconds,
        )
        self._runner: web.AppRunner | None = None
        self._listener: asyncio.Server | None = None
        self._grpc: grpc.aio.Server | None = None
        self._poller: asyncio.Task | None = None
        self._loader = ThreadPoolExecutor(1, "loader")
        self._loading: Future[Any] = Future()
        self._loading.set_result(None)

    @property
    def loading(self) -> bool:
        """Whether its thread reads a version or the dataset."""
        return not self._loading.done()

    async def _load(self, read: Callable[..., Found], *arguments: object) -> Found:
        """What is read by the thread that loads: one that is no longer waited for where the server stops."""
        self._loading = self._loader.submit(read, *arguments)
        return await asyncio.wrap_future(self._loading)

    async def start(self) -> None:
        """Load the models, then listen.

        Raises:
            ServeConfigError: a model has no version that can be served, or the dataset is broken.
            OSError: a port is taken.
        """
        await self._load(self.repository.poll)
        for name in self.repository.names:
            model = self.repository.model(name)
            if not model.servables:
                errors = [status.error for status in model.status.values() if status.error]
                raise ServeConfigError(errors[-1] if errors else f"{model.config.folder} holds no version to serve")
        await self._start_http()
        await self._start_grpc()
        host, port = self.address
        await ask_itself(self.repository, host, port, self._options.token)
        await self._load(step_back)
        self._poller = asyncio.create_task(self._poll())
        ports = {"host": self._options.host, "port": self.port, "grpc_port": self.grpc_port}
        fields = {"event": "started", **ports, "allocator": allocator_in_use()}
        LOG.info("serving", extra={"fields": fields})

    async def _start_http(self) -> None:
        from aiohttp import web

        options = self._options
        parts = []
        if options.data is not None:
            from tfrec.serve.shop_window import ShopWindow

            shop = await self._load(ShopWindow, options.data, self.repository)
            self._state.public = shop.public
            parts.append(shop.add_to)
        self._runner = web.AppRunner(
            build_app(self._state, *parts),
            access_log=None,
            handle_signals=False,
            handler_cancellation=True,  # who has hung up is computed nothing
            shutdown_timeout=options.stop_seconds,
            lingering_time=LINGER_SECONDS,
        )
        await self._runner.setup()
        self._state.guard = ConnectionGuard(
            self._runner.server,  # type: ignore[arg-type]
            head_seconds=options.head_seconds,
            most=options.max_connections,
            most_requests=options.max_pending,
            changed=self.metrics.connections.set,
            refused=self.metrics.refused.inc,
        )
        loop = asyncio.get_running_loop()
        self._listener = await loop.create_server(self._state.guard, options.host, options.port, backlog=1024)
        self.address = self._listener.sockets[0].getsockname()[:2]
        self.port = self.address[1]

    async def _start_grpc(self) -> None:
        self.grpc_port: int | None = None
        options = self._options
        if options.grpc_port is None:
            return
        import grpc

        from tfrec.serve.grpc_api import GrpcApi
        from tfrec.serve.grpc_messages import Messages

        limits = [
            ("grpc.max_receive_message_length", options.max_bytes),
            ("grpc.max_concurrent_streams", options.max_pending),
            ("grpc.max_allowed_incoming_connections", options.max_connections),
            ("grpc.max_connection_idle_ms", int(1000 * GRPC_IDLE_SECONDS)),
            ("grpc.max_connection_age_ms", int(1000 * GRPC_AGE_SECONDS)),
            ("grpc.max_connection_age_grace_ms", int(1000 * (options.timeout + options.stop_seconds))),
            ("grpc.so_reuseport", 0),
        ]
        self._grpc = grpc.aio.server(options=limits, maximum_concurrent_rpcs=2 * options.max_pending)
        messages = Messages(
            max_bytes=options.max_bytes,
            max_bytes_at_once=max(MAX_BYTES_AT_ONCE, options.max_bytes),
            seconds=options.body_seconds,
            max_waiting=options.max_pending,  # half of the places
        )
        GrpcApi(self._service, self.metrics, messages, token=options.token).add_to(self._grpc)
        try:
            host = f"[{options.host}]" if ":" in options.host else options.host
            self.grpc_port = self._grpc.add_insecure_port(f"{host}:{options.grpc_port}")
        except RuntimeError as error:
            told = f"port {options.grpc_port} of {options.host} cannot be opened for gRPC ({error})"
            raise OSError(told) from error
        await self._grpc.start()

    async def _poll(self) -> None:
        while True:
            await asyncio.sleep(self._options.poll_seconds)
            try:
                await self._load(self.repository.poll)
            except Exception:  # as of a file system that is gone for a moment: what is loaded goes on serving
                LOG.exception("the models' folders cannot be read")

    async def stop(self) -> None:
        """Say that no more should come, answer what is under way, and free everything; also where it has not started yet."""
        options = self._options
        self._state.draining = True
        self.repository.stop_loading()
        if self._poller:
            self._poller.cancel()
            LOG.info("stopping", extra={"fields": {"event": "draining", "seconds": options.drain_seconds}})
            await asyncio.sleep(options.drain_seconds)
        await self._stop_listening()
        await asyncio.to_thread(wait, [self._loading], options.stop_seconds)
        self._loader.shutdown(wait=False)
        await asyncio.to_thread(self._batcher.close)
        await asyncio.to_thread(self.repository.close)
        LOG.info("stopped", extra={"fields": {"event": "stopped"}})

    async def _stop_listening(self) -> None:
        waits: list[Awaitable[None]] = []
        if self._listener is not None:
            self._listener.close()
        if self._runner is not None:
            waits.append(self._runner.cleanup())
        if self._grpc is not None:
            waits.append(self._grpc.stop(self._options.stop_seconds))
        await asyncio.gather(*waits)


def own_names(options: ServeOptions) -> frozenset[str] | None:
    """What requests to a server must be addressed to; None, anything, where it has a token or other machines reach it."""
    loopback = options.host == "localhost" or options.host == "::1" or options.host.startswith("127.")
    if options.token is not None or not loopback:
        return None
    return frozenset({"localhost", "127.0.0.1", "::1", options.host})


def step_back() -> None:
    """Let requests go before this thread: a version is loaded with what they leave of the processors."""
    if sys.platform == "linux":  # elsewhere a priority is a whole process's
        os.setpriority(os.PRIO_PROCESS, threading.get_native_id(), 10)


async def serve(server: Server) -> None:
    """Run a server until SIGTERM or SIGINT, which may come before it has started."""
    stop = asyncio.Event()
    loop = asyncio.get_running_loop()
    for number in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(number, stop.set)
    asked = asyncio.ensure_future(stop.wait())
    starting = asyncio.ensure_future(server.start())
    await asyncio.wait((asked, starting), return_when=asyncio.FIRST_COMPLETED)
    if starting.done():
        await starting
        gc.freeze()  # what the libraries hold stays: a collection that walks it stops every request for tenths of a second
        await asked
    else:
        starting.cancel()
        await asyncio.wait((starting,))
    await server.stop()
