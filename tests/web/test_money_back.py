"""Money that went back of orders: what order, license and sums say of it is one thing, whatever was told."""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from server.domain import money
from server.domain.order import Order, OrderState
from server.domain.purchase import EventKind, Outcome, PurchaseEvent
from server.services.backlog import Backlog
from server.services.payments import Payments
from server.services.revenue import purchase_stats
from tests.conftest import Clock
from tests.services.bazaar import Bazaar, bazaar_in
from tests.storage.counter import Counter, back, notice, paid


@pytest.fixture
def bazaar(tmp_path: Path, clock: Clock) -> Iterator[Bazaar]:
    with bazaar_in(tmp_path / "data", clock) as made:
        yield made


@pytest.fixture
def counter(tmp_path: Path) -> Counter:
    return Counter(tmp_path)


def stats(store: Any) -> tuple[int, dict[str, str]]:
    told = purchase_stats(store)
    return told["refunded_purchases"], told["refunded"]


# ---------------------------------------------------------------------------------------------------- what is believed
@pytest.mark.parametrize("kind", [EventKind.REFUND, EventKind.PARTIAL_REFUND, EventKind.REFUND_FAILED])
@pytest.mark.parametrize(
    "wrong", [{"currency": "eur"}, {"price": "50.01"}, {"price": "0.00"}, {"price": None}, {"currency": None}], ids=str
)
def test_a_refund_that_cannot_be_of_the_order_is_not_believed(counter, kind, wrong):
    order = counter.order()
    counter.tell([paid(order)])
    (told,) = counter.tell([notice(order, kind, 9, event_id="refund:1", incident="1", **wrong)])
    assert (told.outcome, told.entry.is_withdrawn) == (Outcome.IGNORED, True)
    assert counter.state(order) is OrderState.PAID
    assert [license.is_active for _, license in counter.store.licenses()] == [True]


# ---------------------------------------------------------------------------------------------------- one thing
PARTS = ("10.00", "20.00", "30.00", "50.00")


def story(order: Order, told: Sequence[tuple[int, int, bool]]) -> list[PurchaseEvent]:
    """Refunds by number, each told so many minutes after the payment, and which of them is told to have failed."""
    kinds = {False: EventKind.PARTIAL_REFUND, True: EventKind.REFUND_FAILED}
    return [back(order, PARTS[number], number, at, kinds[is_failure]) for number, at, is_failure in told]


def went_back(counter: Counter) -> int:
    return money.minor_units(purchase_stats(counter.store)["refunded"].get("pln", "0.00"), "pln")


@settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(st.lists(st.tuples(st.integers(0, 3), st.integers(4, 9), st.booleans()), max_size=5), st.integers(0, 5))
def test_order_license_and_sums_agree_whatever_is_told_in_whatever_order(counter, told, place):
    order = counter.order()
    said = story(order, told)
    said.insert(min(place, len(said)), paid(order))
    before = went_back(counter)
    counter.tell(said)
    (license,) = [x for _, x in counter.store.licenses() if x.purchase_id == order.order_id]
    back_of_it = counter.settlement.account(counter.file(order)).refunded
    assert license.is_active == (counter.state(order) is not OrderState.REFUNDED)
    assert license.is_active == (back_of_it < order.amount)
    assert went_back(counter) - before == back_of_it
    history = counter.store.history([order.ledger_name])
    (receipt,) = Payments(counter.store, counter.catalogue)._of_purchase(history, order.email)
    assert money.minor_units(receipt.net, "pln") == order.amount - back_of_it
    changes = (money.minor_units(one.amount, "pln") for one in receipt.back if one.amount)
    assert sum(changes) == -back_of_it


def test_an_order_that_went_back_in_parts_is_counted_as_one_that_went_back(counter):
    order, part = counter.order(), counter.order()
    counter.tell([paid(order), back(order, "20.00"), back(order, "30.00", 2), paid(part), back(part, "20.00", 3)])
    assert stats(counter.store) == (1, {"pln": "70.00"})


@pytest.mark.parametrize("is_late", [False, True])
def test_an_item_whose_license_came_later_goes_back_with_the_last_part(counter, is_late):
    order, path = counter.order("wave", "team"), counter.folder / "products.json"
    whole = path.read_text()
    products = json.loads(whole)["products"]
    path.write_text(json.dumps({"products": {"team": products["team"]}}))
    counter.tell([paid(order)])
    path.write_text(whole)
    parts = [back(order, "40.00"), back(order, "60.00", 2)]
    counter.tell(parts if is_late else parts[:1])
    (tried,) = Backlog(counter.store, counter.catalogue, counter.fulfilment).complete_all()
    assert tried.why is None
    counter.tell(parts)
    assert counter.state(order) is OrderState.REFUNDED
    assert [license.is_active for _, license in counter.store.licenses()] == [False, False]


def so_far(order: Order, kind: EventKind, price: str, total: str, at: int) -> PurchaseEvent:
    """As Stripe tells it: the sum of all that went back of a payment."""
    return notice(order, kind, at, event_id=f"{total}:{at}", order_id=None, price=price, refunded_total=total)


@pytest.mark.parametrize("is_late", [False, True])
def test_of_two_refunds_that_were_all_of_it_one_failed(counter, is_late):
    order = counter.order()
    part = so_far(order, EventKind.PARTIAL_REFUND, "20.00", "20.00", 5)
    whole = so_far(order, EventKind.REFUND, "30.00", "50.00", 6)
    failure = notice(order, EventKind.REFUND_FAILED, 7, event_id="re_1:failed", order_id=None, price="20.00")
    counter.tell([paid(order), *([failure, whole, part] if is_late else [part, whole, failure])])
    assert (went_back(counter), counter.settlement.account(counter.file(order)).refunded) == (3000, 3000)
    assert [license.is_active for _, license in counter.store.licenses()] == [True]


# ---------------------------------------------------------------------------------------------------- by the portal
def test_one_word_of_the_owners_for_the_refunds_of_two_orders_is_two_refunds(bazaar):
    for ref in (bazaar.paid(), bazaar.paid()):
        assert bazaar.refund(ref, amount="500.00", reference="by-bank").status_code == 200
    assert stats(bazaar.shop.services.store) == (0, {"pkr": "1000.00"})


def test_a_reference_is_of_one_sum(bazaar):
    ref = bazaar.paid()
    assert bazaar.refund(ref, amount="500.00", reference="R-1").status_code == 200
    again = bazaar.refund(ref, amount="700.00", reference="R-1")
    assert (again.status_code, "reference" in again.text) == (409, True)
    assert bazaar.refund(ref, reference="R-1").json["amount"] == "500.00"
