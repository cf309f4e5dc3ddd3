"""A published model under Ray Serve: the same callable as `tfrec.serve`, on many machines.

    pip install "ray[serve]==2.60.0"
    TFREC_MODEL=$PWD/saved_models/hm_scann/1 serve run deploy.ray.app:app
    curl localhost:8000/ -d '{"instances": [{"history": ["0108775015"]}]}'

Replicas hold the whole index; requests are spread over them. All serve the version that is named, whenever they are
started. A new one is taken by a rolling update: `serve deploy deploy/ray/config.yaml` with its folder.
"""

from __future__ import annotations

import os
from pathlib import Path

try:
    from ray import serve
    from starlette.concurrency import run_in_threadpool
    from starlette.responses import Response
except ImportError as error:
    raise SystemExit("deploy/ray needs Ray Serve: pip install 'ray[serve]==2.60.0'") from error

from tfrec.publish import one_version
from tfrec.serve.errors import ServeError
from tfrec.serve.options import ServeOptions
from tfrec.serve.service import answer_json, error_json, read_bounded


@serve.deployment(num_replicas=1, max_ongoing_requests=32, max_queued_requests=128, health_check_period_s=10)
class Recommender:
    """One replica: a version in memory, warmed up before it takes requests.

    Args:
        version: folder of one version of a model.

    Raises:
        PublishError: it is a model's folder, or none: replicas that are started later would serve a newer version.
    """

    def __init__(self, version: str):
        from tfrec.serve.servable import Servable

        path = one_version(Path(version))
        self._servable = Servable(path.parent.name, int(path.name), path)

    def predict(self, body: bytes) -> tuple[int, bytes]:
        """Answer a request in TensorFlow Serving's JSON: HTTP status and the body."""
        limits = {"max_values": ServeOptions.max_values, "max_rows": ServeOptions.max_request_rows}
        return answer_json(self._servable, body, **limits)

    async def __call__(self, request):
        try:
            body = await read_bounded(request.stream(), request.headers.get("content-length"), ServeOptions.max_bytes)
            status, answer = await run_in_threadpool(self.predict, body)
        except ServeError as error:
            status, answer = error_json(error)
        return Response(answer, status, media_type="application/json")


app = Recommender.bind(os.environ.get("TFREC_MODEL", "saved_models/hm_scann/1"))
