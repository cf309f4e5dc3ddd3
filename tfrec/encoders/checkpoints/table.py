"""Tables of names: which published tensor goes into which variable; nothing may be left over."""

from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import NamedTuple

import numpy as np
import tensorflow as tf

from tfrec.encoders.checkpoints.source import CheckpointError, Tensors

Layout = Callable[[np.ndarray], np.ndarray]


def same(tensor: np.ndarray) -> np.ndarray:
    """Vectors and embedding tables: as they are."""
    return tensor


def linear(tensor: np.ndarray) -> np.ndarray:
    """PyTorch's linear weights `[out, in]` to `[in, out]`; the split into heads is a reshape of that."""
    return tensor.T


def convolution(tensor: np.ndarray) -> np.ndarray:
    """PyTorch's convolutions `[out, in, height, width]` to `[height, width, in, out]`."""
    return tensor.transpose(2, 3, 1, 0)


class Row(NamedTuple):
    """One line of a table: `{n}` in both names stands for the number of the block."""

    published: str
    ours: str
    layout: Layout = same

    def of_block(self, number: int) -> "Row":
        """Return the row of one block."""
        return Row(self.published.format(n=number), self.ours.format(n=number), self.layout)


def with_blocks(rows: Iterable[Row], block_rows: Sequence[Row], layers: int) -> list[Row]:
    """Return the rows and, for each of `layers` blocks, the rows of a block."""
    return [*rows, *(row.of_block(number) for number in range(layers) for row in block_rows)]


def fill(
    variables: Mapping[str, tf.Variable],
    tensors: Tensors,
    rows: Sequence[Row],
    *,
    source: str,
    ignored: Sequence[str] = (),
    zeros: Sequence[str] = (),
) -> None:
    """Assign published tensors to variables by a table; nothing may be missing or left over.

    Args:
        variables: Our variables by name.
        tensors: Published tensors by name.
        rows: The table.
        source: Where the tensors are from, for messages.
        ignored: Beginnings of the names of tensors that belong to other parts of the model (heads, the other
            tower).
        zeros: Our variables that the published model has not, and that are zero in it (a bias).

    Raises:
        CheckpointError: Tensors are missing or left over, variables get nothing, or shapes differ; all are
            named.
    """
    published = {row.published for row in rows}
    problems = {
        "missing in the file": sorted(published - tensors.keys()),
        "left over in the file": sorted(
            name for name in tensors.keys() - published if not name.startswith(tuple(ignored))
        ),
        "without a row in the table": sorted(variables.keys() - {row.ours for row in rows} - set(zeros)),
    }
    if any(problems.values()):
        listed = "; ".join(f"{what}: {', '.join(names)}" for what, names in problems.items() if names)
        raise CheckpointError(f"{source}: the weights do not fit the encoder its config.json describes. {listed}.")
    for row in rows:
        _assign(variables[row.ours], row, tensors[row.published], source)
    for name in zeros:
        variables[name].assign(tf.zeros_like(variables[name]))


def _assign(variable: tf.Variable, row: Row, tensor: np.ndarray, source: str) -> None:
    """Assign one tensor, brought to the variable's layout."""
    value = row.layout(tensor)
    if not _same_but_for_split_axes(value.shape, tuple(variable.shape)):
        raise CheckpointError(
            f"{source}: tensor {row.published!r} has shape {tensor.shape}, which does not fit {row.ours!r}, "
            f"shape {tuple(variable.shape)}; config.json and the weights are of different models."
        )
    variable.assign(value.reshape(variable.shape))


def _same_but_for_split_axes(one: tuple[int, ...], other: tuple[int, ...]) -> bool:
    """Whether shapes differ only in axes that are one in the one and several in the other, as of attention's heads, and in
    axes of 1: else values would be taken for others'."""
    ends = [set(np.cumprod(shape, dtype=np.int64).tolist()) - {1} for shape in (one, other)]
    return max(ends[0], default=1) == max(ends[1], default=1) and (ends[0] <= ends[1] or ends[1] <= ends[0])


def without_prefix(tensors: Tensors, prefix: str) -> Tensors:
    """Return the tensors with a prefix of their names removed (`bert.`, in models with heads)."""
    return {name.removeprefix(prefix): tensor for name, tensor in tensors.items()}


def first_layers(tensors: Tensors, pattern: str, layers: int, available: int) -> Tensors:
    """Return the tensors without those of the blocks that are not wanted.

    Args:
        tensors: Published tensors by name.
        pattern: Beginning of a block's names, with `{n}` for the number: `encoder.layer.{n}.`.
        layers: Number of blocks to keep.
        available: Number of blocks the config says; what the file has beyond them stays, to be found left over.
    """
    unwanted = tuple(pattern.format(n=number) for number in range(layers, available))
    return {name: tensor for name, tensor in tensors.items() if not name.startswith(unwanted)}


def checked_layers(layers: int | None, available: int, source: str) -> int:
    """Return the number of blocks to build: all of them, or the first `layers`."""
    if layers is None:
        return available
    if not 1 <= layers <= available:
        raise CheckpointError(f"{source}: layers={layers}, but the model has {available}; give 1 to {available}.")
    return layers


def activation_of(config: Mapping[str, str], source: str, default: str = "gelu") -> str:
    """Return our name of the activation in a published config."""
    names = {
        "gelu": "gelu",
        "quick_gelu": "quick_gelu",
        "gelu_new": "gelu_tanh",
        "gelu_pytorch_tanh": "gelu_tanh",
    }
    name = config.get("hidden_act", default)
    if name not in names:
        raise CheckpointError(f"{source}: hidden_act={name!r} is not supported; known are {sorted(names)}.")
    return names[name]
