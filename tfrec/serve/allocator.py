"""The memory allocator that the server runs under.

Loading a version and closing the one before leaves glibc's allocator with long lists of small free pieces, which it
walks again and again: after twenty swaps a version takes half as long again to load, and a batch half as long again to
run. jemalloc and mimalloc keep pieces of one size together and do not slow down. An allocator can only be chosen before
a process starts, so the command starts itself again.
"""

from __future__ import annotations

import ctypes.util
import os
import sys
from collections.abc import Callable
from importlib.metadata import PackageNotFoundError, files
from pathlib import Path

from tfrec.serve.errors import ServeConfigError

AUTO, SYSTEM = "auto", "system"
VARIABLE = "LD_PRELOAD"


def use_allocator(choice: str, execute: Callable[[str, list[str], dict[str, str]], object] = os.execve) -> None:
    """Start this process again under an allocator; returns where it runs under the right one.

    Args:
        choice: "auto" for the best that is installed, "system" for the one of the system, or the path of a library. Who
            sets LD_PRELOAD has chosen already.
        execute: replaces the process; its id stays.

    Raises:
        ServeConfigError: there is no such library.
    """
    if choice == SYSTEM or sys.platform != "linux" or os.environ.get(VARIABLE):
        return
    if choice != AUTO and not Path(choice).is_file():
        raise ServeConfigError(f"--allocator {choice}: no such file; give {AUTO}, {SYSTEM} or the path of a library")
    library = find_allocator() if choice == AUTO else str(Path(choice).resolve())
    if library is not None:
        execute(sys.executable, [sys.executable, *sys.orig_argv[1:]], os.environ | {VARIABLE: library})


def find_allocator() -> str | None:
    """The library of the system's jemalloc, else of the installed package of mimalloc; None where there is neither."""
    return ctypes.util.find_library("jemalloc") or _packaged("cmeel-mimalloc", "libmimalloc.so")


def allocator_in_use() -> str:
    """The library's name, for the log."""
    return Path(os.environ.get(VARIABLE, "") or SYSTEM).name


def _packaged(package: str, name: str) -> str | None:
    try:
        found = [path for path in files(package) or [] if path.name == name]
    except PackageNotFoundError:
        return None
    return str(Path(str(found[0].locate())).resolve()) if found else None
