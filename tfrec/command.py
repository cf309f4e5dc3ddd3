"""What all commands share: logging, and errors as one line with an exit code."""

from __future__ import annotations

import logging
import sys
from collections.abc import Callable
from pathlib import Path

FORMAT = "%(asctime)s %(levelname)s %(message)s"


def run_command(command: Callable[[], int]) -> int:
    """Run a command's body.

    Returns:
        Its exit code; 2, with one line on stderr, for wrong options, data or files; 130 when interrupted. Any other
        exception is a defect of tfrec's and goes on as it is.
    """
    logging.basicConfig(level=logging.INFO, format="%(message)s", stream=sys.stderr)
    for noisy in ("absl", "tensorflow", "h5py"):
        logging.getLogger(noisy).setLevel(logging.ERROR)
    try:
        return command()
    except (
        ValueError,
        FileNotFoundError,
        FileExistsError,
        NotADirectoryError,
        PermissionError,
        ImportError,
    ) as error:
        if not is_users(error):
            raise
        print(f"error: {error}", file=sys.stderr)
        return 2
    except (FloatingPointError, RuntimeError) as error:
        if isinstance(error, RuntimeError) and not is_users(error):
            raise
        print(f"error: {error}", file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        print("interrupted", file=sys.stderr)
        return 130


def is_users(error: BaseException) -> bool:
    """Whether an error speaks to the user: tfrec's own (`ConfigError`, `PreparedError` ...) or the file system's."""
    own = type(error).__module__.split(".")[0] in ("tfrec", "pipelines")
    return own or isinstance(error, OSError)


def log_to(path: Path) -> logging.Handler:
    """Also write the log to a file; returns the handler that does."""
    handler = logging.FileHandler(path, encoding="utf-8")
    handler.setFormatter(logging.Formatter(FORMAT))
    logging.getLogger("tfrec").addHandler(handler)
    return handler
