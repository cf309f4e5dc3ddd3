"""What all commands share: logging, and errors as one line with an exit code."""

from __future__ import annotations

import errno
import gc
import logging
import re
import sys
from collections.abc import Callable
from pathlib import Path

FORMAT = "%(asctime)s %(levelname)s %(message)s"
# Libraries and traced graphs are a million objects that stay: walked as often as Python's own thresholds ask (700, 10, 10),
# they take a tenth of a short training.
COLLECTIONS = (20_000, 50, 100)
FULL = (errno.ENOSPC, errno.EDQUOT)


def run_command(
    command: Callable[[], int],
    *,
    after_full_disk: str = "give the same command again",
    interrupted: str = "interrupted",
) -> int:
    """Run a command's body.

    Args:
        command: returns the exit code.
        after_full_disk: how the user goes on once there is room on the disk.
        interrupted: what is said when the user stops it.

    Returns:
        Its exit code; 2, with one line on stderr, for wrong options, data or files; 1, with one line, for a full disk,
        whatever else the operating system reports, and values that have become infinite; 130 when interrupted. Any
        other exception is a defect of tfrec's and goes on as it is.
    """
    gc.set_threshold(*COLLECTIONS)
    logging.basicConfig(level=logging.INFO, format="%(message)s", stream=sys.stderr)
    for noisy in ("absl", "tensorflow", "h5py"):
        logging.getLogger(noisy).setLevel(logging.ERROR)
    try:
        return command()
    except KeyboardInterrupt:
        print(interrupted, file=sys.stderr)
        return 130
    except Exception as error:
        if is_full_disk(error):
            print(f"error: the disk is full ({name_of(error)}); make room, then {after_full_disk}", file=sys.stderr)
            return 1
        code = exit_code(error)
        if code is None:
            raise
        print(f"error: {error}", file=sys.stderr)
        return code


def exit_code(error: Exception) -> int | None:
    """The exit code that an error of the user's, or of a training, ends a command with; None for a defect."""
    files = (FileNotFoundError, FileExistsError, NotADirectoryError, IsADirectoryError, PermissionError)
    if isinstance(error, (ValueError, ImportError, *files)) and is_users(error):
        return 2
    if isinstance(error, (FloatingPointError, OSError)) or (isinstance(error, RuntimeError) and is_users(error)):
        return 1
    return None


def is_users(error: BaseException) -> bool:
    """Whether an error speaks to the user: tfrec's own (`ConfigError`, `PreparedError` ...) or the file system's."""
    own = type(error).__module__.split(".")[0] in ("tfrec", "pipelines")
    return own or isinstance(error, OSError)


def is_full_disk(error: BaseException) -> bool:
    """Whether an error says that there is no room to write, in the words of the system, HDF5, NumPy or TensorFlow."""
    if isinstance(error, OSError):
        said = str(error)
        return (
            error.errno in FULL or "No space left" in said or (" requested and " in said and said.endswith(" written"))
        )
    return type(error).__name__ == "ResourceExhaustedError" and "No space left" in str(error)


def name_of(error: BaseException) -> str:
    """The file that an error names, else what it says first, without the node of TensorFlow's graph."""
    said = re.sub(r"\{\{.*?\}\}|\[Op:\w+\]", "", str(error)).strip()
    return str(getattr(error, "filename", None) or said.split("\n")[0])


class _LogFile(logging.FileHandler):
    def handleError(self, record: logging.LogRecord) -> None:
        """Say nothing: a full disk stops the command itself, and each line of the log would come with a traceback."""


def log_to(path: Path) -> logging.Handler:
    """Also write the log to a file; returns the handler that does."""
    handler = _LogFile(path, encoding="utf-8")
    handler.setFormatter(logging.Formatter(FORMAT))
    logging.getLogger("tfrec").addHandler(handler)
    return handler
