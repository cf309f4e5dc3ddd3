"""Serve published models over TensorFlow Serving's REST and gRPC interfaces, with a shop window at /.

    python -m tfrec.serve --model saved_models/hm_scann --data data/hm
    curl localhost:8501/v1/models/hm_scann:predict -d '{"instances": [{"history": ["0108775015"]}]}'

New versions are detected automatically and put into service without a failed request. Without --host, only this
machine can connect.
"""

from __future__ import annotations

import argparse
import logging
import os
import resource
import sys
from pathlib import Path
from typing import TYPE_CHECKING

from pipelines.arguments import number, whole_number
from pipelines.command import run_command
from pipelines.remote import location
from tfrec.serve.allocator import AUTO, SYSTEM, use_allocator
from tfrec.serve.errors import ServeConfigError
from tfrec.serve.options import ServeOptions

if TYPE_CHECKING:
    from tfrec.serve.model_config import ModelConfig

TOKEN_VARIABLE = "TFREC_TOKEN"
SWITCH_SECONDS = (
    0.0005  # that the event loop and a batch may keep each other waiting; Python's own 5 ms are a request's
)
OTHER_FILES = 256  # than connections that the server may have open


def main(arguments: list[str] | None = None) -> int:
    """Serve until SIGTERM; 0 then, 2 when an option, a model or the data is at fault, 1 when a port is taken."""
    options = _parser().parse_args(arguments)

    def serve() -> int:
        if arguments is None:  # else this process is not the command's own
            use_allocator(options.allocator)
        return _serve(options)

    return run_command(serve)


def _serve(options: argparse.Namespace) -> int:
    import asyncio

    from tfrec.serve.logs import log_json
    from tfrec.serve.model_config import models_of_folders, read_model_config
    from tfrec.serve.server import Server, serve

    if bool(options.model) == bool(options.model_config_file):
        raise ServeConfigError("give either --model (once or more) or --model-config-file")
    log = log_json()

    def read_configs() -> list[ModelConfig]:
        if options.model_config_file:
            return read_model_config(options.model_config_file)
        return models_of_folders(options.model, options.versions)

    server = Server(
        read_configs,
        ServeOptions(
            host=options.host,
            port=options.port,
            grpc_port=None if options.no_grpc else options.grpc_port,
            data=options.data,
            token=_token(options.token_file),
            poll_seconds=options.poll_seconds,
            workers=options.workers,
            max_batch_rows=options.max_batch_rows,
            max_pending=options.max_pending,
            timeout=options.timeout,
            max_bytes=options.max_megabytes << 20,
            drain_seconds=options.drain_seconds,
        ),
    )
    log.dropped = server.metrics.dropped_lines.inc
    sys.setswitchinterval(SWITCH_SECONDS)
    _allow_files(2 * ServeOptions.max_connections + OTHER_FILES)
    asyncio.run(serve(server))
    if server.loading:  # from a file system that does not answer: Python would wait for its thread
        logging.shutdown()
        os._exit(0)
    return 0


def _allow_files(count: int) -> None:
    """Let the process have so many files open: the usual 1,024 are too few for the connections that it may have."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    wanted = count if hard == resource.RLIM_INFINITY else min(count, hard)
    if soft != resource.RLIM_INFINITY and soft < wanted:
        resource.setrlimit(resource.RLIMIT_NOFILE, (wanted, hard))


def _token(file: Path | None) -> str | None:
    token = (file.read_text(encoding="utf-8") if file else os.environ.get(TOKEN_VARIABLE, "")).strip()
    if file and not token:
        raise ServeConfigError(f"{file} is empty; write the token into it")
    return token or None


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="python -m tfrec.serve", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    what = parser.add_argument_group("what is served")
    what.add_argument(
        "--model", type=Path, action="append", metavar="DIR", help="folder of a model's versions; may be repeated"
    )
    what.add_argument(
        "--versions",
        type=whole_number(1),
        default=1,
        help="so many of the newest versions at a time (default: %(default)s)",
    )
    what.add_argument(
        "--model-config-file", type=Path, metavar="FILE", help="TensorFlow Serving's file, in place of --model"
    )
    what.add_argument("--data", type=location, metavar="PREPARED", help="a prepared dataset for the shop window at /")
    what.add_argument(
        "--poll-seconds",
        type=number(0.05),
        default=ServeOptions.poll_seconds,
        help="between looks for new versions (default: %(default)s)",
    )
    who = parser.add_argument_group("who may connect")
    who.add_argument(
        "--host", default=ServeOptions.host, help="address to listen at (default: %(default)s, this machine)"
    )
    who.add_argument(
        "--port",
        type=whole_number(0, 65535),
        default=ServeOptions.port,
        help="of HTTP; 0 = any free one (default: %(default)s)",
    )
    who.add_argument(
        "--grpc-port",
        type=whole_number(0, 65535),
        default=ServeOptions.grpc_port,
        help="of gRPC; 0 = any free one (default: %(default)s)",
    )
    who.add_argument("--no-grpc", action="store_true", help="HTTP alone")
    who.add_argument(
        "--token-file",
        type=Path,
        metavar="FILE",
        help=f"holds the token that requests must bear (or the variable {TOKEN_VARIABLE})",
    )
    parser.add_argument(
        "--allocator",
        default=AUTO,
        metavar=f"{AUTO}|{SYSTEM}|FILE",
        help="of memory: jemalloc or mimalloc where installed (auto), the system's, or a library (default: %(default)s)",
    )
    limits = parser.add_argument_group("limits")
    limits.add_argument("--workers", type=whole_number(1), help="batches at a time (default: half of the cores)")
    limits.add_argument(
        "--max-batch-rows",
        type=whole_number(1),
        default=ServeOptions.max_batch_rows,
        help="rows of a batch (default: %(default)s)",
    )
    limits.add_argument(
        "--max-pending",
        type=whole_number(1),
        default=ServeOptions.max_pending,
        help="requests that may be under way; more are refused (default: %(default)s)",
    )
    limits.add_argument(
        "--timeout",
        type=number(0.001),
        default=ServeOptions.timeout,
        help="seconds a request may wait (default: %(default)s)",
    )
    limits.add_argument(
        "--max-megabytes",
        type=whole_number(1),
        default=ServeOptions.max_bytes >> 20,
        help="of one request (default: %(default)s)",
    )
    limits.add_argument(
        "--drain-seconds",
        type=number(0),
        default=ServeOptions.drain_seconds,
        help="after SIGTERM, go on serving so long, reported as not ready (default: %(default)s)",
    )
    return parser


if __name__ == "__main__":
    sys.exit(main())
