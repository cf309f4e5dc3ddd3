"""The HTTP side as one aiohttp application: REST, health, metrics, its own description, and the shop window."""

from __future__ import annotations

import asyncio
import hmac
import logging
import random
import re
import time
from collections.abc import Awaitable, Callable
from dataclasses import dataclass

from aiohttp import web
from aiohttp.typedefs import Middleware

from tfrec.serve.connections import ConnectionGuard
from tfrec.serve.errors import Code, ServeError
from tfrec.serve.metrics import Metrics
from tfrec.serve.openapi import describe
from tfrec.serve.rest import CALLED, HELD, Held, RestApi
from tfrec.serve.service import Called, PredictService

LOG = logging.getLogger("tfrec.serve")
Handler = Callable[[web.Request], Awaitable[web.StreamResponse]]

OPEN_PATHS = ("/healthz", "/readyz")  # probes carry no token
REQUEST_ID = re.compile(r"[A-Za-z0-9._-]{1,64}")
SECURITY = {
    "X-Content-Type-Options": "nosniff",
    "Referrer-Policy": "no-referrer",
    "Content-Security-Policy": "default-src 'self'; img-src 'self' blob: data:; object-src 'none'; base-uri 'none'; "
    "frame-ancestors 'none'; form-action 'none'",
}


@dataclass
class HttpState:
    """What handlers share.

    Attributes:
        service: answers predictions.
        metrics: of the server.
        token: that requests must bear; None for none.
        hosts: names that requests may be addressed to; None: any.
        max_bytes: of one body.
        max_bytes_at_once: of all bodies that are being read or answered.
        body_seconds: that a client may take to send a body.
        draining: whether the server is about to stop.
        public: paths that need no token, besides the probes.
        guard: of the connections, once the server runs.
    """

    service: PredictService
    metrics: Metrics
    token: str | None
    hosts: frozenset[str] | None
    max_bytes: int
    max_bytes_at_once: int
    body_seconds: float
    draining: bool = False
    public: frozenset[str] = frozenset()
    guard: ConnectionGuard | None = None
    bytes_held: int = 0


def build_app(state: HttpState, *parts: Callable[[web.UrlDispatcher], object]) -> web.Application:
    """Build the application.

    Args:
        state: what handlers share.
        parts: add further routes.
    """
    app = web.Application(
        client_max_size=state.max_bytes,
        middlewares=[_accounted(state), _errors_as_json, _authorized(state), _bounded(state)],
    )

    async def alive(request: web.Request) -> web.Response:
        return web.json_response({"status": "alive"})

    async def ready(request: web.Request) -> web.Response:
        if state.draining or not state.service.repository.ready:
            raise ServeError(Code.UNAVAILABLE, "draining" if state.draining else "no model has a version loaded")
        return web.json_response({"status": "ready"})

    async def metrics(request: web.Request) -> web.Response:
        state.metrics.pending.set(state.service.batcher.pending)
        return web.Response(body=state.metrics.page(), headers={"Content-Type": "text/plain; version=0.0.4"})

    async def description(request: web.Request) -> web.Response:
        return web.json_response(describe(state.service.repository, protected=state.token is not None))

    app.router.add_get("/healthz", alive)
    app.router.add_get("/readyz", ready)
    app.router.add_get("/metrics", metrics)
    app.router.add_get("/monitoring/prometheus/metrics", metrics)  # where TensorFlow Serving has them
    app.router.add_get("/openapi.json", description)
    RestApi(state.service, body_seconds=state.body_seconds).add_to(app.router)
    for add in parts:
        add(app.router)
    return app


def _accounted(state: HttpState) -> Middleware:
    """Time, count and log every request."""

    @web.middleware
    async def accounted(request: web.Request, handler: Handler) -> web.StreamResponse:
        started = time.perf_counter()
        called = request[CALLED] = Called()
        if state.guard:
            state.guard.busy(request.transport)
        given = request.headers.get("X-Request-Id", "")
        request_id = given if REQUEST_ID.fullmatch(given) else f"{random.getrandbits(64):016x}"
        response: web.StreamResponse | None = None
        try:
            response = await handler(request)
            response.headers.update({"X-Request-Id": request_id, **SECURITY})
            if state.draining:
                response.force_close()
            return response
        finally:
            if state.guard:
                state.guard.idle(request.transport)
            seconds, status = time.perf_counter() - started, response.status if response is not None else 499
            if called.model:
                state.metrics.answered("rest", called.model, called.signature, str(status), seconds)
            fields = {
                "event": "request",
                "api": "rest",
                "method": request.method,
                "path": request.path[:200],
                "status": status,
                "ms": round(seconds * 1000, 2),
                **vars(called),
                "remote": request.remote,
                "request_id": request_id,
            }
            LOG.log(logging.INFO if status < 500 else logging.ERROR, "request", extra={"fields": fields})

    return accounted


@web.middleware
async def _errors_as_json(request: web.Request, handler: Handler) -> web.StreamResponse:
    """Every error as `{"error": ...}`, as TensorFlow Serving writes it."""
    headers: dict[str, str] = {}
    try:
        return await handler(request)
    except ServeError as error:
        status, message = error.code.http, error.message
        if error.code is Code.RESOURCE_EXHAUSTED:
            headers["Retry-After"] = "1"
        if error.code is Code.UNAUTHENTICATED:
            headers["WWW-Authenticate"] = "Bearer"
    except web.HTTPException as error:
        status, message = error.status, error.text or error.reason
        headers = {name: value for name, value in error.headers.items() if name in ("Allow", "Location")}
    except asyncio.CancelledError:
        raise
    except Exception:
        LOG.exception("a request failed", extra={"fields": {"path": request.path[:200]}})
        status, message = 500, "the server failed; its log says how"
    response = web.json_response({"error": message}, status=status, headers=headers)
    if not request.body_exists or request.content.at_eof():
        return response
    response.force_close()  # what is left of the body is not worth reading
    return response


def _authorized(state: HttpState) -> Middleware:
    """Ask for the bearer token, where there is one; where there is none, for a name that is this machine's: a page of the
    web whose own name is made to lead here (DNS rebinding) is not to read what the server knows.
    """
    wanted = f"Bearer {state.token}".encode() if state.token else b""

    @web.middleware
    async def authorized(request: web.Request, handler: Handler) -> web.StreamResponse:
        if request.path in OPEN_PATHS:
            return await handler(request)
        if wanted and request.path not in state.public:
            given = request.headers.get("Authorization", "").encode("utf-8", "surrogateescape")
            if not hmac.compare_digest(given, wanted):
                raise ServeError(Code.UNAUTHENTICATED, "send the header Authorization: Bearer TOKEN")
        if state.hosts is not None and "Host" in request.headers:  # as every browser says
            try:
                name = request.url.host or ""
            except ValueError:
                raise web.HTTPBadRequest(text="the header Host is no name or address with a port") from None
            if name not in state.hosts:
                raise web.HTTPForbidden(
                    text=f"this server is addressed as {' or '.join(sorted(state.hosts))}, not {name[:100]!r}; behind a "
                    "proxy, or under another name, start it with a token"
                )
        return await handler(request)

    return authorized


def _bounded(state: HttpState) -> Middleware:
    """Hold no more bytes of bodies at a time than agreed, counted as they arrive, so that who sends nothing keeps nobody
    out; refuse what says beforehand that it is too large.
    """

    @web.middleware
    async def bounded(request: web.Request, handler: Handler) -> web.StreamResponse:
        held = 0

        def hold(more: int) -> None:
            nonlocal held
            if held + more > state.max_bytes:
                raise _too_large(state.max_bytes, held + more)
            if state.bytes_held + more > state.max_bytes_at_once:
                raise ServeError(Code.RESOURCE_EXHAUSTED, "too many large requests at once; try again later")
            held += more
            state.bytes_held += more

        if request.content_length and request.content_length > state.max_bytes:
            raise _too_large(state.max_bytes, request.content_length)
        request[HELD] = Held(hold)
        try:
            return await handler(request)
        finally:
            state.bytes_held -= held

    return bounded


def _too_large(most: int, size: int) -> web.HTTPRequestEntityTooLarge:
    text = f"the body may have {most} bytes, not {size}"
    return web.HTTPRequestEntityTooLarge(max_size=most, actual_size=size, text=text)
