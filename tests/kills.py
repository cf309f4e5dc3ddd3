"""Stops a write where a kill would do the most harm."""

from collections.abc import Collection, Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest


@contextmanager
def stopped_at_rename(number: int, *, of: Collection[Path] | None = None) -> Iterator[None]:
    """Raise KeyboardInterrupt in place of the `number`-th rename (of these paths) of the block, which must run into it."""
    rename, met = Path.rename, 0

    def stops(self, target):
        nonlocal met
        if of is None or self in of:
            met += 1
            if met == number:
                raise KeyboardInterrupt
        return rename(self, target)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(Path, "rename", stops)
        with pytest.raises(KeyboardInterrupt):
            yield
