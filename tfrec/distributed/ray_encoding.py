"""Encoding a catalogue on Ray: worker processes, on one machine or many, encode the parts of a feature store.

All machines must see the store's folder under the same path, and the dataset under the same path or address.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from pipelines.publish import written_whole
from tfrec.distributed.ray_parts import import_ray, make_parts, own_cores

if TYPE_CHECKING:
    from tfrec.features.writer import FeatureWriter


@dataclass(frozen=True)
class EncodingJob:
    """What a worker needs to know of a store under way.

    Attributes:
        data: the dataset.
        store: the store's folder; the encoder and the list of items stand in its `<kind>.tmp`.
        kind: `text` or `image`.
        tokens, pool, batch, part: see `FeatureWriter`.
        precision: Keras's policy, the same for all workers.
    """

    data: Path
    store: Path
    kind: str
    tokens: bool
    pool: int
    batch: int | None
    part: int
    precision: str


class PartEncoder:
    """A worker: loads the encoder once and encodes the parts that it is given.

    Args:
        job: the store, with absolute paths.
    """

    def __init__(self, job: EncodingJob):
        import tensorflow as tf

        from pipelines.prepared import open_prepared
        from tfrec.cores import calls_at_a_time, one_thread_an_op
        from tfrec.encoders.sides import read_side
        from tfrec.features.writer import FeatureWriter

        one_thread_an_op()
        tf.keras.mixed_precision.set_global_policy(job.precision)
        work = job.store / f"{job.kind}.tmp"
        self.writer = FeatureWriter(
            read_side(work / "encoder"),
            open_prepared(job.data),
            job.store,
            tokens=job.tokens,
            pool=job.pool,
            batch=job.batch,
            part=job.part,
            calls=calls_at_a_time(own_cores()),
        )
        items = np.load(work / "items.npy")
        self.cuts, self.blocks = self.writer.cuts(len(items)), self.writer.blocks(items)

    def __call__(self, batch: dict[str, np.ndarray]) -> dict[str, np.ndarray]:
        """`part`, numbers of parts int64 `[P]`; adds `contents`, how many each holds."""
        return {**batch, "contents": np.array([self._make(int(number)) for number in batch["part"]])}

    def _make(self, number: int) -> int:
        from tfrec.features.blocks import checked
        from tfrec.graphs import with_rewrites

        cut = self.cuts[number]
        path = self.writer.part_file(cut)
        if not path.exists():  # else it was made by a worker that died after it
            with with_rewrites():  # as where one process encodes: without them, the last bit of a number may differ
                places, features = zip(*self.blocks(*cut), strict=True)
            arrays: dict[str, Any] = {
                name: checked(np.concatenate([block[name] for block in features]), self.writer.side)
                for name in features[0]
            }
            arrays["places"] = np.concatenate(places)
            with written_whole(path, shared=True) as stream:
                np.savez(stream, **arrays)
        return cut[1] - cut[0]


def parts_on_ray(writer: FeatureWriter, missing: list[int], *, workers: int, data: Path) -> Iterator[int]:
    """Have so many workers make the parts of a writer with the numbers `missing`: how many contents each held.

    Args:
        writer: of the store.
        missing: the parts.
        workers: so many processes at most.
        data: the writer's dataset as it was named: where it is an address, each machine makes its own copy.

    Raises:
        EngineError: Ray is not installed.
    """
    import tensorflow as tf

    import_ray()
    job = EncodingJob(
        data=data.resolve(),
        store=writer.store.resolve(),
        kind=writer.side.kind,
        tokens=writer.tokens,
        pool=writer.pool,
        batch=writer.batch,
        part=writer.part,
        precision=tf.keras.mixed_precision.global_policy().name,
    )
    for made in make_parts(PartEncoder, [job], missing, workers=workers):
        yield int(made["contents"])
