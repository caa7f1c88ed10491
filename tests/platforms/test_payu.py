"""PayU's notifications: which of them are proven, and what they say in our words."""

from __future__ import annotations

import hmac
import json
from collections.abc import Callable
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from server.domain.order import Order, OrderItem, as_ordered
from server.domain.purchase import EventKind, Inquiry, PurchaseEvent
from server.errors import BadRequest, SettingsError, Unverified
from server.platforms import WebhookRequest, payu, payu_words
from server.platforms.payu import PUBLIC, PayU
from tests.conftest import settings_for
from tests.standins.payu import CLIENT_SECRET, POS
from tests.standins.payu_notices import SECOND_KEY, Notice, signed

SETTINGS = {
    "payu_pos_id": POS,
    "payu_client_id": POS,
    "payu_client_secret": CLIENT_SECRET,
    "payu_second_key": SECOND_KEY,
}
OURS = "H7Q2M9K4T6W8X3C5V1B0"
ORDER = Order(
    order_id=OURS,
    number="ORD-20261118-7Q2M",
    source="payu",
    merchant=POS,
    email="anna.nowak@example.pl",
    name="Anna Nowak",
    items=(OrderItem(product_id="wave", name="Wave", price=15000),),
    amount=15000,
    currency="pln",
    placed_at=datetime(2026, 11, 18, 9, 14, tzinfo=UTC),
)
# Published with a fork of bileto/omnipay-payu; signed with the second key of PayU's public sandbox POS.
PUBLISHED = (
    b'{"order":{"orderId":"DSKWN8X2XW200213GUEST000P01","extOrderId":"5e45137d21034",'
    b'"orderCreateDate":"2020-02-13T10:14:37.583+01:00",'
    b'"notifyUrl":"http://alias-internal-testing.a2k.it/test-notification.php","customerIp":"127.0.0.1",'
    b'"merchantPosId":"300746","description":"Shopping at myStore.com","currencyCode":"PLN","totalAmount":"15000",'
    b'"buyer":{"customerId":"guest","email":"test@test.com","firstName":"Tester","lastName":"Tester",'
    b'"language":"pl"},"payMethod":{"type":"CARD_TOKEN"},"status":"COMPLETED",'
    b'"products":[{"name":"Lenovo ThinkPad Edge E540","unitPrice":"15000","quantity":"1"}]},'
    b'"localReceiptDateTime":"2020-02-13T10:14:47.512+01:00",'
    b'"properties":[{"name":"PAYMENT_ID","value":"76258334"}]}'
)
# PayU-EMEA/openpayu_php, tests/unit/OpenPayU_UtilTest.php
HASHED = {
    "MD5": "8375034eb737d520c829fad4026a38aa",
    "SHA-1": "52bb16149d1a5ccc8ac05f8e435c30d82efd5364",
    "SHA256": "8b2fd55b48f150347df56ce18d787335f32ced1d67f214016476f7c0a8f09981",
    "SHA384": "219a7029f09ae02ee406a623becca9691557cbf503fe58485cb5a08bf1a2a72f745fbc3e8fb1fa80f824b4f890ad3b35",
    "SHA512": (
        "4f658844a6bc4ed3c4320ecae0dc5e414c4fa2ce07563914cd5069f277ddead3"
        "7be5ca6dc35099ff9d8c184bb561bb740f626fdb5162d8f7160dba8ec4ad1d5d"
    ),
}
SAME = {"SHA-1": "SHA1", "SHA256": "SHA-256", "SHA384": "SHA-384", "SHA512": "SHA-512"}
WITH_ORDER = (  # django-payments-payu, tests/test_payu.py
    b'{"order": {"status": "COMPLETED"}, "refund": {"amount": "22000", "currencyCode": "USD", "status": "FINALIZED", '
    b'"reasonDescription": "BlenderKit refund"}}'
)


def platform(**more: Any) -> PayU:
    made = PayU.from_settings(settings_for(Path("unused"), **(SETTINGS | more)))
    assert made is not None
    return made


def request(body: bytes, headers: dict[str, str]) -> WebhookRequest:
    """Header names in any case, as the server reads them."""
    lowered = {name.lower(): value for name, value in headers.items()}
    return WebhookRequest(body, {}, lambda name: lowered.get(name.lower()))


def refused(body: bytes, header: str | None, **settings: Any) -> bool:
    try:
        platform(**settings).verify(request(body, {} if header is None else {"OpenPayu-Signature": header}))
    except Unverified:
        return True
    return False


def order(status: str = "COMPLETED", **more: Any) -> dict[str, Any]:
    told = {
        "orderId": "PRCTX7K2NM261118GUEST000P01",
        "extOrderId": OURS,
        "orderCreateDate": "2026-11-18T10:14:37.583+01:00",
        "notifyUrl": "https://shop.example.com/api/v1/webhooks/payu",
        "customerIp": "192.0.2.10",
        "merchantPosId": POS,
        "description": "Wave",
        "currencyCode": "PLN",
        "totalAmount": "15000",
        "buyer": {"email": "anna.nowak@example.pl", "firstName": "Anna", "lastName": "Nowak", "phone": "+48 600"},
        "payMethod": {"type": "PBL"},
        "status": status,
        "products": [{"name": "Wave", "unitPrice": "15000", "quantity": "1"}],
    }
    return {name: value for name, value in (told | more).items() if value is not None}


def refund(status: str = "FINALIZED", **more: Any) -> dict[str, Any]:
    told = {
        "refundId": "912128",
        "amount": "15000",
        "currencyCode": "PLN",
        "status": status,
        "statusDateTime": "2026-11-19T19:43:31.418+01:00",
        "reason": "refund",
        "reasonDescription": "na życzenie klienta",
        "refundDate": "2026-11-19T19:43:30.150+01:00",
    }
    return {name: value for name, value in (told | more).items() if value is not None}


def refund_body(status: str = "FINALIZED", **more: Any) -> dict[str, Any]:
    return {"orderId": "PRCTX7K2NM261118GUEST000P01", "extOrderId": OURS, "refund": refund(status, **more)}


def said(body: dict[str, Any] | bytes, **settings: Any) -> PurchaseEvent:
    notice = signed(body)
    (event,) = platform(**settings).events(request(notice.body, notice.headers))
    return event


def told(status: str = "COMPLETED", received: str | None = None, **more: Any) -> PurchaseEvent:
    body: dict[str, Any] = {"order": order(status, **more), "properties": []}
    return said(body | ({"localReceiptDateTime": received} if received else {}))


def is_red(test: Callable[..., None], *given: Any) -> bool:
    try:
        test(*given)
    except (AssertionError, pytest.fail.Exception):
        return True
    return False


# ---------------------------------------------------------------------------------------------------- settings
def test_without_its_settings_it_is_off_and_half_of_them_are_refused_by_name():
    assert PayU.from_settings(settings_for(Path("unused"))) is None
    for name in SETTINGS:
        with pytest.raises(SettingsError, match=f"{name.upper()} is missing"):
            platform(**{name: None})


@pytest.mark.parametrize("pos", PUBLIC)
def test_the_public_test_keys_are_refused_where_money_is_real(pos):
    with pytest.raises(SettingsError, match="PAYU_SECOND_KEY"):
        platform(payu_second_key=PUBLIC[pos], payu_api_url="https://secure.payu.com")
    with pytest.raises(SettingsError, match="PAYU_SECOND_KEY"):
        platform(payu_second_key=PUBLIC[pos].upper(), payu_api_url="https://secure.payu.com")
    with pytest.raises(SettingsError, match="PAYU_POS_ID"):
        platform(payu_pos_id=pos, payu_api_url="https://secure.payu.com")


def test_what_is_a_test():
    sandbox, live, here = "https://secure.snd.payu.com", "https://secure.payu.com", "http://127.0.0.1:8001"
    assert platform(payu_api_url=sandbox).is_test
    assert not platform(payu_api_url=live).is_test
    assert not platform(payu_api_url=here).is_test
    assert platform(payu_api_url=here, payu_pos_id="300746").is_test
    assert platform(payu_api_url=here, payu_second_key=PUBLIC["145227"]).is_test
    assert platform().merchant == POS


# ---------------------------------------------------------------------------------------------------- proof
@pytest.mark.parametrize("algorithm", HASHED)
def test_the_published_hashes(algorithm):
    for name in {algorithm, algorithm.lower(), SAME.get(algorithm, algorithm)}:
        header = f"sender=checkout;signature={HASHED[algorithm]};algorithm={name};content=DOCUMENT"
        assert not refused(b"OpenPayUData", header, payu_second_key="SignatureKey")
        assert refused(b"OpenPayUData", header, payu_second_key="signatureKey")
        assert refused(b"OpenPayUdata", header, payu_second_key="SignatureKey")


def test_sha_alone_is_sha_256():
    assert not refused(b"OpenPayUData", f"signature={HASHED['SHA256']};algorithm=SHA", payu_second_key="SignatureKey")


def test_the_published_short_headers():
    body = b'{"order": {"status": "COMPLETED"}}'
    assert not refused(body, "signature=a12fbd21c48e69bedee18edf042b816c;algorithm=MD5", payu_second_key="123abc")
    assert not refused(WITH_ORDER, "signature=dd8cdddaa98438e7a76f5e830395d7e8;algorithm=MD5", payu_second_key="123abc")


def test_the_published_notification_is_proven_and_says_what_it_says():
    public = {"payu_pos_id": "300746", "payu_second_key": PUBLIC["300746"], "payu_api_url": "http://127.0.0.1:1"}
    header = "sender=checkout;signature=724ca6742d0cc50b3d69bdf5aea90d9e;algorithm=MD5;content=DOCUMENT"
    (sale,) = platform(**public).events(request(PUBLISHED, {"X-OpenPayU-Signature": header}))
    assert (sale.event, sale.sale_id, sale.price, sale.currency) == (EventKind.SALE, "5e45137d21034", "150.00", "pln")
    assert (sale.email, sale.customer_name, sale.is_test) == ("test@test.com", "Tester Tester", True)
    assert sale.links == ("DSKWN8X2XW200213GUEST000P01",)
    assert sale.purchase_date == sale.occurred_at == datetime(2020, 2, 13, 9, 14, 47, tzinfo=UTC)
    assert as_ordered(sale, None).event is EventKind.IGNORED  # no order of ours: written down, and that is all


@pytest.mark.parametrize(
    "name", ["OpenPayu-Signature", "X-OpenPayU-Signature", "openpayu-signature", "OPENPAYU-SIGNATURE"]
)
def test_either_header_in_any_case(name):
    notice = signed({"order": order()})
    platform().verify(request(notice.body, {name: notice.headers["OpenPayu-Signature"]}))


def test_a_header_is_read_by_its_names_in_any_order():
    body, digest = signed({"order": order()}).body, _digest(signed({"order": order()}))
    for header in (
        f"signature={digest};algorithm=MD5",
        f"algorithm=MD5;content=DOCUMENT;signature={digest};sender=checkout",
        f" sender=checkout; signature={digest.upper()}; algorithm=md5 ;;",
        f"Signature={digest};Algorithm=MD5",
    ):
        assert not refused(body, header)


@pytest.mark.parametrize(
    "header",
    [
        None,
        "",
        ";;;",
        "signature=;algorithm=MD5",
        "signature={digest}",
        "signature={digest};algorithm=",
        "signature={digest};algorithm=CRC32",
        "signature={digest};algorithm=SHA-3",
        "signature={digest};algorithm=SHA256",
        "signature={digest}0;algorithm=MD5",
        "signature=ß{digest};algorithm=MD5",
        "signature=\udcff;algorithm=MD5",
        "{digest};MD5",
        "sender={digest};algorithm=MD5",
    ],
)
def test_a_signature_that_is_none_is_refused(header):
    notice = signed({"order": order()})
    assert refused(notice.body, header and header.format(digest=_digest(notice)))


def test_a_changed_body_is_refused():
    notice = signed({"order": order(totalAmount="15000")})
    header = notice.headers["OpenPayu-Signature"]
    assert not refused(notice.body, header)
    assert refused(notice.body.replace(b"15000", b"1"), header)
    assert refused(json.dumps(json.loads(notice.body)).encode(), header)  # the same, written anew
    assert refused(notice.body, header, payu_second_key=CLIENT_SECRET)


def test_a_keyed_hash_is_not_payus():
    body = b'{"order":{}}'
    wrong = hmac.new(SECOND_KEY.encode(), body, "sha256").hexdigest()
    assert refused(body, f"signature={wrong};algorithm=SHA256")


def test_a_body_that_was_trimmed_before_it_was_signed():
    notice = signed({"order": order()})
    padded = b"\r\n " + notice.body + b"\n"
    assert not refused(padded, notice.headers["OpenPayu-Signature"])
    assert not refused(padded, signed(padded).headers["OpenPayu-Signature"])


def test_the_trial_is_proven_and_says_nothing():
    trial = platform().trial()
    with pytest.raises(BadRequest):
        platform().events(request(trial.body, trial.headers))


@given(st.text(max_size=80), st.binary(max_size=80))
def test_no_header_passes_by_chance_and_none_breaks_it(header, body):
    assert refused(body, header)


def _digest(notice: Notice) -> str:
    return notice.headers["OpenPayu-Signature"].split(";")[1].removeprefix("signature=")


# ---------------------------------------------------------------------------------------------------- orders
def test_a_paid_order():
    sale = told(received="2026-11-18T10:20:47.512+01:00")
    assert (sale.event, sale.event_id, sale.source) == (EventKind.SALE, f"{OURS}:sale", "payu")
    assert (sale.sale_id, sale.order_id, sale.links) == (OURS, OURS, ("PRCTX7K2NM261118GUEST000P01",))
    assert (sale.price, sale.currency, sale.is_test, sale.inquiry) == ("150.00", "pln", False, None)
    assert sale.occurred_at == sale.purchase_date == datetime(2026, 11, 18, 9, 20, 47, tzinfo=UTC)
    believed = as_ordered(sale, ORDER)
    assert (believed.event, believed.email, believed.is_withdrawn) == (EventKind.SALE, ORDER.email, False)
    assert [item.product_id for item in believed.items] == ["wave"]


def test_a_payment_whose_time_is_not_told_is_dated_by_its_order_and_can_be_dated_anew():
    sale = told()
    assert (sale.occurred_at, sale.purchase_date) == (None, datetime(2026, 11, 18, 9, 14, 37, tzinfo=UTC))


@pytest.mark.parametrize(
    ("status", "kind", "inquiry"),
    [
        ("PENDING", EventKind.PENDING, None),
        ("WAITING_FOR_CONFIRMATION", EventKind.PENDING, Inquiry.ORDER),
        ("CANCELED", EventKind.CANCELLATION, None),
    ],
)
def test_an_order_on_its_way(status, kind, inquiry):
    event = told(status)
    assert (event.event, event.event_id, event.inquiry) == (kind, f"{OURS}:sale", inquiry)
    assert (event.order_id, event.purchase_date, event.is_withdrawn) == (OURS, None, False)


@pytest.mark.parametrize("status", ["NEW", "REJECTED", "CANCELLED", "completed", "x" * 300])
def test_a_status_that_says_nothing_of_payment_is_written_down(status):
    event = told(status)
    assert (event.event, event.is_withdrawn, event.order_id) == (EventKind.IGNORED, False, OURS)
    assert event.event_id != f"{OURS}:sale"
    assert status[:40] in str(event.note)


@pytest.mark.parametrize("status", ["COMPLETED", "PENDING", "WAITING_FOR_CONFIRMATION", "CANCELED"])
@pytest.mark.parametrize("pos", ["455513", "300746", "", None])
def test_another_point_of_sale_is_not_believed(status, pos):
    event = told(status, merchantPosId=pos)
    assert (event.event, event.is_withdrawn, event.inquiry) == (EventKind.IGNORED, True, None)
    assert "merchantPosId" in str(event.note)
    assert event.event_id != f"{OURS}:sale"


def test_an_order_that_names_none_of_ours_is_written_down():
    event = told(extOrderId=None)
    assert (event.event, event.order_id, event.is_withdrawn) == (EventKind.IGNORED, None, False)
    assert event.event_id == told(extOrderId=None).event_id
    assert event.event_id != told("PENDING", extOrderId=None).event_id


def test_another_amount_or_currency_is_not_believed():
    assert as_ordered(told(totalAmount="200"), ORDER).is_withdrawn
    assert as_ordered(told(currencyCode="EUR"), ORDER).is_withdrawn
    assert not as_ordered(told(), ORDER).is_withdrawn


def test_forints_are_told_in_hundredths_too():
    event = told(currencyCode="HUF", totalAmount="500000")
    assert (event.price, event.currency) == ("5000.00", "huf")


@pytest.mark.parametrize(
    "amount",
    ["", "15000.00", "150,00", "-1", "+1", "1e4", " 15000", "\u0661\u0665\u0660", "0x10", "9" * 30, 1.5, True, [], {}],
)
def test_a_bad_amount_is_named(amount):
    with pytest.raises(BadRequest, match=r"order\.totalAmount"):
        told(totalAmount=amount)
    with pytest.raises(BadRequest, match=r"refund\.amount"):
        said(refund_body(amount=amount))


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("status", None),
        ("status", 7),
        ("currencyCode", "PLNN"),
        ("currencyCode", None),
        ("extOrderId", ["x"]),
        ("buyer", 1),
    ],
)
def test_a_malformed_field_is_named(field, value):
    with pytest.raises(BadRequest, match=field):
        told(**{field: value})


@pytest.mark.parametrize("date", ["yesterday", "2026-11-18T10:14:37", "9999-99-99", "0001-01-01T00:00:00+14:00", ""])
def test_a_time_that_cannot_be_read_holds_up_no_payment(date):
    sale = told(received=date or None, orderCreateDate=date)
    assert (sale.event, sale.purchase_date) == (EventKind.SALE, None)


def test_the_books_keep_no_phone_number():
    raw = bytes(told().raw)
    assert b"anna.nowak" in raw
    assert b"+48 600" not in raw
    assert b"192.0.2.10" not in raw


def test_a_notification_about_no_order_is_written_down_once():
    first, again, other = said({"token": "x"}), said({"token": "x"}), said({"token": "y"})
    assert first.event is EventKind.IGNORED
    assert first.event_id == again.event_id != other.event_id


@pytest.mark.parametrize(
    "body", [b"", b"[]", b"null", b'"order"', b"{", b'{"order":7}', b'{"order":[]}', b'{"refund":"x"}']
)
def test_a_signed_body_that_cannot_be_read_is_refused(body):
    with pytest.raises(BadRequest):
        said(body)


_VALUES = st.recursive(
    st.none()
    | st.booleans()
    | st.integers()
    | st.text(max_size=20)
    | st.sampled_from(["COMPLETED", "FINALIZED", OURS]),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.sampled_from(sorted(order())), inner, max_size=4),
    max_leaves=12,
)


@given(st.dictionaries(st.sampled_from(["order", "refund", "extOrderId", "orderId"]), _VALUES, max_size=4), _VALUES)
def test_whatever_is_signed_is_read_or_refused(body, status):
    for one in (body, {"order": order() | {"status": status}}, {"refund": refund() | {"refundId": status}}):
        try:
            event = said(one)
        except BadRequest:
            continue
        assert event.event is not EventKind.SALE or event.price is not None


# ---------------------------------------------------------------------------------------------------- refunds
def test_a_whole_refund_and_a_part_of_it():
    whole, part = said(refund_body()), said(refund_body(amount="500"))
    assert (whole.event, whole.event_id, whole.incident) == (
        EventKind.PARTIAL_REFUND,
        f"{OURS}:refund:912128",
        "912128",
    )
    assert (whole.sale_id, whole.order_id, whole.links) == (OURS, OURS, ("PRCTX7K2NM261118GUEST000P01",))
    assert (whole.price, whole.currency) == ("150.00", "pln")
    assert whole.occurred_at == datetime(2026, 11, 19, 18, 43, 31, tzinfo=UTC)
    assert as_ordered(whole, ORDER).event is EventKind.REFUND
    assert (as_ordered(part, ORDER).event, part.price) == (EventKind.PARTIAL_REFUND, "5.00")


def test_a_refund_that_failed_is_news_after_its_success_and_takes_it_back():
    done, failed = said(refund_body()), said(refund_body("CANCELED"))
    assert (failed.event, failed.incident) == (EventKind.REFUND_FAILED, done.incident)
    assert failed.event_id != done.event_id


@pytest.mark.parametrize("status", ["PENDING", "NEW", "finalized"])
def test_a_refund_on_its_way_is_written_down(status):
    assert said(refund_body(status)).event is EventKind.IGNORED


@pytest.mark.parametrize("more", [{}, {"refundId": None}])
def test_a_refund_of_no_order_of_ours_is_written_down(more):
    event = said(refund_body(**more) | {"extOrderId": None})
    assert (event.event, event.order_id) == (EventKind.IGNORED, None)


@pytest.mark.parametrize(
    ("status", "kind", "inquiry"),
    [
        ("FINALIZED", EventKind.PENDING, Inquiry.ORDER),
        ("CANCELED", EventKind.PENDING, Inquiry.ORDER),
        ("PENDING", EventKind.IGNORED, None),
    ],
)
def test_a_refund_that_does_not_name_itself_is_asked_about_when_it_is_over(status, kind, inquiry):
    event = said(refund_body(status, refundId=None))
    assert (event.event, event.inquiry, event.price) == (kind, inquiry, None)


def test_a_refund_that_comes_with_its_order_is_a_refund():
    event = said({"order": order(), "refund": refund()})
    assert (event.event, event.order_id) == (EventKind.PARTIAL_REFUND, OURS)
    assert event.links == ("PRCTX7K2NM261118GUEST000P01",)
    assert said(WITH_ORDER).event is EventKind.IGNORED  # without an id it cannot be told from others


def test_a_refund_with_an_order_of_another_point_of_sale_is_not_believed():
    event = said({"order": order(merchantPosId="300746"), "refund": refund()})
    assert (event.event, event.is_withdrawn) == (EventKind.IGNORED, True)


# ---------------------------------------------------------------------------------------------------- mutants
def test_mutant_believing_every_signature_is_caught(monkeypatch):
    monkeypatch.setattr(payu, "is_signed", lambda *_: True)
    assert is_red(test_a_changed_body_is_refused)
    assert is_red(test_a_signature_that_is_none_is_refused, None)


def test_mutant_believing_every_point_of_sale_is_caught(monkeypatch):
    for module in (payu, payu_words):
        monkeypatch.setattr(module, "doubted", lambda event, why: event)
    assert is_red(test_another_point_of_sale_is_not_believed, "COMPLETED", "300746")
    assert is_red(test_a_refund_with_an_order_of_another_point_of_sale_is_not_believed)


def test_mutant_one_name_for_a_refund_and_its_failure_is_caught(monkeypatch):
    real = payu_words.refund_event

    def careless(*given: Any) -> PurchaseEvent:
        event = real(*given)
        return msgspec.structs.replace(event, event_id=event.event_id.removesuffix(":failed"))

    monkeypatch.setattr(payu_words, "refund_event", careless)
    assert is_red(test_a_refund_that_failed_is_news_after_its_success_and_takes_it_back)
