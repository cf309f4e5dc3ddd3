"""A run's folder: begun once, taken up by `--resume`, and gone again when training refuses what it was asked for."""

from __future__ import annotations

import logging
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from pipelines.command import is_users, log_to
from tfrec.config import ConfigError, RunConfig, load_config, plain, save_config

log = logging.getLogger("tfrec")

FEATURES = "features"
VECTORS_FILE = "embeddings.npz"  # what the laboratory reads: `item_id` and `vectors` of the items
ATTENTION_FILE = "attention.npz"  # and where their texts look at the photos: `item_id` and `weights`


@contextmanager
def run_folder(run_dir: Path, config: RunConfig, *, resume: bool) -> Iterator[None]:
    """Make the run's folder, or take up the one there, for a block that trains in it.

    Most of what can be wrong with options shows only beside the data and the weights that they name, after the folder was
    begun. Where the block refuses them before it has kept anything trained, what this command wrote is removed, so that
    the corrected one finds no run in its way.

    Raises:
        ConfigError: the folder holds a run and `resume` is not set, or it was made with other options.
    """
    begun = (run_dir / "config.yaml").exists()
    before = set(run_dir.iterdir()) if run_dir.is_dir() else set()
    _open(run_dir, config, resume=resume)
    try:
        with _logged(run_dir / "training.log"):
            yield
    except Exception as error:
        # A loss that is no number asks for other options as well.
        refused = is_users(error) or isinstance(error, FloatingPointError)
        if refused and not begun and not any(run_dir.rglob("checkpoint")):
            _remove_what_came(run_dir, before)
        raise


@contextmanager
def _logged(file: Path) -> Iterator[None]:
    """Also write the log of a block to a file."""
    handler = log_to(file)
    try:
        yield
    finally:
        log.removeHandler(handler)
        handler.close()


def _open(run_dir: Path, config: RunConfig, *, resume: bool) -> None:
    saved = run_dir / "config.yaml"
    if saved.exists():
        if not resume:
            raise ConfigError(
                f"--out {run_dir} holds a run already: add --resume to go on with it, or name another folder"
            )
        before = load_config(saved)
        if before != config:
            told = ", ".join(_differences(plain(before), plain(config))) or "of another system"
            raise ConfigError(
                f"--resume: the options differ from those in {saved} ({told}); give the same command, or name another --out"
            )
    run_dir.mkdir(parents=True, exist_ok=True)
    save_config(config, saved)


def _differences(before: dict, now: dict, prefix: str = "") -> Iterator[str]:
    """The options whose values differ, each with the former value and the new one."""
    for name, value in before.items():
        if isinstance(value, dict) and isinstance(now.get(name), dict):
            yield from _differences(value, now[name], f"{prefix}{name}.")
        elif name in now and value != now[name]:
            yield f"{prefix}{name} was {value}, now {now[name]}"


def _remove_what_came(folder: Path, before: set[Path]) -> None:
    """Remove what a folder holds beside the entries `before`.

    Features of frozen encoders stay: they may have taken hours, and their store knows what they are of. A folder in which
    nothing is left goes with its lock (`only_writer`).
    """
    for path in set(folder.iterdir()) - before - {folder / FEATURES}:
        if path.is_dir() and not path.is_symlink():
            shutil.rmtree(path, ignore_errors=True)
        else:
            path.unlink(missing_ok=True)
