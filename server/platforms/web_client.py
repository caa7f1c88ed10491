"""The one way out to a platform's web API: bounded in time and size, without redirects, failures told apart."""

from __future__ import annotations

import logging
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from datetime import UTC, datetime
from email.utils import parsedate_to_datetime
from functools import cache
from types import MappingProxyType
from typing import TYPE_CHECKING, Any
from urllib.parse import urlsplit

from server.errors import BadRequest, Disowned, PlatformUnreachable
from server.platforms.document import Document

if TYPE_CHECKING:
    import ssl

    from httpx import Client, Response

QUICK = (1.5, 2.0)  # seconds to connect and to answer, while a webhook waits
PATIENT = (3.0, 17.0)  # of a page of a list, which has to fit into a step of a reconciliation over HTTP
LARGEST = 16 * 1024 * 1024
PAUSE = 5.0  # seconds after a 429 that does not say how long

logging.getLogger("httpx").setLevel(logging.WARNING)  # at INFO it tells each address, with the token in its query


class RateLimited(PlatformUnreachable):
    """Asked too often; `wait` is how many seconds the platform wants to be left alone."""

    def __init__(self, detail: str, wait: float) -> None:
        super().__init__(detail)
        self.wait = wait


class NoSuchSale(Disowned):
    """The platform knows no sale of this id, as opposed to one that it tells otherwise."""


class NoJson(PlatformUnreachable):
    """Something answers, but not the platform's API: a proxy, a firewall, a page for people."""


def is_loopback(url: str) -> bool:
    return urlsplit(url).hostname in ("127.0.0.1", "localhost", "::1")


def get_json(url: str, params: Mapping[str, str], timeout: tuple[float, float] | None = None) -> tuple[int, Document]:
    """Status and body of a GET, in QUICK time unless told otherwise; 404 is an answer too, empty where it has no body.
    Raises PlatformUnreachable, in whose words no parameter is."""
    with _asked("GET", url, timeout or QUICK, params=dict(params), headers={"Accept": "application/json"}) as answered:
        return answered.status_code, _document(answered, _body(answered, _host(url)), _host(url))


def post(url: str, body: bytes, params: Mapping[str, str], headers: Mapping[str, str]) -> tuple[int, Document]:
    """Status and body of a POST, whatever the status. Raises PlatformUnreachable, in whose words no parameter is."""
    with _asked("POST", url, QUICK, params=dict(params), headers=dict(headers), content=body) as answered:
        return answered.status_code, Document.from_json(_body(answered, _host(url)))


def send(
    method: str,
    url: str,
    body: bytes = b"",
    headers: Mapping[str, str] = MappingProxyType({}),
    timeout: tuple[float, float] | None = None,
) -> tuple[int, Document]:
    """Status and JSON of any request, whatever the status, a redirect's too; a list is the `data` of an object. In
    QUICK time unless told otherwise. Raises PlatformUnreachable, in whose words is nothing of what was sent: NoJson
    where what comes is none, RateLimited after a 429."""
    host, told = _host(url), {"Accept": "application/json"} | dict(headers)
    with _asked(method, url, timeout or QUICK, headers=told, content=body) as answered:
        status, said = answered.status_code, _body(answered, host)
        if status == 429:
            raise _limited(answered, host)
        kind = answered.headers.get("Content-Type", "").partition(";")[0].strip().lower()
        try:
            return status, _told(kind, said)
        except BadRequest:
            what = (
                "something that is not JSON"
                if kind.endswith("json")
                else f"{kind[:40] or 'something'} in place of JSON"
            )
            why = f"{host} answers {status} with {what}"
            raise NoJson(why, is_refused=status in (401, 403)) from None


def clock_of(url: str) -> datetime:
    """What time it is at a platform, by the Date header of whatever it answers. Raises PlatformUnreachable."""
    with _asked("HEAD", url, QUICK) as answered:
        try:
            return parsedate_to_datetime(answered.headers["Date"])
        except (KeyError, ValueError):
            raise PlatformUnreachable(f"{_host(url)} does not say what time it is") from None


# ---------------------------------------------------------------------------------------------------- asking
@contextmanager
def _asked(method: str, url: str, timeout: tuple[float, float], **more: Any) -> Iterator[Response]:
    import httpx  # only where a platform's API is asked at all: it takes a tenth of a second

    bounds = httpx.Timeout(timeout[1], connect=timeout[0])
    in_time = {"trace": _until(time.monotonic() + sum(timeout))}
    with _client(url) as client:
        try:
            with client.stream(method, url, timeout=bounds, extensions=in_time, **more) as answered:
                yield answered
        except (httpx.HTTPError, httpx.InvalidURL, UnicodeEncodeError) as error:
            raise PlatformUnreachable(f"{_host(url)} does not answer ({type(error).__name__})") from None


def _client(url: str) -> Client:
    """With the proxy that the environment names; none stands before a stand-in."""
    import httpx

    try:
        return httpx.Client(trust_env=not is_loopback(url), verify=_trusted(), follow_redirects=False)
    except (ValueError, ImportError) as error:
        raise PlatformUnreachable(f"the environment's proxy cannot be used ({type(error).__name__})") from None


@cache
def _trusted() -> ssl.SSLContext:
    """Read once: some hundred certificates take 20 ms."""
    import httpx

    return httpx.create_ssl_context()


def _until(deadline: float) -> Callable[[str, Mapping[str, Any]], None]:
    """The library's timeout is that of each piece, however small. So each connection that it makes for a request
    (https://www.encode.io/httpcore/extensions/#trace) is told to wait no longer than until then."""
    import httpx

    def bound(stream: Any) -> None:
        read = stream.read

        def read_in_time(most: int, timeout: float | None = None) -> bytes:
            left = deadline - time.monotonic()
            if left <= 0:
                raise httpx.ReadTimeout("too slow as a whole")
            piece: bytes = read(most, left if timeout is None else min(timeout, left))
            return piece

        stream.read = read_in_time

    def hear(event: str, told: Mapping[str, Any]) -> None:
        if event.endswith(("connect_tcp.complete", "start_tls.complete")):
            bound(told["return_value"])

    return hear


def _host(url: str) -> str:
    return str(urlsplit(url).hostname)


# ---------------------------------------------------------------------------------------------------- its answer
def _body(answered: Response, host: str) -> bytes:
    body = bytearray()
    for piece in answered.iter_bytes():
        body += piece
        if len(body) > LARGEST:
            raise PlatformUnreachable(f"{host} answers too much")
    return bytes(body)


def _document(answered: Response, body: bytes, host: str) -> Document:
    status = answered.status_code
    if status == 429:
        raise _limited(answered, host)
    if status in (401, 403):
        raise PlatformUnreachable(f"{host} refuses the access token ({status})", is_refused=True)
    if status not in (200, 404):
        raise PlatformUnreachable(f"{host} answers {status}{_why(status, body)}")
    if status == 404 and not body.strip():
        return Document({})
    return _object(status, body, host)


def _object(status: int, body: bytes, host: str) -> Document:
    try:
        return Document.from_json(body)
    except BadRequest:
        raise PlatformUnreachable(f"{host} answers {status} with something that is not JSON") from None


def _limited(answered: Response, host: str) -> RateLimited:
    return RateLimited(f"{host} wants to be asked more slowly", seconds_of(answered.headers.get("Retry-After")))


def _told(kind: str, body: bytes) -> Document:
    if kind != "application/json" and not kind.endswith("+json"):
        raise BadRequest("body: not JSON")
    return Document.from_json(b'{"data":' + body + b"}" if body.lstrip()[:1] == b"[" else body)


def _why(status: int, body: bytes) -> str:
    """What a platform says is wrong with the question itself, where it says so in one line."""
    try:
        told = Document.from_json(body).text("error") if status == 400 else None
    except BadRequest:
        return ""
    return f" ({told[:200]})" if told else ""


def seconds_of(retry_after: str | None, pause: float = PAUSE) -> float:
    """What a Retry-After header says, in seconds or as a date; `pause` where it says nothing that can be read."""
    text = (retry_after or "").strip()
    if text.isascii() and text.isdigit():
        return float(text[:9])
    try:
        moment = parsedate_to_datetime(text)
    except (ValueError, TypeError):
        return pause
    moment = moment if moment.tzinfo else moment.replace(tzinfo=UTC)
    return max(0.0, (moment - datetime.now(UTC)).total_seconds())
