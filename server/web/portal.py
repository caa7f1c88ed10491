"""The customer's pages: signing in by a mailed link, and the account. They need no script.

Looking at a link spends nothing, since mail scanners look at all of them: only the button on its page does.
"""

from __future__ import annotations

import logging
from typing import Annotated, Literal

import msgspec
from flask import Blueprint, Response

from server.errors import NotFound, StorageUnavailable
from server.services.sign_in import Link
from server.web import me, sessions
from server.web.licenses import Email, HardwareId
from server.web.pages import page, see_other, tell_errors_as_pages
from server.web.responses import form_of, query_of
from server.web.services import services

log = logging.getLogger(__name__)

blueprint = Blueprint("portal", __name__, url_prefix="/portal")
blueprint.before_request(sessions.refuse_strangers)
tell_errors_as_pages(blueprint)

Token = Annotated[str, msgspec.Meta(max_length=100)]


class EmailForm(msgspec.Struct, frozen=True, kw_only=True):
    email: Email


class SignOutForm(msgspec.Struct, frozen=True, kw_only=True):
    csrf_token: Token = ""


class ReleaseForm(msgspec.Struct, frozen=True, kw_only=True):
    csrf_token: Token = ""
    number: Annotated[int, msgspec.Meta(ge=1, le=1_000_000)]
    hardware_id: HardwareId


class PortalQuery(msgspec.Struct, frozen=True, kw_only=True):
    done: Literal["released"] | None = None


# ---------------------------------------------------------------------------------------------------- signing in
@blueprint.get("/sign-in")
def ask() -> Response:
    return page("sign_in.html")


@blueprint.post("/sign-in")
def send() -> Response:
    me.ask_for_link(form_of(EmailForm).email)
    return _sent()


@blueprint.get("/sign-in/<token>")
def look(token: str) -> Response:
    link = _link(token)
    if not services().customers.links.is_open(link):
        return _over(token)
    return page("sign_in_link.html", token=token, email=link.email)


@blueprint.post("/sign-in/<token>")
def spend(token: str) -> Response:
    link = _link(token)
    if not services().customers.links.spend(link):
        return _over(token)
    response = see_other("/portal")
    sessions.begin(response, link.email)
    return response


@blueprint.post("/sign-in/<token>/again")
def send_again(token: str) -> Response:
    """The address stands in the link, so nobody has to type it; whether it has an account is not told here either."""
    me.ask_for_link(_link(token).email)
    return _sent()


def _link(token: str) -> Link:
    """Raises NotFound."""
    link = services().customers.links.read(token)
    if link is None:
        raise NotFound("this link is not whole: copy all of it from the letter, or ask for a new one")
    return link


def _sent() -> Response:
    return page("sign_in_sent.html", 202, detail=me.SENT["detail"])


def _over(token: str) -> Response:
    return page("sign_in_over.html", 410, token=token)


# ---------------------------------------------------------------------------------------------------- the account
@blueprint.get("")
def home() -> Response:
    asked, session = query_of(PortalQuery), sessions.find()
    if session is None:
        return see_other("/portal/sign-in")
    customers = services().customers
    return page(
        "portal.html",
        email=session.email,
        csrf_token=session.csrf_token,
        licenses=[me.my_license(one) for one in customers.licenses(session.email)],
        orders=_orders(session.email),
        done=asked.done,
    )


def _orders(email: str) -> list[me.MyOrder] | None:
    """None where their book cannot be read: the licenses are shown without it."""
    try:
        return [me.my_order(one) for one in services().customers.orders(email)]
    except StorageUnavailable as error:
        log.error("%s", error.detail)
        return None


@blueprint.post("/licenses/<name>/release")
def release(name: str) -> Response:
    form = form_of(ReleaseForm)
    session = sessions.get_to_change(form.csrf_token)
    services().customers.release(session.email, name, form.number, form.hardware_id)
    return see_other("/portal?done=released")


@blueprint.post("/sign-out")
def sign_out() -> Response:
    session = sessions.get_to_change(form_of(SignOutForm).csrf_token)
    response = see_other("/portal/sign-in")
    sessions.end(response, session)
    return response
