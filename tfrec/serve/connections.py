"""What a connection may do before aiohttp reads it: aiohttp waits for a first request forever, and reads every one.

Under more load than the event loop can take, most of its time would go into reading requests only to refuse them, so
whole requests are refused here, at a tenth of the cost.
"""

from __future__ import annotations

import asyncio
import json
import re
from collections.abc import Callable
from typing import cast

from tfrec.serve.batching import too_many
from tfrec.serve.errors import Code, ServeError
from tfrec.serve.tensors_json import error_body

LOOKS = 8  # in `head_seconds`, for connections that are idle for longer
TURN_AWAY_SECONDS = 2.0  # that a connection too many may take to ask, so that it can be told why it is closed
# What asks for more than an answer, comes in parts, or ends the connection.
UNUSUAL = re.compile(rb"\r\n(?:expect|transfer-encoding):|\r\nconnection:[^\r]*close", re.IGNORECASE)
CONTENT_LENGTH = re.compile(rb"\r\ncontent-length:[ \t]*(\d{1,12})[ \t]*(?=\r\n|$)", re.IGNORECASE)


class ConnectionGuard:
    """Makes a server's connections, closes those that send no whole request head in time, and refuses predictions
    while too many are under way.

    Args:
        factory: makes the server's protocol.
        head_seconds: from opening a connection, or the end of its last request, to the next request; up to an eighth more.
        most: open connections; as many further ones are told 429 and closed when they ask, those beyond at once.
        most_requests: predictions under way; further ones are refused with 429.
        changed: told the number of open connections.
        refused: told of every refusal.
    """

    def __init__(
        self,
        factory: Callable[[], asyncio.Protocol],
        *,
        head_seconds: float,
        most: int,
        most_requests: int,
        changed: Callable[[int], object] = lambda count: None,
        refused: Callable[[], object] = lambda: None,
    ):
        self._factory, self._head_seconds, self._most, self._changed = factory, head_seconds, most, changed
        self._most_requests, self._refused = most_requests, refused
        self._idle_since: dict[asyncio.Transport, float | None] = {}  # None while a request is under way
        self._look: asyncio.TimerHandle | None = None
        self._asking: set[asyncio.Transport] = set()
        self._turned_away: dict[asyncio.Transport, asyncio.TimerHandle] = {}
        self._refusal = _refusal(too_many(most_requests))
        crowded = f"{most} connections are open; try again later"
        self._farewell = _refusal(ServeError(Code.RESOURCE_EXHAUSTED, crowded), last=True)

    def __call__(self) -> asyncio.Protocol:
        """A protocol for a new connection."""
        return _Guarded(self, self._factory())

    def opened(self, transport: asyncio.Transport) -> bool:
        """Count a connection; False where it is one too many."""
        loop = asyncio.get_running_loop()
        if len(self._idle_since) >= self._most:
            if len(self._turned_away) >= self._most:
                transport.abort()
            else:
                self._turned_away[transport] = loop.call_later(TURN_AWAY_SECONDS, transport.abort)
            return False
        self._idle_since[transport] = loop.time()
        if self._look is None:
            self._look = loop.call_later(self._head_seconds / LOOKS, self._close_idle)
        self._changed(len(self._idle_since))
        return True

    def _close_idle(self) -> None:
        """Close who is idle for too long; one timer for all, as setting one for each request costs as much as refusing
        it."""
        loop = asyncio.get_running_loop()
        last = loop.time() - self._head_seconds
        idle = [(one, since) for one, since in self._idle_since.items() if since is not None and since <= last]
        for transport, since in idle:
            if not transport.is_closing():
                transport.close()  # once its answer is written
            elif since <= last - self._head_seconds:
                transport.abort()  # who has not read it after as long again
        self._look = loop.call_later(self._head_seconds / LOOKS, self._close_idle) if self._idle_since else None

    def turn_away(self, transport: asyncio.Transport) -> None:
        """Answer what a connection too many has asked, and close it."""
        if transport in self._turned_away and not transport.is_closing():
            transport.write(self._farewell)
            self._refused()
            transport.close()

    def asks(self, transport: asyncio.Transport) -> bool:
        """Whether a prediction that `refuses` let through is under way on the connection."""
        return transport in self._asking

    def refuses(self, transport: asyncio.Transport) -> bool:
        """Answer a whole prediction with 429 if too many are under way, else count it until `idle`."""
        if len(self._asking) < self._most_requests:
            self._asking.add(transport)
            return False
        transport.write(self._refusal)
        self._refused()
        self.idle(transport)
        return True

    def closed(self, transport: asyncio.Transport) -> None:
        """Forget a connection."""
        timer = self._turned_away.pop(transport, None)
        if timer:
            timer.cancel()
            return
        self._asking.discard(transport)
        self._idle_since.pop(transport, None)
        self._changed(len(self._idle_since))

    def busy(self, transport: asyncio.Transport | None) -> None:
        """A request's head is there: its handler minds the time from here on."""
        if transport in self._idle_since:
            self._idle_since[transport] = None

    def idle(self, transport: asyncio.Transport | None) -> None:
        """The next request may come."""
        if transport in self._idle_since:
            self._asking.discard(transport)
            self._idle_since[transport] = asyncio.get_running_loop().time()


class _Guarded(asyncio.Protocol):
    """Passes everything on to the server's own protocol."""

    def __init__(self, guard: ConnectionGuard, inner: asyncio.Protocol):
        self._guard, self._inner, self._accepted, self._whole = guard, inner, False, True
        self.pause_writing = inner.pause_writing  # type: ignore[method-assign]
        self.resume_writing = inner.resume_writing  # type: ignore[method-assign]
        self.eof_received = inner.eof_received  # type: ignore[method-assign]

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = cast(asyncio.Transport, transport)
        self._accepted = self._guard.opened(self._transport)
        if self._accepted:
            self._inner.connection_made(transport)

    def data_received(self, data: bytes) -> None:
        if not self._accepted:
            self._guard.turn_away(self._transport)
            return
        # After anything but whole predictions, each sent when the one before was answered, what comes may be a part of
        # something: such a connection is aiohttp's for good, whose handlers count its requests, too.
        self._whole = self._whole and not self._guard.asks(self._transport) and _is_whole_prediction(data)
        if not (self._whole and self._guard.refuses(self._transport)):
            self._inner.data_received(data)

    def connection_lost(self, error: Exception | None) -> None:
        self._guard.closed(self._transport)
        if self._accepted:
            self._inner.connection_lost(error)


def _is_whole_prediction(data: bytes) -> bool:
    """Whether this is one request for a prediction with its whole body, and nothing else, on a connection to be kept."""
    if not data.startswith(b"POST /v1/models/"):
        return False
    head, ended, body = data.partition(b"\r\n\r\n")
    length = CONTENT_LENGTH.search(head)
    if not ended or length is None or b" HTTP/1.1\r\n" not in head or UNUSUAL.search(head):
        return False
    return len(body) == int(length[1])


def _refusal(error: ServeError, *, last: bool = False) -> bytes:
    ending = "Connection: close\r\n" if last else ""
    body = json.dumps(error_body(error))
    return (
        "HTTP/1.1 429 Too Many Requests\r\nContent-Type: application/json; charset=utf-8\r\nRetry-After: 1\r\n"
        f"X-Content-Type-Options: nosniff\r\n{ending}Content-Length: {len(body)}\r\n\r\n{body}"
    ).encode()
