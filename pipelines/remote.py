"""Datasets, models and outputs at addresses of fsspec: s3://, gs://, abfs://, sftp:// and others
(https://filesystem-spec.readthedocs.io).

What is read, is read through memory maps. So it is copied to this machine first, once, into `$TFREC_CACHE` or
`~/.cache/tfrec`. What is written, is made on this machine and sent when it is whole.
"""

from __future__ import annotations

import hashlib
import os
import shutil
import tempfile
import uuid
from argparse import ArgumentTypeError
from collections.abc import Iterator
from contextlib import closing, contextmanager
from pathlib import Path
from typing import IO, Any

from filelock import FileLock

from pipelines.publish import HiddenFolder

CACHE = "TFREC_CACHE"


class RemoteError(ValueError, ArgumentTypeError):  # argparse shows the message of the latter alone
    """An address that cannot be read or written; the message names it."""


def location(text: str) -> Path:
    """The path or address that an option names: a `Path`, or what can be used as one.

    Raises:
        RemoteError: fsspec knows no such kind of address, or its package is not installed.
    """
    if "://" not in text:
        return Path(text)
    from upath import UPath  # fsspec takes a while to load

    with _told(text):
        place: Any = UPath(text, protocol=text.partition("://")[0])
        place.fs  # noqa: B018  (made here, so that a package that is missing is told here)
        return place


def is_remote(path: Path) -> bool:
    """Whether it is an address, not a path of this machine."""
    return not isinstance(path, Path)


def local_copy(path: str | Path) -> Path:
    """A folder or file on this machine: itself, or a copy of what is at an address.

    A copy is made once: again only when a file there has changed. Processes that ask at the same time wait for one of
    them.

    Raises:
        RemoteError: nothing is there, or it cannot be read.
    """
    place: Any = location(path) if isinstance(path, str) else path
    if not is_remote(place):
        return place
    with _told(str(place)):
        files = place.fs.find(place.path, detail=True)
        if not files:
            raise RemoteError(f"{place}: nothing is there")
        identity = hashlib.sha256(repr([str(place), sorted(map(str, files.values()))]).encode()).hexdigest()[:32]
        folder = Path(os.environ.get(CACHE) or Path.home() / ".cache" / "tfrec") / identity
        folder.mkdir(parents=True, exist_ok=True)
        copy = folder / "copy"
        with FileLock(folder / ".lock"):
            if not copy.exists():
                with closing(HiddenFolder(copy)) as hidden:
                    for name in files:
                        target = hidden.path / place.name / name.removeprefix(place.path).lstrip("/")
                        target.parent.mkdir(parents=True, exist_ok=True)
                        place.fs.get_file(name, str(target))
                    hidden.publish()
        return copy / place.name


@contextmanager
def sent_whole(path: Path) -> Iterator[IO[bytes]]:
    """A binary stream to a file of this machine that is sent to an address once all of it is there.

    It is sent under another name: not every file system shows a file only when it is whole.

    Raises:
        RemoteError: it cannot be sent.
    """
    place: Any = path
    hidden: Any = place.with_name(f".{place.name}.{uuid.uuid4().hex[:8]}.tmp")
    with tempfile.NamedTemporaryFile() as stream:
        yield stream
        stream.flush()
        with _told(str(place)):
            place.fs.put_file(stream.name, hidden.path)
            place.fs.mv(hidden.path, place.path)


def remove_folder(path: Path) -> None:
    """Remove a folder and all that is in it, here or at an address."""
    place: Any = path
    if not is_remote(path):
        shutil.rmtree(path)
        return
    with _told(str(path)):
        place.fs.rm(place.path, recursive=True)


@contextmanager
def _told(place: str) -> Iterator[None]:
    """Name the address in whatever its file system raises: each has errors of its own."""
    try:
        yield
    except RemoteError:
        raise
    except Exception as error:
        raise RemoteError(f"{place}: {type(error).__name__}: {error}") from error
