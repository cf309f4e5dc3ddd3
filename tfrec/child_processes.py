"""Programs that end with the one that started them, and with them all that they started in turn."""

from __future__ import annotations

import os
import signal
import subprocess
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress

GRACE_SECONDS = 10.0  # between the request to end and the end
TIMED_OUT = 124  # the exit code that coreutils' timeout gives


class Children:
    """Runs programs, each in a process group of its own; leaving the context ends those that still run."""

    def __init__(self) -> None:
        self._running: set[subprocess.Popen] = set()
        self._stopped = False
        self._lock = threading.Lock()

    def __enter__(self) -> Children:
        return self

    def __exit__(self, *_: object) -> None:
        with self._lock:
            self._stopped = True
            running = list(self._running)
        for child in running:
            _signal(child, signal.SIGTERM)
        latest = time.monotonic() + GRACE_SECONDS
        for child in running:
            with suppress(subprocess.TimeoutExpired):
                child.wait(max(0.0, latest - time.monotonic()))
            _signal(child, signal.SIGKILL)

    def run(self, command: list[str], *, minutes: float | None = None) -> tuple[int, str]:
        """Run a program to its end, on any thread.

        Args:
            command: its words.
            minutes: after which it is ended; None: never.

        Returns:
            Its exit code, that of SIGTERM where the context is left already, `TIMED_OUT` after `minutes`; and what it wrote.
        """
        with self._lock:
            if self._stopped:
                return -signal.SIGTERM, ""
            child = subprocess.Popen(
                command,
                stdout=subprocess.PIPE,
                stderr=subprocess.STDOUT,
                text=True,
                errors="replace",
                process_group=0,
            )
            self._running.add(child)
        try:
            output, _ = child.communicate(timeout=None if minutes is None else 60 * minutes)
            return child.returncode, output
        except subprocess.TimeoutExpired:
            _signal(child, signal.SIGKILL)
            output, _ = child.communicate()
            return TIMED_OUT, f"{output}\nstopped after {minutes} minutes"
        finally:
            with self._lock:
                self._running.discard(child)


@contextmanager
def interrupted_by_signals() -> Iterator[None]:
    """Have SIGTERM and SIGHUP interrupt the block as Ctrl-C does; to be used in the main thread."""

    def interrupt(*_: object) -> None:
        raise KeyboardInterrupt

    heeded = [one for one in (signal.SIGTERM, signal.SIGHUP) if signal.getsignal(one) != signal.SIG_IGN]  # as of nohup
    before = {one: signal.signal(one, interrupt) for one in heeded}
    try:
        yield
    finally:
        for one, handler in before.items():
            signal.signal(one, handler)


def _signal(child: subprocess.Popen, number: signal.Signals) -> None:
    with suppress(ProcessLookupError):
        os.killpg(child.pid, number)
