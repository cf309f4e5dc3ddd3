"""The shop window at `/`: plain files, and a small interface to the dataset behind them.

Recommendations are asked for by the page itself, through the REST interface that every client uses.
"""

from __future__ import annotations

import asyncio
import hashlib
from importlib import resources
from pathlib import Path

from aiohttp import web

from tfrec.serve.errors import invalid
from tfrec.serve.repository import Repository
from tfrec.serve.rest import read_body
from tfrec.serve.shop_data import ShopData
from tfrec.serve.tensors_json import parse_body

FILES = {
    "/": ("shop.html", "text/html"),
    "/shop.css": ("shop.css", "text/css"),
    "/shop.js": ("shop.js", "text/javascript"),
    "/shop_api.js": ("shop_api.js", "text/javascript"),
    "/shop_view.js": ("shop_view.js", "text/javascript"),
}
MAX_ITEMS = 500
CUSTOMERS = 50
BODY_SECONDS = 10.0


class ShopWindow:
    """The routes.

    Args:
        data: a prepared dataset.
        repository: the versions in service.

    Attributes:
        public: paths that need no token: the page itself, which asks for it.

    Raises:
        PreparedError: the dataset is broken.
    """

    public = frozenset(FILES)

    def __init__(self, data: Path, repository: Repository):
        self._data, self._repository = ShopData(data), repository
        folder = resources.files("tfrec") / "static"
        self._files = {path: ((folder / name).read_bytes(), kind) for path, (name, kind) in FILES.items()}

    def add_to(self, router: web.UrlDispatcher) -> None:
        """Add the routes."""
        for path in FILES:
            router.add_get(path, self._file)
        router.add_get("/shop/overview", self._overview)
        router.add_get("/shop/customers", self._customers)
        router.add_get("/shop/customers/{user_id:.+}", self._customer)
        router.add_post("/shop/items", self._items)
        router.add_get("/shop/photos/{item_id:.+}", self._photo)

    async def _file(self, request: web.Request) -> web.Response:
        content, kind = self._files[request.path]
        return _cached(request, content, kind, "no-cache")

    async def _overview(self, request: web.Request) -> web.Response:
        models = []
        for name in self._repository.names:
            for version, servable in sorted(self._repository.model(name).servables.items(), reverse=True):
                manifest = servable.manifest
                models.append(
                    {
                        "name": name,
                        "version": version,
                        "created": manifest.get("created", ""),
                        "index": manifest.get("index", {}).get("kind", ""),
                        "query_kind": manifest.get("query_kind", "history"),
                        "history_min_rating": manifest.get("history_min_rating", 0.0),
                        "signatures": sorted(servable.signatures),
                    }
                )
        overview = await asyncio.to_thread(lambda: self._data.overview)
        return web.json_response({**overview, "models": models})

    async def _customers(self, request: web.Request) -> web.Response:
        beginning = request.query.get("beginning", "")
        return web.json_response({"customers": await asyncio.to_thread(self._data.customers, beginning, CUSTOMERS)})

    async def _customer(self, request: web.Request) -> web.Response:
        return web.json_response(self._data.customer(request.match_info["user_id"]))

    async def _items(self, request: web.Request) -> web.Response:
        ids = parse_body(await read_body(request, BODY_SECONDS)).get("item_ids")
        if not isinstance(ids, list) or len(ids) > MAX_ITEMS or not all(isinstance(item, str) for item in ids):
            raise invalid(f'the body must be {{"item_ids": [...]}} with at most {MAX_ITEMS} strings')
        return web.json_response({"items": self._data.items(ids)})

    async def _photo(self, request: web.Request) -> web.Response:
        photo = self._data.photo(request.match_info["item_id"])
        return _cached(request, photo, "image/jpeg", "private, max-age=3600")


def _cached(request: web.Request, content: bytes, kind: str, policy: str) -> web.Response:
    """Content with a fingerprint, so that a browser that has it is sent nothing."""
    tag = hashlib.sha256(content).hexdigest()[:24]
    headers = {"ETag": f'"{tag}"', "Cache-Control": policy}
    if any(given.value == tag for given in request.if_none_match or ()):
        return web.Response(status=304, headers=headers)
    charset = "utf-8" if kind.startswith("text/") else None
    return web.Response(body=content, content_type=kind, charset=charset, headers=headers)
