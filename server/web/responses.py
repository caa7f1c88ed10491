"""Answers: JSON out, and every error of the tree to its status in one table."""

from __future__ import annotations

import hashlib
import logging
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any, NamedTuple, TypedDict, TypeVar, cast
from urllib.parse import parse_qsl

import msgspec
from flask import Flask, Response, request
from werkzeug.datastructures import Headers
from werkzeug.exceptions import ClientDisconnected, HTTPException, RequestEntityTooLarge
from werkzeug.http import HTTP_STATUS_CODES
from werkzeug.wsgi import get_input_stream

from server.errors import (
    BadRequest,
    BadSignature,
    Conflict,
    DamagedFile,
    KeyledgerError,
    NotFound,
    PlatformUnreachable,
    StorageUnavailable,
    TooManyRequests,
    Unauthorized,
    Unprocessable,
    Unverified,
)
from server.web.measured import STORAGE
from server.web.services import services

if TYPE_CHECKING:
    from _typeshed.wsgi import WSGIEnvironment

log = logging.getLogger(__name__)

STATUS: dict[type[KeyledgerError], tuple[int, str]] = {
    BadRequest: (400, "Malformed request"),
    Unprocessable: (422, "Cannot be done"),
    Unauthorized: (401, "Not signed in"),
    Unverified: (403, "Not verified"),
    BadSignature: (400, "Not verified"),
    PlatformUnreachable: (503, "Platform unreachable"),
    NotFound: (404, "Not found"),
    Conflict: (409, "Conflict"),
    TooManyRequests: (429, "Too many requests"),
    StorageUnavailable: (503, "Storage unavailable"),
    DamagedFile: (503, "Storage damaged"),
}
MAX_BODY = 256 * 1024
_MOST_FIELDS = 50
RETRY_AFTER = "30"
CACHE = "public, max-age=300"

T = TypeVar("T")


class Error(TypedDict):
    code: str
    title: str
    detail: str


STATUS_LINES = {code: f"{code} {phrase.upper()}" for code, phrase in HTTP_STATUS_CODES.items()}
JSON = "application/json"
encode = msgspec.json.Encoder().encode


class Answered(NamedTuple):
    """An answer before it is Flask's or goes out without it. `owes_letter`: one may have been made by this request."""

    body: bytes
    content_type: str = JSON
    status: int = 200
    headers: Sequence[tuple[str, str]] = ()
    owes_letter: bool = True

    def response(self) -> Response:
        return _Whole([self.body], STATUS_LINES[self.status], self._headers())

    def _headers(self) -> Headers:
        told = [("Content-Type", self.content_type), ("Content-Length", str(len(self.body)))]
        return Headers([*told, *self.headers])


class _Whole(Response):
    """None of its headers has to be looked at again when it goes out."""

    def get_wsgi_headers(self, environ: WSGIEnvironment) -> Headers:
        return self.headers


def answer(body: object, status: int = 200) -> Response:
    return Answered(encode(body), status=status).response()


def cached(body: bytes, mimetype: str, policy: str = "default-src 'none'; frame-ancestors 'none'") -> Response:
    """The same for everybody, and kept for a while."""
    response = Response(body, mimetype=mimetype)
    response.headers |= {"Cache-Control": CACHE, "Content-Security-Policy": policy, "Referrer-Policy": "no-referrer"}
    response.set_etag(hashlib.sha256(body).hexdigest()[:32])
    return cast(Response, response.make_conditional(request))


def error_answer(status: int, code: str, title: str, detail: str) -> Response:
    response = answer({"errors": [{"code": code, "title": title, "detail": detail}]}, status)
    if status in (429, 503):
        response.headers["Retry-After"] = RETRY_AFTER
    return response


def raw_body() -> bytes:
    """The request's bytes, before anything reads them as a form; to be asked for once."""
    return read_body(request.environ)


def read_body(environ: WSGIEnvironment) -> bytes:
    """As `raw_body`, without werkzeug's streams around the server's own, which cost as much as a look-up in the books.

    A chunked body has no length to refuse: a byte behind the limit is enough to know.
    """
    told = environ.get("CONTENT_LENGTH") or ""
    if told.isdecimal() and "HTTP_TRANSFER_ENCODING" not in environ:
        return _body_of_length(environ, int(told))
    with_its_end = get_input_stream(environ, max_content_length=MAX_BODY + 1)
    raw: bytes = with_its_end.read()
    if len(raw) > MAX_BODY:
        raise RequestEntityTooLarge
    return raw


def _body_of_length(environ: WSGIEnvironment, length: int) -> bytes:
    if length > MAX_BODY:
        raise RequestEntityTooLarge
    raw: bytes = environ["wsgi.input"].read(length)
    if len(raw) < length:
        raise ClientDisconnected
    return raw


def body_of(kind: type[T]) -> T:
    """The request's JSON as a checked value. Raises BadRequest that names the field."""
    return checked(raw_body(), kind)


def checked(raw: bytes, kind: type[T]) -> T:
    try:
        return msgspec.json.decode(raw, type=kind)
    except (msgspec.MsgspecError, UnicodeError, RecursionError, ValueError) as error:
        raise BadRequest(_named(error)) from None


def form_of(kind: type[T]) -> T:
    """The fields of a page's form as a checked value; an empty one is none. Raises BadRequest that names the field."""
    try:
        pairs = parse_qsl(raw_body().decode(), errors="strict", max_num_fields=_MOST_FIELDS)
    except ValueError:
        raise BadRequest("body: not a form") from None
    try:
        return msgspec.convert(once_each(pairs), kind, strict=False)
    except msgspec.ValidationError as error:
        raise BadRequest(_named(error)) from None


def once_each(pairs: Sequence[tuple[str, str]]) -> dict[str, str]:
    """The fields of a form. Raises BadRequest for one that is given twice: which of them would be meant?"""
    given: dict[str, str] = {}
    for name, value in pairs:
        if name in given:
            raise BadRequest(f"{name[:80]}: is given more than once")
        given[name] = value
    return given


def query_of(kind: type[T]) -> T:
    """The query's parameters as a checked value; an empty one is none. Raises BadRequest that names the parameter."""
    given = {name: value for name, value in request.args.items() if value}
    for name, value in given.items():
        if len(request.args.getlist(name)) > 1:
            raise BadRequest(f"{name[:80]}: is given more than once")
        if value.lower() == "null":  # which msgspec would take for none
            raise BadRequest(f"{name[:80]}: null is no value; leave it out")
    try:
        return msgspec.convert(given, kind, strict=False)
    except msgspec.ValidationError as error:
        raise BadRequest(_named(error)) from None


def _named(error: Exception) -> str:
    """msgspec names the place as `$.field`; what it cannot place is the body as a whole."""
    text = str(error)[:200].replace("`$.", "`")
    return text if isinstance(error, msgspec.ValidationError) else f"body: not JSON ({text})"


def register_errors(app: Flask) -> None:
    app.register_error_handler(KeyledgerError, told)
    app.register_error_handler(HTTPException, told_by_http)
    app.register_error_handler(Exception, _unforeseen)


def status_of(error: KeyledgerError) -> tuple[int, str]:
    """Its status and title; what is our own trouble is logged."""
    status, title = next((STATUS[kind] for kind in type(error).__mro__ if kind in STATUS), (500, "Internal error"))
    if status >= 500:
        log.error("%s", error.detail, extra={"code": error.code})
    if isinstance(error, StorageUnavailable | DamagedFile):
        services().tallies.add(STORAGE)
    return status, title


def told(error: KeyledgerError) -> Response:
    status, title = status_of(error)
    return with_headers_of(error, error_answer(status, error.code, title, error.detail))


def with_headers_of(error: KeyledgerError, response: Response) -> Response:
    """What an error's answer says beside its body."""
    if isinstance(error, Unauthorized):
        response.headers["WWW-Authenticate"] = error.challenge
    if isinstance(error, TooManyRequests):
        response.headers["Retry-After"] = str(error.retry_after)
        response.headers["X-RateLimit-Limit"] = str(error.limit)
        response.headers["X-RateLimit-Remaining"] = "0"
        response.headers["X-RateLimit-Reset"] = str(error.reset)
    return response


def told_by_http(error: HTTPException) -> Response:
    status = error.code or 500
    code = (error.name or "error").upper().replace(" ", "_")
    detail = "the body is larger than 256 KiB" if status == 413 else (error.description or error.name)
    response = error_answer(status, code, error.name, detail)
    if status == 405 and isinstance(allowed := getattr(error, "valid_methods", None), list | tuple | set):
        response.headers["Allow"] = ", ".join(sorted(allowed))
    return response


def _unforeseen(error: Exception) -> Response:
    """A bug, or a body that the server under us could not read; never a stack trace to the caller."""
    if type(error).__module__ == "gunicorn.http.errors":  # a broken chunked body; not an OSError
        return error_answer(400, "BAD_REQUEST", "Malformed request", "the body cannot be read")
    log.error("unforeseen error", exc_info=error)
    return error_answer(500, "INTERNAL_ERROR", "Internal error", "an error on our side; it was logged")


def shown(record: Any) -> dict[str, Any]:
    """A struct as the plain values that its JSON has."""
    built = msgspec.to_builtins(record)
    assert isinstance(built, dict)
    return built
