"""Query a model server (tfrec.serve or TensorFlow Serving) over REST.

    python -m tfrec.client --url http://localhost:8501 recommend --history 0108775015 --k 12 --exclude 0706016001
    python -m tfrec.client --url http://localhost:8501 similar --item 0108775015 --allow index_group_name=Ladieswear
    python -m tfrec.client --url http://localhost:8501 search --text "red summer dress"

Prints rank, item id and score; --json prints the server's answer unchanged.
"""

from __future__ import annotations

import argparse
import base64
import http.client
import json
import os
import sys
import urllib.error
import urllib.parse
import urllib.request
from pathlib import Path
from typing import Any

from pipelines.arguments import number
from pipelines.command import run_command
from tfrec.errors import ClientError

NOTHING = -3e38  # scores below belong to places that no item was left for


class Client:
    """A model on a server.

    Args:
        url: of the server.
        model: its name; found out from a `tfrec.serve` that serves one model where None.
        version: a version's number, or a label; the newest one where None.
        token: sent as a bearer token.
        timeout: seconds to wait for an answer.
    """

    def __init__(
        self,
        url: str,
        model: str | None = None,
        *,
        version: str | None = None,
        token: str | None = None,
        timeout: float = 30.0,
    ):
        try:
            scheme = urllib.parse.urlsplit(url).scheme
        except ValueError as error:  # a bracket that is not closed
            raise ClientError(f"--url {url} is no address: {error}") from None
        if scheme not in ("http", "https"):
            raise ClientError(f"--url {url} must start with http:// or https://")
        if token and not (token.isascii() and token.isprintable()):
            raise ClientError(f"the token of {len(token)} characters holds some that no header may have; write it anew")
        self._url, self._token, self._timeout = url.rstrip("/"), token, timeout
        place = f"/v1/models/{urllib.parse.quote(model or self._only_model(), safe='')}"
        if version is not None:
            kind = "versions" if version.isdigit() else "labels"
            place += f"/{kind}/{urllib.parse.quote(version, safe='')}"
        self._place = place

    def predict(self, signature: str, **inputs: Any) -> dict[str, Any]:
        """Call a signature with one row of inputs, and return its outputs' row.

        Raises:
            ClientError: the server cannot be reached, or refused the request.
        """
        body = {"signature_name": signature, "instances": [inputs]}
        path = f"{self._place}:predict"
        answer = self._ask(path, body)
        try:
            return answer["predictions"][0]
        except (KeyError, IndexError, TypeError):
            raise self._unlike(path, "predictions") from None

    def _only_model(self) -> str:
        path = "/v1/models"
        try:
            names = [model["name"] for model in self._ask(path)["models"]]
        except ClientError as error:
            if isinstance(error.__cause__, urllib.error.HTTPError):  # a server that tells no models, as TensorFlow's
                raise ClientError(f"{error}; name the model with --model") from error
            raise
        except (KeyError, TypeError):
            raise self._unlike(path, "models") from None
        if len(names) != 1:
            raise ClientError(f"{self._url} serves {names}; choose one with --model")
        return names[0]

    def _ask(self, path: str, body: Any = None) -> Any:
        headers = {"Content-Type": "application/json"}
        if self._token:
            headers["Authorization"] = f"Bearer {self._token}"
        data = None if body is None else json.dumps(body).encode()
        request = urllib.request.Request(self._url + path, data, headers)
        try:
            with OPENER.open(request, timeout=self._timeout) as response:
                content = response.read()
        except urllib.error.HTTPError as error:
            raise ClientError(f"the server answered {error.code}: {_reason(error)}") from error
        except (OSError, http.client.HTTPException) as error:
            raise ClientError(f"{self._url} cannot be reached: {getattr(error, 'reason', error)}") from error
        except ValueError as error:  # letters that no request may have
            raise ClientError(f"--url {self._url} is no address: {error}") from error
        try:
            return json.loads(content)
        except ValueError as error:
            raise self._unlike(path, "JSON") from error

    def _unlike(self, path: str, missing: str) -> ClientError:
        return ClientError(f"{self._url}{path} answered no {missing}; is it a model server?")


class _NoRedirects(urllib.request.HTTPRedirectHandler):
    """Leaves redirects as the errors that they are: urllib would hand the token on to whatever server they name."""

    def redirect_request(self, *_: Any) -> None:
        return None


OPENER = urllib.request.build_opener(_NoRedirects)


def _reason(error: urllib.error.HTTPError) -> str:
    if place := error.headers.get("Location"):
        return f"redirected to {place}, which is not followed; if you trust that server, name it with --url"
    content = error.read(2000)
    try:
        return str(json.loads(content)["error"])
    except (ValueError, KeyError, TypeError):
        return error.reason


def main(arguments: list[str] | None = None) -> int:
    """Ask; 0 on success, 2 when an option is wrong or the server refuses."""
    options = _parser().parse_args(arguments)
    return run_command(lambda: _run(options))


def _run(options: argparse.Namespace) -> int:
    token = os.environ.get("TFREC_TOKEN", "").strip()  # a file's last line has an end
    client = Client(options.url, options.model, version=options.version, token=token, timeout=options.timeout)
    signature, query = options.query(options)
    # Every input is named, as TensorFlow Serving fills in defaults over gRPC alone; "" stands for nothing.
    limits = {name: getattr(options, name) or [""] for name in ("exclude", "allow", "allow_items")}
    answer = client.predict(signature, **query, k=options.k, **limits)
    if options.json:
        print(json.dumps(answer, ensure_ascii=False))
        return 0
    if not isinstance(answer, dict) or not {"item_id", "score"} <= answer.keys():
        raise ClientError(
            f"signature {signature!r} answered no item_id and score: it is not of a model that tfrec exported"
        )
    for rank, (item, score) in enumerate(zip(answer["item_id"], answer["score"], strict=True), 1):
        if score > NOTHING:
            print(f"{rank}\t{item}\t{score:.6g}")
    return 0


def _recommend(options: argparse.Namespace) -> tuple[str, dict[str, Any]]:
    if options.user is not None:
        return "recommend_user", {"user_id": options.user}
    return "recommend", {"history": options.history, "days_ago": [0.0] * len(options.history)}


def _similar(options: argparse.Namespace) -> tuple[str, dict[str, Any]]:
    return "similar", {"item_id": options.item}


def _search(options: argparse.Namespace) -> tuple[str, dict[str, Any]]:
    if options.photo is not None:
        try:
            photo = options.photo.read_bytes()
        except OSError as error:
            raise ClientError(f"--photo {options.photo} cannot be read: {error.strerror}") from error
        return "search_photo", {"photo": {"b64": base64.b64encode(photo).decode()}}
    return "search_text", {"text": options.text}


def _ids(text: str) -> list[str]:
    return [part.strip() for part in text.split(",")]


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="python -m tfrec.client",
        description=__doc__,
        epilog="A token is read from the variable TFREC_TOKEN.",
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--url", default="http://127.0.0.1:8501", help="of the server (default: %(default)s)")
    parser.add_argument("--model", help="the model's name (default: the only one that the server lists)")
    parser.add_argument("--version", help="a version or label (default: the newest version)")
    parser.add_argument(
        "--timeout", type=number(0.001, 1e6), default=30.0, help="seconds to wait (default: %(default)s)"
    )
    common = argparse.ArgumentParser(add_help=False)
    common.add_argument("--k", type=int, default=12, help="how many items (default: %(default)s)")
    common.add_argument("--exclude", type=_ids, metavar="ID,ID", help="items that must not be in the answer")
    common.add_argument("--allow", nargs="+", metavar="FIELD=VALUE", help="only items with these attributes")
    common.add_argument("--allow-items", type=_ids, metavar="ID,ID", help="only these items")
    common.add_argument("--json", action="store_true", help="print the answer as JSON")
    commands = parser.add_subparsers(required=True, metavar="COMMAND")

    recommend = commands.add_parser("recommend", parents=[common], help="items for a customer")
    who = recommend.add_mutually_exclusive_group(required=True)
    who.add_argument("--history", type=_ids, metavar="ID,ID", help="what was bought, most recent last")
    who.add_argument("--user", metavar="ID", help="a customer that the model knows")
    recommend.set_defaults(query=_recommend)

    similar = commands.add_parser("similar", parents=[common], help="items like an item")
    similar.add_argument("--item", required=True, metavar="ID")
    similar.set_defaults(query=_similar)

    search = commands.add_parser("search", parents=[common], help="items that match words or a photo")
    what = search.add_mutually_exclusive_group(required=True)
    what.add_argument("--text")
    what.add_argument("--photo", type=Path, metavar="FILE", help="a JPEG or PNG file")
    search.set_defaults(query=_search)
    return parser


if __name__ == "__main__":
    sys.exit(main())
