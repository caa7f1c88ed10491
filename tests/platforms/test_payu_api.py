"""PayU's API, asked at its stand-in: orders, captures, refunds, and the token that all workers share."""

from __future__ import annotations

import json
import math
from collections.abc import Iterator
from datetime import timedelta
from pathlib import Path
from typing import Any

import msgspec
import pytest

from server.domain.order import Order, OrderItem, as_ordered
from server.domain.purchase import EventKind, PurchaseEvent
from server.errors import AlreadyBegun, PlatformUnreachable, StorageUnavailable, Unprocessable
from server.platforms import WebhookRequest, payu, payu_api
from server.platforms.base import Begun, RefundState, Way
from server.platforms.payu import PayU
from server.platforms.web_client import RateLimited
from server.storage.shelf import FileShelf
from tests.conftest import NOW, Clock, settings_for
from tests.platforms.test_payu import SETTINGS, is_red
from tests.standins.http import Answer
from tests.standins.payu import POS, PayuApi
from tests.standins.payu_notices import Notice

ORDER = Order(
    order_id="K7Q2M9K4T6W8X3C5V1B0",
    number="ORD-20261120-7Q2M",
    source="payu",
    merchant=POS,
    email="anna.nowak@example.pl",
    name="Anna Maria Nowak",
    items=(
        OrderItem(product_id="wave", name="Wave", price=11900),
        OrderItem(product_id="team", name="Team", price=1550, quantity=2),
    ),
    amount=15000,
    currency="pln",
    placed_at=NOW,
)
NAMES = (ORDER.order_id,)


@pytest.fixture
def api(clock: Clock) -> Iterator[PayuApi]:
    with PayuApi() as standin:
        standin.clock = clock
        yield standin


@pytest.fixture
def shelf(tmp_path: Path) -> FileShelf:
    return FileShelf(tmp_path / "shelf.json", 5.0)


@pytest.fixture
def shop(api: PayuApi, shelf: FileShelf, clock: Clock) -> PayU:
    return worker(api, shelf, clock)


def worker(api: PayuApi, shelf: FileShelf | None, clock: Clock, **settings: Any) -> PayU:
    """One process of the shop."""
    made = PayU.from_settings(settings_for(Path("unused"), **(SETTINGS | {"payu_api_url": api.url} | settings)))
    assert made is not None
    if shelf is not None:
        made.use_shelf(shelf, clock)
    return made


def way(now: Any = NOW, client: str = "192.0.2.10") -> Way:
    notify, back = "https://shop.example.com/api/v1/webhooks/payu", "https://shop.example.com/order/x"
    return Way(notify=notify, back=back, cancelled=f"{back}/cancelled", client=client, now=now)


def begun(shop: PayU, order: Order = ORDER) -> str:
    reference = shop.begin(order, way()).reference
    assert reference is not None
    return reference


def heard(shop: PayU, notice: Notice) -> PurchaseEvent:
    (event,) = shop.events(WebhookRequest(notice.body, {}, notice.headers.get))
    return event


def calls(api: PayuApi, start: str) -> int:
    return sum(path.startswith(start) for path in api.asked)


# ---------------------------------------------------------------------------------------------------- begin
def test_an_order_is_told_as_payu_wants_it_and_its_page_is_not_fetched(shop, api):
    answer = shop.begin(ORDER, way())
    (payu_id,) = api.orders
    assert answer == Begun(payu_id, f"{api.url}/pay/?orderId={payu_id}&token=eyJhbGciOiJIUzI1NiJ9")
    assert api.created == [
        {
            "extOrderId": ORDER.order_id,
            "merchantPosId": POS,
            "description": "ORD-20261120-7Q2M: Wave, Team",
            "currencyCode": "PLN",
            "totalAmount": "15000",
            "products": [
                {"name": "Wave", "unitPrice": "11900", "quantity": "1"},
                {"name": "Team", "unitPrice": "1550", "quantity": "2"},
            ],
            "buyer": {
                "email": ORDER.email,
                "firstName": "Anna",
                "lastName": "Maria Nowak",
                "language": "pl",
            },
            "customerIp": "192.0.2.10",
            "notifyUrl": "https://shop.example.com/api/v1/webhooks/payu",
            "continueUrl": "https://shop.example.com/order/x",
            "validityTime": "86400",
        }
    ]
    assert calls(api, "/pay") == 0


def test_what_is_left_of_an_orders_time_is_told(shop, api):
    shop.begin(ORDER, way(NOW + timedelta(hours=23)))
    assert api.created[0]["validityTime"] == "3600"
    with pytest.raises(Unprocessable, match="no more"):
        shop.begin(ORDER, way(ORDER.expires_at))


def test_forints_are_told_in_hundredths_and_the_page_speaks_hungarian(shop, api):
    shop.begin(msgspec.structs.replace(ORDER, currency="huf", amount=500000, items=ORDER.items[:1]), way())
    told = api.created[0]
    assert (told["currencyCode"], told["totalAmount"], told["buyer"]["language"]) == ("HUF", "500000", "hu")


def test_an_order_that_payu_has_already_is_one_order_and_says_so(shop, api):
    reference = begun(shop)
    with pytest.raises(AlreadyBegun, match="ORD-20261120-7Q2M already") as again:
        shop.begin(ORDER, way())
    assert again.value.reference == reference
    assert len(api.orders) == 1
    api.pay(reference)
    assert [event.event for event in shop.ask(ORDER, again.value.reference)] == [EventKind.SALE]


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"currency": "p1n"}, "INVALID_VALUE: Invalid value"),
        ({"items": ()}, "MISSING_REQUIRED_VALUE: Missing required field: products"),
    ],
)
def test_what_payu_objects_to_is_said_in_its_words(shop, change, words):
    with pytest.raises(Unprocessable, match=words):
        shop.begin(msgspec.structs.replace(ORDER, **change), way())


def test_a_status_of_the_table_is_an_objection_below_500_and_a_failure_above(shop, api):
    begun(shop)
    other = msgspec.structs.replace(ORDER, order_id="B" * 20)
    api.fail_next(400)
    with pytest.raises(Unprocessable, match="AN_ERROR: An error has occurred"):
        shop.begin(other, way())
    for status in (500, 503):
        api.fail_next(status)
        with pytest.raises(PlatformUnreachable, match="An error has occurred") as error:
            shop.begin(other, way())
        assert not error.value.is_refused
    assert shop.begin(other, way()).reference


def test_a_point_of_sale_that_is_not_the_clients_is_the_owners_matter(api, shelf, clock):
    with pytest.raises(PlatformUnreachable, match="PAYU_CLIENT_ID") as error:
        worker(api, shelf, clock, payu_pos_id="999999").begin(ORDER, way())
    assert error.value.is_refused


def test_wrong_credentials_are_named(api, shelf, clock):
    with pytest.raises(PlatformUnreachable, match="PAYU_CLIENT_SECRET") as error:
        worker(api, shelf, clock, payu_client_secret="another").begin(ORDER, way())
    assert error.value.is_refused
    assert "another" not in str(error.value)


@pytest.mark.parametrize(
    "answer",
    [
        {"status": {"statusCode": "SUCCESS"}, "orderId": "X1"},
        {"status": {"statusCode": "SUCCESS"}, "redirectUri": "https://secure.payu.com/pay"},
        {"status": {"statusCode": "SUCCESS"}, "orderId": "X1", "redirectUri": "javascript:alert(1)"},
        {"status": {"statusCode": "WARNING_CONTINUE_CVV"}, "orderId": "X1", "redirectUri": "https://secure.payu.com/"},
        {"status": {"statusCode": "SUCCESS"}, "orderId": 7, "redirectUri": "https://secure.payu.com/pay"},
        {"status": []},
        {},
    ],
)
def test_an_answer_without_a_page_is_none(shop, api, monkeypatch, answer):
    monkeypatch.setattr(api, "_create", lambda wanted: _plain(200, answer))
    with pytest.raises(PlatformUnreachable):
        shop.begin(ORDER, way())


@pytest.mark.parametrize("status", [200, 201, 302])
@pytest.mark.parametrize("code", ["SUCCESS", "WARNING_CONTINUE_REDIRECT"])
def test_each_good_answer_is_taken(shop, api, monkeypatch, status, code):
    told = {"status": {"statusCode": code}, "orderId": "X1", "redirectUri": "https://secure.payu.com/pay/?orderId=X1"}
    monkeypatch.setattr(api, "_create", lambda wanted: _plain(status, told))
    assert shop.begin(ORDER, way()) == Begun("X1", "https://secure.payu.com/pay/?orderId=X1")


def _plain(status: int, told: Any) -> Answer:
    return Answer(status, told)


# ---------------------------------------------------------------------------------------------------- the token
def test_workers_and_restarts_share_one_token(api, shelf, clock, tmp_path):
    first, second = worker(api, shelf, clock), worker(api, FileShelf(tmp_path / "shelf.json", 5.0), clock)
    reference = begun(first)
    for one in (first, second, worker(api, shelf, clock)):
        assert one.ask(ORDER, reference) == []
        assert one.ask(ORDER, reference) == []
    assert api.granted == 1


def test_without_a_shelf_a_process_keeps_its_own(api, clock):
    shop = worker(api, None, clock)
    reference = begun(shop)
    shop.ask(ORDER, reference)
    assert api.granted == 1


def test_a_token_is_renewed_before_it_ends(api, shelf, clock):
    shop = worker(api, shelf, clock)
    reference = begun(shop)
    clock.forward(seconds=43199 - 301)
    shop.ask(ORDER, reference)
    assert api.granted == 1
    clock.forward(seconds=2)
    shop.ask(ORDER, reference)
    assert api.granted == 2


def test_a_token_that_payu_takes_no_longer_is_renewed_once_for_all(api, shelf, clock):
    first, second = worker(api, shelf, clock), worker(api, shelf, clock)
    reference = begun(first)
    second.ask(ORDER, reference)
    api.forget_tokens()
    assert first.ask(ORDER, reference) == []
    assert second.ask(ORDER, reference) == []  # it finds the new one on the shelf
    assert api.granted == 2


def test_a_fresh_token_that_is_refused_too_ends_it(shop, api, monkeypatch):
    reference = begun(shop)
    monkeypatch.setattr(api, "_told", lambda asked: api.fault(401))
    with pytest.raises(PlatformUnreachable, match="PAYU_CLIENT_ID") as error:
        shop.ask(ORDER, reference)
    assert error.value.is_refused
    assert (calls(api, f"/api/v2_1/orders/{reference}"), api.granted) == (2, 2)


def test_a_refusal_in_words_that_are_no_json_is_a_refusal(shop, api, monkeypatch):
    reference = begun(shop)
    real, refused = api.answer, [_plain(401, b"<html>")]
    monkeypatch.setattr(api, "answer", lambda asked: refused.pop() if refused else real(asked))
    assert shop.ask(ORDER, reference) == []


def test_a_full_disk_is_no_reason_not_to_sell(api, shelf, clock, monkeypatch):
    def full(*_: Any) -> None:
        raise StorageUnavailable("the disk is full")

    monkeypatch.setattr(shelf, "put", full)
    monkeypatch.setattr(shelf, "get", full)
    shop = worker(api, shelf, clock)
    begun(shop)
    assert api.granted == 1


def test_the_token_of_another_account_is_not_taken(api, shelf, clock):
    begun(worker(api, shelf, clock))
    with PayuApi(client_id="777777") as other:
        begun(worker(other, shelf, clock, payu_client_id="777777"))
        assert other.granted == 1


# ---------------------------------------------------------------------------------------------------- outage
@pytest.fixture
def hurried(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(payu_api, "TIMEOUT", (0.2, 0.2))


def test_an_outage_is_told_and_ends(shop, api, hurried):
    reference = begun(shop)
    for way_down in (api.down, lambda: api.down(refuse=False)):
        way_down()
        for ask in (lambda: shop.ask(ORDER, reference), lambda: shop.begin(ORDER, way())):
            with pytest.raises(PlatformUnreachable):
                ask()
        api.up()
    api.hang = math.inf
    with pytest.raises(PlatformUnreachable, match="does not answer"):
        shop.ask(ORDER, reference)
    api.hang = 0.01
    assert shop.ask(ORDER, reference) == []


def test_who_asks_too_often_is_told_for_how_long_to_wait(shop, api):
    reference = begun(shop)
    api.fail_next(429, retry_after=7)
    with pytest.raises(RateLimited) as limited:
        shop.ask(ORDER, reference)
    assert limited.value.wait == 7


def test_a_page_in_place_of_an_answer_is_none(shop, api, monkeypatch):
    reference = begun(shop)
    monkeypatch.setattr(api, "answer", lambda asked: _plain(200, b"<!doctype html>"))
    with pytest.raises(PlatformUnreachable, match="text/plain in place of JSON"):
        shop.ask(ORDER, reference)


# ---------------------------------------------------------------------------------------------------- ask
def test_what_is_not_known_or_not_begun_says_nothing(shop, api):
    assert shop.ask(ORDER, None) == []
    assert shop.ask(ORDER, "NEVERSEEN01") == []
    assert shop.ask(ORDER, "a/../b?c") == []
    assert shop.ask(ORDER, begun(shop)) == []


@pytest.mark.parametrize(("status", "kind"), [("PENDING", EventKind.PENDING), ("CANCELED", EventKind.CANCELLATION)])
def test_what_stands_is_told_as_its_notification(shop, api, status, kind):
    reference = begun(shop)
    api.orders[reference]["status"] = status
    (event,) = shop.ask(ORDER, reference)
    assert event.event is kind
    assert _same(event) == _same(heard(shop, api.notice(reference)))


def test_a_payment_is_found_as_its_notification_would_have_told_it(shop, api):
    reference = begun(shop)
    api.pay(reference)
    (event,) = shop.ask(ORDER, reference)
    assert event.event is EventKind.SALE
    assert _same(event) == _same(heard(shop, api.notice(reference)))
    assert as_ordered(event, ORDER).event is EventKind.SALE


def test_refunds_whose_notifications_were_lost_are_found(shop, api):
    reference = begun(shop)
    api.pay(reference)
    for amount, status in (("500", "FINALIZED"), ("700", "CANCELED"), ("900", "PENDING")):
        shop.refund(ORDER, (*NAMES, reference), int(amount), f"refund-{amount}")
        api.refunds[reference][-1]["status"] = status
    for api.lists_bare in (False, True):
        sale, *back = shop.ask(ORDER, reference)
        assert sale.event is EventKind.SALE
        assert [(event.event, event.price) for event in back] == [
            (EventKind.PARTIAL_REFUND, "5.00"),
            (EventKind.REFUND_FAILED, "7.00"),
        ]
        for place, event in enumerate(back):
            assert _same(event) == _same(heard(shop, api.refund_notice(reference, place)))
            assert event.occurred_at == heard(shop, api.refund_notice(reference, place)).occurred_at


def test_refunds_told_as_numbers_are_read_too(shop, api):
    reference = begun(shop)
    api.pay(reference)
    shop.refund(ORDER, (*NAMES, reference), 500, "r1")
    api.settle(reference)["amount"] = 500
    assert shop.ask(ORDER, reference)[1].price == "5.00"


def _same(event: PurchaseEvent) -> dict[str, Any]:
    """All that is decided by; only a notification tells when the money came in."""
    told = msgspec.structs.asdict(event)
    return {name: value for name, value in told.items() if name not in ("raw", "occurred_at", "purchase_date")}


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"totalAmount": "200"}, "is not the 150.00"),
        ({"currencyCode": "EUR"}, "is not the 150.00"),
        ({"merchantPosId": "300746"}, "merchantPosId"),
    ],
)
@pytest.mark.parametrize("collects", [True, False])
def test_what_differs_is_not_believed_and_not_captured(shop, api, change, words, collects):
    reference = begun(shop)
    api.collects = collects
    api.pay(reference)
    api.orders[reference] |= change
    event = as_ordered(shop.ask(ORDER, reference)[0], ORDER)
    assert (event.event, event.is_withdrawn) == (EventKind.IGNORED, True)
    assert words in str(event.note)
    assert calls(api, f"/api/v2_1/orders/{reference}/status") == 0


@pytest.mark.parametrize("change", [{"extOrderId": "K7Q2M9K4T6W8X3C5V1B1"}, {"extOrderId": None}, {"orderId": "X1"}])
def test_another_order_in_its_place_is_no_answer(shop, api, change):
    reference = begun(shop)
    api.pay(reference)
    api.orders[reference] |= change
    with pytest.raises(PlatformUnreachable, match="not order ORD-20261120-7Q2M"):
        shop.ask(ORDER, reference)


@pytest.mark.parametrize("change", [{"totalAmount": "much"}, {"currencyCode": "PL"}, {"buyer": "x"}, {"status": ""}])
def test_an_unreadable_order_is_no_answer(shop, api, change):
    reference = begun(shop)
    api.pay(reference)
    api.orders[reference] |= change
    with pytest.raises(PlatformUnreachable, match="unreadable"):
        shop.ask(ORDER, reference)


# ---------------------------------------------------------------------------------------------------- capture
def test_what_waits_is_captured_once(shop, api):
    api.collects = False
    reference = begun(shop)
    api.pay(reference)
    assert heard(shop, api.notice(reference)).event is EventKind.PENDING
    assert [event.event for event in shop.ask(ORDER, reference)] == [EventKind.SALE]
    assert api.orders[reference]["status"] == "COMPLETED"
    shop.ask(ORDER, reference)
    assert calls(api, f"/api/v2_1/orders/{reference}/status") == 1


def test_a_capture_that_another_worker_made_is_no_failure(shop, api, monkeypatch):
    api.collects = False
    reference = begun(shop)
    api.pay(reference)
    real = api._capture

    def late(order: Any, asked: Any) -> Any:
        real(order, asked)
        return real(order, asked)  # the second time it is refused

    monkeypatch.setattr(api, "_capture", late)
    assert [event.event for event in shop.ask(ORDER, reference)] == [EventKind.SALE]


def test_a_capture_that_is_still_on_its_way_is_pending_and_asks_nothing_more(shop, api, monkeypatch):
    api.collects = False
    reference = begun(shop)
    api.pay(reference)
    monkeypatch.setattr(api, "_capture", lambda *_: _plain(200, {"status": {"statusCode": "SUCCESS"}}))
    (event,) = shop.ask(ORDER, reference)
    assert (event.event, event.inquiry) == (EventKind.PENDING, None)


def test_a_capture_that_fails_is_tried_again(shop, api, monkeypatch):
    api.collects = False
    reference = begun(shop)
    api.pay(reference)
    real, broken = api._capture, [api.fault(500)]
    monkeypatch.setattr(api, "_capture", lambda *given: broken.pop() if broken else real(*given))
    with pytest.raises(PlatformUnreachable):
        shop.ask(ORDER, reference)
    assert [event.event for event in shop.ask(ORDER, reference)] == [EventKind.SALE]


def test_mutant_capturing_whatever_waits_is_caught(shop, api, monkeypatch):
    monkeypatch.setattr(payu, "as_ordered", lambda event, order: event)
    wrong: Any = ({"totalAmount": "200"}, "is not the 150.00", False)
    assert is_red(test_what_differs_is_not_believed_and_not_captured, shop, api, *wrong)


# ---------------------------------------------------------------------------------------------------- refunds
@pytest.fixture
def paid(shop: PayU, api: PayuApi) -> str:
    reference = begun(shop)
    api.pay(reference)
    return reference


def test_a_refund_is_accepted_and_its_notification_says_what_became_of_it(shop, api, paid):
    word = shop.refund(ORDER, (*NAMES, paid), 500, "r1")
    assert (word.state, word.note) == (RefundState.ACCEPTED, None)
    (told,) = api.refunds[paid]
    assert (told["amount"], told["extRefundId"], told["refundId"]) == ("500", "r1", word.reference)
    api.settle(paid)
    done = heard(shop, api.refund_notice(paid))
    assert (done.event, done.incident, done.price) == (EventKind.PARTIAL_REFUND, word.reference, "5.00")
    assert shop.find_refund(ORDER, (*NAMES, paid), "r1") == msgspec.structs.replace(word, state=RefundState.DONE)


def test_the_whole_amount_is_told_too(shop, api, paid):
    shop.refund(ORDER, (paid, *NAMES), ORDER.amount, "r1")
    assert api.refunds[paid][0]["amount"] == "15000"
    api.settle(paid)
    assert as_ordered(heard(shop, api.refund_notice(paid)), ORDER).event is EventKind.REFUND


def test_a_refund_under_the_same_id_is_the_same_refund(shop, api, paid):
    first = shop.refund(ORDER, (*NAMES, paid), 500, "r1")
    assert shop.refund(ORDER, (*NAMES, paid), 500, "r1") == first
    assert shop.refund(ORDER, (*NAMES, paid), 600, "r1") == first  # PayU refuses it, and has this one
    assert len(api.refunds[paid]) == 1


def test_a_refund_that_payu_refuses_says_why(shop, api, paid):
    word = shop.refund(ORDER, (*NAMES, paid), 15001, "r1")
    assert word.state is RefundState.REFUSED
    assert word.note == "REFUND_NOT_POSSIBLE: Refund is not possible"
    assert shop.find_refund(ORDER, (*NAMES, paid), "r1") is None


def test_a_refund_that_came_back_is_refused(shop, api, paid):
    shop.refund(ORDER, (*NAMES, paid), 500, "r1")
    api.settle(paid, status="CANCELED")
    word = shop.find_refund(ORDER, (*NAMES, paid), "r1")
    assert word is not None
    assert word.state is RefundState.REFUSED


def test_a_refund_without_payus_own_id_of_the_order_is_not_asked_for(shop, api):
    begun(shop)
    word = shop.refund(ORDER, NAMES, 500, "r1")
    assert word.state is RefundState.REFUSED
    assert "panel" in str(word.note)
    assert shop.find_refund(ORDER, NAMES, "r1") is None


def test_a_refund_in_doubt_is_told_so_and_can_be_found(shop, api, paid, hurried, monkeypatch):
    real = api._refund

    def silent(order: Any, asked: Any) -> Any:
        real(order, asked)
        return api.fault(500)

    monkeypatch.setattr(api, "_refund", silent)
    with pytest.raises(PlatformUnreachable):
        shop.refund(ORDER, (*NAMES, paid), 500, "r1")
    word = shop.find_refund(ORDER, (*NAMES, paid), "r1")
    assert word is not None
    assert (word.state, len(api.refunds[paid])) == (RefundState.ACCEPTED, 1)
    api.down()
    for ask in (
        lambda: shop.refund(ORDER, (*NAMES, paid), 500, "r2"),
        lambda: shop.find_refund(ORDER, (*NAMES, paid), "r1"),
    ):
        with pytest.raises(PlatformUnreachable):
            ask()


# ---------------------------------------------------------------------------------------------------- a late word
def test_a_late_cancelled_of_an_abandoned_try_has_the_payments_own_name(shop, api, paid):
    sale, late = heard(shop, api.notice(paid)), heard(shop, api.notice(paid, "CANCELED"))
    assert (sale.event, late.event) == (EventKind.SALE, EventKind.CANCELLATION)
    assert sale.event_id == late.event_id
    assert shop.ask(ORDER, paid)[0].event is EventKind.SALE


def test_no_secret_of_ours_is_in_what_is_kept(shop, api, paid, shelf, tmp_path):
    (event,) = shop.ask(ORDER, paid)
    kept = bytes(event.raw) + json.dumps(api.asked).encode() + (tmp_path / "shelf.json").read_bytes()
    for secret in (SETTINGS["payu_client_secret"], SETTINGS["payu_second_key"]):
        assert secret.encode() not in kept
