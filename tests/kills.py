"""Stops a write where a kill would do the most harm."""

import os
import shutil
from collections.abc import Collection, Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest


@contextmanager
def stopped_at_rename(number: int, *, of: Collection[Path] | None = None, killed: Path | None = None) -> Iterator[None]:
    """Raise KeyboardInterrupt in place of the `number`-th rename (of these paths) of the block, which must run into it.

    Args:
        number: from 1.
        of: count only renames of these paths.
        killed: a folder that is left as the rename would have found it, as by a kill: what the block did in it after the
            exception, to clean up, is undone.
    """
    met, renames = 0, {name: getattr(os, name) for name in ("rename", "replace")}

    def stops(name):
        def rename(source, target, **options):
            nonlocal met
            if of is None or Path(source) in of:
                met += 1
                if met == number:
                    if killed is not None:
                        shutil.copytree(killed, _copy(killed), symlinks=True)
                    raise KeyboardInterrupt
            return renames[name](source, target, **options)

        return rename

    with pytest.MonkeyPatch.context() as patch:
        for name in renames:
            patch.setattr(os, name, stops(name))
        with pytest.raises(KeyboardInterrupt):
            yield
    if killed is not None:
        shutil.rmtree(killed)
        _copy(killed).rename(killed)


def _copy(folder: Path) -> Path:
    return folder.with_name(f"{folder.name}-killed")
