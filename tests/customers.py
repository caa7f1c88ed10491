"""A small language for tests of the customer's account: a shop with its own orders, its post, and people's browsers."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import pytest

from server.domain.order import Order, OrderItem, new_number, new_order_id
from server.domain.purchase import EventKind, PurchaseEvent
from server.services.caretaker import Caretaker
from tests.conftest import Clock, Shop
from tests.services.mail_room import Pigeon

ANN, BOB = "ann@example.com", "bob@example.com"
_LINK = re.compile(r"https?://[^\s/]+(/portal/sign-in/\S+)")


class Counter(Shop):
    """`post` is what the mailer was given. Letters leave only when a test says so."""

    def __init__(self, folder: Path, clock: Clock, **settings: Any) -> None:
        self.pigeon = Pigeon()
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr("server.wiring._mailer", lambda settings: self.pigeon)
            super().__init__(folder, clock, **settings)

    # ------------------------------------------------------------------------------------------------ orders
    def place(self, *products: str, email: str = ANN, source: str = "payu", **more: Any) -> Order:
        items = tuple(OrderItem(product_id=name, name=name.title(), price=11900) for name in products or ("wave",))
        said: dict[str, Any] = {
            "order_id": new_order_id(),
            "number": new_number(self.clock()),
            "source": source,
            "merchant": "145227",
            "email": email,
            "name": "Ann Example",
            "items": items,
            "amount": 11900 * len(items),
            "currency": "pln",
            "placed_at": self.clock(),
        }
        return self.services.store.orders.place(Order(**(said | more)), self.clock())

    def tell(self, order: Order, kind: EventKind = EventKind.SALE, **more: Any) -> list[str]:
        """What the platform says of an order; the license keys of the line."""
        said: dict[str, Any] = {
            "event": kind,
            "event_id": f"{order.order_id}:{kind}",
            "source": order.source,
            "sale_id": order.order_id,
            "order_id": order.order_id,
            "price": order.price,
            "currency": order.currency,
            "occurred_at": self.clock(),
        }
        (entry,) = self.services.fulfilment.record([PurchaseEvent(**(said | more))])
        return list(entry.license_keys)

    def buy(self, *products: str, **more: Any) -> tuple[Order, list[str]]:
        order = self.place(*products, **more)
        return order, self.tell(order)

    # ------------------------------------------------------------------------------------------------ the post
    def post_round(self) -> list[Any]:
        """Send what is due; the messages that went out."""
        before = len(self.pigeon.messages)
        self.services.outbox.send_due()
        return self.pigeon.messages[before:]

    def states(self, kind: str = "sign_in") -> list[str]:
        return [letter.state for letter in self.services.outbox.list() if letter.kind == kind]

    def link(self, email: str = ANN) -> str:
        """The path of a fresh link, out of the letter."""
        answered = self.client.post("/api/v1/portal/sign-in", json={"email": email})
        assert answered.status_code == 202, answered.text
        (message,) = [one for one in self.post_round() if one["Subject"] == "Your link to sign in"]
        return link_in(message)

    def sign_in(self, email: str = ANN) -> Browser:
        browser = Browser(self)
        answered = browser.client.post(self.link(email))
        assert answered.status_code == 303, answered.text
        return browser


class Browser:
    """Somebody's browser, with cookies of its own."""

    def __init__(self, shop: Counter) -> None:
        self.shop, self.client = shop, shop.app.test_client()

    @property
    def token(self) -> str:
        return str(self.get("/me")["csrf_token"])

    def ask(self, path: str) -> Any:
        return self.client.get(f"/api/v1{path}")

    def get(self, path: str) -> Any:
        answered = self.ask(path)
        assert answered.status_code == 200, answered.text
        return answered.json

    def post(self, path: str, body: Any = None, token: str | None = None) -> Any:
        headers = {"X-CSRF-Token": self.token if token is None else token}
        return self.client.post(f"/api/v1{path}", json=body, headers=headers)

    def release(self, license: str, number: int = 1, **more: Any) -> Any:
        return self.post(f"/me/licenses/{license}/devices/{number}/release", **more)

    @property
    def cookie(self) -> str:
        """As it goes to the server; empty where there is none."""
        found = self.client.get_cookie("keyledger") or self.client.get_cookie("__Host-keyledger")
        return found.value if found else ""


def link_in(message: Any) -> str:
    text = message.get_body(("plain",)).get_content()
    found = _LINK.search(text)
    assert found, text
    return found[1]


def without_caretakers(patch: pytest.MonkeyPatch) -> None:
    patch.setattr(Caretaker, "poke", lambda self: None)
