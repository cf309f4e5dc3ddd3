"""A progress bar with rate and time left where someone watches, and a line now and then where nobody does."""

from __future__ import annotations

import sys
import time
from types import TracebackType

from tqdm import tqdm

SILENCE = 60.0  # seconds without a line where nobody watches: in a container's log, or a file


class Progress:
    """Shows how far a long step is; a context manager.

    Args:
        label: what is being done, e.g. `photos`.
        total: how many units the step has, or None when unknown.
        unit: what is counted, as it follows the number: " photos", or "B" for bytes.
        done: units that were ready before, of a step that is taken up again.
        shown: False shows nothing.
    """

    def __init__(self, label: str, total: int | None, *, unit: str, done: int = 0, shown: bool = True):
        self._label, self._unit, self._total = label, unit, total
        self._before = self._done = done
        self._start = self._told = time.monotonic()
        hidden = None if shown else True  # None: hidden where stderr is no terminal
        self._bar = tqdm(
            total=total, initial=done, desc=label, unit=unit, unit_scale=True, disable=hidden, file=sys.stderr
        )
        self._tells = shown and self._bar.disable

    def __enter__(self) -> Progress:
        return self

    def update(self, done: int = 1, *, note: str = "") -> None:
        """Report that `done` more units are ready; `note` is shown beside the number until there is another one."""
        self._done += done
        if note:
            self._bar.set_postfix_str(note, refresh=False)
        self._bar.update(done)
        if self._tells and time.monotonic() - self._told > SILENCE:
            self._tell(note)

    def _tell(self, note: str) -> None:
        self._told = time.monotonic()
        seconds = max(self._told - self._start, 1e-9)
        rate = (self._done - self._before) / seconds
        of_all, left = "", ""
        if self._total is not None:
            of_all = f" of {_amount(self._total)}"
            left = f", {tqdm.format_interval((self._total - self._done) / rate)} left" if rate else ""
        print(
            f"{self._label}: {_amount(self._done)}{of_all}{self._unit} ({tqdm.format_sizeof(rate)}{self._unit}/s{left})",
            note,
            file=sys.stderr,
            flush=True,
        )

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._bar.close()
        done = self._done - self._before
        if self._tells and kind is None and done:
            seconds = max(time.monotonic() - self._start, 1e-9)
            rate = f"{tqdm.format_sizeof(done / seconds)}{self._unit}/s"
            print(f"{self._label}: {_amount(done)}{self._unit} in {seconds:.1f} s ({rate})", file=sys.stderr)


def _amount(number: int) -> str:
    return str(number) if number < 1000 else tqdm.format_sizeof(number)
