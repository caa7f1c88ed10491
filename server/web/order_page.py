"""The page of an order: how it stands, and its keys for who bought them. It waits without a script.

The keys are shown to the browser that began the order, and to a customer who is signed in; everybody else who knows the
address learns how the order stands, and no name, address or key.
"""

from __future__ import annotations

import msgspec
from flask import Blueprint, Response, request

from server.domain import money
from server.domain.order import OPEN, OrderFile, OrderState
from server.errors import Conflict
from server.platforms.base import Checkout
from server.services.accounts import account_of
from server.services.checkout import PlatformDown
from server.services.letter_writing import SHOPS
from server.services.letters import masked_address
from server.web import claims, limits, pay, sessions, trouble
from server.web.pages import page, script, see_other
from server.web.services import services

blueprint = Blueprint("order_page", __name__, url_prefix="/order")
blueprint.after_request(limits.tell)
trouble.tell_errors(blueprint)

COPY = script("copy.js")
PACES = ((120, 4), (600, 10), (3600, 30))  # so long after the last news, seconds: so often the page looks again
SLOWEST = 120


class OrderPageQuery(msgspec.Struct, frozen=True):
    """`claim` is the proof that the checkout gave: it is kept, and taken out of the address."""

    claim: str | None = None


def may_see(file: OrderFile) -> bool:
    """Whether who asks is the buyer, as far as we know."""
    return claims.is_kept(file.order.order_id) or is_signed_in_as(file.order.email)


def is_signed_in_as(email: str) -> bool:
    """Whether a customer's session is that of this address."""
    session = sessions.find()
    return session is not None and session.email == account_of(email)


@blueprint.get("/<order_id>")
def order(order_id: str) -> Response:
    limits.by_address()
    file = services().desk.get(order_id)
    if "claim" in request.args:
        return _claimed(file)
    state = services().settlement.look(file)
    return _order_page(services().desk.get(order_id), state)


def _claimed(file: OrderFile) -> Response:
    """An address with its proof is not for a history, a screenshot or a Referer: the cookie takes its place."""
    order_id = file.order.order_id
    response = see_other(f"/order/{order_id}")
    return claims.keep(response, order_id) if claims.is_given(order_id) else response


@blueprint.post("/<order_id>/again")
def again(order_id: str) -> Response:
    """A new order of the same. Only who may see this one may see that one."""
    limits.by_address()
    file = services().desk.get(order_id)
    limits.places_order(file.order.source, file.order.phone)
    try:
        started = services().desk.again(file, request.remote_addr or "127.0.0.1")
    except Conflict:
        return see_other(f"/order/{order_id}")
    except PlatformDown as error:
        return _kept(file, trouble.shown(error), error.order.order_id)
    pay_page = f"{services().settings.app_url}/pay/{started.order.order_id}"
    return _kept(file, pay.go(started.begun.payment_url or pay_page), started.order.order_id)


def _kept(before: OrderFile, response: Response, order_id: str) -> Response:
    return claims.keep(response, order_id) if may_see(before) else response


# ---------------------------------------------------------------------------------------------------- the page
def _order_page(file: OrderFile, state: OrderState) -> Response:
    order, ours, is_buyer = file.order, services(), may_see(file)
    bought = ours.receipts.of(file) if is_buyer else []
    is_coming = state in OPEN or (state is OrderState.PAID and not ours.receipts.is_issued(file))
    response = page(
        "order.html",
        script=COPY if bought else "",
        forms_to=pay.forms_to(),
        order=order,
        items=[(i.name, i.quantity, money.told(i.price * i.quantity, order.currency)) for i in order.items],
        state=state,
        is_buyer=is_buyer,
        bought=bought,
        is_coming=is_coming,
        mailed_to=masked_address(order.email),
        refunded=money.told(ours.settlement.account(file).refunded, order.currency),
        shop=SHOPS.get(order.source, order.source),
        is_payable=order.source in ours.desk.providers(order.currency),
        asks_buyer=_asks_buyer(order.source),
        packages=bool(ours.packages.published()),
    )
    if is_coming:
        response.headers["Refresh"] = str(_pace(file))
    response.headers["X-Robots-Tag"] = "noindex"
    return response


def _asks_buyer(source: str) -> bool:
    platform = services().platforms.get(source)
    return isinstance(platform, Checkout) and platform.asks_buyer


def _pace(file: OrderFile) -> int:
    """In how many seconds to look again: often while something may happen at any moment, then less and less."""
    since = (services().clock() - max(line.timestamp for line in file.lines)).total_seconds()
    return next((seconds for within, seconds in PACES if since < within), SLOWEST)
