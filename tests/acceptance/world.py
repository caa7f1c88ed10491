"""A world of orders on three platforms: what their webhooks say of it, what the platforms' own records hold, and what
is true of each license in the end. Nothing in here knows how Keyledger works it out."""

from __future__ import annotations

import json
import random
from collections.abc import Iterator
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from typing import Any
from urllib.parse import quote
from zoneinfo import ZoneInfo

from stripe import WebhookSignature

from tests import jvzoo_notices as jvzoo
from tests.conftest import SECRET, form, sale_ping
from tests.standins import gumroad_api, stripe_api
from tests.standins.gumroad_api import GumroadApi
from tests.standins.stripe_api import StripeApi
from tests.tills import WHSEC

BEGIN = datetime(2026, 8, 1, tzinfo=UTC)
MONTH = timedelta(days=30)
NEW_YORK = ZoneInfo("America/New_York")
FATES = {  # what becomes of an order, and how often
    "": 70,
    "refund": 9,
    "partial": 5,
    "refund of a renewal": 5,
    "dispute": 4,
    "dispute won": 4,
    "dispute lost": 3,
}


@dataclass(frozen=True)
class Webhook:
    """One notice, as the platform would post it at `at`."""

    at: datetime
    path: str
    body: bytes
    is_signed_json: bool = False

    def headers(self) -> dict[str, str]:
        """Stripe signs each delivery anew."""
        if not self.is_signed_json:
            return {"Content-Type": "application/x-www-form-urlencoded"}
        signature = WebhookSignature.generate_signature_header(self.body.decode("utf-8", "replace"), WHSEC)
        return {"Content-Type": "application/json", "Stripe-Signature": signature}


@dataclass
class Order:
    number: int
    platform: str
    email: str
    sold_at: datetime
    renewals: int  # of a subscription; 0 and not is_monthly: bought once
    is_monthly: bool
    seats: int
    fate: str
    webhooks: list[Webhook] = field(default_factory=list)

    @property
    def product(self) -> str:
        return "team" if self.is_monthly else "wave"

    @property
    def charges(self) -> list[datetime]:
        return [self.sold_at + MONTH * n for n in range(self.renewals + 1)]

    @property
    def regretted_at(self) -> datetime:
        return self.charges[-1] + timedelta(days=2)

    @property
    def hit(self) -> int | None:
        """The charge that went wrong: the first one, or of a renewal's refund the last."""
        return None if not self.fate else self.renewals if self.fate == "refund of a renewal" else 0

    def truth(self) -> tuple[str, str | None, bool]:
        """To whom, why inactive, and whether it is bought for life."""
        reasons = {"refund": "refunded", "dispute": "disputed", "dispute lost": "chargeback"}
        return self.email, reasons.get(self.fate), not self.is_monthly


def make_orders(count: int, seed: int) -> list[Order]:
    """Customers have two or three orders each, so that licenses of one customer can be mixed up."""
    chance = random.Random(seed)
    orders = []
    for number in range(count):
        platform = chance.choices(["gumroad", "stripe", "jvzoo"], [4, 4, 2])[0]
        is_monthly = chance.random() < 0.4
        renewals = chance.randrange(3) if is_monthly else 0
        fate = chance.choices(list(FATES), list(FATES.values()))[0]
        if fate == "refund of a renewal" and not renewals:
            fate = ""
        if (platform, fate) in {("jvzoo", "partial"), ("jvzoo", "dispute"), ("jvzoo", "dispute won")}:
            fate = "dispute lost"  # JVZoo tells of a chargeback only
        if (platform, fate) == ("gumroad", "dispute lost"):
            fate = "dispute"  # Gumroad tells no end of a dispute but a win
        orders.append(
            Order(
                number=number,
                platform=platform,
                email=f"customer{number % (count * 2 // 5)}@example.com",
                sold_at=BEGIN + timedelta(seconds=chance.randrange(30 * 86400)),
                renewals=renewals,
                is_monthly=is_monthly,
                seats=1 if platform == "jvzoo" else chance.choice([1, 1, 1, 3]),
                fate=fate,
            )
        )
    return orders


# ---------------------------------------------------------------------------------------------------- Gumroad
def gumroad(order: Order, api: GumroadApi) -> None:
    subscription = {"subscription_id": f"sub{order.number}==", "recurrence": "monthly"} if order.is_monthly else {}
    product = {"wave": "G-WAVE==", "team": "G-TEAM=="}[order.product]
    for place, at in enumerate(order.charges):
        sale_id = gumroad_api.external_id(f"{order.number}/{place}")
        more: dict[str, Any] = {"sale_timestamp": f"{at:%Y-%m-%dT%H:%M:%SZ}", "quantity": order.seats, **subscription}
        if place:
            more["is_recurring_charge"] = "true"
        wrong = place == order.hit
        states = {
            "refunded": wrong and order.fate.startswith("refund"),
            "partially_refunded": wrong and order.fate == "partial",
            "disputed": wrong and order.fate.startswith("dispute"),
            "dispute_won": wrong and order.fate == "dispute won",
        }
        api.add(
            gumroad_api.sale(
                sale_id,
                order.email,
                product,
                created_at=at,
                quantity=order.seats,
                subscription_id=subscription.get("subscription_id"),
                recurring_charge=place > 0,
                **states,
            )
        )
        order.webhooks += [
            Webhook(
                when, f"gumroad?secret={SECRET}", form(sale_ping(sale_id, order.email, product, word, **more, **flags))
            )
            for when, word, flags in _gumroad_words(order, at, wrong)
        ]


def _gumroad_words(order: Order, at: datetime, wrong: bool) -> Iterator[tuple[datetime, str, dict[str, str]]]:
    later = order.regretted_at
    yield at, "sale", {}
    if wrong and order.fate.startswith("refund"):
        yield later, "refund", {"refunded": "true"}
    if wrong and order.fate == "partial":
        yield later, "refund", {"refunded": "false"}
    if wrong and order.fate.startswith("dispute"):
        yield later, "dispute", {"disputed": "true"}
    if wrong and order.fate == "dispute won":
        yield later + timedelta(days=5), "dispute_won", {"disputed": "true", "dispute_won": "true"}


# ---------------------------------------------------------------------------------------------------- Stripe
def stripe(order: Order, api: StripeApi) -> None:
    subscription = f"sub_{order.number}" if order.is_monthly else None
    amount = 2500 * order.seats
    session = stripe_api.session(
        f"cs_live_{order.number}",
        order.email,
        amount,
        created=_seconds(order.sold_at),
        mode="subscription" if subscription else "payment",
        payment_intent=f"pi_{order.number}_0",
        subscription=subscription,
        invoice=f"in_{order.number}_0" if subscription else None,
        payment_link=f"plink_{order.product}",
    )
    interval = "month" if subscription else None
    api.add(session)
    api.line_items[session["id"]] = [stripe_api.line_item(quantity=order.seats, amount=amount, interval=interval)]
    _tell(order, order.sold_at, "checkout.session.completed", session)
    for place, at in enumerate(order.charges):
        if subscription:
            _stripe_invoice(order, api, subscription, place, at, amount)
        _stripe_charge(order, api, place, at, amount)


def _stripe_invoice(order: Order, api: StripeApi, subscription: str, place: int, at: datetime, amount: int) -> None:
    name = f"{order.number}_{place}"
    invoice = stripe_api.invoice(
        f"in_{name}",
        subscription,
        order.email,
        amount,
        billing_reason="subscription_cycle" if place else "subscription_create",
        period=(_seconds(at), _seconds(at + MONTH)),
        quantity=order.seats,
        lines=[
            stripe_api.invoice_line(
                f"il_{name}",
                subscription,
                "prod_team",
                order.seats,
                amount,
                period=(_seconds(at), _seconds(at + MONTH)),
                invoice=f"in_{name}",
            )
        ],
        payment_intent=f"pi_{name}",
        charge=f"ch_{name}",
        created=_seconds(at),
    )
    payment = stripe_api.invoice_payment(f"inpay_{name}", f"in_{name}", f"pi_{name}", amount, created=_seconds(at))
    api.add(invoice, payment)
    _tell(order, at, "invoice.paid", invoice)
    _tell(order, at + timedelta(seconds=1), "invoice_payment.paid", payment)


def _stripe_charge(order: Order, api: StripeApi, place: int, at: datetime, amount: int) -> None:
    name, wrong = f"{order.number}_{place}", place == order.hit
    back = amount if wrong and order.fate.startswith("refund") else 1000 if wrong and order.fate == "partial" else 0
    charge = stripe_api.charge(
        f"ch_{name}", f"pi_{name}", amount, amount_refunded=back, email=order.email, created=_seconds(at)
    )
    api.add(charge)
    later = order.regretted_at
    if back:
        api.add(stripe_api.refund(f"re_{name}", f"ch_{name}", f"pi_{name}", back, created=_seconds(later)))
        _tell(order, later, "charge.refunded", charge)
    if wrong and order.fate.startswith("dispute"):
        open_one = stripe_api.dispute(f"du_{name}", f"ch_{name}", f"pi_{name}", amount, created=_seconds(later))
        status = {"dispute won": "won", "dispute lost": "lost"}.get(order.fate, "needs_response")
        api.add(open_one | {"status": status})
        _tell(order, later, "charge.dispute.created", open_one)
        if status != "needs_response":
            _tell(order, later + timedelta(days=5), "charge.dispute.closed", open_one | {"status": status})


def _tell(order: Order, at: datetime, word: str, obj: dict[str, Any]) -> None:
    event = stripe_api.event(word, obj, created=_seconds(at), id=f"evt_{order.number}_{len(order.webhooks)}")
    order.webhooks.append(Webhook(at, "stripe", json.dumps(event).encode(), is_signed_json=True))


# ---------------------------------------------------------------------------------------------------- JVZoo
def jvzoo_order(order: Order, rows: list[dict[str, str]]) -> None:
    """Version 1 or 2 of the notice, or both; the record is the rows of an export."""
    receipt = f"RCPT{order.number:06d}X"
    product = {"wave": jvzoo.WAVE, "team": jvzoo.TEAM}[order.product]
    for place, at in enumerate(order.charges):
        name, wrong = receipt + (f"-B{place:03d}" if place else ""), place == order.hit
        words = [(at, "BILL" if place else "SALE")]
        if wrong:
            words.append((order.regretted_at, "CGBK" if order.fate.startswith("dispute") else "RFND"))
        for when, word in words:
            rows.append(_row(order, name, word, product, when))
            order.webhooks += [Webhook(when, "jvzoo", body) for body in _notices(order, name, word, product, at)]


def _row(order: Order, receipt: str, word: str, product: str, at: datetime) -> dict[str, str]:
    return {
        "Transaction ID": receipt,
        "Transaction Type": word,
        "Product ID": product,
        "Customer Email": order.email,
        "Customer Name": "Jane Doe",
        "Amount": "47.00",
        "Currency": "USD",
        "Date": f"{at.astimezone(NEW_YORK):%Y-%m-%d %H:%M:%S}",
    }


def _notices(order: Order, receipt: str, word: str, product: str, sold_at: datetime) -> Iterator[bytes]:
    if order.number % 3 != 1:
        more = {"ccustemail": order.email, "ctranstime": _seconds(sold_at)}
        yield jvzoo.signed(jvzoo.v1(receipt, word, product, **more))
    if order.number % 3 != 0:
        there = sold_at.astimezone(NEW_YORK)
        more = {"customer_email": order.email, "date": f"{there:%Y-%m-%d %H:%M:%S}"}
        yield jvzoo.signed(jvzoo.v2(receipt, word, product, **more))


def _seconds(at: datetime) -> int:
    return int(at.timestamp())


# ---------------------------------------------------------------------------------------------------- the post
def lost_duplicated_and_shuffled(webhooks: list[Webhook], seed: int) -> list[Webhook]:
    """What arrives: of ten days nothing, of the rest a fifth twice, in any order."""
    chance = random.Random(seed)
    outage = (BEGIN + timedelta(days=20), BEGIN + timedelta(days=30))
    arriving = [one for one in webhooks if not outage[0] <= one.at < outage[1]]
    arriving += [chance.choice(arriving) for _ in range(len(arriving) // 5)]
    chance.shuffle(arriving)
    return arriving


def with_a_wrong_byte(body: bytes, chance: random.Random) -> bytes:
    at = chance.randrange(len(body))
    return body[:at] + bytes([body[at] ^ (1 << chance.randrange(7))]) + body[at + 1 :]


def door(webhook: Webhook) -> str:
    return f"/api/v1/webhooks/{quote(webhook.path, safe='/?=')}"
