"""A shop that sells through Stripe: a catalogue, signed deliveries, and the objects of one subscription."""

from __future__ import annotations

import itertools
from pathlib import Path
from typing import Any

from tests.conftest import Clock, Shop
from tests.standins.http import Json
from tests.standins.stripe_api import KEY, StripeApi, event, invoice, invoice_payment, line_item, session, signed
from tests.standins.stripe_api import subscription as subscription_object
from tests.standins.stripe_objects import MONTH, WHEN

WHSEC = "whsec_of_the_tests"
DOOR = "/api/v1/webhooks/stripe"
DAY = 86_400
CATALOGUE: dict[str, Any] = {
    "products": {
        "wave": {"name": "Wave", "slug": "wave-app", "platform_ids": {"stripe": ["prod_wave", "plink_wave"]}},
        "team": {
            "name": "Team",
            "max_devices": 2,
            "duration_days": 30,
            "platform_ids": {"stripe": ["prod_team", "plink_team"]},
        },
        "solo": {"name": "Solo", "duration_days": 30, "platform_ids": {"stripe": ["price_solo"]}},
        "studio": {"name": "Studio", "bundle": ["wave", "team"], "platform_ids": {"stripe": ["prod_studio"]}},
    },
}


class StripeShop(Shop):
    """`api` is Stripe's API as far as the shop may ask it; without one it has no key."""

    def __init__(
        self,
        folder: Path,
        clock: Clock,
        api: StripeApi | None = None,
        catalogue: dict[str, Any] | None = None,
        **settings: Any,
    ) -> None:
        asks = {} if api is None else {"stripe_secret_key": KEY, "stripe_api_base": api.url}
        super().__init__(
            folder, clock, catalogue or CATALOGUE, **({"stripe_webhook_secret": (WHSEC,)} | asks | settings)
        )
        self._serial = itertools.count(1)

    def post_signed(self, body: bytes, headers: dict[str, str], door: str = DOOR) -> Any:
        return self.client.post(door, data=body, headers=headers)

    def deliver(self, told: Json, secret: str = WHSEC, door: str = DOOR) -> Any:
        """The answer to an event, signed now."""
        return self.post_signed(*signed(told, secret), door)

    def tell(self, type: str, about: Json, previous: Json | None = None, **more: Any) -> dict[str, Any]:
        """What is answered to an event with an id of its own, told when its object was made."""
        more = {"created": about["created"], "id": f"evt_{next(self._serial)}"} | more
        answered = self.deliver(event(type, about, previous, **more))
        assert answered.status_code == 200, answered.text
        return dict(answered.json)

    def sells(self, sold: Json | None = None, **more: Any) -> str:
        """The key of a checkout that is paid."""
        (key,) = self.tell("checkout.session.completed", sold or wave(), **more)["license_keys"]
        return str(key)

    def subscribes(self, old: bool = False) -> str:
        """The key of a subscription whose checkout and first invoice are told."""
        key = self.sells(team(old=old))
        self.tell("invoice.paid", first_invoice(old=old), old=old)
        return key

    @property
    def record(self) -> dict[str, Any]:
        (found,) = self.licenses().values()
        return found

    def letters(self) -> list[tuple[str, str]]:
        """Kind and receiver of all that was sent so far, with what is due now; inquiries are none."""
        self.services.outbox.send_due()
        sent = self.services.outbox.list("sent")
        return [(letter.kind, letter.to) for letter in sent if letter.kind != "inquiry"]

    def revenue(self) -> dict[str, str]:
        return dict(self.services.audit.get_purchase_stats()["total_revenue"])


# ---------------------------------------------------------------------------------------------------- one payment
def wave(id: str = "cs_live_1", payment_intent: str | None = "pi_1", **more: Any) -> Json:
    """A checkout by a Payment Link of a product that is sold for life."""
    return session(id, **({"payment_intent": payment_intent, "payment_link": "plink_wave"} | more))


def lines(api: StripeApi, session_id: str, *items: Json) -> None:
    """The API knows what this checkout sold."""
    api.line_items[session_id] = list(items)


def bought(product: str = "prod_wave", quantity: int = 1, **more: Any) -> Json:
    return line_item(f"li_{product}", product, quantity, 4900 * quantity, **({"price_id": f"{product}_price"} | more))


# ---------------------------------------------------------------------------------------------------- a subscription
def team(**more: Any) -> Json:
    """The checkout of a subscription by the month."""
    given: Json = {"subscription": "sub_1", "invoice": "in_1", "customer": "cus_1", "payment_link": "plink_team"}
    return session("cs_live_1", mode="subscription", **({"amount": 2500} | given | more))


def first_invoice(old: bool = False, **more: Any) -> Json:
    """It is paid half a minute after the checkout began, and there the first period begins."""
    start = WHEN + 30
    given: Json = {"billing_reason": "subscription_create", "period": (start, start + MONTH), "created": start}
    return invoice("in_1", old=old, **({"product": "prod_team"} | given | more))


def later_invoice(number: int = 2, old: bool = False, **more: Any) -> Json:
    """The invoice of the second period, or of a later one; Stripe finalizes it an hour into the period."""
    start = WHEN + 30 + (number - 1) * MONTH
    given: Json = {"period": (start, start + MONTH), "created": start + 3600}
    given |= {"payment_intent": f"pi_{number}", "charge": f"ch_{number}"}
    return invoice(f"in_{number}", old=old, **({"product": "prod_team"} | given | more))


def payment_of(number: int = 2) -> Json:
    """Which payment paid that invoice."""
    created = later_invoice(number)["created"] if number > 1 else WHEN + 30
    return invoice_payment(f"inpay_{number}", f"in_{number}", f"pi_{number}", created=created)


def subscription(old: bool = False, **more: Any) -> Json:
    given: Json = {"period": (WHEN + 30, WHEN + 30 + MONTH), "created": WHEN + 30}
    return subscription_object("sub_1", old=old, **({"product": "prod_team"} | given | more))
