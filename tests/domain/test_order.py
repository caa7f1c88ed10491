"""Orders: how they stand is a function of the set of what was said; only what agrees with the order counts."""

from __future__ import annotations

import random
from datetime import timedelta
from itertools import permutations, product

import pytest

from server.domain.order import ALPHABET, OrderState, is_order_id, new_number, new_order_id
from server.domain.purchase import EventKind, Outcome, PurchaseEvent
from tests.storage.backroom import NOW
from tests.storage.counter import Counter, back, notice, paid


@pytest.fixture
def counter(tmp_path):
    return Counter(tmp_path)


def standing(counter: Counter, order) -> tuple:
    """All that anybody can see of an order: its state, and its licenses."""
    licenses = sorted(
        (x.product_id, x.is_active, x.inactive_reason, x.max_devices)
        for _, x in counter.store.licenses()
        if x.purchase_id == order.order_id
    )
    return counter.state(order), licenses


def stories(order) -> dict[str, tuple[list[PurchaseEvent], OrderState, bool]]:
    """What was said, how the order stands then, and whether its license is active."""
    pending, cancelled = notice(order, EventKind.PENDING), notice(order, EventKind.CANCELLATION, 5)
    failed, sale = notice(order, EventKind.PAYMENT_FAILED, 2), paid(order)
    whole, small, rest = back(order, order.price), back(order, "20.00"), back(order, "30.00", 2)
    no_whole = back(order, order.price, at=12, kind=EventKind.REFUND_FAILED)
    no_rest = back(order, "30.00", 2, 12, EventKind.REFUND_FAILED)
    return {
        "paid": ([pending, sale], OrderState.PAID, True),
        "paid after all": ([pending, failed, cancelled, sale], OrderState.PAID, True),
        "refunded": ([pending, sale, cancelled, whole], OrderState.REFUNDED, False),
        "a part went back": ([sale, cancelled, small], OrderState.PARTIALLY_REFUNDED, True),
        "all went back in parts": ([sale, small, rest, cancelled], OrderState.REFUNDED, False),
        "a refund failed": ([sale, whole, no_whole], OrderState.PAID, True),
        "one part failed": ([sale, small, rest, no_rest], OrderState.PARTIALLY_REFUNDED, True),
        "too much was told": ([pending, paid(order, price="49.99"), sale, whole], OrderState.REFUNDED, False),
    }


NAMES = [
    "paid",
    "paid after all",
    "refunded",
    "a part went back",
    "all went back in parts",
    "a refund failed",
    "one part failed",
    "too much was told",
]


@pytest.mark.parametrize("name", NAMES)
def test_every_order_of_what_was_said_with_one_of_it_twice(counter, name):
    expected = None
    for number, twice in product(range(1 << 20), (None, *range(5))):
        order = counter.order()
        events, state, active = stories(order)[name]
        orders = list(permutations(events))
        if number >= len(orders):
            break
        said = list(orders[number])
        if twice is not None:
            if twice >= len(events):
                continue
            said.append(events[twice])
        counter.tell(said)
        expected = expected or standing(counter, order)
        assert standing(counter, order) == expected, [event.event for event in said]
        assert expected[0] is state
        assert [license[1] for license in expected[1]] == [active]


@pytest.mark.parametrize("times", [100, pytest.param(5000, marks=pytest.mark.slow)])
def test_ten_notices_at_random_many_times(counter, times):
    chance = random.Random(6)
    for _ in range(times):
        order = counter.order()
        events, state, active = stories(order)[chance.choice(NAMES)]
        said: list[PurchaseEvent] = [*events, *chance.choices(events, k=10 - len(events))]
        chance.shuffle(said)
        counter.tell(said)
        assert counter.state(order) is state
        assert [x.is_active for _, x in counter.store.licenses() if x.purchase_id == order.order_id] == [active]


def test_an_order_of_two_bundles_that_share_a_product_gives_one_license_of_it(counter):
    order = counter.order("studio", "wave")
    (told,) = counter.tell([paid(order)])
    assert (told.outcome, len(told.license_keys)) == (Outcome.ISSUED, 2)
    assert standing(counter, order)[1] == [("team", True, None, 3), ("wave", True, None, 2)]


@pytest.mark.parametrize(
    "wrong",
    [
        {"price": "49.99"},
        {"price": "50.01"},
        {"price": "0.00"},
        {"price": None},
        {"currency": "eur"},
        {"currency": None},
        {"is_test": True},
        {"price": "5000"},
    ],
    ids=str,
)
def test_money_that_is_not_the_orders_gives_nothing_and_the_owner_is_told(counter, wrong):
    order = counter.order()
    (told,) = counter.tell([paid(order, **wrong)])
    assert (told.outcome, told.license_keys) == (Outcome.IGNORED, ())
    assert told.entry is not None
    assert told.entry.is_withdrawn
    assert told.entry.note.startswith("not believed: ")
    assert standing(counter, order) == (OrderState.PENDING, [])


def test_another_platforms_word_for_an_order_is_not_believed(counter):
    order = counter.order()
    (entry,) = counter.inquiries.record([paid(order, source="jazzcash")])
    assert (entry.outcome, entry.is_withdrawn) == (Outcome.IGNORED, True)


def test_another_platform_cannot_end_an_order(counter):
    order = counter.order()
    (told,) = counter.tell([notice(order, EventKind.CANCELLATION, source="jazzcash")])
    assert (told.outcome, counter.state(order)) == (Outcome.IGNORED, OrderState.PENDING)


def test_money_for_an_order_that_nobody_knows_waits_where_the_name_is_like_ours(counter):
    order = counter.order()
    stranger = paid(order, order_id=new_order_id(), sale_id="x", event_id="x:sale")
    (told,) = counter.tell([stranger])
    assert told.outcome is Outcome.UNMAPPED
    (told,) = counter.tell([paid(order, order_id="inv-1001", sale_id="inv-1001", event_id="inv-1001:sale")])
    assert (told.outcome, told.entry.is_withdrawn) == (Outcome.IGNORED, False)


def test_an_order_that_nobody_paid_is_over_after_a_day_and_paid_all_the_same(counter):
    order = counter.order()
    counter.now = NOW + timedelta(hours=23, minutes=59)
    assert counter.state(order) is OrderState.PENDING
    counter.now = NOW + timedelta(hours=24)
    assert counter.state(order) is OrderState.CANCELLED
    counter.tell([paid(order)])
    assert counter.state(order) is OrderState.PAID


def test_money_that_takes_days_is_waited_for(counter):
    order = counter.order()
    counter.tell([notice(order, EventKind.PENDING)])
    counter.now = NOW + timedelta(days=13, hours=23)
    assert counter.state(order) is OrderState.PROCESSING
    counter.now = NOW + timedelta(days=14)
    assert counter.state(order) is OrderState.CANCELLED
    counter.tell([paid(order)])
    assert counter.state(order) is OrderState.PAID


def test_names_of_orders():
    ids = {new_order_id() for _ in range(1000)}
    assert len(ids) == 1000
    for one in ids:
        assert is_order_id(one)
        assert one.isalnum()
        assert not one[0].isdigit()
    assert not is_order_id("0" * 20)
    assert not is_order_id("inv-1001")
    number = new_number(NOW)
    assert number.startswith("ORD-20261120-")
    assert set(number[-4:]) <= set(ALPHABET)
