"""How gRPC's messages are read: no more bytes of them at a time than agreed, and each in time.

Nothing says how large a message is before it is there. So each counts as the largest one while it is read, for which others
wait, and as what it is from then on.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass
from typing import Any
from weakref import WeakValueDictionary

import grpc

from tfrec.serve.batching import too_many
from tfrec.serve.errors import Code, ServeError


@dataclass(eq=False)
class Host:
    """Whose calls wait to be read: in `turns`, so many of them now."""

    turns: asyncio.Semaphore
    waiting: int = 0


class Messages:
    """Reads messages, for the event loop's thread alone.

    Args:
        max_bytes: of one message.
        max_bytes_at_once: of all messages that are being read, and of all that are being answered.
        seconds: that a client may take to send a message, once it is its turn.
        max_waiting: calls of one host that may wait to be read, so that silent ones do not take all places.
    """

    def __init__(self, *, max_bytes: int, max_bytes_at_once: int, seconds: float, max_waiting: int):
        self._most, self._held, self._seconds = max_bytes_at_once, 0, seconds
        readers = max(1, max_bytes_at_once // max_bytes)
        self._readers, self._of_one_host = asyncio.Semaphore(readers), max(1, readers // 4)
        # Silent calls of one host keep no other from being read.
        self._hosts: WeakValueDictionary[str, Host] = WeakValueDictionary()
        self._most_waiting = max_waiting

    @asynccontextmanager
    async def read(self, context: grpc.aio.ServicerContext) -> AsyncIterator[Any]:
        """A call's message, held until the end of the block.

        Raises:
            ServeError: DEADLINE_EXCEEDED, the client is too slow; RESOURCE_EXHAUSTED, too much is held, or too many calls
                of its host wait.
            CancelledError: the client has gone, or gRPC has refused its message as too large.
        """
        message = await self._next(context)
        size = message.ByteSize()
        if self._held + size > self._most:
            raise ServeError(Code.RESOURCE_EXHAUSTED, "too many large requests at once; try again later")
        self._held += size
        try:
            yield message
        finally:
            self._held -= size

    async def _next(self, context: grpc.aio.ServicerContext) -> Any:
        host = context.peer().rpartition(":")[0]
        own = self._hosts.get(host) or self._hosts.setdefault(host, Host(asyncio.Semaphore(self._of_one_host)))
        if own.waiting >= self._most_waiting:
            raise too_many(self._most_waiting)
        own.waiting += 1
        try:
            async with own.turns, self._readers, asyncio.timeout(self._seconds):
                message = await context.read()
        except TimeoutError:
            late = f"the message took longer than {self._seconds} s"
            raise ServeError(Code.DEADLINE_EXCEEDED, late) from None
        finally:
            own.waiting -= 1
        if message is grpc.aio.EOF:
            raise asyncio.CancelledError
        return message
