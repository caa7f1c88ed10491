"""The one way out to a platform's web API: bounded in time and size, without redirects, failures told apart."""

from __future__ import annotations

import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from datetime import UTC, datetime
from email.utils import parsedate_to_datetime
from types import MappingProxyType
from typing import TYPE_CHECKING, Any
from urllib.parse import urlsplit

from server.errors import BadRequest, Disowned, PlatformUnreachable
from server.platforms.document import Document

if TYPE_CHECKING:
    from requests import Response

QUICK = (1.5, 2.0)  # seconds to connect and to answer, while a webhook waits
PATIENT = (10.0, 60.0)
LARGEST = 16 * 1024 * 1024
_PIECE = 64 * 1024
PAUSE = 5.0  # seconds after a 429 that does not say how long


class RateLimited(PlatformUnreachable):
    """Asked too often; `wait` is how many seconds the platform wants to be left alone."""

    def __init__(self, detail: str, wait: float) -> None:
        super().__init__(detail)
        self.wait = wait


class NoSuchSale(Disowned):
    """The platform knows no sale of this id, as opposed to one that it tells otherwise."""


def is_loopback(url: str) -> bool:
    return urlsplit(url).hostname in ("127.0.0.1", "localhost", "::1")


def get_json(url: str, params: Mapping[str, str], timeout: tuple[float, float] | None = None) -> tuple[int, Document]:
    """Status and body of a GET, in QUICK time unless told otherwise; 404 is an answer too, empty where it has no body.
    Raises PlatformUnreachable, in whose words no parameter is."""
    with _asked("GET", url, timeout or QUICK, params=dict(params), headers={"Accept": "application/json"}) as answered:
        return answered.status_code, _document(answered, _body(answered, sum(timeout or QUICK), _host(url)), _host(url))


def post(url: str, body: bytes, params: Mapping[str, str], headers: Mapping[str, str]) -> tuple[int, Document]:
    """Status and body of a POST, whatever the status. Raises PlatformUnreachable, in whose words no parameter is."""
    with _asked("POST", url, QUICK, params=dict(params), headers=dict(headers), data=body) as answered:
        return answered.status_code, Document.from_json(_body(answered, sum(QUICK), _host(url)))


def send(
    method: str,
    url: str,
    body: bytes = b"",
    headers: Mapping[str, str] = MappingProxyType({}),
    timeout: tuple[float, float] | None = None,
) -> tuple[int, Document]:
    """Status and JSON body of any request, whatever the status; a list is the `data` of an object. A redirect is an
    answer like any other, and is not followed. Raises PlatformUnreachable for what is no JSON: `is_refused` where the
    status says that the credentials are not taken."""
    more = {"headers": {"Accept": "application/json"} | dict(headers), "data": body}
    with _asked(method, url, timeout or QUICK, **more) as answered:
        status, found = answered.status_code, _body(answered, sum(timeout or QUICK), _host(url))
        if status == 429:
            raise RateLimited(
                f"{_host(url)} wants to be asked more slowly", seconds_of(answered.headers.get("Retry-After"))
            )
        try:
            return status, _told(answered.headers.get("Content-Type"), found)
        except BadRequest:
            why = f"{_host(url)} answers {status} with something that is not JSON"
            raise PlatformUnreachable(why, is_refused=status in (401, 403)) from None


def clock_of(url: str) -> datetime:
    """What time it is at a platform, by the Date header of whatever it answers. Raises PlatformUnreachable."""
    with _asked("HEAD", url, QUICK) as answered:
        try:
            return parsedate_to_datetime(answered.headers["Date"])
        except (KeyError, ValueError):
            raise PlatformUnreachable(f"{_host(url)} does not say what time it is") from None


@contextmanager
def _asked(method: str, url: str, timeout: tuple[float, float], **more: Any) -> Iterator[Response]:
    import requests  # only where a platform's API is asked at all
    from urllib3.exceptions import HTTPError

    with requests.Session() as session:
        session.trust_env = not is_loopback(url)  # no proxy stands before a stand-in
        try:
            asked = session.request(method, url, timeout=timeout, allow_redirects=False, stream=True, **more)
            with asked as answered:
                yield answered
        except (requests.RequestException, HTTPError) as error:
            raise PlatformUnreachable(f"{_host(url)} does not answer ({type(error).__name__})") from None


def _host(url: str) -> str:
    return str(urlsplit(url).hostname)


def _body(answered: Response, seconds: float, host: str) -> bytes:
    """All of it, as far as it comes in time: the library's timeout is only that of each piece, however small."""
    deadline, body = time.monotonic() + seconds, b""
    while piece := answered.raw.read1(_PIECE, decode_content=True):
        body += piece
        if time.monotonic() > deadline or len(body) > LARGEST:
            raise PlatformUnreachable(f"{host} answers too slowly, or too much")
    return body


def _document(answered: Response, body: bytes, host: str) -> Document:
    status = answered.status_code
    if status == 429:
        raise RateLimited(f"{host} wants to be asked more slowly", seconds_of(answered.headers.get("Retry-After")))
    if status in (401, 403):
        raise PlatformUnreachable(f"{host} refuses the access token ({status})", is_refused=True)
    if status not in (200, 404):
        raise PlatformUnreachable(f"{host} answers {status}{_why(status, body)}")
    if status == 404 and not body.strip():
        return Document({})
    try:
        return Document.from_json(body)
    except BadRequest:
        raise PlatformUnreachable(f"{host} answers {status} with something that is not JSON") from None


def _told(content_type: str | None, body: bytes) -> Document:
    kind = (content_type or "").partition(";")[0].strip().lower()
    if kind != "application/json" and not kind.endswith("+json"):
        raise BadRequest("body: not JSON")
    if body.lstrip()[:1] == b"[":
        return Document.from_json(b'{"data":' + body + b"}")
    return Document.from_json(body)


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
