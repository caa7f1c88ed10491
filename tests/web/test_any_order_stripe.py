"""Stripe's events in any order, any number of times, in either shape: the same books."""

from __future__ import annotations

import itertools
import json
import random
import re
from collections.abc import Iterable, Sequence
from datetime import timedelta
from functools import cache
from pathlib import Path
from typing import Any

import msgspec
import pytest

from server.domain.license import License
from server.domain.purchase import PurchaseEvent
from server.platforms import WebhookRequest
from server.platforms.stripe import Stripe
from server.platforms.stripe_api import StripeApi as OurApi
from server.services.catalogue_file import CatalogueFile
from server.services.fulfilment import Fulfilment
from server.storage.flatfile import FlatFileStore
from tests.conftest import NOW, some_of
from tests.standins.http import Json
from tests.standins.stripe_api import charge, dispute, event, invoice_line, refund
from tests.standins.stripe_objects import MONTH, WHEN
from tests.stripe_shop import (
    CATALOGUE,
    DAY,
    WHSEC,
    first_invoice,
    later_invoice,
    payment_of,
    subscription,
    team,
    wave,
)

COMPLETED, SUCCEEDED = "checkout.session.completed", "checkout.session.async_payment_succeeded"
EXPIRED, PAID = "checkout.session.expired", "invoice.paid"
LATER = NOW + timedelta(days=400)  # all of it is told after the shop was down for long

ASKING_NOBODY = Stripe((WHSEC,), None)
NOT_ANSWERED = Stripe((WHSEC,), OurApi("sk_live_of_the_tests", "http://127.0.0.1:1"))  # what is to be asked stays open


@pytest.fixture(autouse=True)
def a_quick_disk(monkeypatch):
    """Nothing here is about the power failing."""
    monkeypatch.setattr("os.fsync", lambda descriptor: None)


# ---------------------------------------------------------------------------------------------------- what is told
def at(days: float, type: str, about: Json, previous: Json | None = None, old: bool = False) -> Json:
    """An event so many days after the checkout."""
    return event(type, about, previous, created=WHEN + int(days * DAY), old=old)


def refunded(days: float, number: int = 1, amount: int = 4900, back: int | None = None, old: bool = False) -> Json:
    more = {"amount_refunded": amount if back is None else back, "invoice": f"in_{number}" if old else None}
    return at(days, "charge.refunded", charge(f"ch_{number}", f"pi_{number}", amount, old=old, **more), old=old)


def refund_failed(days: float, number: int = 1, id: str = "re_1") -> Json:
    return at(days, "refund.failed", refund(id, f"ch_{number}", f"pi_{number}", status="failed"))


def disputed(days: float, status: str, word: str = "closed", number: int = 1, id: str = "du_1") -> Json:
    return at(days, f"charge.dispute.{word}", dispute(id, f"ch_{number}", f"pi_{number}", status=status))


def updated(days: float, previous: Json, old: bool = False, **now: Any) -> Json:
    return at(days, "customer.subscription.updated", subscription(old, **now), previous, old)


def ended(days: float, old: bool = False) -> Json:
    over = {"status": "canceled", "ended_at": WHEN + int(days * DAY)}
    return at(days, "customer.subscription.deleted", subscription(old, **over), old=old)


def cancelled(days: float, old: bool = False) -> Json:
    when = WHEN + int(days * DAY)
    how = {"cancel_at_period_end": True} if old else {"cancel_at": WHEN + 30 + MONTH}
    return updated(days, dict.fromkeys([*how, "canceled_at"]), old, canceled_at=when, **how)


def began(old: bool = False, days: float = 0) -> Json:
    return at(days, COMPLETED, team(old=old), old=old)


def paid(number: int, old: bool = False, **more: Any) -> Json:
    made = first_invoice(old, **more) if number == 1 else later_invoice(number, old, **more)
    return at((number - 1) * 30, PAID, made, old=old)


def linked(number: int) -> Json:
    return at((number - 1) * 30, "invoice_payment.paid", payment_of(number))


def failed(number: int, days: float) -> Json:
    return at(days, "invoice.payment_failed", later_invoice(number, status="open"))


UNPAID, ACTIVE, SEATS = {"status": "past_due"}, {"status": "unpaid"}, {"items": {}, "quantity": 1}
SMALL = {"product": "prod_small", "price_id": "price_solo"}
SMALL_LINE = invoice_line("il_2", **SMALL, period=(WHEN + 30 + MONTH, WHEN + 30 + 2 * MONTH))

STORIES = {
    "refunded, which failed, and again": [
        at(0, COMPLETED, wave()),
        refunded(3),
        refund_failed(5),
        refunded(6),
        at(6, "refund.updated", refund("re_2")),
    ],
    "refunded in parts, and in full": [
        at(0, COMPLETED, wave()),
        refunded(3, back=1000),
        refunded(4, back=2500),
        refunded(5, back=4900),
        refund_failed(7),
    ],
    "two disputes": [
        at(0, COMPLETED, wave()),
        disputed(4, "needs_response", "created"),
        disputed(40, "won"),
        disputed(5, "warning_needs_response", "created", id="du_2"),
        disputed(9, "needs_response", "updated", id="du_2"),
    ],
    "a dispute lost after a refund": [
        at(0, COMPLETED, wave()),
        refunded(3),
        disputed(4, "needs_response", "created"),
        disputed(40, "lost"),
        refund_failed(41),
    ],
    "money that was late": [
        at(0, COMPLETED, wave(payment_status="unpaid")),
        at(3, SUCCEEDED, wave()),
        at(4, EXPIRED, wave(payment_status="unpaid")),
        disputed(9, "needs_response", "created"),
        disputed(40, "won"),
    ],
    "a renewal refunded": [began(), paid(1), paid(2), linked(2), refunded(31, 2, 2500)],
    "a renewal refunded, before basil": [
        began(old=True),
        paid(1, old=True),
        paid(2, old=True),
        refunded(31, 2, 2500, old=True),
        cancelled(32, old=True),
    ],
    "both shapes of one invoice": [began(), paid(1), paid(1, old=True), linked(1), refunded(3, 1, 2500)],
    "without its checkout": [paid(1), paid(2, old=True), linked(1), refunded(3, 1, 2500), failed(3, 61)],
    "all of it refunded, without its checkout": [
        paid(1, old=True),
        paid(2),
        linked(2),
        refunded(31, 1, 2500, old=True),
        refunded(32, 2, 2500),
    ],
    "seats, unpaid, active again": [
        began(),
        paid(1),
        updated(5, SEATS, quantity=3),
        updated(9, UNPAID, status="unpaid"),
        updated(12, ACTIVE, quantity=3),
    ],
    "unpaid, and paid after all": [
        began(),
        paid(1),
        failed(2, 30.1),
        updated(30.2, UNPAID, status="unpaid"),
        at(33, PAID, later_invoice(created=WHEN + 33 * DAY)),
    ],
    "cancelled, taken back, ended": [
        began(),
        paid(1),
        cancelled(9),
        updated(10, {"cancel_at": WHEN + MONTH}),
        ended(20),
    ],
    "cancelled twice": [
        began(old=True),
        paid(1, old=True),
        cancelled(9, old=True),
        updated(10, {"cancel_at_period_end": True}, old=True),
        cancelled(11, old=True),
    ],
    "ended, and told of later": [began(), paid(1), ended(20), updated(21, UNPAID), paid(2)],
    "paused and resumed": [
        began(),
        paid(1),
        at(9, "customer.subscription.paused", subscription(status="paused")),
        at(11, "customer.subscription.resumed", subscription()),
        cancelled(12),
    ],
    "a renewal disputed": [
        began(),
        paid(2),
        linked(2),
        disputed(33, "needs_response", "created", number=2),
        disputed(70, "won", number=2),
    ],
    "a renewal's dispute lost": [
        began(),
        paid(1),
        paid(2, old=True),
        disputed(33, "needs_response", "created", number=2),
        disputed(70, "lost", number=2),
    ],
    "a trial": [
        at(0, COMPLETED, team(amount=0, payment_status="no_payment_required")),
        paid(1, amount=0, period=(WHEN + 30, WHEN + 30 + 14 * DAY)),
        updated(14, {"status": "trialing"}, status="past_due"),
        paid(2),
        failed(2, 29),
    ],
    "two purchases of one customer": [
        at(0, COMPLETED, wave(customer="cus_1")),
        at(1, COMPLETED, wave("cs_live_2", "pi_2", customer="cus_1")),
        refunded(3, 2),
        disputed(4, "needs_response", "created"),
        disputed(40, "won", number=2, id="du_2"),
    ],
    "a subscription beside a purchase": [
        began(),
        paid(1),
        at(1, COMPLETED, wave("cs_live_2", "pi_2", customer="cus_1")),
        refunded(3, 2),
        ended(20),
    ],
}


# ---------------------------------------------------------------------------------------------------- the books
def office(folder: Path) -> tuple[FlatFileStore, Fulfilment]:
    """Its clock goes on with every look, so that what rests on the time of arrival shows."""
    folder.mkdir()
    ticks = itertools.count()
    (folder / "products.json").write_text(json.dumps(CATALOGUE))
    store = FlatFileStore(folder)
    catalogue = CatalogueFile(folder / "products.json")
    return store, Fulfilment(store, catalogue, "license-secret", lambda: LATER + timedelta(minutes=next(ticks)))


@cache
def read(body: bytes, platform: Stripe) -> list[PurchaseEvent]:
    """Once for all the orders in which it is told."""
    return platform.parse(WebhookRequest(body, {}, {}.get))


def books(folder: Path, told: Iterable[Json], platform: Stripe = ASKING_NOBODY) -> dict[str, License]:
    """The licenses after these events in this order, by key, as the ledger alone tells them."""
    store, fulfilment = office(folder)
    for one in told:
        fulfilment.record(read(json.dumps(one).encode(), platform))
    again = FlatFileStore(folder)
    found, rebuilt = dict(store.licenses()), dict(again.licenses())
    assert found == rebuilt
    store.close()
    again.close()
    return rebuilt


def without_keys(found: dict[str, License]) -> list[License]:
    return sorted(found.values(), key=lambda record: record.purchase_id)


def orders(story: Sequence[Json]) -> Iterable[tuple[str, list[Json]]]:
    """Every order of these events, each with one of them told again at the end."""
    for number, order in enumerate(itertools.permutations(story)):
        yield str(number), [*order, random.Random(number).choice(order)]


@pytest.mark.parametrize("story", STORIES)
def test_every_order_ends_in_the_same_books(tmp_path, story):
    expected = books(tmp_path / "straight", STORIES[story])
    assert expected
    for name, order in orders(STORIES[story]):
        assert books(tmp_path / name, order) == expected, [one["type"] for one in order]


def test_the_stories_end_in_every_way(tmp_path):
    ends = {name: books(tmp_path / str(n), story) for n, (name, story) in enumerate(STORIES.items())}
    told = {name: [record.inactive_reason for record in without_keys(found)] for name, found in ends.items()}
    assert told == {
        "refunded, which failed, and again": ["refunded"],
        "refunded in parts, and in full": [None],
        "two disputes": ["disputed"],
        "a dispute lost after a refund": ["chargeback"],
        "money that was late": [None],
        "a renewal refunded": [None],
        "a renewal refunded, before basil": [None],
        "both shapes of one invoice": ["refunded"],
        "without its checkout": ["refunded"],
        "all of it refunded, without its checkout": ["refunded"],
        "seats, unpaid, active again": [None],
        "unpaid, and paid after all": [None],
        "cancelled, taken back, ended": ["ended"],
        "cancelled twice": [None],
        "ended, and told of later": ["ended"],
        "paused and resumed": [None],
        "a renewal disputed": [None],
        "a renewal's dispute lost": ["chargeback"],
        "a trial": [None],
        "two purchases of one customer": ["disputed", "refunded"],
        "a subscription beside a purchase": ["ended", "refunded"],
    }


CHANGED = [began(), paid(1), updated(9, SEATS, **SMALL), paid(2, lines=[SMALL_LINE])]


def test_a_change_of_plan_ends_in_one_license_of_the_new_plan(tmp_path):
    expected = without_keys(books(tmp_path / "straight", CHANGED))
    assert [(record.product_id, record.max_devices) for record in expected] == [("solo", 1)]
    for name, order in orders(CHANGED):
        assert without_keys(books(tmp_path / name, order)) == expected, [one["type"] for one in order]


@pytest.mark.parametrize("story", ["refunded, which failed, and again", "a renewal refunded", "cancelled twice"])
def test_open_questions_change_nothing(tmp_path, story):
    expected = books(tmp_path / "straight", STORIES[story])
    for name, order in orders(STORIES[story]):
        assert books(tmp_path / name, order, NOT_ANSWERED) == expected, [one["type"] for one in order]


def test_open_questions_demote_no_sale(tmp_path):
    story = STORIES["money that was late"]
    expected = books(tmp_path / "straight", story)
    for name, order in orders(story[:3]):
        found = books(tmp_path / name, order, NOT_ANSWERED)
        assert found.keys() == expected.keys(), [one["type"] for one in order]


# ---------------------------------------------------------------------------------------------------- longer ones
LIFE = [
    began(),
    paid(1),
    at(0, "invoice.payment_succeeded", first_invoice()),
    paid(2),
    paid(3, old=True),
    *map(linked, (1, 2, 3)),
    refunded(4, 1, 2500, back=500),
    refunded(31, 2, 2500),
    refund_failed(33, 2),
    refunded(34, 2, 2500),
    refunded(63, 3, 2500, old=True),
    disputed(35, "needs_response", "created", number=2),
    disputed(60, "won", number=2),
    failed(2, 30.1),
    updated(5, SEATS, quantity=3),
    updated(30.2, UNPAID, status="unpaid"),
    updated(30.5, ACTIVE),
    cancelled(9),
    updated(10, {"cancel_at": WHEN + MONTH}),
    at(15, "customer.subscription.paused", subscription(status="paused")),
    at(16, "customer.subscription.resumed", subscription()),
]
RARE = [refunded(5, 1, 2500), ended(70), disputed(80, "lost", number=3, id="du_3")]  # after which little else shows
LATE = [  # a checkout is paid at once, or days later, and never both
    at(0, COMPLETED, wave(payment_status="unpaid")),
    at(1, SUCCEEDED, wave()),
    at(4, "checkout.session.async_payment_failed", wave(payment_status="unpaid")),
]
ORDER = [
    at(4, EXPIRED, wave(payment_status="unpaid")),
    refunded(3, back=1000),
    refunded(4, back=2500),
    refunded(5),
    refund_failed(7),
    refunded(8),
    refund_failed(9, id="re_2"),
    at(5, "refund.created", refund()),
    disputed(6, "warning_needs_response", "created", id="du_2"),
    disputed(6, "warning_closed", id="du_2"),
    disputed(4, "needs_response", "created"),
    disputed(40, "won"),
    disputed(41, "needs_response", "created", id="du_3"),
]
IDS = re.compile(rb'"(cs_live|sub|in|pi|ch|inpay|re|du)_(\w+)"')


class Cabinet:
    """Many purchases of one customer in one ledger, each under ids of its own."""

    def __init__(self, folder: Path) -> None:
        self.store, self.fulfilment = office(folder)
        self.serial = itertools.count(1000)

    def file(self, told: Iterable[Json]) -> bytes:
        """The mark of the purchase that these events tell, in this order."""
        mark = b"M%d" % next(self.serial)
        for one in told:
            body = IDS.sub(rb'"\1_%b_\2"' % mark, json.dumps(one).encode()).replace(b"ann@", mark.lower() + b"@")
            self.fulfilment.record(ASKING_NOBODY.parse(WebhookRequest(body, {}, {}.get)))
        return mark

    def found(self) -> dict[str, list[License]]:
        """The licenses of each mark, in words that no longer tell it."""
        found: dict[str, list[License]] = {}
        for _, record in self.store.licenses():
            mark = record.email.partition("@")[0].upper()
            plain = {"email": "ann@example.com", "purchase_id": record.purchase_id.replace(f"{mark}_", "")}
            found.setdefault(mark, []).append(msgspec.structs.replace(record, **plain))
        return found


def drawn(chance: random.Random) -> list[Json]:
    """Some of what may be told of one purchase."""
    pool = chance.choice([LIFE, LIFE, LIFE + RARE, [at(0, COMPLETED, wave()), *ORDER], LATE + ORDER])
    return chance.sample(pool, chance.randint(3, min(12, len(pool))))


def shuffled(chance: random.Random, told: list[Json]) -> list[Json]:
    again = told + chance.choices(told, k=2)
    chance.shuffle(again)
    return again


@pytest.mark.parametrize("seed", some_of(range(10), 2))
def test_any_events_of_a_purchase_end_in_the_same_books_in_any_order(tmp_path, seed):
    chance, cabinet = random.Random(seed), Cabinet(tmp_path / "books")
    pairs = []
    for _ in range(120):
        told = drawn(chance)
        first, second = shuffled(chance, told), shuffled(chance, told)
        pairs.append((cabinet.file(first).decode(), cabinet.file(second).decode(), first, second))
    found = cabinet.found()
    for one, other, first, second in pairs:
        names = [[(told["type"], told["created"]) for told in order] for order in (first, second)]
        assert found.get(one) == found.get(other), names
    reasons = {record.inactive_reason for records in found.values() for record in records}
    assert {None, "refunded", "disputed", "payment_failed", "suspended"} <= reasons
    cabinet.store.tidy(force=True)
    assert [finding for finding in cabinet.store.inspect() if not finding.is_note] == []
