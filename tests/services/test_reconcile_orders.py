"""The ledger held against what platforms say of our own orders, each asked about by itself."""

from __future__ import annotations

from datetime import timedelta
from pathlib import Path

import msgspec
import pytest

from server.domain.order import Order, OrderState, Step
from server.domain.purchase import EventKind, PurchaseEvent
from server.errors import PlatformUnreachable
from server.platforms.gumroad import Gumroad
from server.platforms.stripe import StripeStoreFront
from server.platforms.web_client import RateLimited
from server.services import reconcile, record
from server.services.order_record import OrderRecord, record_of
from server.services.reconcile import Drift, Kind, Reconciliation
from server.services.repair import Repair
from server.services.statement import Statement
from server.storage.base import no_progress
from tests.storage.backroom import NOW, sale
from tests.storage.counter import Counter, Till, back, notice, paid

SINCE = NOW - timedelta(days=1)


class Register(Till):
    """Says of each order what is so there; `troubles` come first."""

    def __init__(self) -> None:
        super().__init__()
        self.told: dict[str, list[PurchaseEvent]] = {}
        self.troubles: list[Exception] = []
        self.questions: list[str] = []

    def ask(self, order: Order, reference: str | None) -> list[PurchaseEvent]:
        self.questions.append(order.order_id)
        if self.troubles:
            raise self.troubles.pop(0)
        return self.told.get(order.order_id, [])


class Office(Counter):
    """A counter whose platform remembers, and the books held against it."""

    def __init__(self, folder: Path) -> None:
        super().__init__(folder)
        self.register = Register()
        self.settlement._platforms["payu"] = self.register  # the same table as that of the inquiries
        self.books = Reconciliation(self.store, self.fulfilment, self.inquiries, lambda: self.now, lambda seconds: None)
        self.waits: list[float] = []

    def knows(self, order: Order, *events: PurchaseEvent) -> None:
        self.register.told[order.order_id] = list(events)

    def statement(self) -> Statement:
        record = OrderRecord(self.register, self.store, self.settlement)
        return Statement(record, self.folder, lambda: self.now, self.waits.append)

    def drifts(self) -> list[Drift]:
        self.now += timedelta(hours=2)
        return self.books.compare("payu", self.statement().read(SINCE), SINCE)

    def kinds(self) -> list[tuple[Kind, str | None]]:
        self.statement().forget()
        return [(drift.kind, drift.sale_id) for drift in self.drifts()]

    def repaired(self) -> list[tuple[Kind, str | None]]:
        self.statement().forget()
        self.books.repair(self.drifts(), no_progress)
        return self.kinds()


@pytest.fixture
def office(tmp_path: Path) -> Office:
    return Office(tmp_path)


def active(office: Office) -> list[bool]:
    return [license.is_active for _, license in office.store.licenses()]


# ------------------------------------------------------------------------------------------------ what is found
def test_where_both_say_the_same_there_is_nothing_to_tell(office: Office) -> None:
    one, two, three = (office.order() for _ in range(3))
    office.knows(one, paid(one), back(one, "20.00"), back(one, "10.00", 2))
    office.knows(two, paid(two), back(two, "50.00"))
    office.knows(three, notice(three, EventKind.CANCELLATION))
    office.tell([*office.register.told[one.order_id], *office.register.told[two.order_id]])
    assert office.kinds() == []
    assert office.books.unchecked == 0


def test_a_lost_payment_is_found_and_completed(office: Office) -> None:
    order = office.order("wave", "team")
    office.knows(order, paid(order))
    assert office.kinds() == [(Kind.NO_LICENSE, order.order_id)]
    assert office.repaired() == []
    assert office.state(order) is OrderState.PAID
    assert [(x.email, x.product_id) for _, x in office.store.licenses()].count(("ann@example.com", "wave")) == 1
    assert active(office) == [True, True]


def test_lost_refunds_are_found_each_by_itself_and_completed(office: Office) -> None:
    order = office.order()
    first, second, third = back(order, "20.00"), back(order, "10.00", 2), back(order, "20.00", 3)
    office.tell([paid(order), first])
    office.knows(order, paid(order), first, second, third)
    assert office.kinds() == [(Kind.UNRECORDED, order.order_id)] * 2
    assert office.repaired() == []
    assert office.state(order) is OrderState.REFUNDED
    assert active(office) == [False]


def test_a_lost_refund_of_all_of_it_takes_the_license(office: Office) -> None:
    order = office.order()
    office.tell([paid(order)])
    office.knows(order, paid(order), back(order, order.price))
    assert office.kinds() == [(Kind.REFUNDED, order.order_id)]
    assert office.repaired() == []
    assert (office.state(order), active(office)) == (OrderState.REFUNDED, [False])


def test_a_part_that_went_back_after_the_whole_had_failed_is_no_news_of_that(office: Office) -> None:
    order = office.order()
    whole, failed = back(order, order.price), back(order, order.price, at=12, kind=EventKind.REFUND_FAILED)
    office.tell([paid(order), whole, failed])
    office.knows(order, paid(order), failed, back(order, "20.00", 2, at=20))
    assert office.kinds() == [(Kind.UNRECORDED, order.order_id)]
    assert office.repaired() == []
    assert office.state(order) is OrderState.PARTIALLY_REFUNDED


def test_what_does_not_fit_its_order_is_never_repaired_but_written_down(office: Office) -> None:
    order = office.order()
    office.knows(order, paid(order, price="1.00"))
    (drift,) = office.drifts()
    assert (drift.kind, drift.theirs) == (
        Kind.SUSPICIOUS,
        f"sale 1.00 pln: 1.00 pln is not the 50.00 pln of order {order.number}",
    )
    assert office.repaired() == []
    assert office.state(order) is OrderState.PENDING
    assert active(office) == []
    assert len(office.file(order).of(Step.SUSPICIOUS)) == 1


def test_a_license_whose_order_the_platform_does_not_know_is_told(office: Office) -> None:
    order = office.order()
    office.tell([paid(order)])
    assert office.kinds() == [(Kind.UNPAID, order.order_id)]
    assert office.repaired() == [(Kind.UNPAID, order.order_id)]
    assert active(office) == [True]


def test_an_order_of_earlier_days_that_was_paid_now_is_asked_about_by_itself(office: Office) -> None:
    order = office.order(placed_at=NOW - timedelta(days=9))
    office.tell([paid(order)])
    office.knows(order, paid(order), back(order, order.price))
    assert office.kinds() == [(Kind.REFUNDED, order.order_id)]
    office.knows(order, paid(order))
    assert office.kinds() == []


def test_what_was_paid_on_the_first_day_may_have_been_ordered_the_day_before(office: Office) -> None:
    order = office.order(placed_at=SINCE - timedelta(hours=20))
    office.knows(order, paid(order))
    assert office.repaired() == []
    assert office.state(order) is OrderState.PAID


def test_other_platforms_and_other_sales_are_left_alone(office: Office) -> None:
    theirs = office.order(source="jazzcash")
    office.hear(sale("s1"), paid(theirs))
    assert office.kinds() == []
    assert office.register.questions == []


def test_mutant_a_record_that_is_compared_without_what_was_ordered(
    office: Office, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Then every payment is of something that nobody mapped, and one of any sum is believed."""
    monkeypatch.setattr(type(office.fulfilment), "ordered", lambda self, event: event)
    with pytest.raises(AssertionError):
        test_a_lost_payment_is_found_and_completed(office)


def test_mutant_one_part_that_is_told_stands_for_all(office: Office, monkeypatch: pytest.MonkeyPatch) -> None:
    told = record.is_told
    monkeypatch.setattr(reconcile, "is_told", lambda event, history: told(_nameless(event), history))
    with pytest.raises(AssertionError):
        test_lost_refunds_are_found_each_by_itself_and_completed(office)


def _nameless(event: PurchaseEvent) -> PurchaseEvent:
    return msgspec.structs.replace(event, order_id=None)


# ------------------------------------------------------------------------------------------------ page by page
def test_whoever_is_interrupted_asks_about_no_order_twice(office: Office) -> None:
    orders = [office.order() for _ in range(4)]
    for order in orders[:3]:
        office.knows(order, paid(order))
    statement = office.statement()
    office.register.troubles = []
    ask = office.register.ask

    def stops(order: Order, reference: str | None) -> list[PurchaseEvent]:
        if order == orders[2]:
            raise KeyboardInterrupt
        return ask(order, reference)

    office.register.ask = stops  # type: ignore[method-assign]
    with pytest.raises(KeyboardInterrupt):
        statement.read(SINCE)
    office.register.ask = ask  # type: ignore[method-assign]
    again = office.statement()
    events = again.read(SINCE)
    assert office.register.questions == [order.order_id for order in orders]
    assert [event.order_id for event in events] == [order.order_id for order in orders[:3]]
    assert again.resumed == 2


def test_a_platform_that_is_busy_or_down_is_waited_for(office: Office) -> None:
    order = office.order()
    office.knows(order, paid(order))
    office.register.troubles = [RateLimited("slower", 7.0), PlatformUnreachable("payu does not answer")]
    assert len(office.statement().read(SINCE)) == 1
    assert office.waits == [7.0, 2.0]


def test_a_platform_that_stays_down_ends_it_and_what_was_read_is_kept(office: Office) -> None:
    one, two = office.order(), office.order()
    office.knows(one, paid(one))
    statement = office.statement()
    ask, down = office.register.ask, PlatformUnreachable("payu does not answer")
    office.register.ask = lambda order, ref: _raise(down) if order == two else ask(order, ref)  # type: ignore[method-assign]
    with pytest.raises(PlatformUnreachable):
        statement.read(SINCE)
    office.register.ask = ask  # type: ignore[method-assign]
    assert len(office.statement().read(SINCE)) == 1
    assert office.register.questions == [one.order_id, two.order_id]


def _raise(error: Exception) -> list[PurchaseEvent]:
    raise error


def test_an_empty_book_is_an_empty_record(office: Office) -> None:
    assert office.statement().read(SINCE) == []
    assert office.kinds() == []


def test_a_platform_with_a_list_of_its_own_is_read_by_that(office: Office) -> None:
    assert isinstance(record_of(office.register, office.store, office.settlement), OrderRecord)
    for kind in (Gumroad, StripeStoreFront):
        platform = kind.__new__(kind)
        assert record_of(platform, office.store, office.settlement) is platform


# ------------------------------------------------------------------------------------------------ stripe's own list
def test_an_order_in_a_list_is_mapped_by_what_was_ordered(office: Office) -> None:
    """Stripe lists a checkout of ours among all others; its line items name no product of the catalogue."""
    order = office.order("team", source="stripe")
    event = paid(order, event_id="cs_1", sale_id="cs_1", links=("pi_1",), source_product_id="prod_of_the_checkout")
    drifts = office.books.compare("stripe", [event], SINCE)
    assert [(drift.kind, drift.email) for drift in drifts] == [(Kind.NO_LICENSE, "ann@example.com")]
    office.books.repair(drifts)
    assert office.books.compare("stripe", [event], SINCE) == []
    assert [x.product_id for _, x in office.store.licenses()] == ["team"]
    Repair(office.store, office.fulfilment, office.inquiries).tell(drifts[0].event, True)
    assert len(list(office.store.licenses())) == 1
