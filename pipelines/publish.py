"""A folder that appears whole or not at all: filled under a hidden name beside its target, then renamed."""

from __future__ import annotations

import fcntl
import glob
import os
import secrets
import shutil
from pathlib import Path


class HiddenFolder:
    """A folder `.tmp-<name>-*` beside `out`, owned by this process until it is published or discarded.

    Making one clears what killed runs left beside `out`. A running process holds a lock on its folder, which
    ends with the process, so only abandoned folders are cleared.

    Args:
        out: the final place. Its parent is created when absent.

    Attributes:
        path: the hidden folder.
    """

    def __init__(self, out: Path):
        self._out = out
        out.parent.mkdir(parents=True, exist_ok=True)
        parent = os.open(out.parent, os.O_RDONLY)
        try:  # the parent stays locked: no run shall clear a folder that another made but has not locked yet
            if _lock(parent, wait=True):
                # Eight digits and no less: `.tmp-demo-*` would also match what belongs to `demo-raw`.
                for stale in out.parent.glob(f".tmp-{glob.escape(out.name)}-{'[0-9a-f]' * 8}*"):
                    _remove_if_abandoned(stale)
            self.path = out.parent / f".tmp-{out.name}-{secrets.token_hex(4)}"
            self.path.mkdir()
            self._handle = os.open(self.path, os.O_RDONLY)
            _lock(self._handle)
        finally:
            os.close(parent)

    def publish(self) -> None:
        """Rename the folder to its final place; what it replaces steps aside first and is removed last."""
        aside = self.path.with_name(self.path.name + "-old")
        replaces = self._out.exists()
        if replaces:
            os.rename(self._out, aside)
        try:
            os.rename(self.path, self._out)
        except OSError:
            if replaces:
                os.rename(aside, self._out)
            raise
        _sync_folder(self._out.parent)
        if replaces:
            shutil.rmtree(aside, ignore_errors=True)

    def close(self) -> None:
        """Discard the folder unless it was published, and let go of the lock."""
        shutil.rmtree(self.path, ignore_errors=True)
        os.close(self._handle)


def is_free(folder: Path) -> bool:
    """Whether nothing would be lost if a folder took this place: it is absent or an empty folder."""
    return not folder.exists() or (folder.is_dir() and not any(folder.iterdir()))


def _remove_if_abandoned(folder: Path) -> None:
    handle = os.open(folder, os.O_RDONLY)
    try:
        if _lock(handle):
            shutil.rmtree(folder, ignore_errors=True)
    finally:
        os.close(handle)


def _lock(handle: int, *, wait: bool = False) -> bool:
    """Lock an open folder; False where another process holds it or the file system has no such locks."""
    try:
        fcntl.flock(handle, fcntl.LOCK_EX | (0 if wait else fcntl.LOCK_NB))
    except OSError:
        return False
    return True


def _sync_folder(folder: Path) -> None:
    """Make the rename itself survive a power cut."""
    handle = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)
