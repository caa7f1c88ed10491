"""`/docs`: the description of the API as one page that needs no script and nothing from elsewhere."""

from __future__ import annotations

import hashlib
from base64 import b64encode
from collections.abc import Iterator, Sequence
from functools import lru_cache
from pathlib import Path

import msgspec
from flask import Blueprint, Response, render_template

from server.web.openapi import Json, document
from server.web.operations import HTML
from server.web.responses import cached
from server.web.services import services

blueprint = Blueprint("docs", __name__)

_STYLE = (Path(__file__).with_name("templates") / "docs.css").read_text()
_STYLE_HASH = b64encode(hashlib.sha256(_STYLE.encode()).digest()).decode()
POLICY = (
    f"default-src 'none'; base-uri 'none'; form-action 'none'; frame-ancestors 'none'; style-src 'sha256-{_STYLE_HASH}'"
)


@blueprint.get("/docs")
def docs() -> Response:
    return cached(_page(services().settings.app_url), HTML, POLICY)


@lru_cache(1)
def _page(app_url: str) -> bytes:
    told = document(app_url)
    tools = {"kind_of": kind_of, "parameters": parameters, "pretty": pretty}
    return render_template("docs.html", told=told, style=_STYLE, rooms=rooms(told), rows=rows(told), **tools).encode()


class Field(msgspec.Struct, frozen=True):
    name: str
    kind: str
    is_required: bool
    about: str = ""


def rooms(told: Json) -> dict[str, list[tuple[str, str, Json]]]:
    """The operations by their tags."""
    found: dict[str, list[tuple[str, str, Json]]] = {tag["name"]: [] for tag in told["tags"]}
    for path, methods in told["paths"].items():
        for method, operation in methods.items():
            found[operation["tags"][0]].append((method.upper(), path, operation))
    return found


def rows(told: Json) -> dict[str, Sequence[Field]]:
    """The fields of each component."""
    return {name: list(_fields(schema)) for name, schema in told["components"]["schemas"].items()}


def _fields(schema: Json) -> Iterator[Field]:
    required = schema.get("required", ())
    for name, one in schema.get("properties", {}).items():
        yield Field(name, kind_of(one), name in required, _about(one))


def _about(one: Json) -> str:
    """What is said of it, or of the one of its choices that is not null."""
    return next((part["description"] for part in (one, *one.get("anyOf", ())) if "description" in part), "")


def parameters(operation: Json) -> list[Field]:
    return [
        Field(f"{one['name']} ({one['in']})", kind_of(one["schema"]), "required" in one, _about(one))
        for one in operation["parameters"]
    ]


def pretty(value: object) -> str:
    return msgspec.json.format(msgspec.json.encode(value), indent=2).decode()


def kind_of(schema: Json) -> str:
    """A schema in a few words: `text, at most 128`, `Device or null`."""
    if "$ref" in schema:
        return str(schema["$ref"].rpartition("/")[2])
    if "anyOf" in schema:
        return " or ".join(map(kind_of, schema["anyOf"]))
    if "const" in schema:
        return str(schema["const"])
    if "enum" in schema:
        return " | ".join(map(str, schema["enum"]))
    kind = schema.get("type", "anything")
    if kind == "array":
        return f"list of {kind_of(schema['items'])}" + _bounds(schema, "Items", "")
    if kind == "object" and "additionalProperties" in schema:
        return f"{kind_of(schema['additionalProperties'])}, by name"
    if schema.get("format") == "date-time":
        return "moment (RFC 3339)"
    words = {"string": "text", "integer": "whole number", "boolean": "true or false"}
    return str(words.get(kind, kind)) + _bounds(schema, "Length", " characters") + _bounds(schema, "imum", "")


def _bounds(schema: Json, what: str, unit: str) -> str:
    low, high = schema.get(f"min{what}"), schema.get(f"max{what}")
    if high is not None:
        return f", {low} to {high}{unit}" if low is not None else f", at most {high}{unit}"
    return f", at least {low}{unit}" if low is not None else ""
