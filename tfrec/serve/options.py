"""How a server runs, and what it does where it is not told: the command line has its defaults from here."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path


@dataclass(frozen=True)
class ServeOptions:
    """How a server runs.

    Attributes:
        host: to listen at; loopback unless told otherwise.
        port: of HTTP; 0 for any free one.
        grpc_port: of gRPC; 0 for any free one, None for no gRPC.
        data: a prepared dataset for the shop window.
        token: that requests must bear.
        poll_seconds: between two looks at the models' folders.
        workers: batches run at a time; half of the cores where None, the event loop needs one as well.
        max_batch_rows, max_pending, timeout: of `Batcher`.
        max_request_rows, max_values: of `PredictService`.
        max_bytes: of a body or message.
        max_connections: of each interface.
        head_seconds, body_seconds: that a client may take to send a request's head, and its body.
        drain_seconds: after SIGTERM, to go on serving while load balancers notice.
        stop_seconds: for the requests under way after that.
    """

    host: str = "127.0.0.1"
    port: int = 8501
    grpc_port: int | None = 8500
    data: Path | None = None
    token: str | None = None
    poll_seconds: float = 2.0
    workers: int | None = None
    max_batch_rows: int = 64
    max_pending: int = 256
    timeout: float = 5.0
    max_request_rows: int = 1024
    max_values: int = 100_000
    max_bytes: int = 8 << 20
    max_connections: int = 4000
    head_seconds: float = 30.0
    body_seconds: float = 10.0
    drain_seconds: float = 0.0
    stop_seconds: float = 20.0
