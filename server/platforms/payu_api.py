"""PayU's REST API 2.1, as far as it is asked. https://developers.payu.com/europe/api

Its token lives half a day. All workers share it by the shelf, and each keeps it in memory; it is renewed before it
ends, and once more where PayU takes it no longer.
"""

from __future__ import annotations

from collections.abc import Callable
from contextlib import suppress
from datetime import UTC, datetime, timedelta
from typing import Any
from urllib.parse import quote, urlencode

import msgspec

from server.errors import BadRequest, PlatformUnreachable, StorageUnavailable
from server.platforms.document import Document
from server.platforms.web_client import send
from server.storage.base import Shelf

TIMEOUT = (3.0, 10.0)  # seconds: a buyer waits, and a call that is cut short leaves an order without its page
EARLY = timedelta(minutes=5)  # before a token's end
GOOD = frozenset({"SUCCESS", "WARNING_CONTINUE_REDIRECT"})
_FORM = {"Content-Type": "application/x-www-form-urlencoded"}  # of anything else PayU says 401


Token = tuple[str, datetime]  # and until when it is taken to be good


class PayUApi:
    def __init__(self, base: str, client_id: str, client_secret: str) -> None:
        self._base, self._client_id, self._client_secret = base, client_id, client_secret
        self._shelf: Shelf | None = None
        self._clock: Callable[[], datetime] = lambda: datetime.now(UTC)
        self._token: Token | None = None

    def use_shelf(self, shelf: Shelf, clock: Callable[[], datetime]) -> None:
        self._shelf, self._clock = shelf, clock

    # ------------------------------------------------------------------------------------------------ what is asked
    def create(self, order: dict[str, Any]) -> tuple[int, Document]:
        """302 with a body that says where the buyer pays; the page that it points to is never fetched."""
        return self.call("POST", "/orders", order)

    def find_order(self, payu_id: str) -> Document | None:
        """`status` of the answer is that of the call, the order has its own."""
        status, answer = self.call("GET", f"/orders/{quote(payu_id, safe='')}")
        if status == 404 or code_of(answer) == "DATA_NOT_FOUND":
            return None
        _require_good(status, answer)
        return next(answer.parts("orders"), None)

    def capture(self, payu_id: str) -> None:
        """Take a payment that waits for it. What PayU objects to (another worker was first) the order tells anew."""
        taken = {"orderId": payu_id, "orderStatus": "COMPLETED"}
        self.call("PUT", f"/orders/{quote(payu_id, safe='')}/status", taken)

    def refund(self, payu_id: str, refund: dict[str, str]) -> tuple[int, Document]:
        return self.call("POST", f"/orders/{quote(payu_id, safe='')}/refunds", {"refund": refund})

    def refunds(self, payu_id: str) -> list[Document]:
        """All refunds of an order. The list is told as an object's `refunds`, or bare."""
        status, answer = self.call("GET", f"/orders/{quote(payu_id, safe='')}/refunds")
        if status == 404:
            return []
        if status != 200 or not ("refunds" in answer or "data" in answer):
            raise PlatformUnreachable(f"PayU does not list the refunds of an order: {objection(answer)}")
        return list(answer.parts("refunds" if "refunds" in answer else "data"))

    def call(self, method: str, path: str, body: dict[str, Any] | None = None) -> tuple[int, Document]:
        """Status and body. Raises PlatformUnreachable: also for a 5xx, and for credentials that PayU does not take."""
        status, answer = self._ask(method, path, body, refused := self._current())
        if status == 401:
            status, answer = self._ask(method, path, body, self._renewed(refused))
        if status in (401, 403):
            why = f"PayU does not let PAYU_CLIENT_ID do this: {objection(answer)}"
            raise PlatformUnreachable(why, is_refused=True)
        if status >= 500:
            raise PlatformUnreachable(f"PayU answers {status}: {objection(answer)}")
        return status, answer

    def _ask(self, method: str, path: str, body: dict[str, Any] | None, token: str) -> tuple[int, Document]:
        headers = {"Authorization": f"Bearer {token}", "Content-Type": "application/json"}
        content = b"" if body is None else msgspec.json.encode(body)
        try:
            return send(method, f"{self._base}/api/v2_1{path}", content, headers, TIMEOUT)
        except PlatformUnreachable as error:
            if not error.is_refused:
                raise
            return 401, Document({})  # in words that are no JSON

    # ------------------------------------------------------------------------------------------------ the token
    def _current(self) -> str:
        now = self._clock()
        if self._token is None or self._token[1] <= now:
            self._token = self._shelved(now) or self._fresh(now)
        return self._token[0]

    def _renewed(self, refused: str) -> str:
        """Another token than the refused one: that of a worker who renewed it already, else a new one."""
        now = self._clock()
        shelved = self._shelved(now)
        self._token = shelved if shelved and shelved[0] != refused else self._fresh(now)
        return self._token[0]

    def _shelved(self, now: datetime) -> Token | None:
        try:
            kept = self._shelf.get(self._place, now) if self._shelf else None
        except StorageUnavailable:
            return None
        until, _, token = (kept or "").partition(" ")
        return (token, datetime.fromisoformat(until)) if token else None

    def _fresh(self, now: datetime) -> Token:
        """A full disk is no reason not to sell: the token is then this process's alone."""
        token, lives = self._granted()
        until = now + lives - min(EARLY, lives / 2)
        with suppress(StorageUnavailable):
            if self._shelf:
                self._shelf.put(self._place, f"{until.isoformat()} {token}", until, now)
        return token, until

    def _granted(self) -> tuple[str, timedelta]:
        """A new token, and for how long it is good."""
        url = f"{self._base}/pl/standard/user/oauth/authorize"
        wanted = {"grant_type": "client_credentials", "client_id": self._client_id}
        form = urlencode(wanted | {"client_secret": self._client_secret}).encode()
        try:
            status, answer = send("POST", url, form, _FORM, TIMEOUT)
            if status in (400, 401, 403):
                raise PlatformUnreachable("", is_refused=True)
            lives = answer.number("expires_in", low=1, high=10**8)
            return answer.required("access_token"), timedelta(seconds=lives or 60)
        except BadRequest:
            raise PlatformUnreachable(f"PayU answers {status} without a token") from None
        except PlatformUnreachable as error:
            if not error.is_refused:
                raise
            why = "PayU refuses PAYU_CLIENT_ID and PAYU_CLIENT_SECRET"
            raise PlatformUnreachable(why, is_refused=True) from None

    @property
    def _place(self) -> str:
        return f"payu token of {self._client_id} at {self._base}"


def code_of(answer: Document) -> str:
    """What became of a call."""
    try:
        return answer.part("status").text("statusCode") or ""
    except BadRequest:
        return ""


def objection(answer: Document) -> str:
    """What PayU objects to, in its own words: codeLiteral is the cause, where there is one."""
    try:
        status = answer.part("status")
        words = (status.text("codeLiteral") or status.text("statusCode"), status.text("statusDesc"))
    except BadRequest:
        words = (None, None)
    return ": ".join(word[:200] for word in words if word) or "it does not say why"


def _require_good(status: int, answer: Document) -> None:
    if status != 200 or code_of(answer) not in GOOD:
        raise PlatformUnreachable(f"PayU does not tell of an order: {objection(answer)}")
