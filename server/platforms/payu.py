"""PayU of Poland (GPO, REST API 2.1): orders of our own, signed notifications, refunds.

https://developers.payu.com/europe/docs. Not PayU of India, of Latin America, nor of Romania and Turkey, whose
protocols have the same name and nothing else in common.

A notification is signed by a plain hash of its raw bytes and the second key; PayU repeats it for three days until it
is answered 200. A late CANCELED of an abandoned try may follow COMPLETED: a paid order stays paid (domain/order.py).
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from datetime import datetime
from typing import Any, Self
from urllib.parse import urlsplit

import msgspec

from server.domain.order import Order, as_ordered, doubted
from server.domain.purchase import EventKind, Inquiry, PurchaseEvent
from server.errors import AlreadyBegun, BadRequest, PlatformUnreachable, SettingsError, Unprocessable, Unverified
from server.platforms import payu_words as words
from server.platforms.base import (
    Begun,
    Checkout,
    Platform,
    Refunds,
    RefundState,
    RefundWord,
    Trial,
    Way,
    WebhookRequest,
)
from server.platforms.document import Document
from server.platforms.payu_api import GOOD, PayUApi, code_of, objection
from server.platforms.payu_signature import is_signed, sign
from server.settings import Settings
from server.storage.base import Shelf

LIVE, SANDBOX = "secure.payu.com", "secure.snd.payu.com"
PUBLIC = {  # the test POS that everybody has: who knows the second key can sign a payment
    "300746": "b6ca15b0d1020e8094d9b5f8d163db54",
    "145227": "13a980d4f851f3d9a1cfc792fb1f5e50",
}
LANGUAGES = {"pln": "pl", "czk": "cs", "huf": "hu", "ron": "ro"}  # of PayU's page, by the currency; else English
STATES = {"FINALIZED": RefundState.DONE, "CANCELED": RefundState.REFUSED}  # of a refund; PENDING is accepted


class PayU(Platform, Checkout, Refunds):
    name = words.NAME
    currencies = frozenset("chf czk dkk eur gbp huf nok pln ron sek usd".split())
    currency = "pln"

    def __init__(self, pos: str, second_key: str, api: PayUApi, *, is_test: bool, is_local: bool = False) -> None:
        super().__init__(None)
        self.merchant, self.is_test = pos, is_test
        self._key, self._api, self._is_local = second_key.encode(), api, is_local

    @classmethod
    def from_settings(cls, settings: Settings) -> Self | None:
        given = {
            "PAYU_POS_ID": settings.payu_pos_id or "",
            "PAYU_CLIENT_ID": settings.payu_client_id or "",
            "PAYU_CLIENT_SECRET": settings.payu_client_secret or "",
            "PAYU_SECOND_KEY": settings.payu_second_key or "",
        }
        if not any(given.values()):
            return None
        if missing := [name for name, value in given.items() if not value]:
            raise SettingsError(f"{', '.join(missing)} is missing: PayU needs all of {', '.join(given)}")
        pos, client_id, client_secret, second_key = given.values()
        host = urlsplit(settings.payu_api_url).hostname
        public = _public(pos, second_key)
        if public and host == LIVE:
            raise SettingsError(f"{public} is of PayU's public test POS: with it anybody could say that he has paid")
        api = PayUApi(settings.payu_api_url, client_id, client_secret)
        is_test = host == SANDBOX or public is not None
        return cls(pos, second_key, api, is_test=is_test, is_local=host not in (LIVE, SANDBOX))

    def use_shelf(self, shelf: Shelf, clock: Callable[[], datetime]) -> None:
        self._api.use_shelf(shelf, clock)

    # ------------------------------------------------------------------------------------------------ notifications
    def verify(self, request: WebhookRequest) -> None:
        header = request.header("OpenPayu-Signature") or request.header("X-OpenPayU-Signature") or ""
        if not is_signed(request.body, header, self._key):
            why = "OpenPayu-Signature is missing or wrong: check PAYU_SECOND_KEY, which is not the OAuth secret"
            raise Unverified(why)

    def trial(self) -> Trial:
        signature = sign(b"[]", self._key)
        return Trial(b"[]", headers={"OpenPayu-Signature": f"signature={signature};algorithm=MD5"})

    def parse(self, request: WebhookRequest) -> list[PurchaseEvent]:
        """A refund comes without its order, as a rule; one that comes with it is a refund all the same."""
        notice = Document.from_json(request.body)
        if notice.values.get("refund") is not None:
            return [self._refunded(notice)]
        if notice.values.get("order") is None:
            return [words.ignored(notice, "a notification that is about no order", self.is_test)]
        received = notice.text("localReceiptDateTime")
        return [words.order_event(notice.part("order"), self.merchant, self.is_test, received)]

    def _refunded(self, notice: Document) -> PurchaseEvent:
        our_id, payu_id = words.refund_ids(notice)
        event = words.refund_event(notice.part("refund"), our_id, payu_id, self.is_test)
        if notice.part("order").text("merchantPosId") not in (None, self.merchant):
            return doubted(event, words.ANOTHER_POS)
        return words.hint(event, our_id) if words.is_nameless(notice.part("refund")) and our_id else event

    # ------------------------------------------------------------------------------------------------ orders
    def begin(self, order: Order, way: Way) -> Begun:
        if order.expires_at <= way.now:
            raise Unprocessable(f"order {order.number} can be paid no more")
        status, answer = self._api.create(_order(order, way, self.merchant))
        try:
            payu_id, page = answer.text("orderId"), answer.text("redirectUri")
        except BadRequest:
            raise PlatformUnreachable("PayU answers with something that is not an order") from None
        code = code_of(answer)
        if code == "ERROR_ORDER_NOT_UNIQUE":
            raise AlreadyBegun(f"PayU has order {order.number} already, and told its page only then", payu_id)
        if status >= 400 or code.startswith(("ERROR", "BUSINESS")):
            raise Unprocessable(f"PayU does not take this order: {objection(answer)}")
        if code not in GOOD or payu_id is None or page is None or not self._is_page(page):
            raise PlatformUnreachable("PayU answers without a page where the buyer pays")
        return Begun(reference=payu_id, payment_url=page)

    def ask(self, order: Order, reference: str | None) -> list[PurchaseEvent]:
        """Without PayU's own id nothing can be asked: it finds no order by ours."""
        if reference is None:
            return []
        try:
            event = self._stands(order, reference)
            if event is not None and event.inquiry is Inquiry.ORDER:
                event = self._captured(order, reference, event)
            if event is None:
                return []
            return [event, *self._refunds(order, reference)] if event.event is EventKind.SALE else [event]
        except BadRequest as error:
            raise PlatformUnreachable(f"PayU answers with something unreadable ({error.detail})") from None

    def _stands(self, order: Order, reference: str) -> PurchaseEvent | None:
        """None for an order that PayU does not know, or that nobody has begun to pay."""
        found = self._api.find_order(reference)
        if found is None:
            return None
        if (found.text("extOrderId"), found.text("orderId")) != (order.order_id, reference):
            raise PlatformUnreachable(f"PayU answers with something that is not order {order.number}")
        return None if found.text("status") == "NEW" else words.order_event(found, self.merchant, self.is_test)

    def _captured(self, order: Order, reference: str, waiting: PurchaseEvent) -> PurchaseEvent | None:
        """What is not believed when it is paid is not taken either: PayU gives it back to the buyer."""
        paid = as_ordered(msgspec.structs.replace(waiting, event=EventKind.SALE, inquiry=None), order)
        if paid.is_withdrawn:
            return paid
        self._api.capture(reference)
        now = self._stands(order, reference)
        return now and msgspec.structs.replace(now, inquiry=None)

    def _refunds(self, order: Order, reference: str) -> list[PurchaseEvent]:
        """Those that are over, as their notifications: one of them may have been lost."""
        over = [one for one in self._api.refunds(reference) if one.text("status") in words.FINAL]
        return [words.refund_event(one, order.order_id, reference, self.is_test) for one in over]

    def _is_page(self, page: str) -> bool:
        return page.startswith("https://") or (self._is_local and page.startswith("http://"))

    # ------------------------------------------------------------------------------------------------ refunds
    def refund(self, order: Order, names: Sequence[str], amount: int, refund_id: str) -> RefundWord:
        """What PayU refuses may have been done before, under this very id: then it tells that one."""
        payu_id = _payu_id(order, names)
        if payu_id is None:
            note = "PayU's own id of this order is not known here: give the money back in PayU's panel"
            return RefundWord(RefundState.REFUSED, note=note)
        told = {"description": f"Refund of {order.number}", "amount": str(amount), "extRefundId": refund_id}
        status, answer = self._api.refund(payu_id, told)
        if status >= 400 or code_of(answer) not in GOOD:
            found = self.find_refund(order, names, refund_id)
            return found or RefundWord(RefundState.REFUSED, note=objection(answer))
        refund = answer.values.get("refund")
        return _word(refund if isinstance(refund, dict) else {})

    def find_refund(self, order: Order, names: Sequence[str], refund_id: str) -> RefundWord | None:
        payu_id = _payu_id(order, names)
        try:
            found = (
                [one for one in self._api.refunds(payu_id) if one.text("extRefundId") == refund_id] if payu_id else []
            )
        except BadRequest as error:
            raise PlatformUnreachable(f"PayU answers with something unreadable ({error.detail})") from None
        return _word(found[-1].values) if found else None


def _public(pos: str, second_key: str) -> str | None:
    """Which of the two is a public one."""
    if second_key.lower() in PUBLIC.values():
        return "PAYU_SECOND_KEY"
    return "PAYU_POS_ID" if pos in PUBLIC else None


def _order(order: Order, way: Way, pos: str) -> dict[str, Any]:
    """As PayU wants it: every number is a text."""
    first, _, last = order.name.partition(" ")
    buyer = {"email": order.email, "phone": order.phone, "firstName": first, "lastName": last}
    buyer["language"] = LANGUAGES.get(order.currency, "en")
    names = ", ".join(item.name for item in order.items)
    return {
        "extOrderId": order.order_id,
        "merchantPosId": pos,
        "description": f"{order.number}: {names}"[:255],
        "currencyCode": order.currency.upper(),
        "totalAmount": str(order.amount),
        "products": [
            {"name": item.name[:255], "unitPrice": str(item.price), "quantity": str(item.quantity)}
            for item in order.items
        ],
        "buyer": {name: value for name, value in buyer.items() if value},
        "customerIp": way.client,
        "notifyUrl": way.notify,
        "continueUrl": way.back,
        "validityTime": str(int((order.expires_at - way.now).total_seconds())),
    }


def _payu_id(order: Order, names: Sequence[str]) -> str | None:
    return next((name for name in names if name != order.order_id), None)


def _word(refund: Mapping[str, object]) -> RefundWord:
    state = STATES.get(str(refund.get("status")), RefundState.ACCEPTED)
    note = "PayU took it back" if state is RefundState.REFUSED else None
    return RefundWord(state, str(refund["refundId"]) if refund.get("refundId") else None, note)
