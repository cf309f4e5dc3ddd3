"""Predictions behind both interfaces: which version, which signature, are the inputs right, and run."""

from __future__ import annotations

import json
from collections.abc import AsyncIterable, Callable
from dataclasses import dataclass

from tfrec.serve.batching import Batcher
from tfrec.serve.errors import ServeError, invalid, shown
from tfrec.serve.merging import MAX_SPREAD, MAX_SPREAD_BYTES, spread_bytes
from tfrec.serve.repository import Repository
from tfrec.serve.servable import Servable
from tfrec.serve.signatures import Arrays, Signature
from tfrec.serve.tensors_json import decode, encode, error_body, parse_body, signature_name

MAX_ANSWERS = 1 << 17  # items of all rows of an answer: some 5 MB of JSON
DEFAULT_SIGNATURE = "serving_default"


@dataclass(frozen=True)
class Address:
    """Which model a request means; the newest version unless it names a version or a label."""

    model: str
    version: int | None = None
    label: str | None = None


@dataclass
class Called:
    """What a request turned out to call, as far as it got: for logs and metrics, so never the client's own words."""

    model: str = ""
    version: str = ""
    signature: str = ""
    rows: int = 0


@dataclass(frozen=True)
class PredictService:
    """Answers predict requests.

    Attributes:
        repository: the versions in service.
        batcher: runs them.
        max_request_rows: of one request.
        max_values: that one input may hold.
    """

    repository: Repository
    batcher: Batcher
    max_request_rows: int
    max_values: int

    async def predict(self, address: Address, name: str, read: Callable[[Signature], Arrays], called: Called) -> Arrays:
        """Answer a request.

        Args:
            address: which model.
            name: of the signature, "" for the default one.
            read: reads the request's arrays, once the signature is known.
            called: is filled in.

        Raises:
            ServeError: there is no such model, version, label or signature, the inputs are wrong, or the server
                has too much to do.
        """
        servable = self.repository.acquire(address.model, address.version, address.label)
        try:
            called.model, called.version = servable.name, str(servable.version)
            signature = find_signature(servable, name)
            called.signature = signature.name
            inputs, called.rows = signature.complete(read(signature))
            check_size(inputs, called.rows, self.max_request_rows)
            return await self.batcher.run(servable, signature.name, inputs, called.rows)
        finally:
            servable.release()


def check_size(inputs: Arrays, rows: int, most: int) -> None:
    """Refuse a request of more rows than `most`, of too wide or too long inputs (one row of an input may stand for all of
    them), or for too large an answer.

    Raises:
        ServeError: INVALID_ARGUMENT.
    """
    if rows > most:
        raise invalid(f"the request has {rows} rows; at most {most} are taken at once")
    for name, array in inputs.items():
        if array.ndim > 1 and rows * array.shape[1] > MAX_SPREAD:
            raise invalid(
                f"input {name!r} has {array.shape[1]} columns for {rows} rows, which are more than {MAX_SPREAD} values; "
                "ask for fewer rows at once"
            )
    if (size := spread_bytes(inputs, rows)) > MAX_SPREAD_BYTES:
        raise invalid(
            f"the strings of the request come to {size} bytes for its {rows} rows, and at most {MAX_SPREAD_BYTES} are read "
            "at once; ask for fewer rows"
        )
    if rows > 1 and "k" in inputs and rows * int(inputs["k"].max(initial=1)) > MAX_ANSWERS:
        raise invalid(
            f"{rows} rows of up to {inputs['k'].max()} items are more than the {MAX_ANSWERS} that are answered at once; ask "
            "for fewer rows or a smaller k"
        )


def answer_json(servable: Servable, body: bytes, *, max_values: int, max_rows: int) -> tuple[int, bytes]:
    """Answer a predict request in TensorFlow Serving's JSON by itself, without a server: HTTP status and body.

    Args:
        servable: a version.
        body: the request's.
        max_values: the most values that an input may hold.
        max_rows: the most rows.
    """
    try:
        parsed = parse_body(body)
        signature = find_signature(servable, signature_name(parsed))
        arrays, in_rows = decode(parsed, signature, max_values=max_values)
        inputs, rows = signature.complete(arrays)
        check_size(inputs, rows, max_rows)
        return 200, encode(servable.run(signature.name, inputs), rows=in_rows)
    except ServeError as error:
        return error_json(error)


def error_json(error: ServeError) -> tuple[int, bytes]:
    """An error as `answer_json` answers with it: HTTP status and body."""
    return error.code.http, json.dumps(error_body(error)).encode()


async def read_bounded(chunks: AsyncIterable[bytes], announced: str | None, most: int) -> bytes:
    """Read a body of at most so many bytes.

    Args:
        chunks: of the body.
        announced: the header Content-Length, where there is one; what says that it is too large is not read.
        most: bytes.

    Raises:
        ServeError: it is larger.
    """
    body = bytearray()
    if announced is None or int(announced) <= most:
        async for chunk in chunks:
            body += chunk
            if len(body) > most:
                break
        else:
            return bytes(body)
    raise invalid(f"the body may have {most} bytes")


def find_signature(servable: Servable, name: str) -> Signature:
    """A signature by name, "" for the default one; INVALID_ARGUMENT, as TensorFlow Serving says, where it is unknown."""
    signature = servable.signatures.get(name or DEFAULT_SIGNATURE)
    if signature is None:
        known = sorted(servable.signatures)
        raise invalid(f"model {servable.name!r} has no signature {shown(name)}; it has {known}")
    return signature
