"""Which dataset a run is trained on: kept in the run, so that it is neither taken up nor evaluated on another one.

`dataset.json` holds digests by name: of the ids of `items`, and of `users` where the model has rows for them, in their
order: what rows of the run's tables mean; and of what was learned from: the `events` with the description of their `split`,
or, of systems that learn from items, the `items_split`. `content` are the texts, attributes, products and photos of the
items, which a model that learns from purchases reads again when it is evaluated. Of what a run has not kept, any is taken.
"""

from __future__ import annotations

import hashlib
import json
from pathlib import Path
from typing import TYPE_CHECKING

import pyarrow.parquet as pq

from pipelines.publish import write_whole
from pipelines.schema import ATTRIBUTE_PREFIX
from tfrec.config import ConfigError, RunConfig, system_name
from tfrec.retrieval.config import RetrievalConfig
from tfrec.runs.places import open_run_data

if TYPE_CHECKING:
    from pipelines.prepared import Prepared

FILE = "dataset.json"
ROWS = ("items", "users")
EVENTS, ITEMS = ("events", "split"), ("items_split",)
COLUMNS = {"items": ("items", "item_id"), "users": ("users", "user_id"), "items_split": ("items", "split")}


def open_own_data(run_dir: Path, config: RunConfig, *, other_events: bool = False) -> Prepared:
    """The dataset that a run was trained on.

    Args:
        run_dir: the run.
        config: its configuration.
        other_events: see `check_dataset`.

    Raises:
        PreparedError, RemoteError: it is not there, or broken.
        ConfigError: it is another one by now.
    """
    prepared = open_run_data(run_dir, config.data)
    check_dataset(run_dir, prepared, other_events=other_events)
    return prepared


def keep_dataset(run_dir: Path, config: RunConfig, prepared: Prepared) -> None:
    """Keep in a run what tells its dataset from others; of a run that is taken up, see that it is still the same.

    Raises:
        ConfigError: it is not.
    """
    if _kept(run_dir):
        check_dataset(run_dir, prepared)
        return
    if isinstance(config, RetrievalConfig):
        has_users = config.model.query.kind == "user" or system_name(config) == "ratings"
        names = ["items", *["users"] * has_users, *EVENTS, "content"]
    else:
        names = ["items", *ITEMS]
    write_whole(run_dir / FILE, json.dumps({name: _digest(prepared, name) for name in names}) + "\n")


def check_dataset(run_dir: Path, prepared: Prepared, *, other_events: bool = False) -> None:
    """Refuse a dataset other than the one that a run was trained on: rows of its tables would be of other items, and what is
    held out by another split may have been trained on.

    Args:
        run_dir: the run.
        prepared: the dataset.
        other_events: take other events of the same items, as where newer purchases are served.

    Raises:
        ConfigError: its items, or users who matter, are others or in another order; or its events or a split are.
    """
    kept = _kept(run_dir)
    changed = _changed(kept, prepared)
    for name in ROWS:
        if name in changed:
            raise ConfigError(
                f"{prepared.path}: its {name}, or their order, are not those that the run was trained on, so that rows "
                "would be taken for others; give the run its own dataset back, or train a new run"
            )
    if not other_events and "content" in changed:
        raise ConfigError(
            f"{prepared.path}: the texts, attributes or photos of its items are not those that the run was trained on, of "
            "which it keeps what its towers made: give the run its own dataset back, or train a new run (another --out)"
        )
    learned = ITEMS if ITEMS[0] in kept else EVENTS
    if not other_events and changed & set(learned):
        what = (
            "the split of its items is not the one" if learned is ITEMS else "its events or their split are not those"
        )
        raise ConfigError(
            f"{prepared.path}: {what} that the run was trained on, so that it could be evaluated on what it learned. The "
            f"run: {_told(kept, learned)}. The dataset: "
            f"{_told({name: _digest(prepared, name) for name in learned}, learned)}. Prepare the data again as they were "
            "for the run, or train a new run (another --out)"
        )


def learned_from_items(run_dir: Path) -> bool:
    """Whether a run keeps which of the items it was trained on, as systems do that learn from items."""
    return ITEMS[0] in _kept(run_dir)


def knows_events(run_dir: Path, prepared: Prepared) -> bool:
    """Whether a dataset's events and their split are those that a run was trained on; so for runs that kept no record."""
    return not _changed(_kept(run_dir), prepared) & set(EVENTS)


def knows_content(run_dir: Path, prepared: Prepared) -> bool:
    """Whether the content of a dataset's items is what a run was trained on; so for runs that kept no record."""
    return "content" not in _changed(_kept(run_dir), prepared)


def _kept(run_dir: Path) -> dict[str, str]:
    file = run_dir / FILE
    return json.loads(file.read_text(encoding="utf-8")) if file.is_file() else {}


def _changed(kept: dict[str, str], prepared: Prepared) -> set[str]:
    """The names under which a dataset is another one."""
    return {name for name, digest in kept.items() if _digest(prepared, name) != digest}


def _digest(prepared: Prepared, name: str) -> str:
    """A digest of one of `ROWS`, `EVENTS` or `ITEMS`; of tables, only the column is read that it is of."""
    if name == "split":
        return json.dumps(prepared.manifest.get("split") or {}, sort_keys=True)
    if name == "events":
        return prepared.manifest["files"]["events.parquet"].get("sha256", "")
    if name == "content":
        return _content_digest(prepared)
    table, column = COLUMNS[name]
    file = prepared.path / f"{table}.parquet"
    if column not in pq.read_schema(file).names:
        return ""
    values = pq.read_table(file, columns=[column])[column].to_pylist()
    return hashlib.sha256("\n".join(map(str, values)).encode()).hexdigest()


def _content_digest(prepared: Prepared) -> str:
    """A digest of what towers read of the items, and of the photos' file."""
    file = prepared.path / "items.parquet"
    names = [
        name for name in pq.read_schema(file).names if name in ("text", "group") or name.startswith(ATTRIBUTE_PREFIX)
    ]
    digest = hashlib.sha256(prepared.manifest["files"].get("images.bin", {}).get("sha256", "").encode())
    for batch in pq.ParquetFile(file).iter_batches(columns=sorted(names)):
        digest.update(json.dumps(batch.to_pylist(), sort_keys=True).encode())
    return digest.hexdigest()


def _told(digests: dict[str, str], names: tuple[str, ...]) -> str:
    """What was learned from, in words: digests shortened, the description of a split whole."""
    return ", ".join(f"{n} {digests[n] if n == 'split' else digests[n][:12]}" for n in names if n in digests)
