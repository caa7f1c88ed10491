"""The page of one payment, to be printed or kept: an invoice where the seller says who he is, else a receipt."""

from __future__ import annotations

from flask import Blueprint, Response

from server.services.letter_writing import SHOPS
from server.web import sessions
from server.web.pages import page, see_other, tell_errors_as_pages
from server.web.services import services

blueprint = Blueprint("portal_receipts", __name__, url_prefix="/portal/receipts")
tell_errors_as_pages(blueprint)

OWN_INVOICES = frozenset({"gumroad"})  # it takes money, and any tax on it, in its own name: https://gumroad.com/help


@blueprint.get("/<payment>")
def show(payment: str) -> Response:
    session = sessions.find()
    if session is None:
        return see_other("/portal/sign-in")
    ours = services()
    paid = ours.payments.get(session.email, payment)
    is_invoice = bool(ours.settings.seller_name) and paid.source not in OWN_INVOICES and not paid.is_test
    return page(
        "receipt.html",
        csrf_token=session.csrf_token,
        payment=paid,
        title="Invoice" if is_invoice else "Receipt",
        has_own=paid.source in OWN_INVOICES,
        platform=SHOPS.get(paid.source, ""),
        settings=ours.settings,
    )
