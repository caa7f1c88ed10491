"""EasyPaisa (Pakistan): a hosted page in two steps or a question on the buyer's phone; only the inquiry decides.

Telenor's Easypay Merchant Integration Guide; REST v4 as its integrators have it. No answer of EasyPaisa's is signed.
Its IPN is an address that one is meant to fetch, and anybody can send it: it is read by strict rules and never fetched,
and no more is taken from it than which order to ask about. What the buyer's browser brings back is not read at all.
Refunds are made in the portal; there is no call for them.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from datetime import datetime
from typing import Self
from urllib.parse import urlsplit

import msgspec

from server.domain import money
from server.domain.order import Order, doubted
from server.domain.purchase import EventKind, Inquiry, PurchaseEvent
from server.errors import BadRequest, PlatformUnreachable, SettingsError
from server.platforms.base import Begun, Checkout, Form, Platform, Reply, Trial, Way, WebhookRequest
from server.platforms.document import Document
from server.platforms.easypaisa_api import EasyPaisaApi, hashed_request, require_hash_key, text_of
from server.platforms.pakistan import PAKISTAN, RUPEES, mobile_number, moment
from server.settings import Settings

STATUSES = {  # anything else is still going on
    "PAID": EventKind.SALE,
    "FAILED": EventKind.PAYMENT_FAILED,
    "EXPIRED": EventKind.PAYMENT_FAILED,
    "BLOCKED": EventKind.PAYMENT_FAILED,
    "REVERSED": EventKind.REFUND,
}
SECRETS = frozenset({"msisdn"})

# The whole address, so that no two parsers can differ about it: no user, no other port, no escapes, no way up.
_TOLD = re.compile(
    r"https://easypay(?:stg)?\.easypaisa\.com\.pk(?::443)?/easypay-service/rest/v1/order-status/[0-9]+/"
    r"([A-Za-z0-9._-]{1,40})",
    re.ASCII,
)
_TOKEN = re.compile(r"[!-~]{1,1024}", re.ASCII)


class EasyPaisa(Platform, Checkout):
    name = "easypaisa"
    hides_keys = True
    proves_notices = False
    methods = frozenset({"GET"})
    currencies = frozenset({RUPEES})
    currency = RUPEES

    def __init__(self, api: EasyPaisaApi, url: str, store: str, hash_key: str | None) -> None:
        """With a hash key the buyer pays on EasyPaisa's own page, without one he is asked on his phone."""
        super().__init__(None)
        self._api, self._url, self.merchant, self._key = api, url, store, hash_key
        self.is_test = urlsplit(url).hostname == "easypaystg.easypaisa.com.pk"
        self.asks_buyer = self.needs_phone = hash_key is None

    @classmethod
    def from_settings(cls, settings: Settings) -> Self | None:
        credentials = {
            "EASYPAISA_STORE_ID": settings.easypaisa_store_id or "",
            "EASYPAISA_USERNAME": settings.easypaisa_username or "",
            "EASYPAISA_PASSWORD": settings.easypaisa_password or "",
        }
        is_hosted = settings.easypaisa_flow == "hosted"
        if not any(credentials.values()) and not settings.easypaisa_hash_key:
            return None
        needed = credentials | ({"EASYPAISA_HASH_KEY": settings.easypaisa_hash_key or ""} if is_hosted else {})
        if missing := [name for name, value in needed.items() if not value]:
            raise SettingsError(
                f"{missing[0]} is missing: EasyPaisa needs it where EASYPAISA_FLOW is {_flow(settings)}"
            )
        store, username, password = credentials.values()
        url, key = settings.easypaisa_api_url, settings.easypaisa_hash_key if is_hosted else None
        api = EasyPaisaApi(url, store, username, password, settings.easypaisa_account)
        return cls(api, url, store, require_hash_key(key) if key else None)

    # ------------------------------------------------------------------------------------------------ notices
    def verify(self, request: WebhookRequest) -> None:
        """There is nothing to verify: whoever comes, no more happens than that EasyPaisa itself is asked."""

    def trial(self) -> Trial:
        return Trial(query={"url": "https://easypay.easypaisa.com.pk/"})

    def parse(self, request: WebhookRequest) -> list[PurchaseEvent]:
        url = request.query.get("url", "")
        order_id = read_order_id(url)
        told = Document({"url": url})
        return [msgspec.structs.replace(self._event(told, order_id, EventKind.PENDING), inquiry=Inquiry.ORDER)]

    def reply(self, request: WebhookRequest) -> Reply | None:
        return Reply(b"")

    # ------------------------------------------------------------------------------------------------ the way to pay
    def begin(self, order: Order, way: Way) -> Begun:
        if not self.asks_buyer:
            return Begun(form=self.form(order, way))
        asked = {
            "orderId": order.order_id,
            "transactionAmount": rupees_of(order),
            "mobileAccountNo": self.phone_of(order.phone or ""),
            "emailAddress": order.email,
        }
        return Begun(reference=text_of(self._api.pay(asked), "transactionId"))

    def form(self, order: Order, way: Way) -> Form | None:
        """Without a payment method: the buyer chooses. And without his address, which may be left out: whoever knows
        the order's page can open the form's, too."""
        if self._key is None:
            return None
        fields = {
            "storeId": self.merchant,
            "amount": rupees_of(order),
            "postBackURL": way.back,
            "orderRefNum": order.order_id,
            "expiryDate": _stamp(order.expires_at),
            "autoRedirect": "1",
        }
        return Form(f"{self._url}/easypay/Index.jsf", fields | {"merchantHashedReq": hashed_request(fields, self._key)})

    def continued(self, order: Order, way: Way, query: Mapping[str, str]) -> Form | None:
        """The hosted page's second step: with its token the browser comes back once, and is sent on to confirm. It then
        comes with a status, which the buyer could have written himself."""
        token = query.get("auth_token", "")
        if self._key is None or not _TOKEN.fullmatch(token):
            return None
        return Form(f"{self._url}/easypay/Confirm.jsf", {"auth_token": token, "postBackURL": way.back})

    def phone_of(self, told: str) -> str:
        return mobile_number(told) if self.needs_phone else told

    # ------------------------------------------------------------------------------------------------ what is so
    def ask(self, order: Order, reference: str | None) -> list[PurchaseEvent]:
        """0000 says that the inquiry went well, and `transactionStatus` how the payment stands. A status of the
        settlement, which may stand beside it, is the merchant's affair."""
        answer = self._api.inquire(order.order_id)
        if answer is None:
            return []
        kind = STATUSES.get((text_of(answer, "transactionStatus") or "").upper(), EventKind.PENDING)
        event = self._event(answer, order.order_id, kind)
        if kind is EventKind.REFUND:
            when = {"occurred_at": None, "event_id": f"{order.order_id}:refund:reversed"}  # only the payment's is told
            event = msgspec.structs.replace(event, incident="reversed", is_refunded=True, **when)
        why = self._astray(answer, order)
        if why and kind in (EventKind.SALE, EventKind.REFUND):
            return [doubted(event, why)]
        if why and kind is EventKind.PAYMENT_FAILED:
            raise PlatformUnreachable(f"EasyPaisa answers about something else: {why}")
        return [event]

    def _astray(self, answer: Document, order: Order) -> str | None:
        if text_of(answer, "orderId") != order.order_id:
            return "orderId is another order's"
        return "storeId is another's" if text_of(answer, "storeId") != self.merchant else None

    def _event(self, told: Document, order_id: str, kind: EventKind) -> PurchaseEvent:
        price = _price(text_of(told, "transactionAmount"))
        return PurchaseEvent(
            event=kind,
            event_id=f"{order_id}:sale",
            source=self.name,
            sale_id=order_id,
            order_id=order_id,
            price=price,
            currency=RUPEES if price else None,
            occurred_at=moment(text_of(told, "transactionDateTime"), "%d/%m/%Y %I:%M %p"),
            is_test=self.is_test,
            raw=told.as_json(SECRETS),
        )


# ---------------------------------------------------------------------------------------------------- what is read
def read_order_id(url: str) -> str:
    """The order that an IPN is about. Raises BadRequest for any address that is not EasyPaisa's own for it."""
    found = _TOLD.fullmatch(url)
    if found is None or ".." in found[1] or found[1] == ".":
        raise BadRequest("url: is not the address of an order's status at EasyPaisa")
    return found[1]


def _price(told: str | None) -> str | None:
    """Exact paisa: of a JSON number Python writes the shortest text that means it. None for half a paisa."""
    found = money.amount(told, RUPEES)
    return money.told(found[1], RUPEES) if found else None


# ---------------------------------------------------------------------------------------------------- what is sent
def rupees_of(order: Order) -> str:
    """1500.0, 1500.5, 1500.25: at least one decimal, as the guide has it."""
    return order.price.removesuffix("0")


def _stamp(when: datetime) -> str:
    return f"{when.astimezone(PAKISTAN):%Y%m%d %H%M%S}"


def _flow(settings: Settings) -> str:
    return settings.easypaisa_flow
