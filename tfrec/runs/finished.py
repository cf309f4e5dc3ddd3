"""Whether a run's training came to its end: a file says so that is written last of all."""

from __future__ import annotations

import json
from pathlib import Path

from pipelines.publish import write_whole

FINISHED = "trained.json"


class RunError(ValueError):
    """A run folder that is absent, unfinished or broken."""


def tell_finished(run_dir: Path, *, steps: int) -> None:
    """Say in a run that it is trained; the last act of a training, behind all that evaluation and export read.

    Args:
        run_dir: the run.
        steps: that were taken.
    """
    write_whole(run_dir / FINISHED, json.dumps({"steps": steps}) + "\n")


def check_finished(run_dir: Path) -> None:
    """Refuse a run whose training has not come to its end: the best weights so far are not those of the whole training.

    Raises:
        RunError: it has not.
    """
    if not (run_dir / FINISHED).is_file():
        raise RunError(
            f"{run_dir}: its training did not finish (no {FINISHED}); give the command that began it again, with --resume"
        )
