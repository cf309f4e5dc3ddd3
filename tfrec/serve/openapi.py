"""The HTTP interface described by itself (OpenAPI 3.1), from the signatures of the models in service."""

from __future__ import annotations

from typing import Any

import tfrec
from tfrec.serve.repository import Repository
from tfrec.serve.signatures import InputSpec, Signature

ERRORS = {
    "400": "the request is wrong in itself",
    "401": "the token is missing or wrong",
    "404": "no such model, version or label",
    "408": "the body came too slowly",
    "413": "the body is too large",
    "429": "the server has too much to do; try again later",
    "503": "nothing is loaded yet, or the server is about to stop",
    "504": "the request waited too long",
}


def describe(repository: Repository, *, protected: bool) -> dict[str, Any]:
    """The description of what is served now.

    Args:
        repository: the versions in service.
        protected: whether requests must bear a token.
    """
    paths: dict[str, Any] = {}
    for name in repository.names:
        model = repository.model(name)
        if not model.servables:
            continue
        signatures = model.servables[max(model.servables)].signatures
        places = [f"/v1/models/{name}"]
        places += [f"/v1/models/{name}/versions/{version}" for version in sorted(model.servables)]
        places += [f"/v1/models/{name}/labels/{label}" for label in sorted(model.config.labels)]
        for place in places:
            paths[f"{place}:predict"] = {"post": _predict(signatures)}
            paths[place] = {"get": _get("States of the versions", "model_version_status")}
            paths[f"{place}/metadata"] = {"get": _get("Signatures", "metadata")}
    paths["/v1/models"] = {"get": _get("The models in service", "models")}
    for path in ("/healthz", "/readyz"):
        paths[path] = {"get": {**_get("Probe", "status"), "security": []}}
    description: dict[str, Any] = {
        "openapi": "3.1.0",
        "info": {"title": "tfrec", "version": tfrec.__version__, "description": "TensorFlow Serving's REST interface."},
        "paths": paths,
    }
    if protected:
        description["components"] = {"securitySchemes": {"token": {"type": "http", "scheme": "bearer"}}}
        description["security"] = [{"token": []}]
    return description


def _predict(signatures: dict[str, Signature]) -> dict[str, Any]:
    body = {"oneOf": [form for signature in signatures.values() for form in _forms(signature)]}
    answer = {"type": "object", "minProperties": 1, "maxProperties": 1}
    return {
        "summary": "Predict",
        "requestBody": {"required": True, "content": {"application/json": {"schema": body}}},
        "responses": _responses(answer),
    }


def _forms(signature: Signature) -> list[dict[str, Any]]:
    """The two forms of a request: columns, and rows."""
    required = [name for name, spec in signature.inputs.items() if spec.default is None]
    columns = _object({name: _column(spec) for name, spec in signature.inputs.items()}, required)
    row = _object({name: _row(spec) for name, spec in signature.inputs.items()}, required)
    named = {"signature_name": {"const": signature.name}}
    forms = []
    for key, schema in (("inputs", columns), ("instances", {"type": "array", "items": row})):
        forms.append(_object({**named, key: schema}, ["signature_name", key]))
    return forms


def _object(properties: dict[str, Any], required: list[str]) -> dict[str, Any]:
    return {"type": "object", "properties": properties, "required": required, "additionalProperties": False}


def _row(spec: InputSpec) -> dict[str, Any]:
    return _column(spec).get("items", _value(spec))


def _column(spec: InputSpec) -> dict[str, Any]:
    schema = _value(spec)
    for size in reversed(spec.shape if spec.shape is not None else (None,)):
        schema = {
            "type": "array",
            "items": schema,
            **({"minItems": size, "maxItems": size} if size is not None else {}),
        }
    return schema


def _value(spec: InputSpec) -> dict[str, Any]:
    if spec.kind == "string":
        coded = _object({"b64": {"type": "string", "contentEncoding": "base64"}}, ["b64"])
        return {"oneOf": [{"type": "string"}, coded]}
    return {"type": "number"} if spec.dtype.kind == "f" else {"type": "integer", "format": spec.kind}


def _get(summary: str, key: str) -> dict[str, Any]:
    return {"summary": summary, "responses": _responses({"type": "object", "required": [key]})}


def _responses(answer: dict[str, Any]) -> dict[str, Any]:
    error = {"type": "object", "properties": {"error": {"type": "string"}}, "required": ["error"]}
    return {
        "200": {"description": "the answer", "content": {"application/json": {"schema": answer}}},
        **{
            status: {"description": text, "content": {"application/json": {"schema": error}}}
            for status, text in ERRORS.items()
        },
    }
