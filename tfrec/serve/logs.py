"""Structured logs: one JSON object a line, on standard error."""

from __future__ import annotations

import asyncio
import json
import logging
import os
import threading
from collections.abc import Callable
from contextlib import suppress
from datetime import UTC, datetime
from typing import Any

import orjson

STDERR = 2
MOST_LINES = 10_000  # that wait for who reads them: some megabytes
FLUSH_SECONDS = 2.0


def _encode(line: dict[str, Any]) -> str:
    try:
        return orjson.dumps(line, default=str).decode()
    except TypeError:  # numbers beyond 64 bits, text that is not Unicode: which clients may send
        return json.dumps(line, default=str)


class JsonLines(logging.Formatter):
    """A record as JSON: time, level, message, and the fields given as `extra={"fields": {...}}`."""

    def format(self, record: logging.LogRecord) -> str:
        """Return the line."""
        line = {
            "time": datetime.fromtimestamp(record.created, UTC).isoformat(timespec="milliseconds"),
            "level": record.levelname,
            "message": record.getMessage(),
            **{key: value for key, value in getattr(record, "fields", {}).items() if value not in ("", None)},
        }
        if record.exc_info:
            line["exception"] = self.formatException(record.exc_info)
        return _encode(line)


class LineWriter:
    """Writes lines in a thread of its own: a pipe that nobody reads stops who writes to it, who must not be the event loop.

    Args:
        write: writes text; may block.
        most: lines that may wait; further ones are dropped. Errors have as much room again.

    Attributes:
        dropped: told how many lines were dropped; to be set.
    """

    def __init__(self, write: Callable[[str], object], most: int = MOST_LINES):
        self._write, self._most = write, most
        self.dropped: Callable[[int], object] = lambda count: None
        self._waiting: list[str] = []
        self._writing = False
        self._changed = threading.Condition()
        threading.Thread(target=self._work, name="log", daemon=True).start()

    def put(self, lines: list[str], *, error: bool) -> None:
        """Take lines, the last of which is an error or not; never waits for who reads them."""
        with self._changed:
            room = max(0, (2 if error else 1) * self._most - len(self._waiting))
            self._waiting += lines[:room]
            self._changed.notify_all()
        if len(lines) > room:
            self.dropped(len(lines) - room)

    def wait(self, seconds: float) -> None:
        """Wait until all is written, or so long."""
        with self._changed:
            self._changed.wait_for(lambda: not self._waiting and not self._writing, seconds)

    def _work(self) -> None:
        while True:
            with self._changed:
                self._writing = False
                self._changed.notify_all()
                self._changed.wait_for(lambda: self._waiting)
                lines, self._waiting, self._writing = self._waiting, [], True
            with suppress(OSError):  # nobody reads it any more: requests are answered all the same
                self._write("".join(lines))


class TurnHandler(logging.Handler):
    """Writes what one turn of the event loop logs with one call: a call for each request is a seventh of its work.

    Errors, and what other threads log, are handed to the writer at once.
    """

    def __init__(self, writer: LineWriter):
        super().__init__()
        self._writer = writer
        self._lines: list[str] = []

    def emit(self, record: logging.LogRecord) -> None:
        """Take a line."""
        line, error = self.format(record) + "\n", record.levelno >= logging.ERROR
        try:
            loop = asyncio.get_running_loop()
        except RuntimeError:
            self._writer.put([line], error=error)
            return
        if not self._lines:
            loop.call_soon(self._hand_over)
        self._lines.append(line)
        if error:
            self._hand_over(error=True)

    def _hand_over(self, *, error: bool = False) -> None:
        lines, self._lines = self._lines, []
        if lines:
            self._writer.put(lines, error=error)

    def flush(self) -> None:
        """Wait until all is written, as Python asks for at exit; not for long where nobody reads."""
        self._hand_over()
        self._writer.wait(FLUSH_SECONDS)


def write_stderr(text: str) -> None:
    """Write to standard error past Python's buffer: its lock, held by a thread that waits, would let nobody exit."""
    left = memoryview(text.encode("utf-8", "backslashreplace"))
    while left:
        left = left[os.write(STDERR, left) :]


def log_json(level: int = logging.INFO) -> LineWriter:
    """Write all logs of this process as JSON lines; returns what writes them."""
    writer = LineWriter(write_stderr)
    handler = TurnHandler(writer)
    handler.setFormatter(JsonLines())
    logging.basicConfig(level=level, handlers=[handler], force=True)
    for noisy in ("absl", "tensorflow", "aiohttp.access", "asyncio"):
        logging.getLogger(noisy).setLevel(logging.ERROR)
    # What no line shows need not be found out for each: https://docs.python.org/3/howto/logging.html#optimization
    logging._srcfile = None  # type: ignore[attr-defined]
    logging.logThreads = logging.logProcesses = logging.logMultiprocessing = False
    return writer
