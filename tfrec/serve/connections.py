"""How long, and how many, connections may be open without a request: aiohttp waits for a first one forever."""

from __future__ import annotations

import asyncio
from collections.abc import Callable


class ConnectionGuard:
    """Makes a server's connections, and closes those that send no whole request head in time.

    Args:
        factory: makes the server's protocol.
        head_seconds: from opening a connection, or the end of its last request, to the next request.
        most: open connections; further ones are closed at once.
        changed: told the number of open connections.
    """

    def __init__(
        self,
        factory: Callable[[], asyncio.Protocol],
        *,
        head_seconds: float,
        most: int,
        changed: Callable[[int], object] = lambda count: None,
    ):
        self._factory, self._head_seconds, self._most, self._changed = factory, head_seconds, most, changed
        self._timers: dict[asyncio.BaseTransport, asyncio.TimerHandle | None] = {}

    def __call__(self) -> asyncio.Protocol:
        """A protocol for a new connection."""
        return _Guarded(self, self._factory())

    def opened(self, transport: asyncio.Transport) -> bool:
        """Count a connection, or close it."""
        if len(self._timers) >= self._most:
            transport.abort()
            return False
        self._timers[transport] = None
        self.idle(transport)
        self._changed(len(self._timers))
        return True

    def closed(self, transport: asyncio.BaseTransport) -> None:
        """Forget a connection."""
        self.busy(transport)
        self._timers.pop(transport, None)
        self._changed(len(self._timers))

    def busy(self, transport: asyncio.BaseTransport | None) -> None:
        """A request's head is there: its handler minds the time from here on."""
        timer = self._timers.get(transport) if transport else None
        if timer:
            timer.cancel()

    def idle(self, transport: asyncio.BaseTransport | None) -> None:
        """The next request may come."""
        if transport in self._timers:
            self.busy(transport)
            loop = asyncio.get_running_loop()
            self._timers[transport] = loop.call_later(self._head_seconds, transport.close)  # type: ignore[union-attr]


class _Guarded(asyncio.Protocol):
    """Passes everything on to the server's own protocol."""

    def __init__(self, guard: ConnectionGuard, inner: asyncio.Protocol):
        self._guard, self._inner, self._accepted = guard, inner, False
        self.data_received = inner.data_received  # type: ignore[method-assign]
        self.pause_writing = inner.pause_writing  # type: ignore[method-assign]
        self.resume_writing = inner.resume_writing  # type: ignore[method-assign]
        self.eof_received = inner.eof_received  # type: ignore[method-assign]

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = transport
        self._accepted = self._guard.opened(transport)  # type: ignore[arg-type]
        if self._accepted:
            self._inner.connection_made(transport)

    def connection_lost(self, error: Exception | None) -> None:
        if self._accepted:
            self._guard.closed(self._transport)
            self._inner.connection_lost(error)
