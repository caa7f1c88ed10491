"""What all pages of the dashboard share: who may see them, how a form comes in, how a page and its words go out.

A room is a blueprint made by `room`. Its views see no request but the signed-in owner's, and no POST without the
session's token. They read what a form says by `asked`, answer with `show`, and lead on with `done`.
"""

from __future__ import annotations

import logging
import secrets
from collections.abc import Callable, Sequence
from contextlib import suppress
from typing import Annotated, Literal, TypeVar, cast
from urllib.parse import quote, urlencode, urlsplit

import msgspec
from flask import Blueprint, Response, g, make_response, render_template, request
from werkzeug.exceptions import HTTPException

from server.errors import BadRequest, KeyledgerError, NotFound, NotSignedIn, StorageUnavailable
from server.services.owner_sign_in import OwnerSignIn
from server.services.seals import Seal
from server.services.sign_in import Session
from server.storage.base import Letter, StoreState
from server.web import trouble
from server.web.pages import form_fields, see_other
from server.web.responses import status_of, with_headers_of
from server.web.services import services
from server.web.sessions import SessionCookie, cookie_named, refuse_strangers, set_cookie
from server.web.static import address

T = TypeVar("T")
log = logging.getLogger(__name__)
Once = Annotated[str, msgspec.Meta(pattern=r"^[A-Za-z0-9_-]{8,64}$")]  # the name of a form that is to be done once

# Where the navigation leads; a room of this name is shown as the place where one is.
PLACES: Sequence[tuple[str, str]] = (
    ("home", "Home"),
    ("licenses", "Licenses"),
    ("purchases", "Purchases"),
    ("orders", "Orders"),
    ("letters", "Letters"),
    ("catalogue", "Catalogue"),
    ("webhooks", "Webhooks"),
)
_POLICY = (
    "default-src 'none'; style-src 'self'; script-src 'self'; connect-src 'self'; img-src 'self' data:; "
    "form-action 'self'; base-uri 'none'; frame-ancestors 'none'"
)
_HEADERS = {
    "Cache-Control": "no-store",
    "Referrer-Policy": "same-origin",
    "Content-Security-Policy": _POLICY,
    "Cross-Origin-Opener-Policy": "same-origin",
}
_AS_IT_IS = frozenset({"hardware_id"})  # an app may have told us one with spaces around it
_TOLD = "keyledger-told"  # the cookie of what the next page tells
_TOLD_FOR = 120  # seconds


def door() -> OwnerSignIn:
    """Raises NotFound where the dashboard is off."""
    if (found := services().owner) is None:
        raise NotFound("there is no such page")
    return found


cookie = SessionCookie(
    "keyledger-owner",
    lambda: door().sessions,
    "the dashboard's page asks for the password",
    "This page was open in another session. Load it again, and press the button there.",
)


class Told(msgspec.Struct, frozen=True):
    """What was done, for the page that comes next; sealed, so that no link can make us say things."""

    text: str
    kind: Literal["good", "bad", "watch"]


# ---------------------------------------------------------------------------------------------------- rooms
def room(name: str, is_open: bool = False, place: str | None = None) -> Blueprint:
    """A part of the dashboard. `place` is where in the navigation it is, if not at its own name. `is_open`: without
    signing in."""
    blueprint = Blueprint(f"admin_{name}", f"server.web.admin.{name}", url_prefix="/admin")

    @blueprint.before_request
    def guard() -> Response | None:
        g.place = place or name
        door()
        refuse_strangers()
        return None if is_open else _let_in()

    @blueprint.after_request
    def renew(response: Response) -> Response:
        if (session := g.get("owner")) is not None:
            cookie.renew(response, session)
        return response

    @blueprint.errorhandler(KeyledgerError)
    def refused(error: KeyledgerError) -> Response:
        if services().owner is None:
            return trouble.shown(error)
        status, title = status_of(error)
        return with_headers_of(error, _trouble(status, title, error.detail))

    @blueprint.errorhandler(HTTPException)
    def malformed(error: HTTPException) -> Response:
        return _trouble(error.code or 500, error.name, error.description or error.name)

    return blueprint


def _let_in() -> Response | None:
    """The owner alone; a form of his with its session's token. Raises NotSignedIn and Unverified."""
    session = cookie.find()
    if session is None and request.method in ("GET", "HEAD"):
        sign_in = see_other(f"/admin/sign-in?{urlencode({'next': request.full_path.rstrip('?')})}")
        if "HX-Request" in request.headers:  # it would look for its part of the list on the page for signing in
            return Response(headers={"HX-Redirect": sign_in.headers["Location"], "Cache-Control": "no-store"})
        return sign_in
    if session is None:
        raise NotSignedIn("Your session is over, and nothing was done. Sign in, and try again.")
    g.owner = session
    if request.method not in ("GET", "HEAD"):
        g.fields = form_fields()
        cookie.get_to_change(g.fields.pop("csrf_token", None))
    return None


def session() -> Session:
    return cast(Session, g.owner)


# ---------------------------------------------------------------------------------------------------- forms
def asked(kind: type[T]) -> T:
    """What the form says, as a checked value; what was left empty is not said. Raises BadRequest, naming the field."""
    given = {name: value if name in _AS_IT_IS else value.strip() for name, value in g.fields.items() if value.strip()}
    try:
        return msgspec.convert(given, kind, strict=False)
    except msgspec.ValidationError as error:
        raise BadRequest(str(error)[:200].replace("`$.", "`")) from None


def one_time() -> str:
    """A name for a form that is to be done once, however often it is sent: a hidden field of it."""
    return secrets.token_urlsafe(12)


def done(path: str, text: str, kind: Literal["good", "bad", "watch"] = "good") -> Response:
    """To the page that comes next, which tells what was done."""
    response = see_other(path)
    set_cookie(response, _TOLD, _told_seal().close(Told(text[:500], kind)), _TOLD_FOR)
    return response


def _told_seal() -> Seal[Told]:
    return Seal(services().settings.secret_key, "told by the dashboard", Told)


# ---------------------------------------------------------------------------------------------------- pages
def show(template: str, status: int = 200, **words: object) -> Response:
    """A template of `templates/admin/`, which extends `admin/base.html`."""
    settings, given = services().settings, request.cookies.get(cookie_named(_TOLD))
    site = urlsplit(settings.app_url)
    owner: Session | None = g.get("owner")
    frame = {
        "base": site.path,
        "host": site.netloc,
        "place": g.get("place"),
        "places": PLACES,
        "signed_in": owner is not None,
        "csrf_token": owner.csrf_token if owner else "",
        "told": _told_seal().open(given) if given and owner else None,
        "asset": address,
        "now": services().clock(),
        "books": _books(),
        "with_query": with_query,
    }
    response = make_response(render_template(f"admin/{template}", **(frame | words)), status)
    response.headers |= _HEADERS
    if given and owner:
        set_cookie(response, _TOLD, "", 0)
    return response


def _books() -> StoreState | None:
    with suppress(StorageUnavailable):
        return services().store.state()
    return None


def letters(read: Callable[[], Sequence[Letter]]) -> Sequence[Letter] | None:
    """None where the box cannot be read: what the page is for is shown without them."""
    try:
        return read()
    except StorageUnavailable as error:
        log.error("%s", error.detail)
        return None


def with_query(**changed: object) -> str:
    """The address of this page with some of its parameters changed; None takes one out."""
    query = {name: value for name, value in request.args.items() if value} | changed
    kept = {name: str(value) for name, value in query.items() if value is not None}
    path = urlsplit(services().settings.app_url).path + quote(request.path)
    return f"{path}?{urlencode(kept)}" if kept else path


def _trouble(status: int, title: str, detail: str) -> Response:
    response = show("trouble.html", status, title=title, detail=detail[:1].upper() + detail[1:])
    if status == 503:
        response.headers["Retry-After"] = "30"
    return response
