"""Loss and gradients of one batch, whole or with its items encoded in parts."""

import itertools
from collections.abc import Callable
from typing import NamedTuple

import tensorflow as tf

from pipelines.batches import Batch
from tfrec.attention import ResumableDropout
from tfrec.distributed.workers import all_gather_rows
from tfrec.trainable import Trainable
from tfrec.training.optimizers import Gradient


class Gradients(NamedTuple):
    """What a step learns from a batch.

    Attributes:
        loss: a scalar.
        of_variables: a gradient a variable; None where the loss does not depend on it.
        fresh: what the model's `encode` gave, of all workers; None where it gives nothing.
    """

    loss: tf.Tensor
    of_variables: list[Gradient | None]
    fresh: tf.Tensor | None


def whole_gradients(
    model: Trainable, batch: Batch, variables: list[tf.Variable], scale: Callable[[tf.Tensor], tf.Tensor]
) -> Gradients:
    """Loss and gradients of a batch.

    Args:
        model: the model.
        batch: its batch, or a worker's share of it.
        variables: that are trained.
        scale: what the loss is multiplied by before its gradients are taken.
    """
    with tf.GradientTape() as tape:
        fresh = all_gather_rows(model.encode(batch, training=True))
        loss = model.compute_loss(batch, training=True, fresh=fresh)
        scaled = scale(loss)
    return Gradients(loss, tape.gradient(scaled, variables), fresh)


def cached_gradients(
    model: Trainable, batch: Batch, variables: list[tf.Variable], scale: Callable[[tf.Tensor], tf.Tensor], parts: int
) -> Gradients:
    """As `whole_gradients`, with the items encoded in `parts`; equal to it (with dropout: to one that drops what the parts
    do).

    Gradient caching (Gao et al. 2021, https://arxiv.org/abs/2101.06983): encode the parts without a tape, take the loss's
    gradient with respect to the vectors, then encode each part again and carry that gradient on. The softmax sees the whole
    batch; only one part's activations are held.
    """
    cut = split_items(batch["items"], parts)
    generators, states, encoded = generators_of(model), [], []
    for part in cut:
        states.append([generator.state.read_value() for generator in generators])
        encoded.append(model.encode({"items": part}, training=True))
    own = tf.concat(encoded, 0)
    with tf.GradientTape() as tape:
        tape.watch(own)
        fresh = all_gather_rows(own)
        loss = model.compute_loss(batch, training=True, fresh=fresh)
        scaled = scale(loss)
    after = [generator.state.read_value() for generator in generators]
    back, *gradients = tape.gradient(scaled, [own, *variables])
    back, start = tf.convert_to_tensor(back), 0
    for part, state in zip(cut, states, strict=True):
        rewind(generators, state)  # the second time drops what the first one did
        with tf.GradientTape() as tape:
            vectors = model.encode({"items": part}, training=True)
        stop = start + tf.shape(vectors)[0]
        more = tape.gradient(vectors, variables, output_gradients=back[start:stop])
        gradients = [add_gradients(a, b) for a, b in zip(gradients, more, strict=True)]
        start = stop
    rewind(generators, after)
    return Gradients(loss, gradients, fresh)


def split_items(items: dict, parts: int) -> list[dict]:
    """Cut the arrays of `items` `[E, ...]` into `parts` of about equal length."""
    count = tf.shape(next(iter(items.values())))[0]
    edges = [count * i // parts for i in range(parts + 1)]
    return [{name: x[a:b] for name, x in items.items()} for a, b in itertools.pairwise(edges)]


def generators_of(model: tf.Module) -> list[tf.random.Generator]:
    """The random generators of a model's dropout."""
    return [layer.generator for layer in model.submodules if isinstance(layer, ResumableDropout)]


def rewind(generators: list[tf.random.Generator], states: list[tf.Tensor]) -> None:
    """Put generators into states that they were in."""
    for generator, state in zip(generators, states, strict=True):
        generator.state.assign(state)


def add_gradients(a: Gradient | None, b: Gradient | None) -> Gradient | None:
    """Sum of two gradients, either of which may be None or sparse."""
    if a is None or b is None:
        return b if a is None else a
    if isinstance(a, tf.IndexedSlices) and isinstance(b, tf.IndexedSlices):
        values, indices = tf.concat([a.values, b.values], 0), tf.concat([a.indices, b.indices], 0)
        return tf.IndexedSlices(values, indices, a.dense_shape)
    return tf.convert_to_tensor(a) + tf.convert_to_tensor(b)
