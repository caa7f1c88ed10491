"""Inquiries by themselves: what is asked of a platform, when it is left alone, and what its answer does."""

from __future__ import annotations

import json
from collections.abc import Callable
from datetime import timedelta
from typing import Any

import msgspec
import pytest

from server.domain.purchase import EventKind, Inquiry, PurchaseEvent
from server.errors import BadRequest, Disowned, PlatformUnreachable
from server.platforms.base import Platform, Row, WebhookRequest, event_of_row
from server.platforms.web_client import NoSuchSale, RateLimited
from server.services.inquiries import LONGEST_REST, RESTS, Inquiries
from tests.services.mail_room import CATALOGUE, NOW, Shop


class Oracle(Platform):
    """Answers what a test says: an error is raised, a callable is asked, None confirms."""

    name = "gumroad"
    confirms_sales = True

    def __init__(self) -> None:
        super().__init__("secret")
        self.says: Exception | Callable[[PurchaseEvent], PurchaseEvent] | None = None
        self.asked: list[PurchaseEvent] = []

    @classmethod
    def from_settings(cls, settings: Any) -> None:
        return None

    def verify(self, request: WebhookRequest) -> None: ...

    def parse(self, request: WebhookRequest) -> list[PurchaseEvent]:
        return []

    @classmethod
    def event_of(cls, row: Row) -> PurchaseEvent:
        return event_of_row(row, cls.name, f"{row.sale_id}:{row.event}", EventKind(row.event))

    def answer(self, event: PurchaseEvent) -> PurchaseEvent:
        self.asked.append(event)
        if isinstance(self.says, Exception):
            raise self.says
        event = self.says(event) if self.says else event
        return msgspec.structs.replace(event, inquiry=None)


@pytest.fixture
def shop(tmp_path) -> Shop:
    return Shop(tmp_path / "data")


@pytest.fixture
def oracle() -> Oracle:
    return Oracle()


@pytest.fixture
def inquiries(shop, oracle) -> Inquiries:
    return Inquiries(shop.store, {"gumroad": oracle}, shop.fulfilment, shop.clock)


def sold(sale_id: str = "s1", **more: Any) -> PurchaseEvent:
    said: dict[str, Any] = {
        "event": EventKind.SALE,
        "event_id": f"{sale_id}:sale",
        "source": "gumroad",
        "sale_id": sale_id,
        "email": "ann@example.com",
        "source_product_id": "G-WAVE",
        "price": "29.99",
        "currency": "usd",
        "purchase_date": NOW,
        "inquiry": Inquiry.SALE,
    }
    return PurchaseEvent(**(said | more))


def down(why: str = "it does not answer") -> PlatformUnreachable:
    return PlatformUnreachable(why)


# ---------------------------------------------------------------------------------------------------- asking
def test_what_needs_no_answer_is_not_asked(inquiries, oracle):
    (entry,) = inquiries.record([sold(inquiry=None)])
    assert (entry.outcome, oracle.asked) == ("issued", [])


def test_what_is_settled_is_not_asked_again(inquiries, oracle):
    first, again = inquiries.record([sold()]), inquiries.record([sold()])
    assert (first, len(oracle.asked)) == (again, 1)


def test_the_folder_is_not_locked_while_a_platform_is_asked(shop, inquiries, oracle):
    def look(event: PurchaseEvent) -> PurchaseEvent:
        with shop.store.transaction():
            return event

    oracle.says = look
    (entry,) = inquiries.record([sold()])
    oracle.says = down()
    inquiries.record([sold("s2")])
    oracle.says = look
    shop.clock.forward(seconds=31)
    inquiries.settle(shop.store.find_event(sold("s2").identity))
    assert [entry.outcome, len(oracle.asked)] == ["issued", 3]


def test_whose_payment_it_is_need_not_be_asked_where_it_is_known(shop, inquiries, oracle):
    shop.sale("s1")
    back = sold(event=EventKind.REFUND, event_id="r", inquiry=Inquiry.PAYMENT)
    assert inquiries.record([back])[0].outcome == "revoked"
    inquiries.record([msgspec.structs.replace(back, event_id="other", sale_id="s2")])
    assert [event.sale_id for event in oracle.asked] == ["s2"]


def test_a_platform_that_is_switched_off_meanwhile_leaves_the_inquiry_open(shop, oracle):
    nobody = Inquiries(shop.store, {}, shop.fulfilment, shop.clock)
    (entry,) = nobody.record([sold()])
    assert (entry.inquiry, entry.expiry_date) == (Inquiry.SALE, NOW + timedelta(hours=24))
    with pytest.raises(PlatformUnreachable, match="not configured any more"):
        nobody.settle(entry)


def test_an_answer_that_cannot_be_read_is_none_and_needs_no_rest(inquiries, oracle):
    oracle.says = BadRequest("price: is no whole number")
    for number in range(3):
        assert inquiries.record([sold(f"s{number}")])[0].inquiry is Inquiry.SALE
    assert len(oracle.asked) == 3


def test_one_webhook_asks_no_longer_than_its_sender_waits(shop, inquiries, oracle):
    def slowly(event: PurchaseEvent) -> PurchaseEvent:
        shop.clock.forward(seconds=1)
        return event

    oracle.says = slowly
    told = inquiries.record([sold(f"s{number}") for number in range(4)])
    assert [entry.inquiry for entry in told] == [None, None, Inquiry.SALE, Inquiry.SALE]


# ---------------------------------------------------------------------------------------------------- rest
@pytest.mark.parametrize(
    ("error", "rest"),
    [
        (down(), RESTS[0]),
        (RateLimited("slowly", 1.0), RESTS[0]),
        (RateLimited("slowly", 90.0), timedelta(seconds=90)),
        (RateLimited("slowly", 1e9), LONGEST_REST),
    ],
)
def test_a_platform_that_does_not_answer_is_left_alone(shop, inquiries, oracle, error, rest):
    oracle.says = error
    inquiries.record([sold("s1"), sold("s2")])
    shop.clock.now += rest - timedelta(seconds=1)
    inquiries.record([sold("s3")])
    assert len(oracle.asked) == 1
    shop.clock.forward(seconds=1)
    inquiries.record([sold("s4")])
    assert len(oracle.asked) == 2


def test_who_stays_silent_is_left_alone_longer_and_longer(shop, inquiries, oracle):
    oracle.says, asked = down(), []
    for second in range(120):
        inquiries.record([sold(f"s{second}")])
        if len(oracle.asked) > len(asked):
            asked.append(second)
        shop.clock.forward(seconds=1)
    assert asked == [0, 2, 7, 17, 47, 77, 107]
    oracle.says = None
    shop.clock.forward(minutes=1)
    inquiries.record([sold("answered")])
    oracle.says = down()
    inquiries.record([sold("first again")])
    shop.clock.forward(seconds=2)
    inquiries.record([sold("soon again")])
    assert len(oracle.asked) == len(asked) + 3


def test_another_platform_is_asked_all_the_same(shop, oracle):
    other = Oracle()
    both = Inquiries(shop.store, {"gumroad": oracle, "other": other}, shop.fulfilment, shop.clock)
    oracle.says = down()
    both.record([sold("s1"), sold("s2", source="other")])
    assert (len(oracle.asked), len(other.asked)) == (1, 1)


def test_a_refusal_stays_known_as_one_during_the_rest(shop, inquiries, oracle):
    oracle.says = PlatformUnreachable("refused", is_refused=True)
    (entry,) = inquiries.record([sold()])
    with pytest.raises(PlatformUnreachable) as caught:
        inquiries.settle(entry)
    assert (caught.value.is_refused, caught.value.detail, len(oracle.asked)) == (True, "refused", 1)


# ---------------------------------------------------------------------------------------------------- settling
def provisional(shop: Shop, inquiries: Inquiries, oracle: Oracle, **more: Any) -> Any:
    oracle.says = down()
    (entry,) = inquiries.record([sold(**more)])
    oracle.says = None
    shop.clock.forward(seconds=31)
    return entry


def test_settling_twice_asks_once(shop, inquiries, oracle):
    entry = provisional(shop, inquiries, oracle)
    inquiries.settle(entry)
    inquiries.settle(entry)
    assert len(oracle.asked) == 2
    assert shop.store.find_event(entry.identity).revision == 1


def test_what_a_webhook_confirmed_while_the_outbox_was_asking_stays_confirmed(shop, inquiries, oracle):
    entry = provisional(shop, inquiries, oracle)

    def meanwhile(event: PurchaseEvent) -> PurchaseEvent:
        shop.fulfilment.record([msgspec.structs.replace(event, inquiry=None)])
        raise NoSuchSale("a replica that lags behind")

    oracle.says = meanwhile
    inquiries.settle(entry)
    newest = shop.store.find_event(entry.identity)
    assert (newest.is_withdrawn, shop.store.find_license(entry.license_keys[0]).is_active) == (False, True)


@pytest.mark.parametrize(("answer", "is_active"), [(None, True), (NoSuchSale("unknown"), False)])
def test_a_provisional_license_stays_one_of_its_product_though_nobody_maps_it_now(
    shop, inquiries, oracle, answer, is_active
):
    entry = provisional(shop, inquiries, oracle)
    catalogue = json.loads(json.dumps(CATALOGUE))
    catalogue["products"]["wave"]["platform_ids"] = {}
    (shop.folder / "products.json").write_text(json.dumps(catalogue))
    oracle.says = answer
    inquiries.settle(entry)
    shop.store.rebuild()
    license = shop.store.find_license(entry.license_keys[0])
    assert (license.product_id, license.is_active) == ("wave", is_active)
    assert (license.expiry_date is None) == is_active


def test_a_sale_that_went_back_meanwhile_brings_its_end_along(shop, inquiries, oracle):
    entry = provisional(shop, inquiries, oracle)
    oracle.says = lambda event: msgspec.structs.replace(event, is_refunded=True)
    inquiries.settle(entry)
    license = shop.store.find_license(entry.license_keys[0])
    assert license.inactive_reason == "refunded"
    assert shop.store.find_event("event\0gumroad\0s1:refund").event is EventKind.REFUND


def test_what_the_notice_itself_told_of_its_end_is_told_once(shop, inquiries, oracle):
    back = sold(event=EventKind.REFUND, event_id="s1:refund:true", is_refunded=True)
    entries = inquiries.record([sold(is_refunded=True), back])
    assert [entry.event for entry in entries] == ["sale", "refund"]


# ---------------------------------------------------------------------------------------------------- looking up
def test_one_sale_can_be_looked_up(shop, inquiries, oracle):
    entry = shop.sale("s1")
    (charge,) = inquiries.look_up(entry)
    assert (charge.sale_id, charge.inquiry, oracle.asked[0].inquiry) == ("s1", None, Inquiry.SALE)
    assert shop.store.state().ledger_lines == 1


def test_a_sale_that_went_back_is_looked_up_with_what_took_it(shop, inquiries, oracle):
    entry = shop.sale("s1")
    oracle.says = lambda event: msgspec.structs.replace(event, is_refunded=True, is_disputed=True)
    charge, *ends = inquiries.look_up(entry)
    assert [(end.event, end.event_id) for end in ends] == [("refund", "s1:refund"), ("dispute", "s1:dispute")]
    assert charge.event == "sale"


def test_a_sale_that_is_told_otherwise_is_there_all_the_same(shop, inquiries, oracle):
    entry = shop.sale("s1")
    oracle.says = Disowned("another quantity")
    assert [event.sale_id for event in inquiries.look_up(entry)] == ["s1"]
    oracle.says = NoSuchSale("unknown")
    assert inquiries.look_up(entry) == []


@pytest.mark.parametrize("error", [down(), RateLimited("slowly", 2.0), BadRequest("nonsense")])
def test_where_nothing_is_known_nothing_is_said(shop, inquiries, oracle, error):
    oracle.says = error
    with pytest.raises(PlatformUnreachable):
        inquiries.look_up(shop.sale("s1"))


def test_who_can_be_asked_for_one_sale(shop, inquiries, oracle):
    entry = shop.sale("s1")
    assert inquiries.can_look_up(entry)
    oracle.confirms_sales = False
    assert not inquiries.can_look_up(entry)
    assert not inquiries.can_look_up(msgspec.structs.replace(entry, source="jvzoo"))


# ---------------------------------------------------------------------------------------------------- mutants
def test_mutant_a_refusal_that_is_forgotten_during_the_rest_is_caught(shop, inquiries, oracle, monkeypatch):
    class Forgetful(dict):
        def __setitem__(self, name: str, kept: Any) -> None:
            super().__setitem__(name, kept._replace(why=down()))

    monkeypatch.setattr(inquiries, "_resting", Forgetful())
    with pytest.raises(AssertionError):
        test_a_refusal_stays_known_as_one_during_the_rest(shop, inquiries, oracle)
