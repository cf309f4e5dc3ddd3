"""A published model under Ray Serve: the same callable as `tfrec.serve`, on many machines.

    pip install "ray[serve]==2.60.0"
    TFREC_MODEL=$PWD/saved_models/hm_scann serve run deploy.ray.app:app
    curl localhost:8000/ -d '{"instances": [{"history": ["0108775015"]}]}'

Replicas hold the whole index; requests are spread over them. A new version is taken by a rolling update:
`serve deploy deploy/ray/config.yaml` with the new folder.
"""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

try:
    from ray import serve
    from starlette.concurrency import run_in_threadpool
    from starlette.responses import JSONResponse
except ImportError as error:
    raise SystemExit("deploy/ray needs Ray Serve: pip install 'ray[serve]==2.60.0'") from error

from tfrec.publish import find_version
from tfrec.serve.errors import ServeError
from tfrec.serve.service import find_signature
from tfrec.serve.tensors_json import decode, encode, error_body, parse_body

MAX_VALUES = 100_000


@serve.deployment(num_replicas=1, max_ongoing_requests=32, max_queued_requests=128, health_check_period_s=10)
class Recommender:
    """One replica: a version in memory, warmed up before it takes requests.

    Args:
        model: folder of a model (its newest version), or of one version.
    """

    def __init__(self, model: str):
        from tfrec.serve.servable import Servable

        path = find_version(Path(model))
        self._servable = Servable(path.parent.name, int(path.name), path)

    def predict(self, body: bytes) -> tuple[int, dict[str, Any]]:
        """Answer a request in TensorFlow Serving's JSON: HTTP status and the answer."""
        try:
            parsed = parse_body(body)
            signature = find_signature(self._servable, parsed.get("signature_name", ""))
            arrays, rows = decode(parsed, signature, max_values=MAX_VALUES)
            inputs, _ = signature.complete(arrays)
            return 200, encode(self._servable.run(signature.name, inputs), rows=rows)
        except ServeError as error:
            return error.code.http, error_body(error)

    async def __call__(self, request):
        status, answer = await run_in_threadpool(self.predict, await request.body())
        return JSONResponse(answer, status)


app = Recommender.bind(os.environ.get("TFREC_MODEL", "saved_models/hm_scann"))
