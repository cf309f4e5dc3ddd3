"""Filling a feature store: each distinct text or photo goes through the encoder once, and only if it is new.

One process encodes the contents in order and writes them into the arrays. Several share the contents in parts, which are
files until one process puts them into the arrays; a part's blocks are those that one process would have encoded.
"""

import hashlib
import json
import logging
import math
import os
import shutil
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Literal

import numpy as np
import tensorflow as tf

from pipelines.command import FULL
from pipelines.prepared import Prepared
from pipelines.progress import Progress
from pipelines.publish import clear_up, take_place, write_whole, written_whole
from tfrec.encoders.sides import Side, TextSide, save_side
from tfrec.features.blocks import IMAGE_BATCH, TEXT_BATCH, PhotoBlocks, TextBlocks, blocks_of, checked
from tfrec.features.store import FORMAT, MANIFEST, UNITS, FeatureError, SideStore, content_keys
from tfrec.graphs import with_rewrites
from tfrec.runs.lock import only_writer

log = logging.getLogger("tfrec")

SAVE_SECONDS = 20.0
COPIED = 1 << 26  # bytes of a stored array that are in memory while its rows are copied


@dataclass
class FeatureWriter:
    """Writes one side of a feature store; a second call goes on where an interrupted one stopped.

    One process at a time writes a store, of whichever side. One that finds all its contents there waits for nobody.

    Args:
        side: the frozen encoder.
        prepared: the dataset.
        store: the store's folder.
        tokens: keep tokens beside the pooled vectors.
        pool: average patch tokens over squares of this side.
        batch: contents encoded at a time.
        part: contents that one of several processes encodes at a time; rounded up to whole batches.
        calls: batches that this process encodes side by side.
        same_precision: encode everything again where the store was computed in another precision than the process's; else
            a store that holds everything is taken as it is.
    """

    side: Side
    prepared: Prepared
    store: Path
    tokens: bool = False
    pool: int = 1
    batch: int | None = None
    part: int = 2048
    calls: int = 1
    same_precision: bool = False

    def __post_init__(self) -> None:
        self.folder = self.store / self.side.kind
        self.work = self.store / f"{self.side.kind}.tmp"

    @cached_property
    def keys(self) -> list[str]:
        """The key of each item's content (`content_keys`)."""
        return content_keys(self.side.kind, self.prepared)

    @cached_property
    def first(self) -> dict[str, int]:
        """The first item of each distinct content, by the content's key."""
        return {key: item for item, key in reversed(list(enumerate(self.keys))) if key}

    def write(self, make: "Callable[[FeatureWriter, list[int]], Iterator[int]] | None" = None) -> SideStore:
        """Encode what the store lacks.

        Args:
            make: has other processes make the parts with the given numbers (see `PartEncoder`), and tells how many contents
                each held; this process encodes everything itself where None.

        Returns:
            The store's side, which then holds every content of the dataset.

        Raises:
            FeatureError: the dataset has no content of the side, or the encoder gave what cannot be stored.
            FolderInUseError: another process writes the store.
        """
        clear_up(self.folder)
        wanted = sorted(self.first, key=self.first.__getitem__)
        plan = self._plan(wanted)
        whole = self._whole(plan)
        if whole is not None:
            return whole
        told = f"{self.store}: another process encodes into it; wait for it or end it, then give the same command again"
        with only_writer(self.store, told=told):
            return self._write(plan, wanted, make)

    def _write(
        self, plan: dict, wanted: list[str], make: "Callable[[FeatureWriter, list[int]], Iterator[int]] | None"
    ) -> SideStore:
        """See `write`; the store is this process's."""
        whole = self._whole(plan)
        if whole is not None:  # whoever wrote it until now has made it whole
            return whole
        old = self._reusable(plan)
        kept, fresh = kept_and_fresh(old.keys if old else [], wanted)
        if old is not None and len(kept) < len(old.keys):
            log.warning(
                "%s: %d contents that the dataset does not have are dropped; give each dataset a store of its own",
                self.folder,
                len(old.keys) - len(kept),
            )
        arrays, done = self._open_work(plan, len(kept) + len(fresh), old, kept)
        items = np.array([self.first[key] for key in fresh], np.int64)
        if make is None:
            with with_rewrites():
                self._fill(arrays, items, len(kept), done)
        else:
            self._fill_from_parts(make, arrays, items, len(kept), done)
        (self.work / "keys.txt").write_text("\n".join([*kept, *fresh]), encoding="ascii")
        save_side(self.side, self.work / "encoder")
        (self.work / MANIFEST).write_text(json.dumps(plan, indent=1), encoding="utf-8")
        shutil.rmtree(self.work / "parts", ignore_errors=True)  # all in the arrays by now
        take_place(self.work, self.folder)
        (self.folder / "progress.json").unlink(missing_ok=True)  # until here an interrupted one goes on by it
        return SideStore(self.folder)

    def _plan(self, wanted: list[str]) -> dict:
        """What the store is to be: an interrupted one of another plan is begun anew."""
        return {
            "format": FORMAT,
            "side": self.side.kind,
            "source": self.side.source,
            "digest": self.side.digest,
            "stored": "tokens" if self.tokens else "pooled",
            "pool": self.pool if self.side.kind == "image" else 1,
            "precision": tf.keras.mixed_precision.global_policy().name,
            "contents": hashlib.sha256("\n".join(wanted).encode()).hexdigest(),
        }

    def _whole(self, plan: dict) -> SideStore | None:
        """The store as it is, if there is nothing to encode."""
        try:
            old = SideStore(self.folder)
        except FeatureError:
            return None
        computed = not self.same_precision or old.manifest.get("precision") == plan["precision"]
        if not (computed and self._fits(old, plan) and set(self.first) <= set(old.keys)):
            return None
        log.info("%s: nothing new to encode (%d %ss)", self.folder, len(self.first), self.side.kind)
        return old

    def _reusable(self, plan: dict) -> SideStore | None:
        """The store as it is, if what is new can join it: the same encoder made it, in the same form and precision."""
        if not (self.folder / MANIFEST).is_file():
            return None
        try:
            old = SideStore(self.folder)
        except FeatureError as error:
            log.warning("%s; it is encoded anew", error)
            return None
        return old if self._fits(old, plan) and old.manifest.get("precision") == plan["precision"] else None

    def _fits(self, old: SideStore, plan: dict) -> bool:
        """Whether the same encoder made a store in the same form."""
        return all(old.manifest.get(name) == plan[name] for name in ("digest", "stored", "pool"))

    # -- arrays ------------------------------------------------------------------------------------------------

    def _shapes(self) -> dict[str, tuple[tuple[int, ...], type]]:
        """Name -> shape of a row and type of the arrays."""
        side = self.side
        shapes: dict[str, tuple[tuple[int, ...], type]] = {"vectors": ((side.vector_dim,), np.float16)}
        if not self.tokens:
            return shapes
        if isinstance(side, TextSide):
            length = side.tokenizer.sequence_length
            return shapes | {"tokens": ((length, side.encoder.dim), np.float16), "mask": ((length,), np.bool_)}
        rows, columns = (-(-n // self.pool) for n in side.encoder.grid)
        return shapes | {"tokens": ((1 + rows * columns, side.encoder.dim), np.float16)}

    def _open_work(self, plan: dict, count: int, old: SideStore | None, kept: list[str]) -> tuple[dict, int]:
        """The arrays under way and how many new contents they hold already."""
        try:
            progress = json.loads((self.work / "progress.json").read_text(encoding="utf-8"))
        except (OSError, ValueError):
            progress = {}
        done = progress["done"] if progress.get("plan") == plan and progress.get("kept") == len(kept) else None
        if done is None:
            shutil.rmtree(self.work, ignore_errors=True)
            self.work.mkdir(parents=True)
        self._header = {"plan": plan, "kept": len(kept)}
        arrays = self._open_arrays(count, "w+" if done is None else "r+")
        if done is None and old is not None:
            place = {key: row for row, key in enumerate(old.keys)}
            rows = np.array([place[key] for key in kept], np.int64)
            for name, array in arrays.items():
                copy_rows(old.array(name), rows, array)
        if done:
            log.info("%s: goes on after %d %ss", self.folder, done, self.side.kind)
        return arrays, done or 0

    def _open_arrays(self, count: int, mode: Literal["r+", "w+"]) -> dict:
        """The arrays `[count, ...]` in their files, which have all their room on the disk.

        Raises:
            FeatureError: the disk has not so much room. Written to a file with holes, it would end the process.
        """
        shapes = {name: (count, *shape) for name, (shape, _) in self._shapes().items()}
        kinds = {name: np.dtype(kind) for name, (_, kind) in self._shapes().items()}
        needed = sum(math.prod(shape) * kinds[name].itemsize for name, shape in shapes.items())
        free = shutil.disk_usage(self.work).free
        arrays = {}
        try:
            for name, shape in shapes.items():
                file = self.work / f"{name}.npy"
                arrays[name] = np.lib.format.open_memmap(file, mode, kinds[name], shape)
                with file.open("rb+") as opened:
                    os.posix_fallocate(opened.fileno(), 0, file.stat().st_size)
        except OSError as error:
            if error.errno not in FULL:
                raise
            if mode == "w+":
                shutil.rmtree(self.work, ignore_errors=True)
            raise FeatureError(
                f"{self.store}: the {self.side.kind} side needs {needed:,} bytes, and {free:,} are free; make room, or "
                f"store less (--{self.side.kind}-store pooled)"
            ) from error
        return arrays

    def _fill(self, arrays: dict, items: np.ndarray, offset: int, done: int) -> None:
        """Encode the contents of `items` `[M]`, the first `done` of them aside, into the arrays behind `offset`.

        Raises:
            FeatureError: the encoder's blocks held fewer contents: the rest of the arrays would be zeros.
        """
        started = saved = time.monotonic()
        before, unit = done, UNITS[self.side.kind]
        with Progress(f"encode {unit}s", len(items), unit=f" {unit}s", done=done) as bar:
            for places, features in self.blocks(items)(done, len(items)) if len(items) else ():
                for name, array in arrays.items():
                    array[offset + places] = checked(features[name], self.side)
                done += len(places)
                bar.update(len(places))
                if time.monotonic() - saved > SAVE_SECONDS:
                    self._save(arrays, done)
                    saved = time.monotonic()
        if done != len(items):
            raise FeatureError(
                f"{self.work}: {done} of {len(items)} {unit}s were encoded in blocks of batch={self.batch}; give a batch of "
                "at least 1, and run tfrec.encode again"
            )
        if done > before:
            seconds = time.monotonic() - started
            log.info("encoded %d %ss in %.0f s, %.1f a second", done - before, unit, seconds, (done - before) / seconds)
        self._save(arrays, done)

    def blocks(self, items: np.ndarray) -> TextBlocks | PhotoBlocks:
        """The contents of `items` int64 `[M]`, to be encoded in blocks."""
        return blocks_of(
            self.side,
            self.prepared,
            items,
            batch=self.batch,
            tokens=self.tokens,
            pool=self.pool,
            calls=self.calls,
        )

    # -- parts -------------------------------------------------------------------------------------------------

    def cuts(self, contents: int) -> list[tuple[int, int]]:
        """First content of each part and the first one behind it; every part is of whole blocks."""
        batch = self.batch or (TEXT_BATCH if self.side.kind == "text" else IMAGE_BATCH)
        size = -(-self.part // batch) * batch
        return [(start, min(start + size, contents)) for start in range(0, contents, size)]

    def part_file(self, cut: tuple[int, int]) -> Path:
        """The file of a finished part."""
        return self.work / "parts" / f"{cut[0]}-{cut[1]}-{self.batch or 0}.npz"

    def _fill_from_parts(
        self,
        make: "Callable[[FeatureWriter, list[int]], Iterator[int]]",
        arrays: dict,
        items: np.ndarray,
        offset: int,
        done: int,
    ) -> None:
        """Have the parts made that are missing, then put them into the arrays one by one."""
        save_side(self.side, self.work / "encoder")  # what the other processes encode with
        (self.work / "parts").mkdir(exist_ok=True)
        with written_whole(self.work / "items.npy") as file:
            np.save(file, items)
        self._save(arrays, done)
        cuts, unit = self.cuts(len(items)), UNITS[self.side.kind]
        missing = [i for i, cut in enumerate(cuts) if cut[1] > done and not self.part_file(cut).exists()]
        there = len(items) - sum(stop - start for start, stop in (cuts[i] for i in missing))
        with Progress(f"encode {unit}s", len(items), unit=f" {unit}s", done=there) as bar:
            for count in make(self, missing):
                bar.update(count)
        for cut in cuts:
            if cut[1] <= done:
                continue
            with np.load(self.part_file(cut)) as part:
                for name, array in arrays.items():
                    array[offset + part["places"]] = part[name]
            self._save(arrays, cut[1])
            self.part_file(cut).unlink()
        (self.work / "items.npy").unlink()

    def _save(self, arrays: dict, done: int) -> None:
        for array in arrays.values():
            array.flush()
        write_whole(self.work / "progress.json", json.dumps({**self._header, "done": done}))


def copy_rows(stored: np.ndarray, rows: np.ndarray, to: np.ndarray) -> None:
    """Copy the rows `[K]` of a stored array to the first K of another, a block at a time: a store may exceed the memory."""
    block = max(1, COPIED // max(1, stored.nbytes // max(1, len(stored))))
    for start in range(0, len(rows), block):
        part = rows[start : start + block]
        to[start : start + len(part)] = stored[part]


def kept_and_fresh(stored: Sequence[str], wanted: Sequence[str]) -> tuple[list[str], list[str]]:
    """The keys of contents that a store has and is to keep, in its order, and those of contents to be encoded."""
    here, there = set(stored), set(wanted)
    return [key for key in stored if key in there], [key for key in wanted if key not in here]
