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
from contextlib import AbstractContextManager, contextmanager, suppress
from pathlib import Path, PurePosixPath
from typing import IO, Any

from filelock import FileLock

from pipelines.publish import filled_whole, written_whole

CACHE = "TFREC_CACHE"
# What tells that a file has changed, by file system; other entries change by reading alone.
CHANGES = ("ETag", "etag", "md5Hash", "generation", "mtime", "LastModified", "last_modified", "updated", "created")


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

    with told(text):
        place: Any = UPath(text, protocol=text.partition("://")[0])
        place.fs  # noqa: B018  (made here, so that a package that is missing is told here)
        return place


def local_path(text: str) -> Path:
    """The path that an option names, where addresses cannot be written to or worked in.

    Raises:
        RemoteError: it is an address.
    """
    if "://" in text:
        raise RemoteError(f"{text}: name a path of this machine here; addresses are for what is read, and for retrieve")
    return Path(text)


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
    with told(str(place)):
        found = place.fs.find(place.path, detail=True)
        if not found:
            raise RemoteError(f"{place}: nothing is there")
        files = {name: _inside(place, name) for name in found}
        described = [_described(name, info or place.fs.info(name)) for name, info in sorted(found.items())]
        folder = _cache() / hashlib.sha256(repr([str(place), described]).encode()).hexdigest()[:32]
        folder.mkdir(parents=True, exist_ok=True)
        copy = folder / "copy"
        with FileLock(folder / ".lock"):
            if not copy.exists():
                with filled_whole(copy) as hidden:
                    for name, inside in files.items():
                        target = hidden / place.name / inside
                        target.parent.mkdir(parents=True, exist_ok=True)
                        place.fs.get_file(name, str(target))
        return copy / place.name


def _cache() -> Path:
    return Path(os.environ.get(CACHE) or Path.home() / ".cache" / "tfrec")


def _inside(place: Any, name: str) -> str:
    """Where a file of a folder belongs in its copy; an object's name may be anything."""
    inside = name.removeprefix(place.path).lstrip("/")
    if ".." in PurePosixPath(inside).parts:
        raise RemoteError(f"{place}: {name!r} does not lie in it; rename it")
    return inside


def _described(name: str, info: dict[str, Any]) -> tuple[str, Any, list[tuple[str, str]]]:
    return name, info.get("size"), [(key, str(info[key])) for key in CHANGES if key in info]


def can_be_asked(path: Path) -> None:
    """See that an address answers; whether anything is there is another question.

    Raises:
        RemoteError: it does not: it may not be read, or cannot be reached.
    """
    place: Any = path
    if is_remote(path):
        with told(str(path)), suppress(FileNotFoundError):
            place.fs.info(place.path)


@contextmanager
def sent_whole(path: Path) -> Iterator[IO[bytes]]:
    """A binary stream to a file of this machine that is sent to an address once all of it is there.

    It is sent under another name: not every file system shows a file only when it is whole.

    Raises:
        RemoteError: it cannot be sent.
    """
    place: Any = path
    hidden: Any = place.with_name(f".{place.name}.{uuid.uuid4().hex[:8]}.tmp")
    _cache().mkdir(parents=True, exist_ok=True)
    with tempfile.NamedTemporaryFile(dir=_cache()) as stream:  # of the size of the output
        yield stream
        stream.flush()
        with told(str(place)):
            try:
                place.fs.put_file(stream.name, hidden.path)
                place.fs.mv(hidden.path, place.path)
            except BaseException:
                with suppress(Exception):
                    place.fs.rm_file(hidden.path)
                raise


def written_or_sent(path: Path, *, shared: bool = False) -> AbstractContextManager[IO[bytes]]:
    """A binary stream to a file of this machine (`written_whole`) or at an address (`sent_whole`)."""
    return sent_whole(path) if is_remote(path) else written_whole(path, shared=shared)


def remove_folder(path: Path) -> None:
    """Remove a folder and all that is in it, here or at an address."""
    place: Any = path
    if not is_remote(path):
        shutil.rmtree(path)
        return
    with told(str(path)):
        place.fs.rm(place.path, recursive=True)


@contextmanager
def told(place: str) -> Iterator[None]:
    """Name the address in whatever its file system raises: each has errors of its own."""
    try:
        yield
    except RemoteError:
        raise
    except Exception as error:
        raise RemoteError(f"{place}: {type(error).__name__}: {error}") from error
