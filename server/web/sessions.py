"""Sessions in the browser: a sealed cookie, and the token without which nothing is changed by it.

Customers and the owner have a cookie of their own each, sealed for its own purpose: neither is anything to the other.
"""

from __future__ import annotations

import hmac
from collections.abc import Callable
from urllib.parse import urlsplit

from flask import Response, request

from server.errors import NotSignedIn, Unverified
from server.services.sign_in import Session, Sessions
from server.web.services import services

CSRF_HEADER = "X-CSRF-Token"


def is_https() -> bool:
    """By what the owner says of his address, never by what a request claims."""
    return urlsplit(services().settings.app_url).scheme == "https"


def cookie_named(name: str) -> str:
    """`__Host-` binds it to this host and to https: https://developer.mozilla.org/docs/Web/HTTP/Reference/Headers/Set-Cookie"""
    return f"__Host-{name}" if is_https() else name


def set_cookie(response: Response, name: str, value: str, max_age: int) -> None:
    response.set_cookie(
        cookie_named(name), value, max_age=max_age, path="/", secure=is_https(), httponly=True, samesite="Lax"
    )


class SessionCookie:
    def __init__(self, name: str, kept: Callable[[], Sessions], how: str, token: str) -> None:
        """`how` tells how one signs in, `token` where the session's token has to stand."""
        self._name, self._kept, self._how, self._token = name, kept, how, token

    def cookie_name(self) -> str:
        return cookie_named(self._name)

    def find(self) -> Session | None:
        cookie = request.cookies.get(self.cookie_name())
        return self._kept().find(cookie) if cookie else None

    def get(self) -> Session:
        """Raises NotSignedIn."""
        session = self.find()
        if session is None:
            raise NotSignedIn(f"sign in first: {self._how}")
        return session

    def get_to_change(self, given: str | None) -> Session:
        """For a request that changes something: with the session's token. Raises NotSignedIn or Unverified."""
        session = self.get()
        if not hmac.compare_digest((given or "").encode(), session.csrf_token.encode()):
            raise Unverified(f"{self._token}", "CSRF")
        return session

    def begin(self, response: Response, email: str) -> None:
        """A new session in the place of whatever the browser had."""
        if (before := self.find()) is not None:
            self._kept().end(before)
        self._set(response, *self._kept().begin(email))

    def renew(self, response: Response, session: Session) -> None:
        """Of one that ends when it is not used: it was."""
        if (renewed := self._kept().renewed(session)) is not None:
            self._set(response, *renewed)

    def end(self, response: Response, session: Session) -> None:
        self._kept().end(session)
        set_cookie(response, self._name, "", 0)

    def end_everywhere(self, response: Response, session: Session) -> None:
        self._kept().end_all(session.email)
        set_cookie(response, self._name, "", 0)

    def _set(self, response: Response, session: Session, cookie: str) -> None:
        set_cookie(response, self._name, cookie, self._kept().seconds_left(session))


customer = SessionCookie(
    "keyledger",
    lambda: services().customers.sessions,
    "POST /api/v1/portal/sign-in sends a link",
    f"{CSRF_HEADER}: the session's csrf_token is needed, from GET /api/v1/me",
)
cookie_name, find, get, get_to_change = customer.cookie_name, customer.find, customer.get, customer.get_to_change
begin, end, end_everywhere = customer.begin, customer.end, customer.end_everywhere


def refuse_strangers() -> None:
    """A form of another site must neither sign anybody in nor make us write letters. Browsers say where a form stands;
    what says nothing is no browser that could be misled. Raises Unverified."""
    if request.method == "POST" and request.headers.get("Sec-Fetch-Site", "none") not in ("same-origin", "none"):
        raise Unverified("this form was sent by another site", "CROSS_SITE")
