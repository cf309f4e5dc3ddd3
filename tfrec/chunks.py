"""A batch worked through some rows at a time, in the graph: what is held in between is bounded, however many there are."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import tensorflow as tf

FLOATS_AT_ONCE = 1 << 25  # 128 MiB


def in_chunks(
    make: Callable[[slice], Sequence[tf.Tensor]], rows: tf.Tensor, floats: tf.Tensor | int, empty: Sequence[tf.Tensor]
) -> list[tf.Tensor]:
    """What `make` makes of all rows, of a chunk of them at a time.

    Args:
        make: a slice of the rows, of C of them -> tensors `[C, ...]`. A slice, for gathering rows by numbers was up to seven
            times as slow.
        rows: how many there are, int32 scalar.
        floats: that `make` holds for each row, at most `FLOATS_AT_ONCE` of which are held at once (or those of one row).
        empty: what it makes of no rows.

    Returns:
        Each of the tensors for all rows.
    """
    chunk = tf.clip_by_value(FLOATS_AT_ONCE // tf.maximum(floats, 1), 1, tf.maximum(rows, 1))

    def add(start: tf.Tensor, *made: tf.Tensor) -> tuple[tf.Tensor, ...]:
        new = make(slice(start, tf.minimum(start + chunk, rows)))
        return start + chunk, *(tf.concat(parts, 0) for parts in zip(made, new, strict=True))

    shapes = [tf.TensorShape([None] * len(part.shape)) for part in empty]
    _, *made = tf.while_loop(
        lambda start, *_: start < rows,
        add,
        (0, *empty),
        shape_invariants=(tf.TensorShape([]), *shapes),
        parallel_iterations=1,  # two at a time would hold twice as much
    )
    return made
