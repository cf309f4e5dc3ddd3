"""A request of the server to itself before it says that it has started.

Warm-up has run the model already, but not what a request passes on its way to it: the connection, the parser, the batch's
thread. At their first request these take twice as long, which the first customer would wait for.
"""

from __future__ import annotations

import asyncio
import logging
from contextlib import closing

from tfrec.serve.repository import Repository
from tfrec.serve.service import DEFAULT_SIGNATURE
from tfrec.serve.tensors_json import request_body

LOG = logging.getLogger("tfrec.serve")
SECONDS = 30.0  # that a server may let itself wait


async def ask_itself(repository: Repository, host: str, port: int, token: str | None) -> None:
    """Send each model a request of its warm-up, as a client would; what goes wrong is logged."""
    from tfrec.saved_model.warmup import read_warmup

    for name in repository.names:
        try:
            requests = dict(await asyncio.to_thread(read_warmup, repository.get(name).path))
            if DEFAULT_SIGNATURE not in requests:
                continue
            body = request_body(DEFAULT_SIGNATURE, requests[DEFAULT_SIGNATURE])
            async with asyncio.timeout(SECONDS):
                status = await _post(host, port, f"/v1/models/{name}", body, token)
        except Exception as error:  # as of a version that was withdrawn meanwhile: the server has started all the same
            status = f"{type(error).__name__}: {error}"
        if " 200 " not in status:
            LOG.warning("the server does not answer its own first request to %s: %s", name, status)


async def _post(host: str, port: int, model: str, body: bytes, token: str | None) -> str:
    """Ask for a prediction: the answer's first line."""
    name = f"[{host}]" if ":" in host else host
    head = [f"POST {model}:predict HTTP/1.1", f"Host: {name}:{port}", f"Content-Length: {len(body)}"]
    head += ["X-Request-Id: first-request", "Connection: close"]
    head += [f"Authorization: Bearer {token}"] if token else []
    reader, writer = await asyncio.open_connection(host, port)
    with closing(writer):
        writer.write("\r\n".join([*head, "", ""]).encode() + body)
        answer = await reader.read()
    return answer.partition(b"\r\n")[0].decode("latin-1")
