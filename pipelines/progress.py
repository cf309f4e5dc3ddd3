"""A progress bar with rate and time left where someone watches, and one closing line where nobody does."""

from __future__ import annotations

import sys
import time
from types import TracebackType

from tqdm import tqdm


class Progress:
    """Shows how far a long step is; a context manager.

    Args:
        label: what is being done, e.g. `photos`.
        total: how many units the step has, or None when unknown.
        unit: what is counted, e.g. `photo`, or `B` for bytes.
    """

    def __init__(self, label: str, total: int | None, *, unit: str):
        self._label, self._unit, self._done, self._start = label, unit, 0, time.monotonic()
        self._bar = tqdm(total=total, desc=label, unit=unit, unit_scale=True, disable=None, file=sys.stderr)

    def __enter__(self) -> Progress:
        return self

    def update(self, done: int = 1) -> None:
        """Report that `done` more units are ready."""
        self._done += done
        self._bar.update(done)

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._bar.close()
        if self._bar.disable and kind is None:
            seconds = max(time.monotonic() - self._start, 1e-9)
            amount, rate = (tqdm.format_sizeof(number) for number in (self._done, self._done / seconds))
            print(
                f"{self._label}: {amount}{self._unit} in {seconds:.1f} s ({rate}{self._unit}/s)",
                file=sys.stderr,
            )
