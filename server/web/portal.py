"""The customer's pages: signing in by a mailed link, and the account. They need no script.

Looking at a link spends nothing, since mail scanners look at all of them: only the button on its page does.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Annotated

import msgspec
from flask import Blueprint, Response

from server.errors import NotFound, StorageUnavailable
from server.services.letters import KEYS
from server.services.payments import Payment
from server.services.sign_in import Link
from server.web import me, sessions
from server.web.license_cards import card, payments_of, shop_path
from server.web.licenses import Email
from server.web.order_page import COPY
from server.web.pages import page, see_other, tell_errors_as_pages
from server.web.portal_license import ChangeForm
from server.web.responses import form_of, query_of
from server.web.services import services

blueprint = Blueprint("portal", __name__, url_prefix="/portal")
blueprint.before_request(sessions.refuse_strangers)
tell_errors_as_pages(blueprint)

Why = Annotated[str, msgspec.Meta(pattern=r"^(keys|lic_[0-9a-f]{20})?$")]  # an empty field of a form is none


class EmailForm(msgspec.Struct, frozen=True, kw_only=True):
    """`why` is `keys` for who has lost his, or the license that the link is to lead to."""

    email: Email
    why: Why | None = None


class SignInQuery(msgspec.Struct, frozen=True, kw_only=True):
    why: Why | None = None


# ---------------------------------------------------------------------------------------------------- signing in
@blueprint.get("/sign-in")
def ask() -> Response:
    return page("sign_in.html", why=query_of(SignInQuery).why)


@blueprint.get("/lost-key")
def lost() -> Response:
    """The keys are not mailed by who types an address: anybody may type any, letters stay in mailboxes, and a license
    that was refunded or passed on has no key to send. What is mailed is the link to where all of them are."""
    return page("sign_in.html", why=KEYS)


@blueprint.post("/sign-in")
def send() -> Response:
    form = form_of(EmailForm)
    me.ask_for_link(form.email, form.why or "")
    return _sent(form.why)


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
    response = see_other(f"/portal/licenses/{link.license}" if link.license else "/portal")
    sessions.begin(response, link.email)
    return response


@blueprint.post("/sign-in/<token>/again")
def send_again(token: str) -> Response:
    """The address stands in the link, so nobody has to type it; whether it has an account is not told here either."""
    link = _link(token)
    me.ask_for_link(link.email, link.license)
    return _sent()


def _link(token: str) -> Link:
    """Raises NotFound."""
    link = services().customers.links.read(token)
    if link is None:
        raise NotFound("this link is not whole: copy all of it from the letter, or ask for a new one")
    return link


def _sent(why: str | None = None) -> Response:
    return page("sign_in_sent.html", 202, detail=me.SENT["detail"], why=why)


def _over(token: str) -> Response:
    return page("sign_in_over.html", 410, token=token)


# ---------------------------------------------------------------------------------------------------- the account
@blueprint.get("")
def home() -> Response:
    session = sessions.find()
    if session is None:
        return see_other("/portal/sign-in")
    return page(
        "portal.html",
        script=COPY,
        email=session.email,
        csrf_token=session.csrf_token,
        licenses=[card(one) for one in services().customers.licenses(session.email)],
        shop=shop_path(),
        payments=(payments := payments_of(session.email)),
        orders=_unpaid(session.email, payments or []),
    )


def _unpaid(email: str, payments: Sequence[Payment]) -> list[me.MyOrder]:
    """None of them where their book cannot be read: then the payments cannot, either, and the page says so."""
    paid = {payment.order_id for payment in payments}
    try:
        orders = [me.my_order(one) for one in services().customers.orders(email)]
    except StorageUnavailable:
        return []
    return [one for one in orders if one["order_id"] not in paid]


@blueprint.post("/sign-out")
def sign_out() -> Response:
    session = sessions.get_to_change(form_of(ChangeForm).csrf_token)
    response = see_other("/portal/sign-in")
    sessions.end(response, session)
    return response


@blueprint.post("/sign-out-everywhere")
def sign_out_everywhere() -> Response:
    """For who was signed in on a computer that is not his, or gone."""
    session = sessions.get_to_change(form_of(ChangeForm).csrf_token)
    response = see_other("/portal/sign-in")
    sessions.end_everywhere(response, session)
    return response
