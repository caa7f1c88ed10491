"""JazzCash (Pakistan): a hosted form or a wallet call, signed returns and IPNs, and an inquiry that alone decides.

The guides of 2026 (page redirection, wallet REST 2.0, IPN REST, status inquiry) by https://sandbox.jazzcash.com.pk

The browser brings the return, as a form; the server tells the IPN, in JSON, and wants a signed answer. Neither proves a
payment: an IPN names neither amount nor merchant, and a success in words of the browser is a success of the call. So
both are hints, and what the inquiry says is believed. Refunds are made in the portal: its API wants the merchant's own
cash-out PIN, which no license server should hold.
"""

from __future__ import annotations

import hashlib
import re
from datetime import datetime, timedelta
from typing import Self
from urllib.parse import urlsplit

import msgspec

from server.domain.order import WITHOUT_SUM, Order, doubted
from server.domain.purchase import EventKind, Inquiry, PurchaseEvent
from server.errors import PlatformUnreachable, SettingsError, Unprocessable, Unverified
from server.platforms.base import Begun, Checkout, Form, Platform, Reply, Trial, Way, WebhookRequest
from server.platforms.fields import Fields
from server.platforms.jazzcash_api import HASH, JazzCashApi, is_signed, secure_hash
from server.platforms.jazzcash_words import REFUNDED, WAITING, kind_of_notice, kind_of_payment, rupees, told_at
from server.platforms.pakistan import PAKISTAN, RUPEES, mobile_number
from server.settings import Settings

SECRETS = (HASH, "pp_Password", "pp_MobileNumber", "pp_CNIC", "pp_MerchantMPIN")

_UNSAFE = re.compile(r"[^A-Za-z0-9 .,-]+", re.ASCII)  # JazzCash replaces these, and the hash would not fit any more
_LONGEST_DESCRIPTION = 100


class JazzCash(Platform, Checkout):
    name = "jazzcash"
    hides_keys = True
    currencies = frozenset({RUPEES})
    currency = RUPEES
    rest = timedelta(minutes=10)  # the inquiry's guide

    def __init__(self, api: JazzCashApi, merchant: str, *, is_wallet: bool, is_test: bool) -> None:
        super().__init__(None)
        self._api, self.merchant, self.is_test = api, merchant, is_test
        self.asks_buyer = self.needs_phone = is_wallet

    @classmethod
    def from_settings(cls, settings: Settings) -> Self | None:
        credentials = {
            "JAZZCASH_MERCHANT_ID": settings.jazzcash_merchant_id or "",
            "JAZZCASH_PASSWORD": settings.jazzcash_password or "",
            "JAZZCASH_INTEGRITY_SALT": settings.jazzcash_integrity_salt or "",
        }
        if not any(credentials.values()):
            return None
        if missing := [name for name, value in credentials.items() if not value]:
            raise SettingsError(f"{missing[0]} is missing: without it JazzCash can neither be asked nor believed")
        merchant, password, salt = credentials.values()
        api, is_wallet = JazzCashApi(settings.jazzcash_api_url, merchant, password, salt), _is_wallet(settings)
        if api.page is None and not is_wallet:
            raise SettingsError("JAZZCASH_FLOW must be wallet: of JAZZCASH_API_URL's host no hosted page is known")
        return cls(api, merchant, is_wallet=is_wallet, is_test=_is_sandbox(settings))

    # ------------------------------------------------------------------------------------------------ notices
    def verify(self, request: WebhookRequest) -> None:
        if not is_signed(read_notice(request.body).values, self._api.salt):
            raise Unverified(f"{HASH} is missing or wrong: check JAZZCASH_INTEGRITY_SALT")

    def trial(self) -> Trial:
        body = f"{HASH}={secure_hash({}, self._api.salt)}".encode()  # without pp_ResponseCode it says nothing
        return Trial(body, headers={"Content-Type": "application/x-www-form-urlencoded"})

    def parse(self, request: WebhookRequest) -> list[PurchaseEvent]:
        notice = read_notice(request.body)
        code, order_id = notice.required("pp_ResponseCode"), notice.text("pp_TxnRefNo")
        if order_id is None or len(order_id) > 40:
            return [self._nameless(notice, code)]
        event = self._event(notice, order_id, kind_of_notice(code))
        if event.event is EventKind.PENDING and code not in WAITING:
            event = msgspec.structs.replace(event, inquiry=Inquiry.ORDER)
        return [doubted(event, why) if (why := self._foreign(notice)) else event]

    def reply(self, request: WebhookRequest) -> Reply | None:
        """An IPN that is not answered with this comes twice more, and then never again."""
        if not is_json(request.body):
            return Reply(order_id=read_notice(request.body).text("pp_TxnRefNo"))
        words = {"pp_ResponseCode": "000", "pp_ResponseMessage": "IPN received successfully"}
        body = msgspec.json.encode(words | {HASH: secure_hash(words, self._api.salt)})
        return Reply(body, "application/json")

    # ------------------------------------------------------------------------------------------------ the way to pay
    def begin(self, order: Order, way: Way) -> Begun:
        if not self.asks_buyer:
            return Begun(form=self.form(order, way))
        identity = {"pp_MobileNumber": self.phone_of(order.phone or ""), "pp_CNIC": ""}
        answer = self._api.pay(_payment(order, way) | identity)
        code = answer.text("pp_ResponseCode") or ""
        if code == "110":  # nothing was asked of the buyer
            raise Unprocessable("JazzCash does not take the order: a field is missing or wrong (110)")
        if not answer.text(HASH):
            raise PlatformUnreachable(f"JazzCash answers {code[:3]} and signs nothing: perhaps the buyer was asked")
        return Begun(reference=answer.text("pp_RetreivalReferenceNo") or answer.text("pp_RetrievalReferenceNo"))

    def form(self, order: Order, way: Way) -> Form | None:
        """pp_TxnType is empty, so that the buyer chooses how to pay. The password is in it by JazzCash's design."""
        if self.asks_buyer or self._api.page is None:
            return None
        hosted = {"pp_Version": "1.1", "pp_TxnType": "", "pp_SubMerchantID": "", "pp_ReturnURL": way.notify}
        return Form(self._api.page, self._api.signed(_payment(order, way) | hosted))

    def phone_of(self, told: str) -> str:
        return mobile_number(told) if self.needs_phone else told

    # ------------------------------------------------------------------------------------------------ what is so
    def ask(self, order: Order, reference: str | None) -> list[PurchaseEvent]:
        """pp_ResponseCode 000 says that the inquiry went well, and nothing of the payment. An error has an empty hash:
        then nothing is known, and the order goes on waiting."""
        answer = self._api.inquire(order.order_id)
        if not answer.text(HASH) or answer.text("pp_ResponseCode") != "000":
            return []
        event = self._stands(answer, order)
        why = self._foreign(answer) or _astray(answer, order)
        if why and event.event in (EventKind.SALE, EventKind.REFUND):
            return [doubted(event, why)]
        if why:
            raise PlatformUnreachable(f"JazzCash answers about something else: {why}")
        return [event]

    def _stands(self, answer: Fields, order: Order) -> PurchaseEvent:
        """An answer of the first version names no amount. What was paid then is what our signed request had asked for:
        JazzCash lets nobody pay another sum under its reference."""
        kind = kind_of_payment(answer)
        event = self._event(answer, order.order_id, kind)
        if "pp_Amount" not in answer or not answer.text("pp_Amount"):
            event = msgspec.structs.replace(event, price=order.price, currency=order.currency)
        if kind is not EventKind.REFUND:
            return event
        when = {"occurred_at": None, "event_id": f"{order.order_id}:refund:reversed"}  # only the payment's is told
        incident = WITHOUT_SUM if answer.text("pp_PaymentResponseCode") == REFUNDED else "reversed"
        return msgspec.structs.replace(event, incident=incident, is_refunded=True, **when)

    # ------------------------------------------------------------------------------------------------ events
    def _event(self, told: Fields, order_id: str, kind: EventKind) -> PurchaseEvent:
        """Without the reference of the retrieval as a further name: no guide says that it is not used again."""
        price = rupees(told.text("pp_Amount"))
        return PurchaseEvent(
            event=kind,
            event_id=f"{order_id}:sale",
            source=self.name,
            sale_id=order_id,
            order_id=order_id,
            price=price,
            currency=(told.text("pp_TxnCurrency") or RUPEES).lower()[:20] if price else None,
            occurred_at=told_at(told.text("pp_TxnDateTime")),
            is_test=self.is_test,
            raw=told.without(SECRETS).as_json(),
        )

    def _nameless(self, notice: Fields, code: str) -> PurchaseEvent:
        raw = notice.without(SECRETS).as_json()
        return PurchaseEvent(
            event=EventKind.IGNORED,
            event_id=f"{hashlib.sha256(bytes(raw)).hexdigest()[:32]}:{code[:20]}",
            source=self.name,
            is_test=self.is_test,
            note="pp_TxnRefNo names no order of ours",
            raw=raw,
        )

    def _foreign(self, told: Fields) -> str | None:
        merchant = told.text("pp_MerchantID")
        return "pp_MerchantID is another's" if merchant is not None and merchant != self.merchant else None


# ---------------------------------------------------------------------------------------------------- what is read
def is_json(body: bytes) -> bool:
    """By the body itself: a content type is sometimes missing or wrong, and no form of theirs begins so."""
    return body.lstrip().startswith(b"{")


def read_notice(body: bytes) -> Fields:
    """Decoded exactly once, and hashed as decoded. Raises BadRequest."""
    return Fields.from_json(body) if is_json(body) else Fields.from_form(body)


def _astray(answer: Fields, order: Order) -> str | None:
    told = answer.text("pp_TxnRefNo")
    return "pp_TxnRefNo is another order's" if told is not None and told != order.order_id else None


# ---------------------------------------------------------------------------------------------------- what is sent
def _payment(order: Order, way: Way) -> dict[str, str]:
    """What a hosted form and a wallet call have in common; `pp_TxnRefNo` takes 20 characters, which our ids have."""
    return {
        "pp_Language": "EN",
        "pp_BankID": "",
        "pp_ProductID": "",
        "pp_TxnRefNo": order.order_id,
        "pp_Amount": str(order.amount),
        "pp_TxnCurrency": order.currency.upper(),
        "pp_TxnDateTime": _stamp(way.now),
        "pp_BillReference": "".join(c for c in order.number if c.isascii() and c.isalnum()),
        "pp_Description": _description(order),
        "pp_TxnExpiryDateTime": _stamp(order.expires_at),
        **{f"ppmpf_{number}": "" for number in range(1, 6)},
    }


def _stamp(moment: datetime) -> str:
    return f"{moment.astimezone(PAKISTAN):%Y%m%d%H%M%S}"


def _description(order: Order) -> str:
    named = " ".join(_UNSAFE.sub(" ", ", ".join(item.name for item in order.items)).split())
    return named[:_LONGEST_DESCRIPTION].strip(" ,") or _UNSAFE.sub(" ", order.number)


def _is_wallet(settings: Settings) -> bool:
    return settings.jazzcash_flow == "wallet"


def _is_sandbox(settings: Settings) -> bool:
    """Of the host of 2026 sandbox and live are told apart by their credentials alone, so the owner has to say it."""
    host = urlsplit(settings.jazzcash_api_url).hostname
    return host == "sandbox.jazzcash.com.pk" or settings.jazzcash_sandbox == "on"
