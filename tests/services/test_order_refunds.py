"""Refunds of orders by the owner: once, within their time, and with an end to every doubt."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.conftest import OWNER_KEY, Clock, Shop
from tests.platforms.test_payu import SETTINGS
from tests.services.bazaar import PAISA, Bazaar, bazaar_in
from tests.standins.payu import PayuApi

CATALOGUE = {"products": {"wave": {"name": "Wave", "published": True, "price": {"pln": "119.00"}}}}


class Front:
    """A shop with one order, which is paid."""

    def __init__(self, folder: Path, clock: Clock, api: PayuApi, **settings: Any) -> None:
        self.api, self.clock = api, clock
        self.shop = Shop(folder, clock, CATALOGUE, **(SETTINGS | {"payu_api_url": api.url} | settings))
        said = {"package_ids": ["wave"], "email": "ann@example.com", "name": "Ann", "payment_provider": "payu"}
        self.order = self.shop.client.post("/api/v1/checkout/initiate", json=said).json
        self.name = next(iter(api.orders))
        api.pay(self.name)
        self.tell(api.notice(self.name))

    def tell(self, notice: Any) -> None:
        answered = self.shop.client.post("/api/v1/webhooks/payu", data=notice.body, headers=notice.headers)
        assert answered.status_code == 200, answered.text

    def refund(self, key: str = "k", **body: Any) -> tuple[int, str]:
        """The status, and how the refund stands or why it is refused."""
        named = {"Authorization": f"Bearer {OWNER_KEY}", "Idempotency-Key": key}
        answered = self.shop.client.post(f"/api/v1/orders/{self.order['order_id']}/refund", json=body, headers=named)
        told = answered.json
        return answered.status_code, told.get("refund_status") or told["errors"][0]["code"]

    def outbox(self) -> None:
        self.shop.services.outbox.send_due(by_hand=True)

    def state(self) -> str:
        file = self.shop.services.desk.get(self.order["order_id"])
        return str(self.shop.services.desk.state(file))


@pytest.fixture
def front(tmp_path: Path, clock: Clock) -> Iterator[Front]:
    with PayuApi() as api:
        api.clock = clock
        yield Front(tmp_path / "data", clock, api)


def test_a_refund_that_never_arrived_is_refused_after_a_while_and_can_be_asked_for_anew(front):
    front.api.down()
    assert front.refund() == (202, "in_doubt")
    front.api.up()
    assert front.refund() == (202, "in_doubt")
    front.clock.forward(minutes=11)
    assert front.refund() == (422, "REFUND_REFUSED")
    assert front.refund("another") == (200, "accepted")
    assert len(front.api.refunds[front.name]) == 1


def test_the_outbox_ends_the_doubt_by_itself(front):
    front.api.down()
    assert front.refund() == (202, "in_doubt")
    front.api.up()
    front.clock.forward(minutes=11)
    front.outbox()
    assert front.refund("another") == (200, "accepted")
    assert len(front.api.refunds[front.name]) == 1


def test_the_outbox_finds_a_refund_whose_notice_was_lost(front):
    assert front.refund() == (200, "accepted")
    front.api.settle(front.name)
    assert front.state() == "paid"
    front.clock.forward(minutes=1)
    front.outbox()
    assert front.state() == "refunded"


def test_a_notice_that_does_not_name_its_refund_has_the_order_asked_about(front):
    """By the list of PayU it is one refund, however it was told."""
    assert front.refund(amount="19.00") == (200, "accepted")
    front.api.settle(front.name)
    for _ in range(2):
        front.tell(front.api.refund_notice(front.name, refundId=None))
        front.tell(front.api.refund_notice(front.name))
    assert front.state() == "partially_refunded"
    told = [(line["event"], line["price"]) for line in front.shop.ledger()]
    assert told == [("sale", "119.00"), ("partial_refund", "19.00")]
    assert front.refund("rest") == (200, "accepted")
    front.api.settle(front.name)
    front.api.down()
    front.tell(front.api.refund_notice(front.name, refundId=None))
    front.api.up()
    front.clock.forward(minutes=1)
    front.outbox()
    assert front.state() == "refunded"


def test_a_refund_has_its_window(front):
    front.clock.forward(days=90)
    assert front.refund(amount="1.00") == (200, "accepted")
    front.clock.forward(days=1)
    assert front.refund("late", amount="1.00") == (422, "REFUND_WINDOW")


@pytest.mark.parametrize(
    ("body", "told"),
    [
        ({"amount": "0"}, (422, "UNPROCESSABLE")),
        ({"amount": "119.01"}, (422, "UNPROCESSABLE")),
        ({"amount": "1.001"}, (400, "BAD_REQUEST")),
        ({"amount": "-1"}, (400, "BAD_REQUEST")),
        ({"amount": 1}, (400, "BAD_REQUEST")),
        ({"reference": "R-1"}, (422, "UNPROCESSABLE")),
    ],
    ids=str,
)
def test_bad_amounts_are_refused_and_nothing_is_asked_for(front, body, told):
    assert front.refund(**body) == told
    assert front.api.refunds.get(front.name, []) == []


def test_the_same_key_with_another_amount_is_a_contradiction(front):
    assert front.refund("k", amount="10.00") == (200, "accepted")
    assert front.refund("k", amount="11.00") == (409, "CONFLICT")


def test_what_is_not_paid_cannot_be_refunded(front):
    said = {"package_ids": ["wave"], "email": "ann@example.com", "name": "Ann", "payment_provider": "payu"}
    front.order = front.shop.client.post("/api/v1/checkout/initiate", json=said).json
    assert front.refund() == (409, "CONFLICT")


def test_a_refund_that_takes_weeks_is_asked_about_less_and_less(front):
    assert front.refund() == (200, "accepted")
    for _ in range(24 * 9):
        front.clock.forward(hours=1)
        front.shop.services.outbox.send_due()
    before = len(front.api.asked)
    for _ in range(60 * 24):
        front.clock.forward(minutes=1)
        front.shop.services.outbox.send_due()
    assert 0 < len(front.api.asked) - before <= 10
    front.api.settle(front.name)
    for _ in range(24):
        front.clock.forward(hours=1)
        front.shop.services.outbox.send_due()
    assert front.state() == "refunded"


# ---------------------------------------------------------------------------------------------------- in the portal
@pytest.fixture
def bazaar(tmp_path: Path, clock: Clock) -> Iterator[Bazaar]:
    with bazaar_in(tmp_path / "bazaar", clock) as bazaar:
        yield bazaar


def paid_by_jazzcash(bazaar: Bazaar) -> str:
    ref = bazaar.order("jazzcash")
    bazaar.jazz.know(ref, PAISA)
    bazaar.clock.forward(minutes=11)
    assert bazaar.status(ref) == "paid"
    return ref


def jazzcash_says_refunded(bazaar: Bazaar, ref: str) -> None:
    """As it does of a part, too, without a sum."""
    bazaar.jazz.know(ref, PAISA, "131")
    bazaar.shop.services.settlement.ask(ref)


def test_one_key_is_one_refund_whatever_its_reference(bazaar):
    ref = bazaar.paid("easypaisa")

    def refund(key: str, reference: str, amount: str = "1000.00") -> tuple[int, str]:
        named = {"Authorization": f"Bearer {OWNER_KEY}", "Idempotency-Key": key}
        said = {"amount": amount, "reference": reference}
        answered = bazaar.shop.client.post(f"/api/v1/orders/{ref}/refund", json=said, headers=named)
        told = answered.json
        return answered.status_code, told.get("refund_status") or told["errors"][0]["detail"]

    assert [refund("k", "EP-1"), refund("k", "EP-1")] == [(200, "done"), (200, "done")]
    assert refund("k", "EP-2") == (409, "reference: this Idempotency-Key was used for another reference")
    assert refund("another", "EP-1", "2000.00")[0] == 409
    assert [line["price"] for line in bazaar.shop.ledger() if line["event"] == "partial_refund"] == ["1000.00"]
    assert refund("another", "EP-2") == (200, "done")


def test_a_part_that_the_owner_told_is_not_taken_for_all_when_its_platform_tells_no_sum(bazaar):
    ref = paid_by_jazzcash(bazaar)
    assert bazaar.refund(ref, amount="1000.00", reference="JC-1").status_code == 200
    jazzcash_says_refunded(bazaar, ref)
    assert (bazaar.status(ref), bazaar.keys()) == ("partially_refunded", [True])
    bazaar.jazz.know(ref, PAISA, "122")  # reversed, which is all of it
    bazaar.shop.services.settlement.ask(ref)
    assert (bazaar.status(ref), bazaar.keys()) == ("refunded", [False])


def test_what_was_taken_for_all_is_a_part_when_the_owner_says_so(bazaar):
    ref = paid_by_jazzcash(bazaar)
    jazzcash_says_refunded(bazaar, ref)
    assert (bazaar.status(ref), bazaar.keys()) == ("refunded", [False])
    for _ in range(2):
        assert bazaar.refund(ref, amount="1000.00", reference="JC-1").status_code == 200
    jazzcash_says_refunded(bazaar, ref)
    assert (bazaar.status(ref), bazaar.keys()) == ("partially_refunded", [True])
    (usual,) = bazaar.shop.services.figures.told().currencies
    assert (usual.together[1].gross, usual.together[1].back) == ("8500.00", "1000.00")
    assert bazaar.refund(ref, reference="JC-2").status_code == 200
    assert (bazaar.status(ref), bazaar.keys()) == ("refunded", [False])


def test_what_was_taken_for_all_and_was_all_stays_so_under_the_owners_reference(bazaar):
    ref = paid_by_jazzcash(bazaar)
    jazzcash_says_refunded(bazaar, ref)
    assert bazaar.refund(ref, reference="JC-1").status_code == 200
    assert (bazaar.status(ref), bazaar.keys()) == ("refunded", [False])
    assert bazaar.refund(ref, reference="JC-2").status_code == 409
