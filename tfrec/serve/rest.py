"""TensorFlow Serving's REST interface (https://www.tensorflow.org/tfx/serving/api_rest)."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from aiohttp import web

from tfrec.serve.errors import Code, ServeError, shown
from tfrec.serve.service import Address, Called, PredictService
from tfrec.serve.signatures import Arrays, Signature
from tfrec.serve.tensors_json import decode, encode, parse_body, signature_name

MODEL = r"/v1/models/{name:[^/:]+}"
PLACES = (MODEL, MODEL + r"/versions/{version:\d+}", MODEL + r"/labels/{label:[^/:]+}")
CALLED: web.RequestKey[Called] = web.RequestKey("called", Called)
MAX_VERSION = 2**63 - 1


@dataclass(frozen=True)
class Held:
    """How the bytes of a body are counted among those of all others, as they arrive: `count` may refuse them."""

    count: Callable[[int], None]


HELD: web.RequestKey[Held] = web.RequestKey("held", Held)


class RestApi:
    """The routes.

    Args:
        service: answers predictions.
        body_seconds: that a client may take to send a body.
    """

    def __init__(self, service: PredictService, *, body_seconds: float):
        self._service, self._body_seconds = service, body_seconds

    def add_to(self, router: web.UrlDispatcher) -> None:
        """Add the routes."""
        router.add_get("/v1/models", self._list)
        for place in PLACES:
            router.add_post(place + ":predict", self._predict)
            router.add_get(place, self._status)
            router.add_get(place + "/metadata", self._metadata)

    async def _predict(self, request: web.Request) -> web.Response:
        self._service.batcher.check_room()
        content = await read_body(request, self._body_seconds)
        with self._service.batcher.admitted():
            body = parse_body(content)
            del content
            return await self._answer(request, body)

    async def _answer(self, request: web.Request, body: dict[str, Any]) -> web.Response:
        name, in_rows = signature_name(body), False

        def arrays(signature: Signature) -> Arrays:
            nonlocal in_rows
            found, in_rows = decode(body, signature, max_values=self._service.max_values)
            body.clear()  # up to twenty times as large as what arrived: a request waits with its arrays alone
            return found

        outputs = await self._service.predict(_address(request), name, arrays, request[CALLED])
        return web.Response(body=encode(outputs, rows=in_rows), content_type="application/json", charset="utf-8")

    async def _list(self, request: web.Request) -> web.Response:
        """The models that are served: an addition to TensorFlow Serving's interface."""
        models = [self._service.repository.model(name) for name in self._service.repository.names]
        listed = [
            {"name": model.config.name, "versions": sorted(model.servables), "labels": model.config.labels}
            for model in models
        ]
        return web.json_response({"models": listed})

    async def _status(self, request: web.Request) -> web.Response:
        address = _address(request)
        return web.json_response({"model_version_status": version_status(self._service, address)})

    async def _metadata(self, request: web.Request) -> web.Response:
        from google.protobuf.json_format import MessageToDict

        address = _address(request)
        servable = self._service.repository.get(address.model, address.version, address.label)
        signatures = {
            name: MessageToDict(definition, preserving_proto_field_name=True)
            for name, definition in servable.meta_graph.signature_def.items()
        }
        spec = {"name": servable.name, "signature_name": "", "version": str(servable.version)}
        metadata = {"signature_def": {"signature_def": signatures}}
        return web.json_response({"model_spec": spec, "metadata": metadata})


def version_status(service: PredictService, address: Address) -> list[dict[str, Any]]:
    """The states of a model's versions, newest first, as both interfaces report them."""
    repository = service.repository
    statuses = repository.model(address.model).status
    if address.version is not None or address.label is not None:
        version = address.version
        if version not in statuses:
            version = repository.get(address.model, address.version, address.label).version
        statuses = {version: statuses[version]}
    return [
        {
            "version": str(version),
            "state": status.state,
            "status": {"error_code": "UNKNOWN" if status.error else "OK", "error_message": status.error},
        }
        for version, status in sorted(statuses.items(), reverse=True)
    ]


async def read_body(request: web.Request, seconds: float) -> bytes:
    """Read a body, or refuse it: too large (413), too slow (408)."""
    body, hold = bytearray(), request[HELD].count

    async def read() -> bytes:
        async for chunk in request.content.iter_any():
            hold(len(chunk))
            body.extend(chunk)
        return bytes(body)

    if request.content.is_eof():  # all of it came with the head: there is no time to mind
        return await read()
    try:
        async with asyncio.timeout(seconds):
            return await read()
    except TimeoutError:
        raise web.HTTPRequestTimeout(text=f"the body took longer than {seconds} s") from None


def _address(request: web.Request) -> Address:
    version, number = request.match_info.get("version"), None
    if version is not None:
        digits = version.lstrip("0") or "0"
        number = int(digits[:20])
        if number > MAX_VERSION:
            raise ServeError(Code.NOT_FOUND, f"no version {shown(version)}")
    return Address(request.match_info["name"], number, request.match_info.get("label"))
