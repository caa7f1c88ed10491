"""Checkout: an order is placed, made known to its platform, and the buyer is sent there.

The order is on disk before the platform hears of it, and the platform's own word of it before the buyer does. Nothing
slow happens under a lock; a platform that is down costs an order only its beginning, which is tried again when the
buyer, his browser or a status request comes back.
"""

from __future__ import annotations

import logging
import threading
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from datetime import datetime, timedelta
from urllib.parse import urlsplit

import msgspec

from server.domain import money
from server.domain.order import OPEN, Order, OrderFile, OrderLine, OrderState, Step, new_number, new_order_id, state_of
from server.errors import (
    AlreadyBegun,
    Conflict,
    KeyledgerError,
    NotFound,
    PlatformOff,
    PlatformUnreachable,
    Unprocessable,
)
from server.platforms.base import Begun, Checkout, Form, Platform, Way
from server.services.letters import mail_address
from server.services.packages import Packages
from server.services.settlement import SOON, watch
from server.settings import Settings
from server.storage.base import Store

log = logging.getLogger(__name__)

_JUST_NOW = timedelta(minutes=2)


class Wish(msgspec.Struct, frozen=True, kw_only=True):
    """What a buyer asks for; `client` is his address."""

    package_ids: Sequence[str]
    email: str
    name: str
    provider: str
    client: str
    currency: str | None = None
    phone: str | None = None
    success_url: str | None = None
    cancel_url: str | None = None


class Started(msgspec.Struct, frozen=True):
    """An order, and how it is paid."""

    order: Order
    state: OrderState
    begun: Begun


class PlatformDown(PlatformUnreachable):
    """The platform could not be told of an order, which is kept."""

    def __init__(self, order: Order, detail: str) -> None:
        super().__init__(f"{detail}; order {order.number} is kept, and its payment can be begun again")
        self.order = order


class Desk:
    """Where orders are placed."""

    def __init__(
        self,
        store: Store,
        packages: Packages,
        platforms: Mapping[str, Platform],
        settings: Settings,
        clock: Callable[[], datetime],
        threads: bool,
    ) -> None:
        self._store, self._packages, self._platforms = store, packages, platforms
        self._settings, self._clock, self._threads = settings, clock, threads

    # ------------------------------------------------------------------------------------------------ placing
    def place(self, wish: Wish) -> Started:
        """Place an order and begin its payment. Raises PlatformOff, Unprocessable, naming the field; and
        PlatformDown, where the order is kept all the same."""
        order = self._order(wish)
        order = self._store.orders.place(order, order.placed_at)
        file = self._store.orders.find(order.order_id)
        assert file is not None
        return Started(order, OrderState.PENDING, self.begin(file, wish.client))

    def _order(self, wish: Wish) -> Order:
        checkout, now = self.checkout(wish.provider), self._clock()
        currency = self._currency(wish, checkout)
        items = self._packages.ordered(wish.package_ids, currency)
        amount = sum(item.price * item.quantity for item in items)
        if amount <= 0:
            raise Unprocessable("package_ids: there is nothing to be paid for")
        return Order(
            order_id=new_order_id(),
            number=new_number(now),
            source=wish.provider,
            merchant=checkout.merchant,
            email=_address(wish.email),
            name=_name(wish.name),
            items=items,
            amount=amount,
            currency=currency,
            placed_at=now,
            phone=self._phone(wish, checkout),
            is_test=checkout.is_test,
            success_url=self._allowed("success_url", wish.success_url),
            cancel_url=self._allowed("cancel_url", wish.cancel_url),
        )

    def checkout(self, provider: str) -> Checkout:
        """Raises PlatformOff."""
        platform = self._platforms.get(provider)
        if not isinstance(platform, Checkout):
            raise PlatformOff(f"payment_provider: {provider[:40]!r} is not configured here")
        return platform

    def rings(self, provider: str, phone: str | None) -> str | None:
        """The phone on which this platform would ask its owner to pay. Raises PlatformOff, and Unprocessable where it
        is no phone's number."""
        checkout = self.checkout(provider)
        return checkout.phone_of(phone or "") if checkout.asks_buyer else None

    def providers(self, currency: str | None = None) -> list[str]:
        """The platforms that can take a payment (in this currency)."""
        found = {name: one for name, one in self._platforms.items() if isinstance(one, Checkout)}
        return [name for name, one in found.items() if currency is None or currency in (one.currencies or (currency,))]

    def _currency(self, wish: Wish, checkout: Checkout) -> str:
        if wish.currency is None:
            return self._packages.common_currency(wish.package_ids, checkout.currency, checkout.currencies)
        code = money.currency_code(wish.currency)
        if checkout.currencies is not None and code not in checkout.currencies:
            allowed = ", ".join(sorted(checkout.currencies))
            raise Unprocessable(f"currency: {wish.provider} takes {allowed}, not {code}", "NO_PRICE")
        return code

    def _phone(self, wish: Wish, checkout: Checkout) -> str | None:
        if checkout.needs_phone:
            return checkout.phone_of(wish.phone or "")
        return " ".join((wish.phone or "").split()) or None

    def _allowed(self, field: str, url: str | None) -> str | None:
        """Only where the owner lets his own pages be: else anybody could send buyers anywhere in his name."""
        if not url:
            return None
        try:
            parts = urlsplit(url)
            origin = f"{parts.scheme}://{parts.netloc}"
            sound = (
                parts.scheme in ("http", "https") and url.isprintable() and "\\" not in url and "@" not in parts.netloc
            )
        except ValueError:
            sound, origin = False, ""
        own = urlsplit(self._settings.app_url)
        if not sound or origin not in (*self._settings.allowed_origins, f"{own.scheme}://{own.netloc}"):
            raise Unprocessable(f"{field}: its origin is not in ALLOWED_ORIGINS", "ORIGIN_NOT_ALLOWED")
        return url

    # ------------------------------------------------------------------------------------------------ beginning
    def begin(self, file: OrderFile, client: str) -> Begun:
        """How this order is paid; the platform is told of it where it was not. Raises PlatformDown, Unprocessable; and
        Conflict where it cannot be paid any more."""
        order, checkout = file.order, self.checkout(file.order.source)
        if not checkout.has(order):  # else the money would go to an account, or in a mode, that is not the order's
            raise _lost(order)
        way = self.way(order, client)
        if file.of(Step.BEGUN):
            return Begun(file.reference, file.payment_url, checkout.form(order, way))
        if checkout.asks_buyer:
            return self._ask_buyer(checkout, order, way)
        try:
            begun = checkout.begin(order, way)
        except AlreadyBegun as error:
            return self._begun_elsewhere(order, error, client)
        except PlatformUnreachable as error:
            raise PlatformDown(order, error.detail) from None
        watch(self._store, order.order_id, self._clock())  # before the line by which nobody begins it again
        self._note(order, Step.BEGUN, begun)
        return begun

    def _begun_elsewhere(self, order: Order, error: AlreadyBegun, client: str) -> Begun:
        """Another request begins it just now; or began it and was killed before it could write down where it is paid:
        then no buyer ever saw that page, and he is to order again."""
        file = self._store.orders.find(order.order_id)
        if file is not None and file.of(Step.BEGUN):
            return self.begin(file, client)
        if self._clock() < order.placed_at + _JUST_NOW:
            raise PlatformDown(order, error.detail) from None
        self._note(order, Step.BEGUN, Begun(error.reference))
        self._note(order, Step.CANCELLED)
        raise _lost(order)

    def _ask_buyer(self, checkout: Checkout, order: Order, way: Way) -> Begun:
        """The platform rings the buyer's phone and answers when he has agreed: up to two minutes. That it was asked is
        on disk before, since it must never be asked twice; what came of it is found out by inquiry."""
        watch(self._store, order.order_id, self._clock(), max(SOON, checkout.rest))
        if not self._note(order, Step.BEGUN):  # another request was first
            return Begun()

        def ask() -> None:
            with suppress(KeyledgerError):
                try:
                    checkout.begin(order, way)
                except Unprocessable as error:
                    self._note(order, Step.FAILED, note=error.detail)  # nothing was asked of him
                    return
                watch(self._store, order.order_id, self._clock(), SOON)  # he agreed; whether it is paid is asked

        if self._threads:
            threading.Thread(target=ask, name=f"ask buyer of {order.number}", daemon=True).start()
        else:
            ask()
        return Begun()

    def way(self, order: Order, client: str) -> Way:
        app = self._settings.app_url
        return Way(
            notify=f"{app}/api/v1/webhooks/{order.source}",
            back=f"{app}/pay/{order.order_id}/back",
            cancelled=f"{app}/pay/{order.order_id}/cancelled",
            client=client,
            now=self._clock(),
        )

    def form(self, file: OrderFile, client: str) -> Form | None:
        return self.checkout(file.order.source).form(file.order, self.way(file.order, client))

    def _note(self, order: Order, step: Step, begun: Begun | None = None, note: str | None = None) -> bool:
        """Whether it was news."""
        line = OrderLine(timestamp=self._clock(), order_id=order.order_id, step=step, note=note and note[:200])
        if begun is not None:
            line.reference, line.payment_url = begun.reference, begun.payment_url
        return self._store.orders.note(line)

    # ------------------------------------------------------------------------------------------------ looking
    def get(self, name: str) -> OrderFile:
        """An order by its id. Raises NotFound."""
        file = self._store.orders.find(name) if len(name) == 20 else None
        if file is None:
            raise NotFound("there is no such order")
        return file

    def state(self, file: OrderFile) -> OrderState:
        return state_of(file, self._store.history([file.order.ledger_name]), self._clock())

    def again(self, file: OrderFile, client: str) -> Started:
        """The same packages ordered once more, at today's prices, after a payment that failed or was given up. Raises
        Conflict where the first one is still under way, or paid."""
        order = file.order
        if (state := self.state(file)) in OPEN or state not in (OrderState.FAILED, OrderState.CANCELLED):
            raise Conflict(f"order {order.number} is {state}: it needs no second one")
        return self.place(
            Wish(
                package_ids=[i.product_id for i in order.items for _ in range(i.quantity)],
                email=order.email,
                name=order.name,
                provider=order.source,
                client=client,
                currency=order.currency,
                phone=order.phone,
                success_url=order.success_url,
                cancel_url=order.cancel_url,
            )
        )


def _name(name: str) -> str:
    """Raises Unprocessable for one of blanks alone."""
    text = " ".join(name.split())
    if not text:
        raise Unprocessable("name: the buyer's name is needed")
    return text


def _lost(order: Order) -> Conflict:
    return Conflict(f"order {order.number} cannot be paid any more: order again", "ORDER_LOST")


def _address(email: str) -> str:
    """An address that the key can be mailed to. Raises Unprocessable."""
    text = email.strip()
    try:
        mail_address(text)
    except KeyledgerError as error:
        raise Unprocessable(f"email: {error.detail}") from None
    return text
