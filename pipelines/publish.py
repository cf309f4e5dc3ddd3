"""A folder that appears whole or not at all: filled under a hidden name beside its target, then renamed."""

from __future__ import annotations

import fcntl
import glob
import os
import secrets
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

ASIDE = "-old"  # how the name of a folder ends that is being replaced


class HiddenFolder:
    """A folder `.tmp-<name>-*` beside `out`, owned by this process until it is published or discarded.

    Making one clears what killed runs left beside `out`, and puts back what one had moved aside. A running process
    holds a lock on its folder, which ends with the process, so only abandoned folders are cleared.

    Args:
        out: the final place. Its parent is created when absent.

    Attributes:
        path: the hidden folder.
    """

    def __init__(self, out: Path):
        self._out = out
        out.parent.mkdir(parents=True, exist_ok=True)
        with _locked(out.parent) as locked:  # no run shall clear a folder that another made but has not locked yet
            if locked:
                _put_back(out)
                for stale in _left_beside(out):
                    _remove_if_abandoned(stale)
            self.path = out.parent / f".tmp-{out.name}-{secrets.token_hex(4)}"
            self.path.mkdir()
            self._handle = os.open(self.path, os.O_RDONLY)
            _lock(self._handle)

    def publish(self) -> None:
        """Rename the folder to its final place; what it replaces steps aside first and is removed last."""
        aside = self.path.with_name(self.path.name + ASIDE)
        with _locked(self._out.parent):  # no run shall put back what is aside for a moment
            replaces = self._out.exists()
            if replaces:
                os.rename(self._out, aside)
            try:
                os.rename(self.path, self._out)
            except BaseException:
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


def put_back(out: Path) -> None:
    """Put back the folder that a run moved aside and, killed, did not replace: it is the only copy."""
    if not out.exists() and any(_left_beside(out)):
        with _locked(out.parent) as locked:
            if locked:
                _put_back(out)


def is_free(folder: Path) -> bool:
    """Whether nothing would be lost if a folder took this place: it is absent or an empty folder."""
    return not folder.exists() or (folder.is_dir() and not any(folder.iterdir()))


def _left_beside(out: Path) -> Iterator[Path]:
    """The hidden folders of runs that write `out`, or were killed at it."""
    # Eight digits and no less: `.tmp-demo-*` would also match what belongs to `demo-raw`.
    return out.parent.glob(f".tmp-{glob.escape(out.name)}-{'[0-9a-f]' * 8}*")


def _put_back(out: Path) -> None:
    """See `put_back`; the parent is locked, so no run is between its two renames."""
    aside = [folder for folder in _left_beside(out) if folder.name.endswith(ASIDE)]
    if aside and not out.exists():
        os.rename(max(aside, key=lambda folder: folder.stat().st_ctime_ns), out)


def _remove_if_abandoned(folder: Path) -> None:
    handle = os.open(folder, os.O_RDONLY)
    try:
        if _lock(handle):
            shutil.rmtree(folder, ignore_errors=True)
    finally:
        os.close(handle)


@contextmanager
def _locked(folder: Path) -> Iterator[bool]:
    """Lock a folder for a block, which is told whether that could be done."""
    handle = os.open(folder, os.O_RDONLY)
    try:
        yield _lock(handle, wait=True)
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
