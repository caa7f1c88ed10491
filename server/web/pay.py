"""The way to pay and back: `/pay/<order>` sends the buyer's browser to the platform, and takes it back from there.

What a browser brings back proves nothing, so it only leads to an inquiry and to the page of the order.
"""

from __future__ import annotations

from contextlib import suppress
from urllib.parse import urlsplit

from flask import Blueprint, Response, request

from server.domain.order import OPEN, OrderFile, OrderState
from server.errors import PlatformOff
from server.platforms.base import Form
from server.services.letter_writing import SHOPS
from server.web import limits, trouble
from server.web.pages import page
from server.web.services import services

blueprint = Blueprint("pay", __name__, url_prefix="/pay")
blueprint.before_request(limits.by_address)
blueprint.after_request(limits.tell)
trouble.tell_errors(blueprint)

LONGEST = 2048  # characters of what a browser brings back
SUBMIT = "document.getElementById('pay').submit()"


@blueprint.get("/<order_id>")
def pay(order_id: str) -> Response:
    file = services().desk.get(order_id)
    if services().desk.state(file) not in OPEN:
        return _to_order(file)
    begun = services().desk.begin(file, request.remote_addr or "127.0.0.1")
    if begun.form is not None:
        return form_page(file, begun.form)
    return go(begun.payment_url) if begun.payment_url else _to_order(file)


@blueprint.get("/<order_id>/back")
def back(order_id: str) -> Response:
    file = services().desk.get(order_id)
    query = {name: value[:LONGEST] for name, value in request.args.items()}
    way = services().desk.way(file.order, request.remote_addr or "127.0.0.1")
    with suppress(PlatformOff):  # switched off meanwhile: the order's page still tells how it stands
        if form := services().desk.checkout(file.order.source).continued(file.order, way, query):
            return form_page(file, form)
    state = services().settlement.look(file)
    if file.order.success_url and (state not in (OrderState.FAILED, OrderState.CANCELLED)):
        return go(file.order.success_url)
    return _to_order(file)


@blueprint.get("/<order_id>/cancelled")
def cancelled(order_id: str) -> Response:
    """The buyer turned back; the order can still be paid."""
    file = services().desk.get(order_id)
    return go(file.order.cancel_url) if file.order.cancel_url else _to_order(file)


def _to_order(file: OrderFile) -> Response:
    return go(f"{services().settings.app_url}/order/{file.order.order_id}")


def go(url: str) -> Response:
    return Response(status=303, headers={"Location": url, "Cache-Control": "no-store"})


def form_page(file: OrderFile, form: Form) -> Response:
    """A form with a button, which sends itself where scripts run: it may be sent to its platform alone, which may send
    the browser on to us."""
    shop = SHOPS.get(file.order.source, file.order.source)
    parts = urlsplit(form.action)
    forms_to = f"'self' {parts.scheme}://{parts.netloc}"
    response = page("pay.html", forms_to=forms_to, script=SUBMIT, order=file.order, form=form, shop=shop)
    response.headers["Referrer-Policy"] = "origin"  # by which platforms know a shop
    return response


def forms_to() -> str:
    """For a form whose answer leads to the payment: its page may be on any host, and browsers hold `form-action`
    against redirects too (https://www.w3.org/TR/CSP3/#form-action-pre-navigate). A platform on this machine is a
    stand-in."""
    is_here = urlsplit(services().settings.app_url).hostname in ("127.0.0.1", "localhost", "::1")
    return "'self' https:" + (" http://127.0.0.1:* http://localhost:*" if is_here else "")
