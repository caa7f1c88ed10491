"""Signing in by the owner's password, and out again for every worker."""

from __future__ import annotations

from flask import Response, g, request

from server.errors import TooManyRequests
from server.services.owner_sign_in import KNOWN_FOR, OWNER
from server.web.admin import frame
from server.web.pages import form_fields, see_other
from server.web.sessions import cookie_named, set_cookie

blueprint = frame.room("sign_in", is_open=True)
leaving = frame.room("leaving")
_LONGEST = 1024
_KNOWN = "keyledger-known"  # the cookie of a browser in which the owner signed in before


@blueprint.get("/sign-in")
def ask() -> Response:
    asked = request.args.get("next", "")
    if frame.cookie.find() is not None:
        return see_other(_inside(asked))
    return _form(asked)


@blueprint.post("/sign-in")
def sign_in() -> Response:
    fields = form_fields()
    asked, password = fields.get("next", ""), fields.get("password", "")
    if not 0 < len(password) <= _LONGEST:
        return _form(asked, 400, "Type the password.")
    try:
        is_right = frame.door().is_right(
            password, request.remote_addr or "", request.cookies.get(cookie_named(_KNOWN), "")
        )
    except TooManyRequests as error:
        response = _form(asked, 429, f"{error.detail[:1].upper()}{error.detail[1:]}.")
        response.headers["Retry-After"] = str(error.retry_after)
        return response
    if not is_right:
        return _form(asked, 401, "This is not the password.")
    response = see_other(_inside(asked))
    frame.cookie.begin(response, OWNER)
    set_cookie(response, _KNOWN, frame.door().browser_cookie(), int(KNOWN_FOR.total_seconds()))
    return response


def _form(asked: str, status: int = 200, wrong: str | None = None) -> Response:
    return frame.show("sign_in.html", status, next=_inside(asked), wrong=wrong)


def _inside(path: str) -> str:
    """Where to go on: a page of the dashboard, whatever a link says."""
    is_ours = path == "/admin" or path.startswith(("/admin/", "/admin?"))
    is_plain = path.isprintable() and ".." not in path and "\\" not in path
    return path if is_ours and is_plain and not path.startswith("/admin/sign-") else "/admin"


@leaving.post("/sign-out")
def sign_out() -> Response:
    response = see_other("/admin/sign-in")
    frame.cookie.end(response, g.pop("owner"))
    return response
