"""The counter of a shop with a store front of its own: orders are placed, and what a platform says of them is heard."""

from __future__ import annotations

from collections.abc import Iterable
from datetime import timedelta
from pathlib import Path
from typing import Any, Self

import msgspec

from server.domain.order import Order, OrderFile, OrderItem, OrderState, new_number, new_order_id
from server.domain.purchase import EventKind, PurchaseEvent
from server.errors import PlatformUnreachable
from server.platforms.base import Begun, Checkout, Platform, Way, WebhookRequest
from server.services.inquiries import Inquiries
from server.services.settlement import Settlement, Told
from server.settings import Settings
from tests.storage.backroom import NOW, BackRoom

SECRET = "secret of the till"


class Till(Platform, Checkout):
    """A platform that says what it was told to say; its notices are events as they stand."""

    name, currency = "payu", "pln"
    currencies = frozenset({"pln", "eur"})
    merchant = "300746"

    def __init__(self) -> None:
        super().__init__(SECRET)
        self.says: list[PurchaseEvent] | None = None
        self.asked = 0

    @classmethod
    def from_settings(cls, settings: Settings) -> Self | None:
        return cls()

    def verify(self, request: WebhookRequest) -> None:
        self.require_secret(request.query.get("secret"))

    def parse(self, request: WebhookRequest) -> list[PurchaseEvent]:
        return msgspec.json.decode(request.body, type=list[PurchaseEvent])

    def begin(self, order: Order, way: Way) -> Begun:
        return Begun("PAYU1", "https://pay.example/1")

    def ask(self, order: Order, reference: str | None) -> list[PurchaseEvent]:
        self.asked += 1
        if self.says is None:
            raise PlatformUnreachable("payu does not answer")
        return self.says


class Counter(BackRoom):
    def __init__(self, folder: Path) -> None:
        super().__init__(folder)
        self.till = Till()
        platforms: Any = {"payu": self.till}
        self.inquiries = Inquiries(self.store, platforms, self.fulfilment, lambda: self.now)
        self.settlement = Settlement(self.store, platforms, self.inquiries, lambda: self.now)

    def order(self, *products: str, **more: Any) -> Order:
        return self.store.orders.place(ordered(*products, **more), NOW)

    def tell(self, events: Iterable[PurchaseEvent]) -> list[Told]:
        return [told for event in events for told in self.settlement.hear([event])]

    def file(self, order: Order) -> OrderFile:
        found = self.store.orders.find(order.order_id)
        assert found is not None
        return found

    def state(self, order: Order) -> OrderState:
        return self.settlement.state(self.file(order))


def ordered(*products: str, **more: Any) -> Order:
    """An order that is not placed yet."""
    items = tuple(OrderItem(product_id=name, name=name, price=5000) for name in products or ("wave",))
    said: dict[str, Any] = {
        "order_id": new_order_id(),
        "number": new_number(NOW),
        "source": "payu",
        "merchant": "300746",
        "email": "ann@example.com",
        "name": "Ann Example",
        "items": items,
        "amount": 5000 * len(items),
        "currency": "pln",
        "placed_at": NOW,
    }
    return Order(**(said | more))


def notice(order: Order, kind: EventKind, at: int = 1, **more: Any) -> PurchaseEvent:
    """What a platform says of the order, `at` so many minutes after it was placed."""
    said: dict[str, Any] = {
        "event": kind,
        "event_id": f"{order.order_id}:sale",
        "source": order.source,
        "sale_id": order.order_id,
        "order_id": order.order_id,
        "price": order.price,
        "currency": order.currency,
        "links": (f"PAYU-{order.order_id}",),
        "occurred_at": NOW + timedelta(minutes=at),
        "is_test": order.is_test,
    }
    return PurchaseEvent(**(said | more))


def paid(order: Order, at: int = 3, **more: Any) -> PurchaseEvent:
    return notice(order, EventKind.SALE, at, **more)


def back(
    order: Order, price: str, number: int = 1, at: int = 9, kind: EventKind = EventKind.PARTIAL_REFUND
) -> PurchaseEvent:
    name = f"{order.order_id}:refund:{number}"
    return notice(
        order,
        kind,
        at,
        event_id=f"{name}:{kind}" if kind is EventKind.REFUND_FAILED else name,
        price=price,
        incident=str(number),
    )
