"""Filling a feature store: each distinct text or photo goes through the encoder once, and only if it is new."""

import hashlib
import json
import logging
import shutil
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import tensorflow as tf
from tqdm import tqdm

from pipelines.batches import make_dataset
from pipelines.content import PhotoBytes
from pipelines.prepared import Prepared
from tfrec.encoders.sides import ImageSide, Side, TextSide, save_side
from tfrec.features import FORMAT, MANIFEST, FeatureError, SideStore, content_keys

log = logging.getLogger("tfrec")

SAVE_SECONDS = 20.0
BUCKET = 8  # texts are padded to a multiple of so many ids
TEXT_BATCH, IMAGE_BATCH = 64, 32

Block = tuple[np.ndarray, dict[str, np.ndarray]]  # places among the new contents, and their features


@dataclass
class FeatureWriter:
    """Writes one side of a feature store; a second call goes on where an interrupted one stopped.

    Args:
        side: the frozen encoder.
        prepared: the dataset.
        store: the store's folder.
        tokens: keep tokens beside the pooled vectors.
        pool: average patch tokens over squares of this side.
        batch: contents encoded at a time.
    """

    side: Side
    prepared: Prepared
    store: Path
    tokens: bool = False
    pool: int = 1
    batch: int | None = None

    def __post_init__(self):
        self.keys = content_keys(self.side.kind, self.prepared)
        self.first = {key: item for item, key in reversed(list(enumerate(self.keys))) if key}
        self.folder = self.store / self.side.kind
        self.work = self.store / f"{self.side.kind}.tmp"

    def write(self) -> SideStore:
        """Encode what the store lacks.

        Returns:
            The store's side, which then holds every content of the dataset.
        """
        wanted = sorted(self.first, key=self.first.__getitem__)
        plan = self._plan(wanted)
        old = self._reusable(plan)
        if old is not None and set(wanted) <= set(old.keys):
            log.info("%s: nothing new to encode (%d %ss)", self.folder, len(wanted), self.side.kind)
            return old
        kept = [key for key in (old.keys if old else []) if key in self.first]
        fresh = [key for key in wanted if key not in set(kept)]
        arrays, done = self._open_work(plan, len(kept) + len(fresh), old, kept)
        items = np.array([self.first[key] for key in fresh], np.int64)
        self._fill(arrays, items, len(kept), done)
        (self.work / "keys.txt").write_text("\n".join([*kept, *fresh]), encoding="ascii")
        save_side(self.side, self.work / "encoder")
        (self.work / MANIFEST).write_text(json.dumps(plan, indent=1), encoding="utf-8")
        (self.work / "progress.json").unlink(missing_ok=True)
        shutil.rmtree(self.folder, ignore_errors=True)
        self.work.rename(self.folder)
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
            "contents": hashlib.sha256("\n".join(wanted).encode()).hexdigest(),
        }

    def _reusable(self, plan: dict) -> SideStore | None:
        """The store as it is, if the same encoder made it in the same form."""
        if not (self.folder / MANIFEST).is_file():
            return None
        old = SideStore(self.folder)
        same = all(old.manifest.get(name) == plan[name] for name in ("digest", "stored", "pool"))
        return old if same else None

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

    def _open_work(self, plan: dict, count: int, old: SideStore | None, kept: list[str]):
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
        arrays = {
            name: np.lib.format.open_memmap(
                self.work / f"{name}.npy", "w+" if done is None else "r+", kind, (count, *shape)
            )
            for name, (shape, kind) in self._shapes().items()
        }
        if done is None and old is not None:
            place = {key: row for row, key in enumerate(old.keys)}
            rows = [place[key] for key in kept]
            for name, array in arrays.items():
                array[: len(kept)] = old.array(name)[rows]
        if done:
            log.info("%s: goes on after %d %ss", self.folder, done, self.side.kind)
        return arrays, done or 0

    def _fill(self, arrays: dict, items: np.ndarray, offset: int, done: int) -> None:
        """Encode the contents of `items` `[M]`, the first `done` of them aside, into the arrays behind `offset`."""
        blocks = self._text_blocks(items, done) if self.side.kind == "text" else self._image_blocks(items, done)
        started = saved = time.monotonic()
        before, unit = done, {"text": "text", "image": "photo"}[self.side.kind]
        with tqdm(total=len(items), initial=done, desc=f"encode {unit}s", unit=unit, disable=None) as bar:
            for places, features in blocks:
                for name, array in arrays.items():
                    array[offset + places] = checked(features[name], self.side)
                done += len(places)
                bar.update(len(places))
                if time.monotonic() - saved > SAVE_SECONDS:
                    self._save(arrays, done)
                    saved = time.monotonic()
        if done > before:
            seconds = time.monotonic() - started
            log.info("encoded %d %ss in %.0f s, %.1f a second", done - before, unit, seconds, (done - before) / seconds)
        self._save(arrays, done)

    def _save(self, arrays: dict, done: int) -> None:
        for array in arrays.values():
            array.flush()
        temporary = self.work / "progress.tmp"
        temporary.write_text(json.dumps({**self._header, "done": done}), encoding="utf-8")
        temporary.replace(self.work / "progress.json")

    # -- encoding ----------------------------------------------------------------------------------------------

    def _text_blocks(self, items: np.ndarray, done: int) -> Iterator[Block]:
        """Features of texts, long ones first, padded little: neighbours in the order are of one length."""
        side = self.side
        assert isinstance(side, TextSide)
        texts = self.prepared.items["text"].to_numpy()[items]
        ids = np.concatenate([side.tokenizer(list(texts[i : i + 4096])).numpy() for i in range(0, len(texts), 4096)])
        mask = side.encoder.mask(tf.constant(ids)).numpy()
        order = np.argsort(-mask.sum(1), kind="stable")
        encode = tf.function(side.encode, autograph=False, input_signature=[tf.TensorSpec([None, None], tf.int32)])
        size, width = self.batch or TEXT_BATCH, ids.shape[1]
        for start in range(done, len(order), size):
            places = order[start : start + size]
            longest = int(mask[places].sum(1).max())
            trimmed = min(width, -(-longest // BUCKET) * BUCKET)
            tokens, seen, vectors = encode(tf.constant(ids[places, :trimmed]))
            features = {"vectors": vectors.numpy()}
            if self.tokens:
                padding = [[0, 0], [0, width - trimmed]]
                features["tokens"] = np.pad(tokens.numpy(), [*padding, [0, 0]])
                features["mask"] = np.pad(seen.numpy(), padding)
            yield places, features

    def _image_blocks(self, items: np.ndarray, done: int) -> Iterator[Block]:
        """Features of photos, decoded ahead of the encoder."""
        side, photos, size = self.side, PhotoBytes(self.prepared), self.batch or IMAGE_BATCH
        assert isinstance(side, ImageSide)

        def encode(pixels):
            return side.encode(pixels, tf.ones([tf.shape(pixels)[0]], tf.bool), self.pool)

        shape = [None, *side.encoder.size, 3]
        run = tf.function(encode, autograph=False, input_signature=[tf.TensorSpec(shape, tf.uint8)])

        def read(step):
            places = np.arange(done + step * size, min(done + (step + 1) * size, len(items)))
            return {"places": places, "items": {"photo_bytes": photos.read(items[places])}}

        steps = -(-(len(items) - done) // size)
        for batch in make_dataset(read, 0, steps, photo_size=side.encoder.size) if steps else ():
            tokens, vectors = run(batch["items"]["photos"])
            features = {"vectors": vectors.numpy()}
            if self.tokens:
                features["tokens"] = tokens.numpy()
            yield batch["places"].numpy(), features


def checked(values: np.ndarray, side: Side) -> np.ndarray:
    """Values in float16, once it is known that it can hold them.

    Raises:
        FeatureError: they are not finite, or too large.
    """
    if values.dtype == np.bool_:
        return values
    values = values.astype(np.float16)
    if not np.isfinite(values).all():
        raise FeatureError(
            f"{side.source}: the encoder gave values that are not finite or beyond float16; encode in float32 "
            "(--precision float32), and check the weights"
        )
    return values
