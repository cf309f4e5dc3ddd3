"""Tensors in TensorFlow Serving's JSON: rows (`instances`), columns (`inputs`), and bytes as `{"b64": ...}`."""

from __future__ import annotations

import base64
import binascii
import json
from collections.abc import Mapping
from typing import Any

import numpy as np
import orjson

from tfrec.serve.errors import ServeError, invalid, shown
from tfrec.serve.signatures import Arrays, InputSpec, Signature

MAX_RANK = 4


def parse_body(body: bytes) -> dict[str, Any]:
    """Parse a request's body.

    Raises:
        ServeError: it is no JSON object in UTF-8.
    """
    try:
        parsed = json.loads(body.decode("utf-8"))  # of bytes, json would also guess UTF-16
    except UnicodeDecodeError:
        raise invalid("the body must be JSON in UTF-8") from None
    except RecursionError:
        raise invalid("the body is nested too deeply") from None
    except ValueError as error:  # also of a number with too many digits
        raise invalid(f"the body is not JSON: {str(error)[:200]}") from None
    if not isinstance(parsed, dict):
        raise invalid('the body must be an object {"instances": [...]} or {"inputs": {...}}')
    return parsed


def signature_name(body: Mapping[str, Any]) -> str:
    """The signature that a request's body names, "" for the default one.

    Raises:
        ServeError: it is no string.
    """
    name = body.get("signature_name", "")
    if not isinstance(name, str):
        raise invalid(f"signature_name must be a string, not {shown(name)}")
    return name


def decode(body: Mapping[str, Any], signature: Signature, *, max_values: int) -> tuple[Arrays, bool]:
    """The arrays of a predict request.

    Args:
        body: the parsed body.
        signature: that it is for.
        max_values: the most values that an input may hold.

    Returns:
        Arrays by input, and whether the request came in rows.

    Raises:
        ServeError: a value is of the wrong type, or lists are not regular.
    """
    rows, columns = "instances" in body, "inputs" in body
    if rows == columns:
        raise invalid('give either "instances" (rows) or "inputs" (columns)')
    given = _columns(body["instances"], signature) if rows else _named(body["inputs"], signature)
    if rows and body["instances"] == []:  # no rows at all: every input that must be given is empty
        given = {name: [] for name, spec in signature.inputs.items() if spec.default is None}
    arrays = {}
    for name, value in given.items():
        if name not in signature.inputs:
            raise invalid(
                f"signature {signature.name!r} has no input {shown(name)}; it takes {sorted(signature.inputs)}"
            )
        arrays[name] = _array(value, signature.inputs[name], max_values)
    return arrays, rows


def request_body(signature: str, inputs: Arrays) -> bytes:
    """A predict request in columns."""
    columns = {name: _plain(array) for name, array in inputs.items()}
    return json.dumps({"signature_name": signature, "inputs": columns}, default=_listed).encode()


def encode(outputs: Arrays, *, rows: bool) -> bytes:
    """Outputs as TensorFlow Serving writes them: `predictions` for rows, `outputs` for columns; NaN as `NaN`."""
    answer = _answer({name: _plain(array) for name, array in outputs.items()}, rows)
    if all(array.dtype == object or np.isfinite(array).all() for array in outputs.values()):
        return orjson.dumps(answer, default=_listed, option=orjson.OPT_SERIALIZE_NUMPY)
    return json.dumps(answer, default=_listed).encode()  # orjson would write null


def _answer(outputs: dict[str, Any], rows: bool) -> dict[str, Any]:
    if not rows:
        return {"outputs": next(iter(outputs.values())) if len(outputs) == 1 else outputs}
    if len(outputs) == 1:
        return {"predictions": next(iter(outputs.values()))}
    return {"predictions": [dict(zip(outputs, values, strict=True)) for values in zip(*outputs.values(), strict=True)]}


def _columns(instances: Any, signature: Signature) -> dict[str, Any]:
    if not isinstance(instances, list):
        raise invalid(f'"instances" must be a list of rows, not {shown(instances)}')
    if not instances:
        return {}
    if not _is_object(instances[0]):
        return _named(instances, signature)
    names = instances[0].keys()
    for number, row in enumerate(instances):
        if not _is_object(row) or row.keys() != names:
            raise invalid(f"row {number} of instances must have the inputs of row 0: {sorted(names)}")
    return {name: [row[name] for row in instances] for name in names}


def _named(value: Any, signature: Signature) -> dict[str, Any]:
    """Inputs by name; a bare value stands for the one input of a signature that has one."""
    if _is_object(value):
        return dict(value)
    if len(signature.inputs) == 1:
        return {next(iter(signature.inputs)): value}
    raise invalid(f"signature {signature.name!r} has several inputs; name them: {sorted(signature.inputs)}")


def _is_object(value: Any) -> bool:
    return isinstance(value, dict) and value.keys() != {"b64"}


def _array(value: Any, spec: InputSpec, max_values: int) -> np.ndarray:
    shape: list[int] = []
    level = [value]
    while level and isinstance(level[0], list):
        if len(shape) == MAX_RANK:
            raise invalid(f"input {spec.name!r} is nested more than {MAX_RANK} deep")
        width = len(level[0])
        if not all(isinstance(part, list) and len(part) == width for part in level):
            raise invalid(f"input {spec.name!r} has lists of different lengths; pad them")
        if len(level) * width > max_values:
            raise invalid(f"input {spec.name!r} has more than {max_values} values")
        shape.append(width)
        level = [item for part in level for item in part]
    if not level and spec.shape is not None:  # nothing in it: of as many dimensions as the input has
        shape += [0] * (len(spec.shape) - len(shape))
    array = np.empty(len(level), spec.dtype)
    array[:] = [_value(item, spec) for item in level]
    return array.reshape(shape)


def _value(value: Any, spec: InputSpec) -> Any:
    kind = spec.dtype.kind
    try:
        if kind == "O":
            return _bytes(value)
        if isinstance(value, bool) or not isinstance(value, int | float):
            raise TypeError
        if kind == "f":
            return float(value)
        if value != int(value) or not np.iinfo(spec.dtype).min <= value <= np.iinfo(spec.dtype).max:
            raise ValueError
        return int(value)
    except (TypeError, ValueError, OverflowError):
        raise invalid(f"input {spec.name!r} takes {spec.kind} values, not {shown(value)}") from None


def _bytes(value: Any) -> bytes:
    if isinstance(value, str):
        return value.encode("utf-8")  # a lone surrogate is a UnicodeEncodeError, which is a ValueError
    if isinstance(value, dict) and value.keys() == {"b64"} and isinstance(value["b64"], str):
        try:
            return base64.b64decode(value["b64"], validate=True)
        except binascii.Error as error:
            raise invalid(f"b64 is not base64: {error}") from None
    raise TypeError


def _plain(array: np.ndarray) -> np.ndarray | list[Any]:
    """Numbers as they are, which orjson writes as short as float32 is; bytes as text."""
    if array.dtype != object:
        return np.ascontiguousarray(array)
    return [_text(value) if isinstance(value, bytes) else _plain(value) for value in array]


def _listed(value: Any) -> Any:
    """NumPy's arrays and numbers for encoders that do not know them."""
    return value.tolist()


def _text(value: bytes) -> str | dict[str, str]:
    try:
        return value.decode("utf-8")
    except UnicodeDecodeError:
        return {"b64": base64.b64encode(value).decode("ascii")}


def error_body(error: ServeError) -> dict[str, str]:
    """An error as TensorFlow Serving writes it."""
    return {"error": error.message}
