"""Files and folders that appear whole or not at all: filled under a hidden name beside their place, then renamed.

What has its name is whole, after a power cut too: its bytes are flushed to the disk before the rename, and the rename
after it. A kill leaves the old or the new one in its place. Only a folder that takes another's place can be stopped between
two renames: then the old one lies beside it under a hidden name, whole, until `put_back` returns it. Whoever writes that
place next does so first; whoever may read it first calls it.

Whatever else a kill leaves has a hidden name. The next writer of the place clears it: a file by writing over it, a folder
by the lock that its writer no longer holds. So what stays is a file whose writers share a place, and a folder where the
file system has no locks on folders (NFS).
"""

from __future__ import annotations

import errno
import fcntl
import os
import re
import secrets
import shutil
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path
from typing import IO

ASIDE = "-old"  # how the name of a folder ends that is being replaced
FLUSHES = 8  # at a time: a disk writes many small files together


@contextmanager
def written_whole(path: Path, *, shared: bool = False) -> Iterator[IO[bytes]]:
    """A binary stream to a file that gets its name at the end of the block, and not where the block fails.

    Args:
        path: the file; its folder must exist.
        shared: whether another process may write the same file at the same time, as when Ray thinks a worker dead that is
            not.
    """
    hidden = path.with_name(f".{path.name}.{secrets.token_hex(4)}.tmp" if shared else f".{path.name}.tmp")
    try:
        with open(hidden, "wb") as stream:
            yield stream
            stream.flush()
            os.fsync(stream.fileno())
        os.replace(hidden, path)
        flush(path.parent)
    finally:
        hidden.unlink(missing_ok=True)


def write_whole(path: Path, text: str, *, shared: bool = False) -> None:
    """Write a text as a file in UTF-8, see `written_whole`."""
    with written_whole(path, shared=shared) as stream:
        stream.write(text.encode())


@contextmanager
def filled_whole(out: Path) -> Iterator[Path]:
    """An empty folder to fill, which takes the place of `out` at the end of the block, and not where the block fails.

    Args:
        out: a folder, or where one is to be. Its parent is created when absent.
    """
    folder = HiddenFolder(out)
    try:
        yield folder.path
        folder.publish()
    finally:
        folder.close()


class HiddenFolder:
    """A folder `.tmp-<name>-*` beside `out`, owned by this process until it is published or discarded.

    For what one `with filled_whole(out)` cannot hold. A running process has a lock on its folder, which ends with the
    process, so that only abandoned folders are cleared.

    Args:
        out: the final place. Its parent is created when absent.

    Attributes:
        path: the hidden folder.
    """

    def __init__(self, out: Path):
        self._out = out = out.resolve()  # the folder that a link leads to is replaced, not the link
        if out.is_mount():
            raise OSError(errno.EBUSY, "a mount point cannot be replaced as a whole; name a folder in it", str(out))
        out.parent.mkdir(parents=True, exist_ok=True)
        with _locked(out.parent):  # no run shall clear a folder that another made but has not locked yet
            _clear_up(out)
            self.path = out.parent / f".tmp-{out.name}-{secrets.token_hex(4)}"
            self.path.mkdir()
            self._handle = os.open(self.path, os.O_RDONLY)
            _lock(self._handle)

    def publish(self) -> None:
        """See `take_place`."""
        take_place(self.path, self._out)

    def close(self) -> None:
        """Discard the folder unless it was published, and let go of the lock."""
        shutil.rmtree(self.path, ignore_errors=True)
        os.close(self._handle)


def take_place(filled: Path, out: Path) -> None:
    """Flush a folder and rename it to `out` beside it; what it replaces steps aside first and is removed last."""
    flush_tree(filled)
    out = out.resolve()
    aside = out.with_name(f".tmp-{out.name}-{secrets.token_hex(4)}{ASIDE}")
    with _locked(out.parent):  # no run shall put back what is aside for a moment
        replaces = out.exists()
        if replaces:
            os.rename(out, aside)
        try:
            os.rename(filled, out)
        except BaseException:
            if replaces:
                os.rename(aside, out)
            raise
        if replaces:
            aside = _given_up(aside)
        flush(out.parent)
    if replaces:
        shutil.rmtree(aside, ignore_errors=True)


def put_back(out: Path) -> None:
    """Put back the folder that a run moved aside and, killed, did not replace: it is the only copy."""
    out = out.resolve()
    if not out.exists() and any(_left_beside(out)):
        with _locked(out.parent):
            _put_back(out)


def clear_up(out: Path) -> None:
    """Put back what a killed run had moved aside, and remove what else killed runs left beside `out`."""
    out = out.resolve()
    if any(_left_beside(out)):
        with _locked(out.parent):
            _clear_up(out)


def is_free(folder: Path) -> bool:
    """Whether nothing would be lost if a folder took this place: it is absent or an empty folder."""
    return not folder.exists() or (folder.is_dir() and not any(folder.iterdir()))


def flush_tree(folder: Path) -> None:
    """Make all that is in a folder survive a power cut."""
    parents, files = [], []
    for parent, _, names in os.walk(folder):
        parents.append(Path(parent))
        files += [Path(parent, name) for name in names]
    with ThreadPoolExecutor(FLUSHES) as pool:
        list(pool.map(flush, files))
    for path in parents:
        flush(path)


def flush(path: Path) -> None:
    """Make a file's bytes, or a folder's names, survive a power cut."""
    handle = os.open(path, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)


def _left_beside(out: Path) -> Iterator[Path]:
    """The hidden folders of runs that write `out`, or were killed at it."""
    # Eight digits and no more: `.tmp-shop-*` would also match what belongs to `shop-raw` or `shop-20240301`.
    hidden = re.compile(rf"\.tmp-{re.escape(out.name)}-[0-9a-f]{{8}}({ASIDE})?")
    return (folder for folder in out.parent.glob(".tmp-*") if hidden.fullmatch(folder.name))


def _put_back(out: Path) -> None:
    """See `put_back`; the parent is locked, so no run is between its two renames."""
    aside = [folder for folder in _left_beside(out) if folder.name.endswith(ASIDE)]
    if aside and not out.exists():
        os.rename(max(aside, key=lambda folder: folder.stat().st_ctime_ns), out)


def _clear_up(out: Path) -> None:
    """See `clear_up`; the parent is locked."""
    _put_back(out)
    for left in list(_left_beside(out)):
        _remove_if_abandoned(_given_up(left))


def _given_up(folder: Path) -> Path:
    """The new path of a folder that nobody shall put back: a removal may be killed, which leaves a part of it."""
    return folder.rename(folder.with_name(folder.name.removesuffix(ASIDE))) if folder.name.endswith(ASIDE) else folder


def _remove_if_abandoned(folder: Path) -> None:
    try:
        handle = os.open(folder, os.O_RDONLY)
    except FileNotFoundError:  # whoever replaced it removes it
        return
    try:
        if _lock(handle):
            shutil.rmtree(folder, ignore_errors=True)
    finally:
        os.close(handle)


@contextmanager
def _locked(folder: Path) -> Iterator[None]:
    """Lock a folder for a block, where the file system can."""
    handle = os.open(folder, os.O_RDONLY)
    try:
        _lock(handle, wait=True)
        yield
    finally:
        os.close(handle)


def _lock(handle: int, *, wait: bool = False) -> bool:
    """Lock an open folder; False where another process holds it or the file system has no such locks."""
    try:
        fcntl.flock(handle, fcntl.LOCK_EX | (0 if wait else fcntl.LOCK_NB))
    except OSError:
        return False
    return True
