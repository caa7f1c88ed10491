"""`/openapi.json`: the description of the API, built from the routes' own types and the table of operations."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator
from functools import lru_cache
from typing import Any, TypedDict, cast

import msgspec
from flask import Blueprint, Response, request

from server import __version__
from server.web.operations import HTML, JSON, OPERATIONS, TEXT, Operation
from server.web.responses import MAX_BODY
from server.web.services import services

blueprint = Blueprint("openapi", __name__)

CACHE = "public, max-age=300"
_REF = "#/components/schemas/{name}"
Json = dict[str, Any]


class Error(TypedDict):
    code: str
    title: str
    detail: str


class Errors(TypedDict):
    errors: list[Error]


@blueprint.get("/openapi.json")
def openapi() -> Response:
    return cached(_encoded(services().settings.app_url), JSON)


def cached(body: bytes, mimetype: str, policy: str = "default-src 'none'; frame-ancestors 'none'") -> Response:
    response = Response(body, mimetype=mimetype)
    response.headers |= {"Cache-Control": CACHE, "Content-Security-Policy": policy, "Referrer-Policy": "no-referrer"}
    response.set_etag(hashlib.sha256(body).hexdigest()[:32])
    return cast(Response, response.make_conditional(request))


@lru_cache(1)
def _encoded(app_url: str) -> bytes:
    return msgspec.json.encode(document(app_url))


# ---------------------------------------------------------------------------------------------------- the document
MEANING = {
    304: "Not changed since the `ETag` that was sent as `If-None-Match`.",
    400: "Malformed: `detail` names the field. (A webhook of Stripe: or not verified.)",
    401: "The bearer token is missing or wrong.",
    403: "Not verified: the secret or the signature is missing or wrong. Nothing was written.",
    404: "No such license; or the platform, or the owner's API, is not configured here.",
    409: "It contradicts what is already there.",
    413: f"The body is larger than {MAX_BODY // 1024} KiB.",
    422: "Well-formed, but it cannot be done.",
    429: "Too many requests; of a route with a proof, too many without it. Says nothing about any license.",
    503: "Nothing was done, and nothing is said about any license: try again later.",
}
_HEADERS: Json = {
    "X-Request-Id": {
        "description": "Stands in the server's log too. One that the request brings is kept, if it is of this form.",
        "required": True,
        "schema": {"type": "string", "pattern": "^[A-Za-z0-9._-]{8,64}$"},
    },
    "Retry-After": {"description": "Seconds.", "required": True, "schema": {"type": "string", "pattern": "^[0-9]+$"}},
    "X-RateLimit-Limit": {"description": "How many may come at once.", "schema": {"type": "string"}},
    "X-RateLimit-Remaining": {"description": "How many are left.", "schema": {"type": "string"}},
    "X-RateLimit-Reset": {"description": "Seconds until all are back.", "schema": {"type": "string"}},
    "WWW-Authenticate": {"required": True, "schema": {"type": "string"}},
    "ETag": {"required": True, "schema": {"type": "string"}},
    "Cache-Control": {"required": True, "schema": {"type": "string"}},
}
_SCHEMES: Json = {
    "owner": {"type": "http", "scheme": "bearer", "description": "`ADMIN_API_KEY`. Without it this API answers 404."},
    "gumroad": {"type": "apiKey", "in": "query", "name": "secret", "description": "`GUMROAD_WEBHOOK_SECRET`."},
    "stripe": {"type": "apiKey", "in": "header", "name": "Stripe-Signature", "description": "Made by Stripe."},
    "payu": {"type": "apiKey", "in": "header", "name": "OpenPayu-Signature", "description": "Made by PayU."},
    "jvzoo": {
        "type": "apiKey",
        "in": "query",
        "name": "secret",
        "description": "`JVZOO_WEBHOOK_SECRET`, if set.",
    },
}
_ABOUT = (
    "Requests and answers are JSON. A well-formed question about a license is answered 200, with the verdict in the "
    "body. A 5xx, or no answer, says nothing about any license. Times are RFC 3339 in UTC."
)


def document(app_url: str) -> Json:
    """OpenAPI 3.1. https://spec.openapis.org/oas/v3.1.1.html"""
    schemas, components = _schemas()
    paths: Json = {}
    for (method, path), operation in OPERATIONS.items():
        paths.setdefault(path, {})[method] = _operation(method, path, operation, schemas)
    return {
        "openapi": "3.1.0",
        "info": {"title": "Keyledger", "version": __version__, "description": _ABOUT},
        "servers": [{"url": app_url}],
        "tags": [{"name": tag} for tag in dict.fromkeys(operation.tag for operation in OPERATIONS.values())],
        "paths": paths,
        "components": {"schemas": components, "headers": _HEADERS, "securitySchemes": _SCHEMES},
    }


def _schemas() -> tuple[dict[Any, Json], Json]:
    """The schema of each type of the table, and the components that these refer to."""
    types = list(dict.fromkeys([Errors, *(kind for one in OPERATIONS.values() for kind in _types(one))]))
    schemas, components = msgspec.json.schema_components(types, ref_template=_REF)
    return dict(zip(types, schemas, strict=True)), components


def _types(one: Operation) -> Iterator[Any]:
    for kind in (one.takes, one.asks, one.gives, *one.also.values()):
        if kind is not None and not isinstance(kind, str):
            yield kind


def _operation(method: str, path: str, one: Operation, schemas: dict[Any, Json]) -> Json:
    told: Json = {"operationId": _name(method, path), "tags": [one.tag], "summary": one.does}
    if parameters := list(_parameters(path, one)):
        told["parameters"] = parameters
    if one.takes is not None:
        content = {media: _content(schemas[one.takes], one.sends) for media in one.media}
        told["requestBody"] = {"required": not one.may_be_empty, "content": content}
    if one.proof:
        told["security"] = [{one.proof: []}]
    return told | {"responses": {str(status): answer for status, answer in sorted(_answers(one, schemas))}}


def _name(method: str, path: str) -> str:
    return "_".join([method, *(part.strip("{}") for part in path.split("/") if part)])


def _content(schema: Json, example: Any) -> Json:
    return {"schema": schema} | ({"example": example} if example is not None else {})


def _parameters(path: str, one: Operation) -> Iterator[Json]:
    if "{license}" in path:
        schema = {"type": "string", "minLength": 1, "maxLength": 400}
        told = "A license key, or a public id (`lic_…`)."
        yield {"name": "license", "in": "path", "required": True, "description": told, "schema": schema}
    for name, told in one.headers.items():
        schema = {"type": "string", "pattern": "^[!-~]*$", "maxLength": 128}
        yield {"name": name, "in": "header", "description": told, "schema": schema}
    if one.asks is not None:
        for name, schema in msgspec.json.schema(one.asks)["$defs"][one.asks.__name__]["properties"].items():
            yield {"name": name, "in": "query", "schema": _without_null(schema)}


def _without_null(schema: Json) -> Json:
    """A parameter is there or not; there is no null in a query."""
    choices = [choice for choice in schema.get("anyOf", ()) if choice != {"type": "null"}]
    return choices[0] if len(choices) == 1 else {key: value for key, value in schema.items() if value is not None}


def _answers(one: Operation, schemas: dict[Any, Json]) -> Iterator[tuple[int, Json]]:
    limits = [name for name in _HEADERS if name.startswith("X-RateLimit-") and one.tells_limits]
    yield one.status, _answer(one.status, "As asked.", one.gives, schemas, limits, one.sees)
    for status, kind in one.also.items():
        yield status, _answer(status, MEANING[status], kind, schemas, limits)
    for status in one.refuses:
        yield status, _answer(status, MEANING[status], Errors, schemas, limits)


def _answer(
    status: int, meaning: str, kind: Any, schemas: dict[Any, Json], limits: list[str], example: Any = None
) -> Json:
    named = ["X-Request-Id", *limits]
    named += ["Retry-After"] if status in (429, 503) else []
    named += ["WWW-Authenticate"] if status == 401 and kind is Errors else []
    named += ["ETag", "Cache-Control"] if kind is None or kind in (JSON, HTML) else []
    told: Json = {"description": meaning, "headers": {name: {"$ref": f"#/components/headers/{name}"} for name in named}}
    if isinstance(kind, str):
        media = {TEXT: "text/plain; charset=utf-8", HTML: "text/html; charset=utf-8"}.get(kind, kind)
        told["content"] = {media: _content({"type": "object" if kind == JSON else "string"}, example)}
    elif kind is not None:
        told["content"] = {JSON: _content(schemas[kind], example)}
    return told
