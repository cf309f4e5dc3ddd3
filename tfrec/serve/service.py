"""Predictions behind both interfaces: which version, which signature, are the inputs right, and run."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from tfrec.serve.batching import Batcher
from tfrec.serve.errors import invalid, shown
from tfrec.serve.repository import Repository
from tfrec.serve.servable import Servable
from tfrec.serve.signatures import Arrays, Signature

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

    async def predict(
        self, address: Address, signature_name: str, decode: Callable[[Signature], Arrays], called: Called
    ) -> Arrays:
        """Answer a request.

        Args:
            address: which model.
            signature_name: "" for the default one.
            decode: reads the request's arrays, once the signature is known.
            called: is filled in.

        Raises:
            ServeError: there is no such model, version, label or signature, the inputs are wrong, or the server
                has too much to do.
        """
        servable = self.repository.acquire(address.model, address.version, address.label)
        try:
            called.model, called.version = servable.name, str(servable.version)
            signature = find_signature(servable, signature_name)
            called.signature = signature.name
            inputs, called.rows = signature.complete(decode(signature))
            if called.rows > self.max_request_rows:
                raise invalid(f"the request has {called.rows} rows; at most {self.max_request_rows} are taken at once")
            return await self.batcher.run(servable, signature.name, inputs, called.rows)
        finally:
            servable.release()


def find_signature(servable: Servable, name: str) -> Signature:
    """A signature by name, "" for the default one; INVALID_ARGUMENT, as TensorFlow Serving says, where it is unknown."""
    signature = servable.signatures.get(name or DEFAULT_SIGNATURE)
    if signature is None:
        known = sorted(servable.signatures)
        raise invalid(f"model {servable.name!r} has no signature {shown(name)}; it has {known}")
    return signature
