"""Structured logs: one JSON object a line, on standard error."""

from __future__ import annotations

import asyncio
import json
import logging
import sys
from contextlib import suppress
from datetime import UTC, datetime
from typing import Any, TextIO

import orjson


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


class TurnHandler(logging.StreamHandler):
    """Writes what one turn of the event loop logs with one call: a call for each request is a seventh of its work.

    Errors, and what other threads log, are written at once.
    """

    def __init__(self, stream: TextIO):
        super().__init__(stream)
        self._lines: list[str] = []

    def emit(self, record: logging.LogRecord) -> None:
        """Take a line."""
        try:
            loop = asyncio.get_running_loop()
        except RuntimeError:
            super().emit(record)
            return
        if not self._lines:
            loop.call_soon(self.flush)
        self._lines.append(self.format(record) + self.terminator)
        if record.levelno >= logging.ERROR:
            self.flush()

    def flush(self) -> None:
        """Write the lines."""
        with self.lock, suppress(OSError):  # type: ignore[union-attr]  # nobody reads it: requests are answered all the same
            lines, self._lines = self._lines, []
            if lines:
                self.stream.write("".join(lines))
            super().flush()


def log_json(level: int = logging.INFO) -> None:
    """Write all logs of this process as JSON lines."""
    handler = TurnHandler(sys.stderr)
    handler.setFormatter(JsonLines())
    logging.basicConfig(level=level, handlers=[handler], force=True)
    for noisy in ("absl", "tensorflow", "aiohttp.access", "asyncio"):
        logging.getLogger(noisy).setLevel(logging.ERROR)
    # What no line shows need not be found out for each: https://docs.python.org/3/howto/logging.html#optimization
    logging._srcfile = None  # type: ignore[attr-defined]
    logging.logThreads = logging.logProcesses = logging.logMultiprocessing = False
