"""Three tills of one shop: the same sale, refund and dispute as each platform tells it, over its own webhook."""

from __future__ import annotations

import copy
import json
from abc import ABC, abstractmethod
from pathlib import Path
from typing import Any

from stripe import WebhookSignature

from tests import jvzoo_notices as jvzoo
from tests.conftest import CATALOGUE, Clock, Shop, sale_ping
from tests.standins import stripe_objects as stripe

WHSEC = "whsec_of_the_tests"


def catalogue_of_three() -> dict[str, Any]:
    """Of Stripe only the payment links are mapped, which its invoices do not name."""
    catalogue = copy.deepcopy(CATALOGUE)
    ids = {"wave": ("plink_wave", jvzoo.WAVE), "team": ("plink_team", jvzoo.TEAM)}
    for product, (link, number) in ids.items():
        catalogue["products"][product]["platform_ids"] |= {"stripe": [link], "jvzoo": [number]}
    return catalogue


def shop_of_three(folder: Path, clock: Clock, **settings: Any) -> Shop:
    given: dict[str, Any] = {"stripe_webhook_secret": (WHSEC,), "jvzoo_secret_key": jvzoo.KEY}
    return Shop(folder, clock, catalogue_of_three(), **(given | settings))


class Till(ABC):
    """Sales are named by short words; each platform makes its own ids of them."""

    def __init__(self, shop: Shop) -> None:
        self.shop = shop

    @abstractmethod
    def sale(self, name: str, email: str = "ann@example.com", again: bool = False) -> str:
        """The license key; `again` is another delivery of the same sale."""

    @abstractmethod
    def refund(self, name: str) -> dict[str, Any]: ...

    @abstractmethod
    def dispute(self, name: str) -> dict[str, Any]: ...


class GumroadTill(Till):
    def sale(self, name: str, email: str = "ann@example.com", again: bool = False) -> str:
        return self.shop.sale(f"{name}==", email, **({"retry_count": "1"} if again else {}))

    def refund(self, name: str, refunded: str = "true") -> dict[str, Any]:
        return self.shop.ping(sale_ping(f"{name}==", "ann@example.com", resource="refund", refunded=refunded))

    def dispute(self, name: str) -> dict[str, Any]:
        return self.shop.ping(sale_ping(f"{name}==", "ann@example.com", resource="dispute", disputed="true"))


class StripeTill(Till):
    serial = 0

    def sale(self, name: str, email: str = "ann@example.com", again: bool = False) -> str:
        word = "checkout.session.async_payment_succeeded" if again else "checkout.session.completed"
        session = stripe.session(f"cs_live_{name}", email, payment_intent=f"pi_{name}", payment_link="plink_wave")
        return str(self.tell(word, session)["license_keys"][0])

    def refund(self, name: str, amount: int = 4900) -> dict[str, Any]:
        charge = stripe.charge(f"ch_{name}", f"pi_{name}", amount_refunded=amount)
        return self.tell("charge.refunded", charge)

    def dispute(self, name: str) -> dict[str, Any]:
        return self.tell("charge.dispute.created", stripe.dispute(f"du_{name}", f"ch_{name}", f"pi_{name}"))

    def tell(self, word: str, obj: dict[str, Any]) -> dict[str, Any]:
        """Each delivery is an event of its own, as after a manual resend."""
        StripeTill.serial += 1
        event = {"id": f"evt_{StripeTill.serial}", "object": "event", "type": word, "created": stripe.WHEN + 60}
        body = json.dumps({**event, "livemode": obj.get("livemode", True), "data": {"object": obj}})
        headers = {"Stripe-Signature": WebhookSignature.generate_signature_header(body, WHSEC)}
        answered = self.shop.client.post("/api/v1/webhooks/stripe", data=body, headers=headers)
        assert answered.status_code == 200, answered.text
        return dict(answered.json)


class JVZooTill(Till):
    def sale(self, name: str, email: str = "ann@example.com", again: bool = False) -> str:
        notice = (jvzoo.v2 if again else jvzoo.v1)(name.upper())
        notice |= {"customer_email" if again else "ccustemail": email}
        return str(self.tell(notice)["license_keys"][0])

    def refund(self, name: str) -> dict[str, Any]:
        return self.tell(jvzoo.v1(name.upper(), "RFND"))

    def dispute(self, name: str) -> dict[str, Any]:
        return self.tell(jvzoo.v1(name.upper(), "CGBK"))

    def tell(self, notice: dict[str, Any]) -> dict[str, Any]:
        form = "application/x-www-form-urlencoded"
        answered = self.shop.client.post("/api/v1/webhooks/jvzoo", data=jvzoo.signed(notice), content_type=form)
        assert answered.status_code == 200, answered.text
        return dict(answered.json)


TILLS: dict[str, type[Till]] = {"gumroad": GumroadTill, "stripe": StripeTill, "jvzoo": JVZooTill}
