"""JazzCash: what is signed and believed, what its codes mean, what is sent, and what its inquiry decides."""

from __future__ import annotations

import hashlib
import hmac
import json
import math
from collections.abc import Callable, Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any
from urllib.parse import urlencode
from urllib.request import ProxyHandler, Request, build_opener

import msgspec
import pytest

from server.domain.order import Order, OrderItem, as_ordered
from server.domain.purchase import EventKind, Inquiry, PurchaseEvent
from server.errors import BadRequest, PlatformUnreachable, SettingsError, Unprocessable, Unverified
from server.platforms import WebhookRequest, jazzcash, jazzcash_api
from server.platforms.base import Form, Way
from server.platforms.jazzcash import JazzCash
from server.platforms.jazzcash_api import doors_of, secure_hash
from server.platforms.web_client import RateLimited
from tests.conftest import NOW, settings_for
from tests.standins import jazzcash as standin
from tests.standins.jazzcash import FORM, JSON, JazzCashApi, signed

ORDER_ID = "T0123456789ABCDEFGHJ"
KEYS = {
    "jazzcash_merchant_id": standin.MERCHANT,
    "jazzcash_password": standin.PASSWORD,
    "jazzcash_integrity_salt": standin.SALT,
}
WAY = Way(
    notify="https://shop.example.com/api/v1/webhooks/jazzcash",
    back="https://shop.example.com/order/back",
    cancelled="https://shop.example.com/order/cancelled",
    client="203.0.113.7",
    now=NOW,
)

# Published by JazzCash: its hashing page, its wallet REST 2.0 guide; the third one by a library's test.
VECTORS: list[tuple[str, dict[str, str], str]] = [
    (
        "0F5DD14AE2",
        {"pp_Amount": "2995", "pp_MerchantID": "MER123", "pp_OrderInfo": "A48cvE28"},
        "c7689cda7474eb1adcd343fd0c0b676bad0ba66361cc46db589bdb0da4c1c867",
    ),
    (
        "9208s6wx05",
        {
            "pp_Amount": "100",
            "pp_BankID": "",
            "pp_BillReference": "billRef3781",
            "pp_CNIC": "345678",
            "pp_Description": "Test case description",
            "pp_Language": "EN",
            "pp_MerchantID": "MC32084",
            "pp_MobileNumber": "03123456789",
            "pp_Password": "yy41w5f10e",
            "pp_ProductID": "",
            "pp_TxnCurrency": "PKR",
            "pp_TxnDateTime": "20220124224204",
            "pp_TxnExpiryDateTime": "20220125224204",
            "pp_TxnRefNo": "T71608120",
            **{f"ppmpf_{number}": "" for number in range(1, 6)},
        },
        "39ECAACFC30F9AFA1763B7E61EA33AC75977FB2E849A5EE1EDC4016791F3438F",
    ),
    (
        "reallySecretKey",
        {
            "pp_Version": "1.1",
            "pp_MerchantID": "merchant123",
            "pp_Password": "password",
            "pp_TxnType": "MWALLET",
            "pp_TxnRefNo": "647cb56c890e4",
            "pp_Language": "EN",
            "pp_Amount": "2000",
            "pp_TxnCurrency": "PKR",
            "pp_TxnDateTime": "20231011000000",
            "pp_BillReference": "647cb56c890e4",
            "pp_Description": "Test Order",
            "pp_TxnExpiryDateTime": "20231012000000",
            "pp_ReturnURL": "https://example.com/return",
            "ppmpf_2": "abcdef",
        },
        "876B465D21973A96DD4DC7BE69EC129FA1FE529B9CC0FA1D75C8CD6534613FBC",
    ),
]
IPN_ANSWER = "C6E5E9B4652CE01D81C90464DD1CC9B6142026660F11A0C4A74A329C1C0B2C5A"


@pytest.fixture
def api() -> Iterator[JazzCashApi]:
    with JazzCashApi() as running:
        yield running


def platform(**settings: Any) -> JazzCash:
    made = JazzCash.from_settings(settings_for(Path("unused"), **(KEYS | settings)))
    assert made is not None
    return made


def order(**more: Any) -> Order:
    given: dict[str, Any] = {
        "order_id": ORDER_ID,
        "number": "ORD-20261120-AB12",
        "source": "jazzcash",
        "merchant": standin.MERCHANT,
        "email": "bilal@example.com",
        "name": "Bilal Ahmed",
        "items": (OrderItem(product_id="wave", name="Wave", price=850000),),
        "amount": 850000,
        "currency": "pkr",
        "placed_at": NOW,
        "phone": "03001234567",
    }
    return Order(**(given | more))


def request(body: bytes, content_type: str | None = FORM) -> WebhookRequest:
    return WebhookRequest(body, {}, {"Content-Type": content_type}.get)


def returned(code: str = "000", **more: Any) -> dict[str, str]:
    """A return's fields, signed."""
    values: dict[str, str] = {
        "pp_Version": "1.1",
        "pp_TxnType": "MWALLET",
        "pp_Language": "EN",
        "pp_MerchantID": standin.MERCHANT,
        "pp_TxnRefNo": ORDER_ID,
        "pp_Amount": "850000",
        "pp_TxnCurrency": "PKR",
        "pp_TxnDateTime": "20261120171500",
        "pp_BillReference": "ORD20261120AB12",
        "pp_ResponseCode": code,
        "pp_ResponseMessage": "Thank you for Using JazzCash, your transaction was successful.",
        "pp_AuthCode": "",
        "pp_RetreivalReferenceNo": "211002644299",
        "ppmbf_1": "",
        "ppmbf_2": "Ali & Sons",
        "ppmpf_1": "",
        "ppmpf_2": "zu1vv3",
    }
    return signed(values | more)


def ipn(code: str = "121", **more: Any) -> bytes:
    values = {"pp_Password": standin.PASSWORD, "pp_ProductID": None, "pp_BankID": "", "pp_SettlementExpiry": None}
    told = {"pp_TxnRefNo": ORDER_ID, "pp_ResponseCode": code, "pp_TxnDateTime": "20261120171500"}
    return json.dumps(signed(values | told | more)).encode()


def events(body: bytes, content_type: str | None = FORM, **settings: Any) -> list[PurchaseEvent]:
    return platform(**settings).events(request(body, content_type))


def event(notice: dict[str, str], **settings: Any) -> PurchaseEvent:
    (found,) = events(urlencode(notice).encode(), **settings)
    return found


def refused(body: bytes | dict[str, str], content_type: str | None = FORM, **settings: Any) -> bool:
    try:
        events(body if isinstance(body, bytes) else urlencode(body).encode(), content_type, **settings)
    except Unverified:
        return True
    return False


# ---------------------------------------------------------------------------------------------------- the hash
@pytest.mark.parametrize(("salt", "fields", "expected"), VECTORS)
def test_the_published_samples_come_out(salt, fields, expected):
    assert secure_hash(fields, salt) == expected.upper()
    assert secure_hash(dict(reversed(fields.items())), salt) == expected.upper()
    assert secure_hash(fields | {"pp_SecureHash": "x", "Submit": "send", "utm": "1"}, salt) == expected.upper()
    assert secure_hash(fields | {"pp_New": "x"}, salt) != expected.upper()


@pytest.mark.parametrize(
    ("field", "value"), [(name, f"{value}x") for name, value in returned().items() if name != "pp_SecureHash"]
)
def test_every_value_is_signed(field, value):
    assert not refused(returned())
    assert refused(returned() | {field: value})


def wrong(recipe: Callable[[dict[str, str]], str]) -> dict[str, str]:
    notice = {name: value for name, value in returned().items() if name != "pp_SecureHash"}
    return notice | {"pp_SecureHash": recipe(notice)}


def _hmac(values: list[str]) -> str:
    return hmac.new(standin.SALT.encode(), "&".join(values).encode(), hashlib.sha256).hexdigest()


WRONG: dict[str, Callable[[dict[str, str]], str]] = {
    "sha256 of four values": lambda n: hashlib.sha256(
        f"{n['pp_MerchantID']}{n['pp_AuthCode']}{n['pp_Amount']}{standin.PASSWORD}".encode()
    ).hexdigest(),
    "names and values": lambda n: _hmac([standin.SALT, *(f"{k}={n[k]}" for k in sorted(n) if n[k])]),
    "no salt before them": lambda n: _hmac([n[k] for k in sorted(n) if n[k]]),
    "as they came": lambda n: _hmac([standin.SALT, *(v for v in n.values() if v)]),
    "by value": lambda n: _hmac([standin.SALT, *sorted(v for v in n.values() if v)]),
    "with empty values": lambda n: _hmac([standin.SALT, *(n[k] for k in sorted(n))]),
    "without the bank's": lambda n: _hmac([standin.SALT, *(n[k] for k in sorted(n) if n[k] and k[:5] != "ppmbf")]),
    "pp_ alone": lambda n: _hmac([standin.SALT, *(n[k] for k in sorted(n) if n[k] and k[:3] == "pp_")]),
    "plain sha256": lambda n: hashlib.sha256(
        "&".join([standin.SALT, *(n[k] for k in sorted(n) if n[k])]).encode()
    ).hexdigest(),
    "an empty key": lambda n: hmac.new(
        b"", "&".join([standin.SALT, *(n[k] for k in sorted(n) if n[k])]).encode(), hashlib.sha256
    ).hexdigest(),
}


@pytest.mark.parametrize("name", WRONG)
def test_recipes_that_go_round_are_refused(name):
    assert refused(wrong(WRONG[name]))
    right = wrong(lambda n: _hmac([standin.SALT, *(n[k] for k in sorted(n) if n[k])]))
    assert not refused(right)


@pytest.mark.parametrize("given", ["", "0", "x" * 64, "0" * 64, "ß" * 64, "\ufffd", "é"])
def test_a_hash_that_is_none_is_refused(given):
    assert refused(returned() | {"pp_SecureHash": given})
    assert refused(json.dumps(json.loads(ipn()) | {"pp_SecureHash": given}).encode(), JSON)


def test_a_missing_hash_is_refused_however_little_is_told():
    told = {name: value for name, value in returned().items() if name != "pp_SecureHash"}
    assert refused(told)
    assert refused(b"")
    assert refused(b"pp_TxnRefNo=")
    assert refused(b"{}", JSON)


def test_the_case_of_a_hash_does_not_matter_and_its_length_does():
    right = returned()["pp_SecureHash"]
    assert not refused(returned() | {"pp_SecureHash": right.lower()})
    for given in (right[:-1], right + "0", f" {right}", right * 2):
        assert refused(returned() | {"pp_SecureHash": given})


def test_names_sort_by_their_bytes_and_unknown_ones_count():
    notice = returned(pp_Zeta="z", ppmpf_9="p", ppmbf_9="b", ppx="x")
    assert sorted(["ppmpf_9", "pp_Zeta", "ppmbf_9"]) == ["pp_Zeta", "ppmbf_9", "ppmpf_9"]
    assert not refused(notice)
    assert refused(returned() | {"pp_Zeta": "z"})
    assert not refused(returned() | {"Submit": "send"})


def test_a_form_is_decoded_exactly_once():
    notice = returned(pp_ResponseMessage="100%25 & done + more", ppmbf_3="a%26b")
    body = urlencode(notice).encode()
    assert b"100%2525" in body
    assert not refused(body)
    assert refused(body.replace(b"100%2525", b"100%25"))


def test_of_a_name_given_twice_the_last_value_is_signed_and_read():
    genuine = urlencode(returned()).encode()
    assert events(b"pp_TxnRefNo=SOMEONEELSES&" + genuine)[0].order_id == ORDER_ID
    assert refused(genuine + b"&pp_TxnRefNo=SOMEONEELSES")


@pytest.mark.parametrize("kind", [FORM, JSON, None, "", "text/plain", "application/octet-stream"])
def test_form_and_json_are_told_apart_whatever_the_content_type_says(kind):
    assert not refused(urlencode(returned()).encode(), kind)
    assert not refused(ipn(), kind)
    assert not refused(b"\r\n " + ipn(), kind)


@pytest.mark.parametrize(
    "body", [b"{", b"[]", b"null", b"\xff", b"{}}", b'{"pp_TxnRefNo": "\\ud800"}', b"\0", b"{" * 5000, b"&" * 2000]
)
def test_a_body_that_is_none_is_refused_or_named(body):
    with pytest.raises((BadRequest, Unverified)):
        events(body, JSON)


def test_the_buyers_own_form_is_no_notice():
    """It carries a hash of ours, and he can send it here: it says nothing."""
    form = platform().form(order(), WAY)
    assert form is not None
    with pytest.raises(BadRequest, match="pp_ResponseCode"):
        events(urlencode(form.fields).encode())


def test_the_check_ups_notice_has_good_proof_and_no_sense():
    trial = platform().trial()
    with pytest.raises(BadRequest, match="pp_ResponseCode"):
        events(trial.body)
    with pytest.raises(Unverified):
        events(trial.body, jazzcash_integrity_salt="another")


def test_mutant_believing_any_hash_is_caught(monkeypatch):
    monkeypatch.setattr(jazzcash, "is_signed", lambda fields, salt: True)
    with pytest.raises(AssertionError):
        test_a_hash_that_is_none_is_refused("0" * 64)
    with pytest.raises(AssertionError):
        test_every_value_is_signed("pp_Amount", "1")
    with pytest.raises(AssertionError):
        test_recipes_that_go_round_are_refused("no salt before them")


def test_mutant_hashing_empty_values_is_caught(monkeypatch):
    def with_empty(fields: dict[str, str], salt: str) -> str:
        names = sorted(name for name in fields if name.startswith("pp") and name != "pp_SecureHash")
        return _hmac([salt, *(fields[name] for name in names)]).upper()

    monkeypatch.setattr(jazzcash_api, "secure_hash", with_empty)
    with pytest.raises(AssertionError):
        test_recipes_that_go_round_are_refused("with empty values")


# ---------------------------------------------------------------------------------------------------- what is told
CODES = {
    EventKind.CANCELLATION: "112",
    EventKind.PAYMENT_FAILED: "101 110 111 115 116 129 134 400 401 410 424 499 999",
    EventKind.PENDING: "000 121 200 124 157 210 199 119 122 126 131 001 0000 12 4 40 4000 X 4\u06600 -1 500",
}


@pytest.mark.parametrize(("kind", "code"), [(kind, code) for kind, codes in CODES.items() for code in codes.split()])
def test_each_code_has_its_word_and_none_is_paid_by_it(kind, code):
    for told in (event(returned(code)), events(ipn(code), JSON)[0]):
        assert (told.event, told.event_id) == (kind, f"{ORDER_ID}:sale")
        waits = code in ("124", "157", "210")
        assert told.inquiry is (Inquiry.ORDER if kind is EventKind.PENDING and not waits else None)


def test_a_return_says_which_order_how_much_and_when():
    told = event(returned())
    assert (told.source, told.sale_id, told.order_id) == ("jazzcash", ORDER_ID, ORDER_ID)
    assert (told.price, told.currency, told.links) == ("8500.00", "pkr", ())
    assert told.occurred_at == datetime(2026, 11, 20, 12, 15, tzinfo=UTC)


def test_an_ipn_names_no_amount():
    (told,) = events(ipn(), JSON)
    assert (told.price, told.currency, told.order_id) == (None, None, ORDER_ID)


@pytest.mark.parametrize("amount", ["", "8500.00", "-1", "1e5", "\u0663", "9" * 16, "x", " 1"])
def test_an_amount_that_cannot_be_read_is_left_out(amount):
    assert event(returned(pp_Amount=amount)).price is None


@pytest.mark.parametrize(
    "moment", ["", "2026", "20261350000000", "202611201715000", "99991231235959", "2026112017150x"]
)
def test_a_time_that_cannot_be_read_is_left_out(moment):
    assert event(returned(pp_TxnDateTime=moment)).occurred_at is None


def test_secrets_do_not_reach_the_ledger():
    told = event(
        returned(pp_Password="pass-x", pp_MobileNumber="03001234567", pp_CNIC="918273", pp_MerchantMPIN="9173")
    )
    for secret in ("pass-x", "03001234567", "918273", "9173", returned()["pp_SecureHash"]):
        assert secret not in bytes(told.raw).decode()
    (told,) = events(ipn(), JSON)
    assert standin.PASSWORD not in bytes(told.raw).decode()


def test_what_another_merchants_account_says_is_not_believed():
    told = event(returned(pp_MerchantID="MC99999"))
    assert (told.event, told.is_withdrawn, told.told_as) == (EventKind.IGNORED, True, EventKind.PENDING)
    assert told.order_id == ORDER_ID
    assert "pp_MerchantID" in (told.note or "")
    assert told.inquiry is None


@pytest.mark.parametrize("reference", ["", "T" * 41])
def test_a_notice_without_an_order_of_ours_is_written_down_once(reference):
    first, again = (event(returned(pp_TxnRefNo=reference)) for _ in range(2))
    assert first.event is EventKind.IGNORED
    assert first.event_id == again.event_id
    assert first.order_id is None


def test_the_sandboxs_notices_are_tests():
    assert not event(returned()).is_test
    assert event(returned(), jazzcash_sandbox="on").is_test
    assert event(returned(), jazzcash_api_url="https://sandbox.jazzcash.com.pk").is_test


# ---------------------------------------------------------------------------------------------------- the answer
def test_an_ipn_is_answered_as_the_guide_has_it():
    replied = platform(jazzcash_integrity_salt="9208s6wx05").reply(request(b"{}", JSON))
    assert replied is not None
    assert (replied.content_type, replied.order_id) == (JSON, None)
    assert json.loads(replied.body) == {
        "pp_ResponseCode": "000",
        "pp_ResponseMessage": "IPN received successfully",
        "pp_SecureHash": IPN_ANSWER,
    }


def test_a_return_sends_the_browser_on_to_its_order():
    replied = platform().reply(request(urlencode(returned()).encode()))
    assert replied is not None
    assert (replied.body, replied.order_id) == (b"", ORDER_ID)


# ---------------------------------------------------------------------------------------------------- what is sent
def form(**more: Any) -> Form:
    made = platform().begin(order(**more), WAY).form
    assert made is not None
    return made


def test_the_form_is_signed_and_says_what_was_ordered():
    made = form()
    assert (made.method, made.action) == (
        "POST",
        "https://payments.jazzcash.com.pk/CustomerPortal/transactionmanagement/merchantform/",
    )
    assert made.fields["pp_SecureHash"] == secure_hash(made.fields, standin.SALT)
    told = {name: value for name, value in made.fields.items() if value}
    assert told == {
        "pp_Version": "1.1",
        "pp_Language": "EN",
        "pp_MerchantID": standin.MERCHANT,
        "pp_Password": standin.PASSWORD,
        "pp_TxnRefNo": ORDER_ID,
        "pp_Amount": "850000",
        "pp_TxnCurrency": "PKR",
        "pp_TxnDateTime": "20261120170000",  # 12:00 in UTC
        "pp_TxnExpiryDateTime": "20261121170000",
        "pp_BillReference": "ORD20261120AB12",
        "pp_Description": "Wave",
        "pp_ReturnURL": WAY.notify,
        "pp_SecureHash": made.fields["pp_SecureHash"],
    }
    empty = {"pp_TxnType", "pp_SubMerchantID", "pp_BankID", "pp_ProductID", *(f"ppmpf_{n}" for n in range(1, 6))}
    assert made.fields.keys() - told.keys() == empty


def test_a_form_made_later_keeps_the_orders_end():
    later = msgspec.structs.replace(WAY, now=NOW + timedelta(hours=20, minutes=7, seconds=9))
    made = platform().form(order(), later)
    assert made is not None
    assert (made.fields["pp_TxnDateTime"], made.fields["pp_TxnExpiryDateTime"]) == ("20261121130709", "20261121170000")


@pytest.mark.parametrize(
    ("name", "described"),
    [
        ("Wave <b>*Pro*</b> 50% = /:'|\"{}", "Wave b Pro b 50"),
        ("Zoë\u2019s, v2.0 - big", "Zo s, v2.0 - big"),
        ("لہر", "ORD-20261120-AB12"),
        ("a\r\nb\tc", "a b c"),
        ("x" * 300, "x" * 100),
        ("", "ORD-20261120-AB12"),
    ],
)
def test_a_description_has_only_what_jazzcash_leaves_as_it_is(name, described):
    items = (OrderItem(product_id="wave", name=name, price=850000),)
    assert form(items=items).fields["pp_Description"] == described


@pytest.mark.parametrize(
    ("url", "base", "page", "wallet", "inquiry"),
    [
        (
            "https://payments.jazzcash.com.pk",
            "",
            "/CustomerPortal/transactionmanagement/merchantform/",
            "/ApplicationAPI/API/2.0/Purchase/DoMWalletTransaction",
            "/ApplicationAPI/API/PaymentInquiry/Inquire",
        ),
        (
            "https://onlinepayments.jazzcash.com.pk",
            "/payment-orchestrator",
            "/CustomerPortal/transactionmanagement/merchantform",
            "/api/v2/rest/payments/m-wallet",
            "/api/v2/rest/payments/status/inquiry",
        ),
        (
            "https://pgw.jazzcash.com.pk",
            "",
            None,
            "/api/payment/DoTransaction",
            "/ApplicationAPI/API/PaymentInquiry/Inquire",
        ),
    ],
)
def test_each_generation_of_hosts_has_its_paths(url, base, page, wallet, inquiry):
    found, doors = doors_of(url)
    assert (found, doors.page, doors.wallet, doors.inquiry) == (url + base, page, wallet, inquiry)


def test_the_host_of_2026_may_be_given_with_its_path():
    given = "https://onlinepayments.jazzcash.com.pk/payment-orchestrator"
    assert doors_of(given) == doors_of("https://onlinepayments.jazzcash.com.pk")


def test_without_settings_it_is_off_and_with_half_of_them_the_start_is_refused():
    assert JazzCash.from_settings(settings_for(Path("unused"))) is None
    for name in KEYS:
        with pytest.raises(SettingsError, match=name.upper()):
            platform(**{name: None})
    with pytest.raises(SettingsError, match="JAZZCASH_FLOW"):
        platform(jazzcash_api_url="https://pgw.jazzcash.com.pk")
    assert platform(jazzcash_api_url="https://pgw.jazzcash.com.pk", jazzcash_flow="wallet").asks_buyer


def test_only_rupees_are_taken_and_a_phone_only_by_the_wallet():
    assert platform().currencies == {"pkr"}
    assert (platform().needs_phone, platform().asks_buyer, platform().merchant) == (False, False, standin.MERCHANT)
    wallet = platform(jazzcash_flow="wallet")
    assert (wallet.needs_phone, wallet.asks_buyer, wallet.form(order(), WAY)) == (True, True, None)


@pytest.mark.parametrize(
    "told", ["03001234567", "+92 300 1234567", "0092-300-1234567", "923001234567", "0300 123 4567"]
)
def test_a_number_is_told_as_jazzcash_wants_it(told):
    assert platform(jazzcash_flow="wallet").phone_of(told) == "03001234567"


@pytest.mark.parametrize(
    "told", ["", "3001234567", "0300123456", "030012345678", "0300123456\u0667", "+1 300 1234567", "x"]
)
def test_another_number_is_refused(told):
    with pytest.raises(Unprocessable, match="phone"):
        platform(jazzcash_flow="wallet").phone_of(told)


# ---------------------------------------------------------------------------------------------------- the wallet
def wallet(api: JazzCashApi, path: str = "") -> JazzCash:
    return platform(jazzcash_flow="wallet", jazzcash_api_url=api.url + path)


@pytest.mark.parametrize("path", ["", "/payment-orchestrator"])
def test_the_buyer_is_asked_in_his_app_and_the_answer_is_a_hint(api, path):
    begun = wallet(api, path).begin(order(), WAY)
    assert (begun.reference, begun.payment_url, begun.form) == ("211002644299", None, None)
    sent = api.payments[ORDER_ID].asked
    assert (sent["pp_MobileNumber"], sent["pp_CNIC"], sent["pp_Amount"]) == ("03001234567", "", "850000")
    assert all(isinstance(value, str) for value in sent.values())


def test_a_buyer_who_refuses_is_no_error(api):
    api.wallet_code = "401"
    assert wallet(api).begin(order(), WAY).reference
    assert kinds(wallet(api).ask(order(), None)) == [EventKind.PAYMENT_FAILED]


def test_without_a_number_nobody_is_asked(api):
    with pytest.raises(Unprocessable, match="phone"):
        wallet(api).begin(order(phone=None), WAY)
    assert api.asked == []


def test_an_order_that_is_not_taken_says_so(api, monkeypatch):
    monkeypatch.setattr(JazzCashApi, "_wallet", lambda self, told: standin._error("110"))
    with pytest.raises(Unprocessable, match="110"):
        wallet(api).begin(order(), WAY)


@pytest.mark.parametrize("trouble", ["hang", "drop", "504", "199", "unsigned", "other salt"])
def test_an_answer_that_is_lost_says_nothing_and_is_not_asked_for_again(api, monkeypatch, trouble):
    if trouble == "hang":
        api.hang = math.inf
        monkeypatch.setattr(jazzcash_api, "PAYING", (0.2, 0.2))
    elif trouble == "drop":
        api.down(refuse=False)
    elif trouble == "504":
        api.pays_late = True
    elif trouble == "199":
        monkeypatch.setattr(JazzCashApi, "_wallet", lambda self, told: standin._error("199"))
    else:
        salt = "another" if trouble == "other salt" else None
        told = {"pp_ResponseCode": "000", "pp_SecureHash": ""}
        answer = signed(told, salt) if salt else told
        monkeypatch.setattr(JazzCashApi, "_wallet", lambda self, _: standin.Answer(200, answer))
    with pytest.raises(PlatformUnreachable):
        wallet(api).begin(order(), WAY)
    assert len(api.asked) == 1


# ---------------------------------------------------------------------------------------------------- the inquiry
V1, V2 = "", "/payment-orchestrator"


def asking(api: JazzCashApi, path: str = V2, **settings: Any) -> list[PurchaseEvent]:
    return platform(jazzcash_api_url=api.url + path, **settings).ask(order(), None)


def kinds(found: list[PurchaseEvent]) -> list[EventKind]:
    return [one.event for one in found]


@pytest.mark.parametrize("path", [V1, V2])
def test_121_is_paid_and_the_amount_is_the_orders(api, path):
    api.know(ORDER_ID, 850000)
    (told,) = asking(api, path)
    assert (told.event, told.event_id, told.sale_id) == (EventKind.SALE, f"{ORDER_ID}:sale", ORDER_ID)
    assert (told.price, told.currency, told.is_test) == ("8500.00", "pkr", False)
    assert told.occurred_at == datetime(2026, 11, 20, 12, 15, tzinfo=UTC)
    believed = as_ordered(told, order())
    assert (believed.event, believed.email) == (EventKind.SALE, "bilal@example.com")


@pytest.mark.parametrize("path", [V1, V2])
@pytest.mark.parametrize(
    ("code", "kind"),
    [
        ("199", EventKind.PAYMENT_FAILED),  # pp_Status is Failed beside it
        ("000", EventKind.PAYMENT_FAILED),
        ("401", EventKind.PAYMENT_FAILED),
        ("134", EventKind.PAYMENT_FAILED),
        ("112", EventKind.CANCELLATION),
        ("157", EventKind.PENDING),
        ("124", EventKind.PENDING),
        ("210", EventKind.PENDING),
        ("131", EventKind.REFUND),
        ("122", EventKind.REFUND),
    ],
)
def test_what_the_payment_is_and_not_what_the_call_was(api, path, code, kind):
    api.know(ORDER_ID, 850000, code)
    (told,) = asking(api, path)
    assert told.event is kind
    assert told.inquiry is None


@pytest.mark.parametrize("code", ["000", "199", "", "119", "126"])
def test_a_code_that_says_nothing_leaves_the_order_waiting(api, code):
    api.know(ORDER_ID, 850000, code, pp_Status="")
    assert kinds(asking(api)) == [EventKind.PENDING]


@pytest.mark.parametrize(
    ("path", "code", "incident"), [(V1, "131", "refunded"), (V2, "131", "refunded"), (V2, "122", "reversed")]
)
def test_what_went_back_is_one_refund_of_the_whole(api, path, code, incident):
    api.know(ORDER_ID, 850000, code)
    first, again = asking(api, path)[0], asking(api, path)[0]
    assert (first.event_id, first.incident, first.is_refunded) == (f"{ORDER_ID}:refund:reversed", incident, True)
    assert (first.price, first.currency, first.occurred_at) == ("8500.00", "pkr", None)
    assert first == again


@pytest.mark.parametrize(
    ("more", "why"),
    [
        ({"pp_Amount": "849999"}, "8499.99"),
        ({"pp_Amount": "8500"}, "85.00"),
        ({"pp_Amount": "8500.00"}, "no amount"),
        ({"pp_TxnCurrency": "USD"}, "8500.00 usd"),
        ({"pp_MerchantID": "MC99999"}, "pp_MerchantID"),
        ({"pp_TxnRefNo": "T0123456789ABCDEFGHX"}, "pp_TxnRefNo"),
    ],
)
def test_another_amount_merchant_or_reference_is_suspicious(api, more, why):
    api.know(ORDER_ID, 850000, **more)
    believed = as_ordered(asking(api)[0], order())
    assert (believed.event, believed.told_as, believed.is_withdrawn) == (EventKind.IGNORED, EventKind.SALE, True)
    assert why in (believed.note or "")
    assert believed.order_id == ORDER_ID


def test_a_failure_of_another_order_fails_none(api):
    api.know(ORDER_ID, 850000, "401", pp_TxnRefNo="T0123456789ABCDEFGHX")
    with pytest.raises(PlatformUnreachable, match="pp_TxnRefNo"):
        asking(api)


def test_a_test_settles_no_live_order(api):
    api.know(ORDER_ID, 850000)
    (told,) = asking(api, jazzcash_sandbox="on")
    assert as_ordered(told, order()).is_withdrawn
    assert as_ordered(told, order(is_test=True)).event is EventKind.SALE


def test_an_error_says_nothing_and_the_order_waits(api):
    assert kinds(asking(api)) == []  # 199 without a hash: it is not known there
    api.know(ORDER_ID, 850000)
    api.errors = 1
    assert kinds(asking(api)) == []
    assert kinds(asking(api)) == [EventKind.SALE]


@pytest.mark.parametrize("given", ["", "0" * 64])
def test_a_payment_that_is_told_without_a_right_hash_is_none(api, monkeypatch, given):
    api.know(ORDER_ID, 850000)
    honest = JazzCashApi._told

    def forged(self: JazzCashApi, told: Any, without: Any) -> standin.Answer:
        return standin.Answer(200, honest(self, told, without).body | {"pp_SecureHash": given})

    monkeypatch.setattr(JazzCashApi, "_told", forged)
    try:
        found = asking(api)
    except PlatformUnreachable as error:
        found, given = [], error.detail
    assert EventKind.SALE not in kinds(found)
    assert given == "" or "not signed" in given


def test_mutant_an_answers_hash_is_not_looked_at_is_caught(api, monkeypatch):
    monkeypatch.setattr(jazzcash_api, "is_signed", lambda fields, salt: True)
    with pytest.MonkeyPatch.context() as inner, pytest.raises(AssertionError):
        test_a_payment_that_is_told_without_a_right_hash_is_none(api, inner, "0" * 64)


def test_mutant_the_calls_code_for_the_payments_is_caught(api, monkeypatch):
    monkeypatch.setattr(jazzcash, "kind_of_payment", lambda answer: EventKind.SALE)
    with pytest.raises(AssertionError):
        test_what_the_payment_is_and_not_what_the_call_was(api, V2, "199", EventKind.PAYMENT_FAILED)


def test_the_firewalls_page_is_named_for_what_it_is(api):
    api.is_firewalled = True
    with pytest.raises(PlatformUnreachable, match=r"200 with text/html in place of JSON: its firewall"):
        asking(api)


@pytest.mark.parametrize("setting", ["jazzcash_merchant_id", "jazzcash_password", "jazzcash_integrity_salt"])
def test_refused_credentials_are_the_owners_to_mend(api, setting):
    api.know(ORDER_ID, 850000)
    with pytest.raises(PlatformUnreachable, match="JAZZCASH_PASSWORD") as error:
        asking(api, **{setting: "another"})
    assert error.value.is_refused


def test_no_answer_says_nothing(api, monkeypatch):
    monkeypatch.setattr(jazzcash_api, "ASKING", (0.3, 0.3))
    api.know(ORDER_ID, 850000)
    for break_it in (api.down, lambda: setattr(api, "hang", math.inf)):
        break_it()
        with pytest.raises(PlatformUnreachable):
            asking(api)
        api.up()


@pytest.mark.parametrize("status", [500, 502, 503])
def test_a_failing_host_says_nothing(api, status):
    api.fail_next(status)
    with pytest.raises(PlatformUnreachable):
        asking(api)


def test_asked_too_often_it_says_so(api):
    api.fail_next(429, retry_after=7)
    with pytest.raises(RateLimited) as error:
        asking(api)
    assert error.value.wait == 7


# ---------------------------------------------------------------------------------------------------- the whole way
def browser(url: str, fields: dict[str, str]) -> str:
    with build_opener(ProxyHandler({})).open(Request(url, urlencode(fields).encode()), timeout=5) as answered:
        return str(answered.read().decode())


@pytest.mark.parametrize("path", [V1, V2])
def test_the_hosted_page_takes_our_form_and_brings_back_a_return_that_we_believe(api, path):
    ours = platform(jazzcash_api_url=api.url + path)
    made = ours.form(order(), WAY)
    assert made is not None
    assert "Rs 8500.00" in browser(made.action, made.fields)
    assert ours.ask(order(), None)[0].event is EventKind.PENDING
    page = browser(f"{api.url}/choose", {"ref": ORDER_ID, "code": "000"})
    assert f'action="{WAY.notify}"' in page
    fields, body = api.return_of(ORDER_ID)
    assert f'value="{fields["pp_SecureHash"]}"' in page
    assert ours.events(request(body))[0].inquiry is Inquiry.ORDER
    assert kinds(ours.ask(order(), None)) == [EventKind.SALE]
    assert not refused(api.ipn_of(ORDER_ID), JSON)


def test_the_hosted_page_refuses_what_was_altered(api):
    made = platform(jazzcash_api_url=api.url).form(order(), WAY)
    assert made is not None
    assert "115" in browser(made.action, made.fields | {"pp_Amount": "100"})
    assert "115" in browser(made.action, made.fields | {"pp_ReturnURL": "https://attacker.example"})
    assert api.payments == {}
