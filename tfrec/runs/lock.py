"""One writer a folder: what two processes write into one run's folder fits neither."""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

LOCK = ".lock"


class FolderInUseError(ValueError):
    """Another process writes into the folder."""


@contextmanager
def only_writer(folder: Path, *, told: str = "") -> Iterator[None]:
    """Keep other processes from `folder`, which is made where it is absent, and removed again where nothing came into it.

    The lock ends with this process at the latest.

    Args:
        folder: to write into.
        told: what to say where another process has it; that `--out` names a folder in use where "".

    Raises:
        FolderInUseError: another process has it.
    """
    from filelock import FileLock, Timeout

    made = not folder.exists()
    folder.mkdir(parents=True, exist_ok=True)
    lock = FileLock(folder / LOCK)
    try:
        lock.acquire(blocking=False)
    except Timeout:
        usual = f"--out {folder}: another process writes there; wait for it or end it, or name another folder"
        raise FolderInUseError(told or usual) from None
    try:
        yield
    finally:
        if made and folder.is_dir() and [file.name for file in folder.iterdir()] == [LOCK]:
            shutil.rmtree(folder, ignore_errors=True)
        lock.release()


def is_in_use(folder: Path) -> bool:
    """Whether another process, or another lock of this one, writes into `folder`."""
    if not (folder / LOCK).exists():
        return False
    try:
        with only_writer(folder):
            return False
    except FolderInUseError:
        return True
