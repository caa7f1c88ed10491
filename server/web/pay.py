"""The way to pay and back: `/pay/<order>` sends the buyer's browser to the platform, and takes it back from there.

What a browser brings back proves nothing, so it only leads to an inquiry and to the page of the order.
"""

from __future__ import annotations

import base64
import hashlib
from urllib.parse import urlsplit

from flask import Blueprint, Response, render_template, request

from server.domain.order import OPEN, OrderFile, OrderState
from server.platforms.base import Form
from server.web.services import services

blueprint = Blueprint("pay", __name__, url_prefix="/pay")

LONGEST = 2048  # characters of what a browser brings back
SUBMIT = "document.getElementById('pay').submit()"
_SUBMIT_HASH = base64.b64encode(hashlib.sha256(SUBMIT.encode()).digest()).decode()


@blueprint.get("/<order_id>")
def pay(order_id: str) -> Response:
    file = services().desk.get(order_id)
    if services().desk.state(file) not in OPEN:
        return _to_order(file)
    begun = services().desk.begin(file, request.remote_addr or "127.0.0.1")
    if begun.form is not None:
        return form_page(file, begun.form)
    return _go(begun.payment_url) if begun.payment_url else _to_order(file)


@blueprint.get("/<order_id>/back")
def back(order_id: str) -> Response:
    file = services().desk.get(order_id)
    checkout = services().desk.checkout(file.order.source)
    query = {name: value[:LONGEST] for name, value in request.args.items()}
    way = services().desk.way(file.order, request.remote_addr or "127.0.0.1")
    if form := checkout.continued(file.order, way, query):
        return form_page(file, form)
    state = services().settlement.look(file)
    if file.order.success_url and (state not in (OrderState.FAILED, OrderState.CANCELLED)):
        return _go(file.order.success_url)
    return _to_order(file)


@blueprint.get("/<order_id>/cancelled")
def cancelled(order_id: str) -> Response:
    """The buyer turned back; the order can still be paid."""
    file = services().desk.get(order_id)
    return _go(file.order.cancel_url) if file.order.cancel_url else _to_order(file)


def _to_order(file: OrderFile) -> Response:
    return _go(f"{services().settings.app_url}/order/{file.order.order_id}")


def _go(url: str) -> Response:
    return Response(status=303, headers={"Location": url, "Cache-Control": "no-store"})


def form_page(file: OrderFile, form: Form) -> Response:
    """A form with a button, which sends itself where scripts run: the only place that it may be sent to is its own."""
    parts = urlsplit(form.action)
    response = Response(render_template("pay.html", order=file.order, form=form, submit=SUBMIT))
    response.headers["Content-Security-Policy"] = (
        f"default-src 'none'; style-src 'unsafe-inline'; script-src 'sha256-{_SUBMIT_HASH}'; "
        f"form-action {parts.scheme}://{parts.netloc}; frame-ancestors 'none'; base-uri 'none'"
    )
    response.headers["Cache-Control"] = "no-store"
    response.headers["Referrer-Policy"] = "origin"
    return response
