"""What a training reports to Weights & Biases (https://wandb.ai), where it is asked to."""

from __future__ import annotations

import secrets
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from types import ModuleType

from pipelines.publish import write_whole
from tfrec.config import ConfigError

ID_FILE = "wandb.id"


def import_wandb() -> ModuleType:
    """The package, which the project does not require.

    Raises:
        ConfigError: it is not installed.
    """
    try:
        import wandb
    except ImportError as error:
        raise ConfigError("training.wandb=true needs Weights & Biases: pip install wandb") from error
    return wandb


@contextmanager
def wandb_run(folder: Path) -> Iterator[Callable[[int, dict], None]]:
    """A run of Weights & Biases that lasts for a block, which is given the function to report by: step, values by name.

    Its id is drawn once and kept in the folder: a training that is resumed goes on with its own run, and one of another
    folder of the same name has another. A stage of a training has a folder of its own, and so a run: its steps count from 0.

    Args:
        folder: that the training, or its stage, writes into; the last two parts of its path name the run.
    """
    kept = folder / ID_FILE
    if not kept.is_file():
        write_whole(kept, secrets.token_hex(8))  # not of a seeded generator: two runs of one seed are two
    run = import_wandb().init(
        project="tfrec",
        name="/".join(folder.resolve().parts[-2:]),
        dir=str(folder),
        id=kept.read_text(encoding="utf-8"),
        resume="allow",
    )
    try:
        yield lambda step, values: run.log(values, step=step)
    finally:
        run.finish()
