"""Settlement: what platforms say of orders becomes ledger lines and the order's own lines.

Money goes to the ledger by the path of every sale, where it is believed only if it agrees with the order; that a buyer
is on his way, gave up or was refused stands in the order's own lines. What is only a hint is asked about first. A
platform that does not answer delays nobody: the order waits, and the outbox asks again.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Mapping, Sequence
from datetime import datetime, timedelta
from typing import Any

import msgspec

from server.domain.order import (
    OPEN,
    SETTLED,
    WITHOUT_SUM,
    Account,
    OrderFile,
    OrderLine,
    OrderState,
    Step,
    account,
    doubted,
    of_nobody,
    open_refunds,
    other_amount,
    payment_names,
    state_of,
)
from server.domain.purchase import Entry, EventKind, Inquiry, Outcome, PurchaseEvent
from server.errors import BadRequest, PlatformUnreachable, StorageUnavailable
from server.platforms.base import Checkout, Platform, Refunds, RefundState
from server.services import trace
from server.services.inquiries import Inquiries
from server.services.letters import ORDER_INQUIRY
from server.storage.base import Letter, Store

log = logging.getLogger(__name__)

STEPS = {  # what is no matter of the ledger, since no money moved
    EventKind.PENDING: Step.PROCESSING,
    EventKind.CANCELLATION: Step.CANCELLED,
    EventKind.PAYMENT_FAILED: Step.FAILED,
}
FIRST_LOOK = timedelta(minutes=15)  # after an order was begun; JazzCash wants ten minutes
SOON = timedelta(seconds=20)
ASKED_EVERY = timedelta(seconds=10)  # at most, of one order, by all workers
HINTS = 5  # of an order that lead to an inquiry in that time, where anybody may send them
MAY_ARRIVE = timedelta(minutes=10)  # for a request of which nothing was heard
FINAL_LOOK = timedelta(hours=2)  # after its end an order is asked about once more


class Told(msgspec.Struct, frozen=True):
    """What became of one event: `entry` is its ledger line, where it has one."""

    outcome: Outcome
    license_keys: tuple[str, ...] = ()
    entry: Entry | None = None


class Settlement:
    def __init__(
        self, store: Store, platforms: Mapping[str, Platform], inquiries: Inquiries, clock: Callable[[], datetime]
    ) -> None:
        self._store, self._platforms, self._inquiries, self._clock = store, platforms, inquiries, clock

    def hear(self, events: Sequence[PurchaseEvent]) -> list[Told]:
        """Write down what a platform's notice says. Raises StorageUnavailable."""
        return [told for event in events for told in self._hear(event)]

    def _hear(self, event: PurchaseEvent) -> list[Told]:
        if event.inquiry is Inquiry.ORDER:
            return self._hint(event)
        if event.order_id is None or event.event not in STEPS:
            return [_told(entry) for entry in self._inquiries.record([self._at_home(event)])]
        file = self._store.orders.find(event.order_id)
        if file is None or file.order.source != event.source:
            return [_told(entry) for entry in self._inquiries.record([of_nobody(event)])]
        self._step(file, event)
        return [Told(Outcome.PENDING if event.event is EventKind.PENDING else Outcome.RECORDED)]

    def _at_home(self, event: PurchaseEvent) -> PurchaseEvent:
        """An account's word for an order that was placed with another one of the same platform is not believed."""
        file = self._store.orders.find(event.order_id) if event.order_id and not event.is_withdrawn else None
        platform = self._platforms.get(event.source)
        if file is None or file.order.source != event.source or not isinstance(platform, Checkout):
            return event
        is_its = file.order.merchant == platform.merchant
        return event if is_its else doubted(event, f"order {file.order.number} was placed with another account")

    def _hint(self, event: PurchaseEvent) -> list[Told]:
        """Something happened to an order: the platform is asked what. A hint that anybody may give is not even written
        down for an order that nobody knows."""
        file = self._store.orders.find(event.order_id or "")
        if file is None or file.order.source != event.source:
            if not self._platforms[event.source].proves_notices:
                return [Told(Outcome.IGNORED)]
            return [_told(entry) for entry in self._inquiries.record([of_nobody(event)])]
        if (why := other_amount(event, file.order)) and event.price is not None:
            return [_told(entry) for entry in self._inquiries.record([doubted(event, why)])]
        if not self._may_ask_at_once(file):
            return [self._as_it_stands(file) if self.state(file) in SETTLED else self._waits(file)]
        try:
            told = self._ask(file)
        except PlatformUnreachable as error:
            log.warning("order inquiry put off", extra={"platform": event.source, "why": error.detail})
            told = []
        if not told or self._is_awaited(self._anew(file), told):
            return [self._waits(file)]
        return told

    def _may_ask_at_once(self, file: OrderFile) -> bool:
        """What a platform proves of an open order is asked about whenever it comes. Of any other one, it may be a
        repeat, or a refund's; and what anybody can send leads to a few questions in a while, and no more."""
        is_proven = self._platforms[file.order.source].proves_notices
        return (is_proven and self.state(file) in OPEN) or any(self._claim(file, f"hint {n} of") for n in range(HINTS))

    def _is_awaited(self, file: OrderFile, told: Sequence[Told]) -> bool:
        """Whether money may still come: also of an order that failed once, when its platform says that it waits."""
        state = self.state(file)
        is_waiting = not told or any(one.outcome is Outcome.PENDING and one.entry is None for one in told)
        is_in_time = self._clock() < file.order.expires_at + FINAL_LOOK
        return state in OPEN or (state not in SETTLED and is_waiting and is_in_time)

    def _waits(self, file: OrderFile) -> Told:
        self._note(file, Step.HINTED)
        self._remind(file, SOON)
        return Told(Outcome.PENDING)

    def _as_it_stands(self, file: OrderFile) -> Told:
        sale = account(file.order, self._history(file)).sale
        return _told(sale) if sale else Told(Outcome.RECORDED)

    # ------------------------------------------------------------------------------------------------ asking
    def look(self, file: OrderFile) -> OrderState:
        """How an order stands; its platform is asked while that is open, at most every few seconds. Never raises for a
        platform that does not answer."""
        state = self.state(file)
        if state in OPEN or self._has_just_ended(file, state):
            if self.may_be_asked(file) and self._claim(file):
                try:
                    self._ask(file)
                except PlatformUnreachable as error:
                    log.warning("order inquiry put off", extra={"platform": file.order.source, "why": error.detail})
            state = self.state(self._anew(file))
        return state

    def may_be_asked(self, file: OrderFile) -> bool:
        """Whether its platform is willing already to be asked about this order. That a voucher waits is no news."""
        platform = self._platforms.get(file.order.source)
        if isinstance(platform, Checkout) and not platform.has(file.order):
            return False
        rest = platform.rest if isinstance(platform, Checkout) else timedelta(0)
        return bool(file.of(Step.HINTED)) or self._clock() >= file.order.placed_at + rest

    def _has_just_ended(self, file: OrderFile, state: OrderState) -> bool:
        """Nobody paid in time, as far as we heard: the platform may know better."""
        is_over = state is OrderState.CANCELLED and not file.of(Step.CANCELLED)
        return is_over and self._clock() < file.order.expires_at + FINAL_LOOK

    def _claim(self, file: OrderFile, what: str = "asked") -> bool:
        now = self._clock()
        try:
            return self._store.shelf.claim(f"{what}:{file.order.order_id}", now + ASKED_EVERY, now)
        except StorageUnavailable:
            return False  # what cannot be written down, neither can the answer

    def look_again(self, file: OrderFile) -> None:
        """Ask about an order of which we know that something changed; the outbox goes on where there is no answer."""
        try:
            self._ask(file)
        except PlatformUnreachable:
            watch(self._store, file.order.order_id, self._clock(), SOON)

    def ask(self, order_id: str) -> bool:
        """Ask for the outbox; whether there is still something to be waited for. Raises PlatformUnreachable."""
        file = self._store.orders.find(order_id)
        if file is None:
            return False
        told = self._ask(file)
        file = self._anew(file)
        return self._is_awaited(file, told) or bool(open_refunds(file, self._history(file)))

    def _ask(self, file: OrderFile) -> list[Told]:
        told = [told for event in self.answer(file) for told in self._hear(event)]
        self._settle_refunds(file)
        return told

    def _settle_refunds(self, file: OrderFile) -> None:
        """What was asked for, and of which we never heard whether it arrived."""
        platform, history = self._platforms.get(file.order.source), self._history(file)
        heard = {line.refund_id for line in file.of(Step.REFUND_ACCEPTED)}
        sale = account(file.order, history).sale
        for line in open_refunds(file, history):
            if not isinstance(platform, Refunds) or sale is None or line.refund_id in heard or line.refund_id is None:
                continue
            word = platform.find_refund(file.order, payment_names(file, sale), line.refund_id)
            if word is None and self._clock() < line.timestamp + MAY_ARRIVE:
                continue
            is_refused = word is None or word.state is RefundState.REFUSED
            step, note = (
                (Step.REFUND_REFUSED, (word and word.note) or "it never arrived")
                if is_refused
                else (Step.REFUND_ACCEPTED, None)
            )
            self._note(
                file, step, note, refund_id=line.refund_id, amount=line.amount, reference=word and word.reference
            )

    def answer(self, file: OrderFile) -> list[PurchaseEvent]:
        """What the platform says of an order now. Raises PlatformUnreachable."""
        platform = self._platforms.get(file.order.source)
        if not isinstance(platform, Checkout):
            raise PlatformUnreachable(f"{file.order.source} is not configured any more")
        platform.require(file.order)
        try:
            events = platform.ask(file.order, file.reference)
        except BadRequest as error:
            raise PlatformUnreachable(f"{file.order.source} answers what cannot be read ({error.detail})") from None
        stands = self.account(file)
        if 0 < stands.refunded < stands.paid:  # the owner said how much
            events = [event for event in events if event.incident != WITHOUT_SUM]
        return [
            msgspec.structs.replace(event, inquiry=None) if event.inquiry is Inquiry.ORDER else event
            for event in events
        ]

    def _anew(self, file: OrderFile) -> OrderFile:
        return self._store.orders.find(file.order.order_id) or file

    def state(self, file: OrderFile) -> OrderState:
        return state_of(file, self._history(file), self._clock())

    def account(self, file: OrderFile) -> Account:
        """What was paid for an order, and what of it went back."""
        return account(file.order, self._history(file))

    def _history(self, file: OrderFile) -> list[Entry]:
        return self._store.history([file.order.ledger_name])

    # ------------------------------------------------------------------------------------------------ writing
    def _step(self, file: OrderFile, event: PurchaseEvent) -> None:
        self._note(file, STEPS[event.event], event.note)
        if event.event is EventKind.PENDING:
            self._remind(file, FIRST_LOOK)

    def _note(self, file: OrderFile, step: Step, note: str | None = None, **more: Any) -> None:
        line = OrderLine(timestamp=self._clock(), order_id=file.order.order_id, step=step, note=note and note[:200])
        self._store.orders.note(msgspec.structs.replace(line, **more))

    def _remind(self, file: OrderFile, after: timedelta) -> None:
        watch(self._store, file.order.order_id, self._clock(), after)


def watch(store: Store, order_id: str, now: datetime, after: timedelta = FIRST_LOOK) -> None:
    """Have the outbox ask about an order, and go on by itself until there is an answer or the order is over."""
    name, wanted = f"order:{order_id}", now + after
    known = next((letter for letter in store.letterbox.waiting() if letter.id == name), None)
    if known is None or known.next_at is None or known.next_at > wanted:
        first = known.first_at if known else now
        letter = Letter(id=name, kind=ORDER_INQUIRY, at=now, first_at=first, next_at=wanted, about=order_id)
        store.letterbox.enqueue([msgspec.structs.replace(letter, request_id=trace.request_id.get())])


def _told(entry: Entry) -> Told:
    return Told(entry.outcome, entry.license_keys, entry)
