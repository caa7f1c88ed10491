"""The customer's session: a sealed cookie, and the token without which nothing is changed by it."""

from __future__ import annotations

import hmac
from urllib.parse import urlsplit

from flask import Response, request

from server.errors import NotSignedIn, Unverified
from server.services.sign_in import SESSION_FOR, Session
from server.web.services import services

CSRF_HEADER = "X-CSRF-Token"


def cookie_name() -> str:
    """`__Host-` binds it to this host and to https: https://developer.mozilla.org/docs/Web/HTTP/Reference/Headers/Set-Cookie"""
    return "__Host-keyledger" if _is_https() else "keyledger"


def _is_https() -> bool:
    """By what the owner says of his address, never by what a request claims."""
    return urlsplit(services().settings.app_url).scheme == "https"


def find() -> Session | None:
    cookie = request.cookies.get(cookie_name())
    return services().customers.sessions.find(cookie) if cookie else None


def get() -> Session:
    """Raises NotSignedIn."""
    session = find()
    if session is None:
        raise NotSignedIn("sign in first: POST /api/v1/portal/sign-in sends a link")
    return session


def get_to_change(given: str | None) -> Session:
    """For a request that changes something: with the session's token. Raises NotSignedIn or Unverified."""
    session = get()
    if not hmac.compare_digest((given or "").encode(), session.csrf_token.encode()):
        raise Unverified(f"{CSRF_HEADER}: the session's csrf_token is needed, from GET /api/v1/me", "CSRF")
    return session


def begin(response: Response, email: str) -> None:
    """A new session in the place of whatever the browser had."""
    sessions = services().customers.sessions
    if (before := find()) is not None:
        sessions.end(before)
    _, cookie = sessions.begin(email)
    _set(response, cookie, int(SESSION_FOR.total_seconds()))


def end(response: Response, session: Session) -> None:
    services().customers.sessions.end(session)
    _set(response, "", 0)


def end_everywhere(response: Response, session: Session) -> None:
    services().customers.sessions.end_all(session.email)
    _set(response, "", 0)


def _set(response: Response, value: str, max_age: int) -> None:
    response.set_cookie(
        cookie_name(), value, max_age=max_age, path="/", secure=_is_https(), httponly=True, samesite="Lax"
    )


def refuse_strangers() -> None:
    """A form of another site must neither sign anybody in nor make us write letters. Browsers say where a form stands;
    what says nothing is no browser that could be misled. Raises Unverified."""
    if request.method == "POST" and request.headers.get("Sec-Fetch-Site", "none") not in ("same-origin", "none"):
        raise Unverified("this form was sent by another site", "CROSS_SITE")
