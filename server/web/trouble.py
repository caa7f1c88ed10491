"""What goes wrong on the pages of the store front: a page for a browser, our usual JSON for a program."""

from __future__ import annotations

from flask import Blueprint, Flask, Response, request
from werkzeug.exceptions import HTTPException

from server.domain.order import Order
from server.errors import KeyledgerError, NotFound, PlatformUnreachable, StorageUnavailable, TooManyRequests
from server.services.checkout import PlatformDown
from server.services.letter_writing import SHOPS
from server.web.pages import page, wants_page
from server.web.responses import RETRY_AFTER, status_of, told, told_by_http, with_headers_of
from server.web.services import services

_SOON, _LATER = 10, 60  # seconds until the browser tries the payment again
_WORDS = {
    NotFound: ("Nothing here", "There is no such page, or no such order. A link from a letter must be copied whole."),
    StorageUnavailable: (
        "Please try again in a minute",
        "Our books cannot be written just now. Nothing is lost: what was paid stays paid, and is looked up.",
    ),
}

_LOST = {
    404: _WORDS[NotFound],
    405: ("Not this way", "Only a button leads to this address. Go back to its page, and press it there."),
}


def tell_errors(blueprint: Blueprint) -> None:
    @blueprint.errorhandler(KeyledgerError)
    def refused(error: KeyledgerError) -> Response:
        return shown(error) if wants_page() else told(error)

    @blueprint.errorhandler(HTTPException)
    def malformed(error: HTTPException) -> Response:
        answer = told_by_http(error)
        if not wants_page():
            return answer
        return _page(answer.status_code, error.name, error.description or error.name)


def tell_the_lost(app: Flask) -> None:
    """Of an address that is none of ours, or is not opened in this way, no part of the application knows: a person is
    told by a page, in a browser that says what it wants, and a program as ever."""

    @app.errorhandler(HTTPException)
    def lost(error: HTTPException) -> Response:
        answer = told_by_http(error)
        if request.url_rule is not None or not wants_page() or request.path.startswith("/api/"):
            return answer
        told = _page(answer.status_code, *_LOST.get(answer.status_code, (error.name, error.description or error.name)))
        if allowed := answer.headers.get("Allow"):
            told.headers["Allow"] = allowed
        return told


def shown(error: KeyledgerError) -> Response:
    if isinstance(error, PlatformDown):
        return platform_down(error)
    status, title = status_of(error)
    words = next((_WORDS[kind] for kind in type(error).__mro__ if kind in _WORDS), None)
    if isinstance(error, TooManyRequests):
        words = ("Too many requests", f"Wait {error.retry_after} seconds, and load this page again.")
    if isinstance(error, PlatformUnreachable):
        words = ("The payment platform does not answer", "Nothing was paid yet. Try again in a minute.")
    title, detail = words or (title, error.detail)
    return with_headers_of(error, _page(status, title, detail))


def _page(status: int, title: str, detail: str) -> Response:
    response = page("trouble.html", status, title=title, detail=detail[:1].upper() + detail[1:])
    if status in (429, 503):
        response.headers["Retry-After"] = RETRY_AFTER
    return response


def platform_down(error: PlatformDown) -> Response:
    """The order is kept, and the browser goes to its payment by itself, again and again."""
    status_of(error)
    order = error.order
    seconds, path = _pace(order), f"/pay/{order.order_id}"
    response = page("platform_down.html", 503, order=order, shop=SHOPS.get(order.source, order.source), seconds=seconds)
    response.headers["Retry-After"] = str(seconds)
    response.headers["Refresh"] = f"{seconds}; url={services().settings.app_url}{path}"
    return response


def _pace(order: Order) -> int:
    return _SOON if (services().clock() - order.placed_at).total_seconds() < 600 else _LATER


def not_written() -> Response:
    """For a buyer whose browser brings a payment back that cannot be written down now."""
    return _page(
        503,
        "Your payment is safe",
        "We cannot write it down at this moment, and will ask the payment platform for it ourselves. "
        "Your key comes by e-mail: you need not pay again, and can close this page.",
    )
