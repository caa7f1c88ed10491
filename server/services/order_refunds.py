"""Refunds of orders, by the owner: asked of the platform once, told by the platform, and never a second time in doubt.

That a refund is asked for is on disk before it is; what came of it stands in a line of its own. The license follows the
platform's confirmation. A platform without an API for it is refunded in its own portal, and the owner tells us under
which reference: his word is the confirmation then.
"""

from __future__ import annotations

import hashlib
import logging
import secrets
from collections.abc import Callable, Mapping, Sequence
from datetime import datetime, timedelta
from enum import StrEnum

import msgspec
from msgspec.structs import replace

from server.domain import money
from server.domain.order import (
    WITHOUT_SUM,
    Account,
    OrderFile,
    OrderLine,
    Step,
    account,
    open_refunds,
    payment_names,
)
from server.domain.purchase import Entry, EventKind, PurchaseEvent
from server.errors import Conflict, PlatformUnreachable, Unprocessable
from server.platforms.base import Checkout, Platform, Refunds, RefundState, RefundWord
from server.services.inquiries import Inquiries
from server.services.settlement import MAY_ARRIVE, SOON, Settlement, watch
from server.storage.base import Store

log = logging.getLogger(__name__)


class RefundStanding(StrEnum):
    """How a refund stands, as the owner is told."""

    DONE = "done"
    ACCEPTED = "accepted"
    IN_DOUBT = "in_doubt"


class Refund(msgspec.Struct, frozen=True, kw_only=True):
    """`amount` is in minor units; `note` says what is to be done next, where something is."""

    refund_id: str
    amount: int
    standing: RefundStanding
    note: str | None = None


class OrderRefunds:
    def __init__(
        self,
        store: Store,
        platforms: Mapping[str, Platform],
        inquiries: Inquiries,
        settlement: Settlement,
        window_days: int,
        clock: Callable[[], datetime],
    ) -> None:
        self._store, self._platforms, self._inquiries = store, platforms, inquiries
        self._settlement, self._window, self._clock = settlement, timedelta(days=window_days), clock

    def refund(
        self, file: OrderFile, amount: str | None, key: str | None = None, reference: str | None = None
    ) -> Refund:
        """Give an order's money back, all that is left of it or `amount` (a decimal string). The same `key` is the same
        refund; `reference` is the portal's, where the platform has no API. Raises Unprocessable, naming the field,
        Conflict, StorageUnavailable."""
        platform = self._api_of(file)
        _check_reference(file, reference, has_api=platform is not None)
        return (
            self._record(file, amount, reference or "", key)
            if platform is None
            else self._ask(platform, file, amount, key)
        )

    def has_api(self, file: OrderFile) -> bool:
        """Whether its platform refunds by its API; else in its portal, whose reference is told here."""
        return self._api_of(file) is not None

    def left(self, file: OrderFile) -> int:
        """What can be given back, in minor units. Raises Conflict, Unprocessable where nothing can."""
        return self._amount(file, self._account(file), None)

    def planned(self, file: OrderFile, amount: str | None, reference: str | None) -> int:
        """How much would be given back, in minor units. Raises what `refund` would, before anybody is asked."""
        _check_reference(file, reference, has_api=self.has_api(file))
        return self._amount(file, self._account(file), amount)

    def _api_of(self, file: OrderFile) -> Refunds | None:
        platform = self._platforms.get(file.order.source)
        is_its = not isinstance(platform, Checkout) or platform.has(file.order)
        return platform if isinstance(platform, Refunds) and is_its else None

    # ------------------------------------------------------------------------------------------------ by its API
    def _ask(self, platform: Refunds, file: OrderFile, amount: str | None, key: str | None) -> Refund:
        order, refund_id = file.order, _refund_id(file, key)
        with self._store.orders.alone():
            file = self._store.orders.find(order.order_id) or file
            stands = self._account(file)
            asked = next((line for line in file.of(Step.REFUND_ASKED) if line.refund_id == refund_id), None)
            minor = self._amount(file, stands, amount) if asked is None else asked.amount or 0
            if asked is not None:
                _same_amount(file, minor, amount)
            self._note(file, Step.REFUND_ASKED, refund_id, minor)
        watch(self._store, order.order_id, self._clock(), SOON)  # should we be killed while the platform is asked
        assert stands.sale is not None
        names = payment_names(file, stands.sale)
        try:
            word = (
                platform.refund(order, names, minor, refund_id)
                if asked is None
                else self._found(platform, file, names, asked)
            )
        except PlatformUnreachable as error:
            log.warning("a refund is in doubt", extra={"order": order.number, "why": error.detail})
            note = "it is not known whether the platform did it: it is asked, and nothing is refunded twice"
            return Refund(refund_id=refund_id, amount=minor, standing=RefundStanding.IN_DOUBT, note=note)
        return self._took(file, refund_id, minor, word)

    def _found(self, platform: Refunds, file: OrderFile, names: Sequence[str], asked: OrderLine) -> RefundWord:
        """A refund that was asked for before is looked up, never asked for again. One that the platform does not know
        may still be on its way to it, in another request: only later is it certain that it never arrived."""
        found = platform.find_refund(file.order, names, asked.refund_id or "")
        if found is None and self._clock() < asked.timestamp + MAY_ARRIVE:
            raise PlatformUnreachable(f"{file.order.source} does not know the refund yet")
        note = "the platform knows nothing of it: ask for a new one"
        return found or RefundWord(RefundState.REFUSED, note=note)

    def _took(self, file: OrderFile, refund_id: str, minor: int, word: RefundWord) -> Refund:
        if word.state is RefundState.REFUSED:
            self._note(file, Step.REFUND_REFUSED, refund_id, minor, word.note)
            raise Unprocessable(f"amount: {file.order.source} refused the refund ({word.note})", "REFUND_REFUSED")
        self._note(file, Step.REFUND_ACCEPTED, refund_id, minor, reference=word.reference)
        if word.state is RefundState.DONE:
            self._settlement.look_again(file)
        else:
            watch(self._store, file.order.order_id, self._clock(), SOON)
        standing = RefundStanding.DONE if word.state is RefundState.DONE else RefundStanding.ACCEPTED
        return Refund(refund_id=refund_id, amount=minor, standing=standing)

    # ------------------------------------------------------------------------------------------------ by the portal
    def _record(self, file: OrderFile, amount: str | None, reference: str, key: str | None) -> Refund:
        order, request = file.order, _refund_id(file, key)
        with self._store.orders.alone():
            file = self._store.orders.find(order.order_id) or file
            stands = self._account(file)
            if any(x.refund_id == request and x.reference != reference for x in file.of(Step.REFUND_ACCEPTED)):
                raise Conflict("reference: this Idempotency-Key was used for another reference")
            refund_id = f"{order.order_id}:refund:{reference}"
            seen = self._store.find_event(f"event\0{order.source}\0{refund_id}")
            if seen is not None:
                _same_amount(file, _minor(seen), amount, "reference")
                return Refund(refund_id=reference, amount=_minor(seen), standing=RefundStanding.DONE)
            minor = self._amount(file, stands, amount)
            if minor < order.amount:
                self._correct(file)
            self._inquiries.record([self._event(file, refund_id, reference, minor)])
            if key is not None:
                self._note(file, Step.REFUND_ACCEPTED, request, minor, reference=reference)
        return Refund(refund_id=reference, amount=minor, standing=RefundStanding.DONE)

    def _correct(self, file: OrderFile) -> None:
        """What the platform told without a sum was taken for all of it. Before the part: so a try that is cut off is
        mended by the next one."""
        told = (e for e in self._store.history([file.order.ledger_name]) if e.incident == WITHOUT_SUM)
        if (whole := next(told, None)) is None:
            return
        event = self._event(file, f"{whole.event_id}:corrected", WITHOUT_SUM, file.order.amount)
        note = "the owner says that less went back"
        self._inquiries.record([replace(event, event=EventKind.REFUND_FAILED, is_refunded=False, note=note)])

    def _event(self, file: OrderFile, event_id: str, reference: str, minor: int) -> PurchaseEvent:
        order, is_full = file.order, minor == file.order.amount
        return PurchaseEvent(
            event=EventKind.REFUND if is_full else EventKind.PARTIAL_REFUND,
            event_id=event_id,
            source=order.source,
            sale_id=order.order_id,
            order_id=order.order_id,
            incident=reference,
            price=money.told(minor, order.currency),
            currency=order.currency,
            is_refunded=is_full,
            is_test=order.is_test,
            occurred_at=self._clock(),
            note="recorded by the owner: refunded in the platform's portal",
        )

    # ------------------------------------------------------------------------------------------------ how much
    def _account(self, file: OrderFile) -> Account:
        """Raises Conflict where nothing was paid, or nothing is left; Unprocessable where it is too late."""
        history = self._store.history([file.order.ledger_name])
        stands = account(file.order, [entry for entry in history if entry.incident != WITHOUT_SUM])
        if stands.sale is None:
            raise Conflict(f"order {file.order.number} is not paid: there is nothing to refund")
        if self._clock() > stands.sale.moment + self._window:
            days = self._window.days
            raise Unprocessable(f"the order was paid more than {days} days ago (REFUND_WINDOW_DAYS)", "REFUND_WINDOW")
        return stands

    def _amount(self, file: OrderFile, stands: Account, amount: str | None) -> int:
        """In minor units, of what is neither refunded nor on its way back."""
        order, left = file.order, stands.paid - stands.refunded - self._on_its_way(file)
        if left <= 0:
            raise Conflict(f"order {order.number} is refunded, or a refund of all of it is on its way")
        wanted = left if amount is None else money.minor_units(amount, order.currency, "amount")
        if not 0 < wanted <= left:
            told = money.told(left, order.currency)
            raise Unprocessable(f"amount: {amount} is not between 0 and the {told} {order.currency} that are left")
        return wanted

    def _on_its_way(self, file: OrderFile) -> int:
        lines = open_refunds(file, self._store.history([file.order.ledger_name]))
        return sum(line.amount or 0 for line in lines)

    def _note(
        self,
        file: OrderFile,
        step: Step,
        refund_id: str,
        minor: int,
        note: str | None = None,
        reference: str | None = None,
    ) -> None:
        line = OrderLine(
            timestamp=self._clock(),
            order_id=file.order.order_id,
            step=step,
            refund_id=refund_id,
            amount=minor,
            note=note and note[:200],
            reference=reference,
        )
        self._store.orders.note(line)


def _check_reference(file: OrderFile, reference: str | None, has_api: bool) -> None:
    shop = file.order.source
    if has_api and reference is not None:
        raise Unprocessable(f"reference: {shop} refunds by its API; leave it out")
    if not has_api and not reference:
        raise Unprocessable(f"reference: refund it in {shop}'s portal, and name the reference it has there")


def _refund_id(file: OrderFile, key: str | None) -> str:
    """20 letters and digits, the same for the same key."""
    if key is None:
        return secrets.token_hex(10)
    return hashlib.sha256(f"{file.order.order_id}\0{key}".encode()).hexdigest()[:20]


def _same_amount(file: OrderFile, minor: int, amount: str | None, name: str = "Idempotency-Key") -> None:
    if amount is not None and money.minor_units(amount, file.order.currency, "amount") != minor:
        raise Conflict(f"amount: this {name} was used for another amount")


def _minor(entry: Entry) -> int:
    known = money.amount(entry.price, entry.currency)
    return known[1] if known else 0
