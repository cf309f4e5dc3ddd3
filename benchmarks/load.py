"""Clients that ask a server of TensorFlow Serving's REST interface, with as little work for each request as can be.

They share the machine with the server: what they add to a request's time would be taken for the server's. So one thread
waits for all sockets at once, without an event loop's tasks, and looks at nothing of an answer but its status and length.
"""

from __future__ import annotations

import gc
import select
import socket
import time
from collections import deque
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from urllib.parse import urlsplit

import numpy as np

STRAGGLER_SECONDS = 30.0  # requests that are not answered so long after the last one was sent have failed


@dataclass
class Answers:
    """What clients got.

    Attributes:
        due: when each request was to be sent, seconds from the start.
        sent: when it was.
        took: seconds from sending it to having read its answer.
        status: of HTTP; 0 where the connection failed.
    """

    due: np.ndarray
    sent: np.ndarray
    took: np.ndarray
    status: np.ndarray

    def goodput(self, start: float = 0.0, stop: float = np.inf) -> float:
        """Requests answered with 200 a second, of those that ended between two times."""
        ended = self.sent + self.took
        stop = min(stop, float(ended.max(initial=0)))
        inside = (ended >= start) & (ended < stop) & (self.status == 200)
        return float(inside.sum()) / max(stop - start, 1e-9)

    def errors(self, allowed: tuple[int, ...] = (200,)) -> int:
        """Requests that were answered otherwise, or not at all."""
        return int((~np.isin(self.status, allowed)).sum())

    def kinds(self) -> str:
        """How many requests were answered otherwise than with 200, by status (0: the connection failed)."""
        found, counts = np.unique(self.status[self.status != 200], return_counts=True)
        return ", ".join(f"{count} of {status}" for status, count in zip(found, counts)) or "none"

    def percentile(self, share: float) -> float:
        """Milliseconds within which that share of the good answers came."""
        return float(np.percentile(self.took[self.status == 200], 100 * share) * 1000)

    def lateness(self, share: float) -> float:
        """Milliseconds that the clients themselves were late with sending, at most, for that share of the requests."""
        return float(np.percentile(self.sent - self.due, 100 * share) * 1000)


class Load:
    """Clients of one address.

    Args:
        url: of the signature, http://HOST:PORT/PATH.
        bodies: of the requests, in turn.
    """

    def __init__(self, url: str, bodies: list[bytes]):
        parts = urlsplit(url)
        assert parts.hostname
        assert parts.port
        self._address = (parts.hostname, parts.port)
        head = f"POST {parts.path} HTTP/1.1\r\nHost: {parts.netloc}\r\nContent-Length: "
        self._requests = [f"{head}{len(body)}\r\n\r\n".encode() + body for body in bodies]

    def at_rate(self, rate: float, seconds: float, until: Callable[[], bool] | None = None) -> Answers:
        """Send requests whatever becomes of those before, at random times (a Poisson process).

        Args:
            rate: requests a second.
            seconds: how long.
            until: asked after each tenth of a second; the load ends early when it says so.
        """
        due = np.cumsum(np.random.default_rng(0).exponential(1 / rate, int(seconds * rate)))
        with _paused_collector(), _Sockets(self._address) as sockets:
            return self._ask(sockets, due.tolist(), until)

    def by_clients(self, clients: int, seconds: float) -> Answers:
        """Ask with clients that each wait for their answer before they ask again."""
        with _paused_collector(), _Sockets(self._address) as sockets:
            began, number, answers = time.perf_counter(), 0, []
            for number in range(clients):
                sockets.send(self._requests[number % len(self._requests)], due=0.0, sent=time.perf_counter() - began)
            while sockets.busy:
                for answer in sockets.answers(1.0, began):
                    answers.append(answer)
                    now = time.perf_counter() - began
                    if now < seconds:
                        number += 1
                        sockets.send(self._requests[number % len(self._requests)], due=now, sent=now)
            return _columns(answers)

    def _ask(self, sockets: _Sockets, due: list[float], until: Callable[[], bool] | None) -> Answers:
        began, answers, look = time.perf_counter(), [], 0.1
        for number, when in enumerate(due):
            while (early := when - (time.perf_counter() - began)) > 0:
                answers += sockets.answers(early, began)
            if number % 16 == 0:  # also where the clients are behind with sending
                answers += sockets.answers(0.0, began)
            sockets.send(self._requests[number % len(self._requests)], due=when, sent=time.perf_counter() - began)
            if until and when > look:
                look = when + 0.1
                if until():
                    break
        give_up = time.perf_counter() + STRAGGLER_SECONDS
        while sockets.busy and time.perf_counter() < give_up:
            answers += sockets.answers(0.1, began)
        answers += sockets.unanswered()
        return _columns(answers)


Answer = tuple[float, float, float, int]  # due, sent, took, status


@dataclass
class _Waiting:
    """A connection whose request is under way."""

    socket: socket.socket
    due: float
    sent: float
    received: bytes = b""


class _Sockets:
    """Connections that stay open: one for each request under way."""

    def __init__(self, address: tuple[str, int]):
        self._address, self._epoll = address, select.epoll()
        self._idle: deque[socket.socket] = deque()
        self._under_way: dict[int, _Waiting] = {}
        self._failed: list[Answer] = []

    def __enter__(self) -> _Sockets:
        return self

    def __exit__(self, *exception: object) -> None:
        for connection in [*self._idle, *(one.socket for one in self._under_way.values())]:
            connection.close()
        self._epoll.close()

    @property
    def busy(self) -> bool:
        """Whether a request is under way."""
        return bool(self._under_way or self._failed)

    def unanswered(self) -> list[Answer]:
        """The requests under way, given up."""
        return [(one.due, one.sent, STRAGGLER_SECONDS, 0) for one in self._under_way.values()]

    def send(self, request: bytes, *, due: float, sent: float) -> None:
        """Send a request on the connection that was idle for longest, or on a new one."""
        try:
            connection = self._idle.popleft() if self._idle else self._connect()
        except OSError:
            self._failed.append((due, sent, 0.0, 0))
            return
        self._under_way[connection.fileno()] = _Waiting(connection, due, sent)
        with suppress(OSError):  # closed by the server, as reading will tell
            connection.sendall(request)

    def answers(self, seconds: float, began: float) -> Iterator[Answer]:
        """The answers that have come, once there is one or the time is up."""
        yield from self._failed
        self._failed = []
        for number, _ in self._epoll.poll(seconds):
            waiting = self._under_way.get(number)
            if waiting is None:
                self._forget_idle(number)
                continue
            status = self._read(waiting)
            if status is not None:
                del self._under_way[number]
                yield waiting.due, waiting.sent, time.perf_counter() - began - waiting.sent, status

    def _connect(self) -> socket.socket:
        connection = socket.create_connection(self._address, timeout=10)
        connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        self._epoll.register(connection, select.EPOLLIN)
        return connection

    def _read(self, waiting: _Waiting) -> int | None:
        """The status of a complete answer; None while it is not; 0 where the connection failed."""
        try:
            received = waiting.socket.recv(1 << 16)
        except OSError:
            received = b""
        if not received:
            waiting.socket.close()
            return 0
        waiting.received += received
        head, ended, body = waiting.received.partition(b"\r\n\r\n")
        if not ended or len(body) < int(head.lower().partition(b"content-length: ")[2].split(b"\r", 1)[0]):
            return None
        if b"connection: close" in head.lower():
            waiting.socket.close()
        else:
            self._idle.append(waiting.socket)
        return int(head.split(b" ", 2)[1])

    def _forget_idle(self, number: int) -> None:
        """The server has closed a connection that nobody used."""
        for connection in self._idle:
            if connection.fileno() == number:
                self._idle.remove(connection)
                connection.close()
                return


def _columns(answers: list[Answer]) -> Answers:
    return Answers(*(np.array(column) for column in zip(*answers, strict=True)))


@contextmanager
def _paused_collector() -> Iterator[None]:
    """The clients' own pauses are not the server's."""
    gc.disable()
    try:
        yield
    finally:
        gc.enable()
