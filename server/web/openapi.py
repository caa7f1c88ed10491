"""`/openapi.json`: the description of the API, built from the routes' own types and the table of operations."""

from __future__ import annotations

from collections.abc import Iterator
from functools import lru_cache
from typing import Any, TypedDict

import msgspec
from flask import Blueprint, Response

from server import __version__
from server.platforms import PLATFORMS
from server.web.examples import example_of
from server.web.operations import HTML, JSON, OPERATIONS, PAGE, TEXT, Operation
from server.web.responses import MAX_BODY, STATUS, Error, cached
from server.web.services import services
from server.web.signatures import HEADERS as SIGNED

blueprint = Blueprint("openapi", __name__)

_REF = "#/components/schemas/{name}"
Json = dict[str, Any]


class Errors(TypedDict):
    errors: list[Error]


@blueprint.get("/openapi.json")
def openapi() -> Response:
    return cached(_encoded(services().settings.app_url), JSON)


@lru_cache(1)
def _encoded(app_url: str) -> bytes:
    return msgspec.json.encode(document(app_url))


# ---------------------------------------------------------------------------------------------------- the document
MEANING = {
    202: "Not done yet: `note` says why.",
    303: "See the page that `Location` names.",
    304: "Not changed since the `ETag` that was sent as `If-None-Match`.",
    400: "Malformed: `detail` names the field. (A webhook of Stripe: or not verified.)",
    401: "The bearer token is missing or wrong; or nobody is signed in.",
    403: "Not verified: the secret, the signature or the CSRF token is missing or wrong. Nothing was written.",
    404: "No such license, order or package; or the platform, the owner's API or the signing key is not configured.",
    409: "It contradicts what is already there.",
    410: "The link is over: it works once, and for an hour.",
    413: f"The body is larger than {MAX_BODY // 1024} KiB.",
    422: "Well-formed, but it cannot be done.",
    429: "Too many requests; of a route with a proof, too many without it. Says nothing about any license.",
    503: "Nothing was done, and nothing is said about any license: try again later.",
}
# What an error's `code` may be; the first one is the most usual. A test holds this against the source.
CODES: dict[int, tuple[str, ...]] = {
    400: ("BAD_REQUEST", "BAD_SIGNATURE"),
    401: ("UNAUTHORIZED", "NOT_SIGNED_IN"),
    403: ("UNVERIFIED", "BAD_SECRET", "WRONG_SELLER", "CSRF", "CROSS_SITE"),
    404: ("NOT_FOUND", "PLATFORM_NOT_CONFIGURED", "SIGNING_NOT_CONFIGURED"),
    409: ("CONFLICT", "IDEMPOTENCY_CONFLICT", "INACTIVE", "ALREADY_REISSUED", "ORDER_LOST", "RELEASES_USED_UP"),
    413: ("REQUEST_ENTITY_TOO_LARGE",),
    422: (
        *("UNPROCESSABLE", "UNKNOWN_PRODUCT", "UNKNOWN_PACKAGE", "UNKNOWN_TIER", "NO_PRICE", "LIFETIME"),
        *("ORIGIN_NOT_ALLOWED", "REFUND_REFUSED", "REFUND_WINDOW"),
    ),
    429: ("RATE_LIMITED",),
    503: ("STORAGE_UNAVAILABLE", "DAMAGED_FILE", "PLATFORM_UNREACHABLE"),
}
_TITLES = dict(STATUS.values()) | {403: "Not verified", 413: "Request Entity Too Large"}
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
    "Content-Digest": {"description": "SHA-256 of the body (RFC 9530).", "schema": {"type": "string"}},
    "Signature-Input": {
        "description": "What is signed (RFC 9421), of answers to requests with a `nonce`.",
        "schema": {"type": "string"},
    },
    "Signature": {
        "description": "Ed25519, by a key of `GET /api/v1/licenses/public-key`.",
        "schema": {"type": "string"},
    },
    "WWW-Authenticate": {"required": True, "schema": {"type": "string"}},
    "Location": {"required": True, "schema": {"type": "string"}},
    "ETag": {"required": True, "schema": {"type": "string"}},
    "Cache-Control": {"required": True, "schema": {"type": "string"}},
}
_SCHEMES: Json = {
    "owner": {"type": "http", "scheme": "bearer", "description": "`ADMIN_API_KEY`. Without it this API answers 404."},
    "customer": {
        "type": "apiKey",
        "in": "cookie",
        "name": "__Host-keyledger",
        "description": "The session, which a mailed link begins; `keyledger` where `APP_URL` is not https. "
        "Never across origins.",
    },
    "gumroad": {"type": "apiKey", "in": "query", "name": "secret", "description": "`GUMROAD_WEBHOOK_SECRET`."},
    "stripe": {"type": "apiKey", "in": "header", "name": "Stripe-Signature", "description": "Made by Stripe."},
    "jazzcash": {"type": "apiKey", "in": "query", "name": "pp_SecureHash", "description": "Stands in the body."},
    "payu": {"type": "apiKey", "in": "header", "name": "OpenPayu-Signature", "description": "Made by PayU."},
    "jvzoo": {
        "type": "apiKey",
        "in": "query",
        "name": "secret",
        "description": "`JVZOO_WEBHOOK_SECRET`, if set.",
    },
}
_NAME: Json = {"type": "string", "minLength": 1, "maxLength": 400}
_IN_PATHS: dict[str, tuple[str, Json]] = {
    "license": ("A license key, or a public id (`lic_…`).", _NAME),
    "number": ("The seat, from 1.", {"type": "integer", "minimum": 0, "maximum": 1_000_000}),
    "payment": ("A payment's public name (`pay_…`).", _NAME),
    "order": ("An order's id or number.", _NAME),
    "order_id": ("The `order_id` that the checkout gave.", _NAME),
    "package": ("A package's id or slug.", _NAME),
    "platform": ("Its name.", {"type": "string", "enum": [*PLATFORMS]}),
    "token": ("As it stands in the letter.", _NAME),
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
        told = _operation(method, path, operation, schemas)
        paths.setdefault(path, {})[method] = told
        for part in (told.get("requestBody", {}), *told["responses"].values()):
            for content in part.get("content", {}).values():
                if "$ref" in content["schema"]:
                    content.setdefault("example", example_of(content["schema"], components))
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
    return dict(zip(types, schemas, strict=True)), _with_constants(components)


def _with_constants(schema: Any) -> Any:
    """A choice of one is told as a constant: makers of clients do not read `{"enum": [true]}`."""
    if isinstance(schema, list):
        return [_with_constants(one) for one in schema]
    if not isinstance(schema, dict):
        return schema
    if isinstance(only := schema.get("enum"), list) and len(only) == 1:
        return {name: value for name, value in schema.items() if name != "enum"} | {"const": only[0]}
    return {name: _with_constants(value) for name, value in schema.items()}


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
    for name, (told, schema) in _IN_PATHS.items():
        if f"{{{name}}}" in path:
            yield {"name": name, "in": "path", "required": True, "description": told, "schema": schema}
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
    signed = SIGNED if one.is_signed else ()
    is_cached = 304 in one.also
    yield one.status, _answer(one.status, "As asked.", one.gives, schemas, [*limits, *signed], one.sees, is_cached)
    for status, kind in one.also.items():
        yield status, _answer(status, MEANING[status], kind, schemas, limits, is_cached=is_cached)
    for status in one.refuses:
        codes = " ".join(f"`{code}`" for code in CODES[status])
        error: Error = {"code": CODES[status][0], "title": _TITLES[status], "detail": "in words, for a person"}
        example = {"errors": [error]}
        yield status, _answer(status, f"{MEANING[status]} Codes: {codes}", Errors, schemas, limits, example)


def _answer(
    status: int,
    meaning: str,
    kind: Any,
    schemas: dict[Any, Json],
    limits: list[str],
    example: Any = None,
    is_cached: bool = False,
) -> Json:
    named = ["X-Request-Id", *limits]
    named += ["Retry-After"] if status in (429, 503) else []
    named += ["WWW-Authenticate"] if status == 401 and kind in (Errors, PAGE) else []
    named += ["ETag", "Cache-Control"] if is_cached and status in (200, 304) else []
    named += ["Location"] if status == 303 else []
    told: Json = {"description": meaning, "headers": {name: {"$ref": f"#/components/headers/{name}"} for name in named}}
    if isinstance(kind, str):
        media = {TEXT: "text/plain; charset=utf-8", HTML: "text/html; charset=utf-8"}.get(kind, kind)
        told["content"] = {media: _content({"type": "object" if kind == JSON else "string"}, example)}
    elif kind is not None:
        told["content"] = {JSON: _content(schemas[kind], example)}
    return told
