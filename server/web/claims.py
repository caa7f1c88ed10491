"""Whose order it is: the browser that began an order holds a cookie for it, and only there its keys are shown."""

from __future__ import annotations

import hashlib
import hmac
from urllib.parse import urlsplit

from flask import Response, request

from server.web.services import services

_AGE = 30 * 24 * 3600  # seconds


def token(order_id: str) -> str:
    """What opens this order in any browser: for the address that the buyer's own page is given."""
    return _made(services().settings.secret_key[0], order_id)


def keep(response: Response, order_id: str) -> Response:
    """Let this browser know the order as its own."""
    app_url = services().settings.app_url
    base = urlsplit(app_url).path  # under which a proxy may serve us: the browser knows no other path
    response.set_cookie(
        f"order-{order_id}",
        token(order_id),
        max_age=_AGE,
        path=f"{base}/order/{order_id}",
        secure=app_url.startswith("https://"),
        httponly=True,
        samesite="Lax",
    )
    return response


def is_kept(order_id: str) -> bool:
    """Whether this browser began the order."""
    return _opens(order_id, request.cookies.get(f"order-{order_id}", ""))


def is_given(order_id: str) -> bool:
    """Whether the address in use says so."""
    return _opens(order_id, request.args.get("claim", ""))


def _opens(order_id: str, given: str) -> bool:
    known = [_made(secret, order_id) for secret in services().settings.secret_key]
    return any(hmac.compare_digest(given.encode(), one.encode()) for one in known)


def _made(secret: str, order_id: str) -> str:
    return hmac.new(secret.encode(), f"claim\0{order_id}".encode(), hashlib.sha256).hexdigest()[:32]
