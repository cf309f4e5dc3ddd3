"""What a signature takes and returns, read from the SavedModel; and the check of a request against it."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from tfrec.serve.errors import invalid, shown

if TYPE_CHECKING:
    from tensorflow.core.framework import tensor_pb2
    from tensorflow.core.protobuf import meta_graph_pb2

Arrays = dict[str, np.ndarray]

SPREAD = {"days_ago": "history"}  # inputs whose one column counts for every column of another
RANKED = ("item_id", "item_row", "score")  # outputs that are k wide


@dataclass(frozen=True)
class InputSpec:
    """An input.

    Attributes:
        name: in requests.
        tensor: its tensor in the graph.
        dtype: of its array; strings are objects.
        shape: None for a dimension of any size; None altogether for a scalar or a vector.
        default: taken where a request leaves the input out; None where it must be given.
    """

    name: str
    tensor: str
    dtype: np.dtype
    shape: tuple[int | None, ...] | None
    default: np.ndarray | None

    @property
    def kind(self) -> str:
        """The type's name in error messages."""
        return "string" if self.dtype == object else self.dtype.name


@dataclass(frozen=True)
class Signature:
    """A signature: its inputs by name, and its outputs' tensors by name."""

    name: str
    inputs: dict[str, InputSpec]
    outputs: dict[str, str]

    def complete(self, given: Mapping[str, np.ndarray]) -> tuple[Arrays, int]:
        """Fill in defaults and check shapes.

        Args:
            given: the arrays of a request, of the right types.

        Returns:
            All inputs, and how many rows the request has.

        Raises:
            ServeError: an input is unknown, missing or of the wrong shape.
        """
        unknown = sorted(set(given) - set(self.inputs))
        if unknown:
            raise invalid(f"signature {self.name!r} has no input {shown(unknown[0])}; it takes {sorted(self.inputs)}")
        missing = [name for name, spec in self.inputs.items() if spec.default is None and name not in given]
        if missing or not given:
            required = [name for name, spec in self.inputs.items() if spec.default is None] or sorted(self.inputs)
            raise invalid(f"signature {self.name!r} needs the input {(missing or required)[0]!r}")
        for name, array in given.items():
            _check_shape(self.inputs[name], array)
        inputs = {**self._defaults(), **given}
        rows = _rows(self, inputs, given)
        _check_spread(inputs)
        return inputs, rows

    def _defaults(self) -> Arrays:
        return {name: spec.default for name, spec in self.inputs.items() if spec.default is not None}


def read_signatures(meta_graph: meta_graph_pb2.MetaGraphDef) -> dict[str, Signature]:
    """The signatures of a SavedModel, but for the one that TensorFlow itself adds."""
    return {
        name: Signature(
            name,
            {key: _input(key, info, definition.defaults) for key, info in sorted(definition.inputs.items())},
            {key: info.name for key, info in sorted(definition.outputs.items())},
        )
        for name, definition in meta_graph.signature_def.items()
        if not name.startswith("__")
    }


def _input(name: str, info: meta_graph_pb2.TensorInfo, defaults: Mapping[str, tensor_pb2.TensorProto]) -> InputSpec:
    import tensorflow as tf

    shape = None
    if not info.tensor_shape.unknown_rank:
        shape = tuple(None if dim.size < 0 else int(dim.size) for dim in info.tensor_shape.dim)
    default = tf.make_ndarray(defaults[name]) if name in defaults else None
    kind = tf.dtypes.as_dtype(info.dtype)
    return InputSpec(name, info.name, np.dtype(object if kind == tf.string else kind.as_numpy_dtype), shape, default)


def _check_shape(spec: InputSpec, array: np.ndarray) -> None:
    if array.dtype != spec.dtype:
        raise invalid(f"input {spec.name!r} must be {spec.kind}, not {array.dtype.name}")
    if spec.shape is None:
        if array.ndim > 1:
            raise invalid(f"input {spec.name!r} must be a scalar or a list, not of shape {list(array.shape)}")
        return
    fits = array.ndim == len(spec.shape) and all(
        want is None or want == have for want, have in zip(spec.shape, array.shape, strict=True)
    )
    if not fits:
        wanted = [-1 if size is None else size for size in spec.shape]
        raise invalid(f"input {spec.name!r} must be of shape {wanted} (-1 = any), not {list(array.shape)}")


def _rows(signature: Signature, inputs: Arrays, given: Mapping[str, np.ndarray]) -> int:
    """Rows of a request: those of the inputs that it must give, else the most of those given."""
    required = [name for name, spec in signature.inputs.items() if spec.default is None]
    sizes = {name: len(inputs[name]) for name in (required or given) if inputs[name].ndim}
    rows = sizes[required[0]] if required else max(sizes.values(), default=1)
    for name, array in inputs.items():
        if array.ndim and len(array) not in (1, rows):
            raise invalid(f"input {name!r} has {len(array)} rows for a request of {rows}; give one, or one a row")
        if name in required and len(array) != rows:
            raise invalid(f"input {name!r} has {len(array)} rows, {required[0]!r} has {rows}; give as many")
    return rows


def _check_spread(inputs: Arrays) -> None:
    for name, other in SPREAD.items():
        if name in inputs and other in inputs and inputs[name].shape[1] not in (1, inputs[other].shape[1]):
            width = inputs[other].shape[1]
            raise invalid(f"input {name!r} has {inputs[name].shape[1]} columns, {other!r} has {width}; give as many")
