"""PayU's notifications at the door: what they do to an order's license, and what they never do."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import msgspec
import pytest

from server.domain.order import Order
from server.platforms.base import Checkout, Way
from tests.conftest import NOW, Clock, Shop
from tests.platforms.test_payu import PUBLISHED, SETTINGS, is_red
from tests.platforms.test_payu_api import ORDER
from tests.standins.payu import PayuApi
from tests.standins.payu_notices import Notice, signed

EMAIL = ORDER.email


def begin(shop: Shop, order: Order) -> str:
    payu = shop.services.platforms["payu"]
    assert isinstance(payu, Checkout)
    way = Way(notify="http://127.0.0.1:1/", back="http://127.0.0.1:1/", cancelled="", client="192.0.2.1", now=NOW)
    return str(payu.begin(order, way).reference)


class Front:
    """A shop with one order of its own, which PayU knows."""

    def __init__(self, shop: Shop, api: PayuApi) -> None:
        self.shop, self.api = shop, api
        self.order = self.place(ORDER)
        self.reference = begin(shop, self.order)

    def place(self, order: Order) -> Order:
        return self.shop.services.store.orders.place(order, NOW)

    def post(self, notice: Notice) -> Any:
        return self.shop.client.post("/api/v1/webhooks/payu", data=notice.body, headers=notice.headers)

    def outcome(self, notice: Notice) -> str:
        answered = self.post(notice)
        assert answered.status_code == 200, answered.text
        return str(answered.json["outcome"])

    def paid(self) -> Notice:
        self.api.pay(self.reference)
        return self.api.notice(self.reference)

    def refunded(self, amount: str, status: str = "FINALIZED", refund_id: str = "912128") -> Notice:
        told = {"refundId": refund_id, "amount": amount, "currencyCode": "PLN", "status": status}
        told |= {"statusDateTime": "2026-11-21T19:43:31.418+01:00"}
        return signed({"orderId": self.reference, "extOrderId": self.order.order_id, "refund": told})

    @property
    def licenses(self) -> list[dict[str, Any]]:
        return list(self.shop.licenses().values())

    def states(self) -> set[tuple[bool, str | None]]:
        return {(license["is_active"], license.get("inactive_reason")) for license in self.licenses}


@pytest.fixture
def front(tmp_path: Path, clock: Clock) -> Iterator[Front]:
    with PayuApi() as api:
        api.clock = clock
        yield Front(Shop(tmp_path / "data", clock, **(SETTINGS | {"payu_api_url": api.url})), api)


def test_a_paid_order_gets_its_licenses_once(front):
    notice = front.paid()
    assert [front.outcome(notice) for _ in range(3)] == ["issued"] * 3
    assert [(one["email"], one["purchase_source"]) for one in front.licenses] == [(EMAIL, "payu")] * 2
    (line,) = front.shop.ledger()
    assert (line["event"], line["price"], line["currency"], line["order_id"]) == (
        "sale",
        "150.00",
        "pln",
        front.order.order_id,
    )


@pytest.mark.parametrize("algorithm", ["MD5", "SHA-1", "SHA-256", "SHA-384", "SHA-512"])
def test_by_whatever_algorithm_it_is_signed(front, algorithm):
    front.api.algorithm = algorithm
    assert front.outcome(front.paid()) == "issued"


def test_a_forged_or_altered_notification_is_refused_and_mints_nothing(front):
    notice = front.paid()
    for forged in (
        Notice(notice.body.replace(b"15000", b"15001"), notice.headers),
        Notice(notice.body, {}),
        signed(notice.body, "another-second-key"),
    ):
        assert front.post(forged).status_code == 403
    assert (front.shop.ledger(), front.licenses) == ([], [])


def test_mutant_believing_every_signature_is_caught(front, monkeypatch):
    monkeypatch.setattr("server.platforms.payu.is_signed", lambda *_: True)
    assert is_red(test_a_forged_or_altered_notification_is_refused_and_mints_nothing, front)


@pytest.mark.parametrize(
    "change",
    [{"totalAmount": "200"}, {"currencyCode": "EUR"}, {"merchantPosId": "300746"}],
    ids=lambda c: next(iter(c)),
)
def test_what_differs_from_the_order_mints_nothing_and_is_kept(front, change):
    front.api.pay(front.reference)
    assert front.outcome(front.api.notice(front.reference, **change)) == "ignored"
    (line,) = front.shop.ledger()
    assert (line["is_withdrawn"], line["told_as"]) == (True, "sale")
    assert front.licenses == []
    assert front.outcome(front.api.notice(front.reference)) == "issued"  # the true word is still news


def test_a_late_cancelled_takes_nothing(front):
    assert front.outcome(front.paid()) == "issued"
    front.outcome(front.api.notice(front.reference, "CANCELED"))
    assert front.states() == {(True, None)}


def test_a_full_refund_revokes_and_a_part_of_it_does_not(front):
    front.outcome(front.paid())
    assert front.outcome(front.refunded("500", refund_id="1")) == "recorded"
    assert front.states() == {(True, None)}
    assert front.outcome(front.refunded("15000")) == "revoked"
    assert front.states() == {(False, "refunded")}


def test_a_refund_that_failed_gives_back(front):
    front.outcome(front.paid())
    front.outcome(front.refunded("15000"))
    front.outcome(front.refunded("15000", "CANCELED"))
    assert front.states() == {(True, None)}


def test_orders_that_are_not_ours_mint_nothing(front):
    front.api.pay(front.reference)
    for other in ({"extOrderId": "another-shop-17"}, {"extOrderId": None}):
        assert front.outcome(front.api.notice(front.reference, **other)) == "ignored"
    assert front.outcome(signed(PUBLISHED)) == "ignored"
    assert front.licenses == []


def test_money_for_an_order_that_looks_like_ours_waits_for_the_owner(front):
    front.api.pay(front.reference)
    assert front.outcome(front.api.notice(front.reference, extOrderId="Z" * 20)) == "unmapped"
    assert front.licenses == []


def test_it_is_off_without_its_settings(shop):
    assert shop.client.post("/api/v1/webhooks/payu", data=b"{}").status_code == 404


def test_a_token_outlives_its_worker(front):
    settings = SETTINGS | {"payu_api_url": front.api.url}
    begin(Shop(front.shop.folder, front.shop.clock, **settings), msgspec.structs.replace(ORDER, order_id="B" * 20))
    assert front.api.granted == 1
