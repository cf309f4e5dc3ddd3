"""Where a run's inputs lie: kept in full in its `config.yaml`, so that commands find them from any folder."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from pipelines.prepared import Prepared
    from tfrec.config import RunConfig

PLACES = ("data", "features")  # the options that name a folder which outlives the training


def fixed_place(place: str) -> str:
    """A path of this machine in full; addresses (`s3://` ...) and "" as they are."""
    return place if not place or "://" in place else str(Path(place).absolute())


def fix_places(config: RunConfig) -> None:
    """Write the dataset and the feature store that a configuration names in full."""
    for name in PLACES:
        if hasattr(config, name):
            setattr(config, name, fixed_place(getattr(config, name)))


def open_run_data(run_dir: Path, data: str) -> Prepared:
    """The dataset that a run's `config.yaml` names.

    Args:
        run_dir: the run.
        data: its option `data`.

    Raises:
        PreparedError, RemoteError: it is not there, or broken; the message names the file and the field.
    """
    from pipelines.prepared import PreparedError, open_prepared
    from pipelines.remote import RemoteError

    try:
        return open_prepared(data)
    except (PreparedError, RemoteError) as error:
        raise type(error)(
            f"{run_dir / 'config.yaml'}, field data: {error}. If the dataset has moved, write its new place into that field"
        ) from error
