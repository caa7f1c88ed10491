"""What is asked of Gumroad's API: whether a sale that a ping told is real. https://gumroad.com/api#sales

Pings are unsigned, so with an access token the API has the last word on what was sold and to whom.
"""

from __future__ import annotations

from urllib.parse import quote

import msgspec

from server.domain.purchase import EventKind, PurchaseEvent
from server.errors import Disowned
from server.platforms.document import Document
from server.platforms.web_client import get_json

_STATES = {  # what a ping says went wrong with a sale, and how the API tells the same
    EventKind.REFUND: ("refunded",),
    EventKind.PARTIAL_REFUND: ("partially_refunded", "refunded"),
    EventKind.DISPUTE: ("disputed", "chargedback"),
}


class GumroadApi:
    def __init__(self, token: str, base: str) -> None:
        self._token, self._base = token, base

    def answer(self, event: PurchaseEvent) -> PurchaseEvent:
        """The event, once its sale was read back: what it says must be so, and the buyer is who Gumroad says.

        Raises Disowned where Gumroad knows no such sale, or another one; PlatformUnreachable where nothing is known.
        """
        sale_id = event.sale_id or ""
        status, found = get_json(f"{self._base}/v2/sales/{quote(sale_id, safe='')}", {"access_token": self._token})
        sale = found.part("sale")
        if status == 404 or not found.flag("success") or sale.text("id") != sale_id:
            raise Disowned("Gumroad knows no such sale")
        _require_same(event, sale)
        _require_state(event, sale)
        email = sale.text("purchase_email") or sale.text("email") or event.email
        return msgspec.structs.replace(event, inquiry=None, email=email)


def _require_same(event: PurchaseEvent, sale: Document) -> None:
    """Only what decides who gets what. A price is no such thing: the ping and the API may tell it differently."""
    told = {
        "product_id": (event.source_product_id, sale.text("product_id")),
        "subscription_id": (event.subscription_id, sale.text("subscription_id")),
        "quantity": (event.quantity, sale.number("quantity", low=1, high=100_000)),
    }
    for name, (ours, theirs) in told.items():
        if theirs is not None and ours != theirs:
            raise Disowned(f"Gumroad's own record of this sale has another {name}")


def _require_state(event: PurchaseEvent, sale: Document) -> None:
    """A refund or a dispute that the API denies takes nothing from the customer."""
    names = [name for name in _STATES.get(event.event, ()) if name in sale]
    if names and not any(sale.flag(name) for name in names):
        raise Disowned(f"Gumroad's own record of this sale tells of no {event.event}")
