"""Who may ask how often. Buckets by client address and by key; smaller ones for what nobody honest does often.

The limits protect the service and never take it down: where the table cannot be used, everybody is let in, one line of
the log and /health say so, and it is tried again.
"""

from __future__ import annotations

import ipaddress
import logging
import time
from collections.abc import Callable
from contextlib import suppress
from enum import IntEnum
from functools import lru_cache

from server.domain import keys
from server.domain.rate import Allowance, Rate
from server.errors import StorageUnavailable, TooManyRequests
from server.services.seats import Seats
from server.storage.limits import LimitTable

log = logging.getLogger(__name__)


class Kind(IntEnum):
    """A subject's buckets; the numbers stand in the table."""

    ADDRESS = 1
    KEY = 2
    UNKNOWN = 3
    WEBHOOK = 4
    TOKEN = 5
    SIGN_IN = 6
    MAILBOX = 7
    ORDER = 8
    PHONE = 9


# which part of the limit is let through of what is mostly guessing, or makes us write to others
HARDER = {Kind.UNKNOWN: 4, Kind.TOKEN: 4, Kind.SIGN_IN: 12, Kind.MAILBOX: 24, Kind.ORDER: 4, Kind.PHONE: 24}
# over how many times the period: 120/minute lets five letters an hour out to one address, and rings a phone as often
SLOWER = {Kind.MAILBOX: 60, Kind.PHONE: 60}
_WHAT = {
    Kind.ADDRESS: "requests from this address",
    Kind.KEY: "requests for this license key",
    Kind.UNKNOWN: "unknown license keys from this address",
    Kind.WEBHOOK: "webhooks without proof from this address",
    Kind.TOKEN: "wrong tokens from this address",
    Kind.SIGN_IN: "requests for letters from this address",
    Kind.MAILBOX: "letters to this e-mail address",
    Kind.ORDER: "orders from this address",
    Kind.PHONE: "payments asked of this mobile number",
}
_REST = 1_000_000_000  # nanoseconds in which a table that failed is left alone
_QUIET = 10_000_000_000  # nanoseconds between two lines of the log about refused requests
_HIDDEN = "requests come by a proxy, but TRUSTED_PROXIES is 0: all clients share one rate limit"


class RateLimits:
    def __init__(
        self, table: LimitTable, rate: Rate, seats: Seats, clock: Callable[[], int] = time.monotonic_ns
    ) -> None:
        """The clock is one that all processes of this machine share, and that nobody sets."""
        self.clock, self.seats = clock, seats
        self._table = table
        self._rates = {kind: rate.part(HARDER.get(kind, 1), SLOWER.get(kind, 1)) for kind in Kind}
        self._trouble: str | None = None
        self._rests_until: int | None = None
        self._told_at: int | None = None
        self._refused = 0
        self._is_behind_proxy = False

    def visit(self, address: str) -> Visit:
        """A request of a desktop app, counted for its address. Raises TooManyRequests."""
        network = network_of(address)
        allowance, guessed = self.take(Kind.ADDRESS, network, beside=Kind.UNKNOWN)
        return Visit(self, network, allowance, guessed)

    def failed_proof(self, kind: Kind, address: str) -> None:
        """Count it. Called when it has failed, so that a good one is taken whatever came from its address before.
        Raises TooManyRequests."""
        self.take(kind, network_of(address))

    def asks_for_letter(self, address: str, account: str) -> None:
        """Count a request for a letter to this account, whether it exists or not. Raises TooManyRequests."""
        self.take(Kind.SIGN_IN, network_of(address))
        self.take(Kind.MAILBOX, f"mailbox\0{account}")

    def places_order(self, address: str, phone: str | None) -> None:
        """Count an order, which stays in the books and is made known to a platform; where that rings a phone, count it
        for the phone, too. Raises TooManyRequests."""
        self.take(Kind.ORDER, network_of(address))
        if phone is not None:
            self.take(Kind.PHONE, f"phone\0{phone}")

    def guesses(self, guessed: int) -> Allowance | None:
        """The refusal for an address whose bucket of unknown keys, full again at this moment, is empty now."""
        allowance = self._rates[Kind.UNKNOWN].take(guessed, self.clock())
        return None if allowance.granted else allowance

    def take(self, kind: Kind, subject: str, beside: int = 0) -> tuple[Allowance | None, int]:
        """Nothing, and 0, while the table cannot be used. Raises TooManyRequests."""
        now = self.clock()
        if self._rests_until is not None and now < self._rests_until <= now + _REST:
            return None, 0
        try:
            allowance, other = self._table.take(subject, kind, self._rates[kind], now, beside)
        except (OSError, StorageUnavailable) as error:
            self._rests_until = now + _REST
            self._tell(f"{self._table.path.name} cannot be used, so no rate limit is kept: {_reason(error)}")
            return None, 0
        if self._trouble is not None:
            self._rests_until = None
            self._tell(None)
        if not allowance.granted:
            self.refuse(kind, allowance)
        return allowance, other

    def refuse(self, kind: Kind, allowance: Allowance) -> None:
        """A line for each refused request would be what a flood fills the disk with: now and then is enough."""
        self._refused += 1
        now = self.clock()
        if self._told_at is None or not self._told_at <= now < self._told_at + _QUIET:
            log.warning("too many %s", _WHAT[kind], extra={"refused": self._refused})
            self._told_at, self._refused = now, 0
        wait = allowance.retry_after
        raise TooManyRequests(
            f"too many {_WHAT[kind]}: try again in {wait} s", allowance.limit, allowance.reset, retry_after=wait
        )

    # ------------------------------------------------------------------------------------------------ for the owner
    def trouble(self) -> str | None:
        """Why the limits are not kept just now. Tries the table, so that every worker knows."""
        with suppress(TooManyRequests):
            self.take(Kind.ADDRESS, "/health")
        return self._trouble

    def notice(self) -> str | None:
        return _HIDDEN if self._is_behind_proxy else None

    def saw_proxy(self, address: str) -> None:
        """A request came by a proxy that nobody told us to trust. (A stranger may claim that; a neighbour does not.)"""
        if not self._is_behind_proxy and is_private(address):
            self._is_behind_proxy = True
            log.warning(_HIDDEN)

    def _tell(self, trouble: str | None) -> None:
        if trouble != self._trouble:
            log.warning(trouble or "rate limits are kept again")
            self._trouble = trouble


class Visit:
    """One request of a desktop app. `allowance` is that of the bucket that is nearest to its end, for the answer."""

    __slots__ = ("_guessed", "_limits", "_network", "allowance")

    def __init__(self, limits: RateLimits, network: str, allowance: Allowance | None, guessed: int) -> None:
        self._limits, self._network, self._guessed = limits, network, guessed
        self.allowance = allowance

    def asks_for(self, license_key: str, hardware_id: str | None) -> None:
        """Count it for its key as well. An address that tried too many unknown keys learns nothing more about keys, be
        they right or wrong; only a device that holds a seat of the key is answered, so that one who guesses does not
        shut out the apps of his whole office. Raises TooManyRequests, before anything is bound."""
        self._tighten(self._limits.take(Kind.KEY, keys.one_spelling(license_key))[0])
        refusal = self._limits.guesses(self._guessed) if self._guessed else None
        if refusal and not self._limits.seats.has_seat(license_key, hardware_id):
            self._limits.refuse(Kind.UNKNOWN, refusal)

    def found_nothing(self) -> None:
        """Count a key that nobody holds. Raises TooManyRequests in place of that answer."""
        self._tighten(self._limits.take(Kind.UNKNOWN, self._network)[0])

    def _tighten(self, allowance: Allowance | None) -> None:
        mine = self.allowance
        if allowance is not None and (mine is None or allowance.remaining < mine.remaining):
            self.allowance = allowance


def _reason(error: Exception) -> str:
    return error.detail if isinstance(error, StorageUnavailable) else getattr(error, "strerror", None) or str(error)


@lru_cache(maxsize=4096)
def network_of(address: str) -> str:
    """Whose bucket an address is in: an IPv4 address its own, an IPv6 address that of its /64, which is the least that
    a provider gives to one customer. A port, which some proxies add, does not count."""
    host = address.strip()
    if host.startswith("["):
        host = host[1:].partition("]")[0]
    elif host.count(":") == 1:
        host = host.partition(":")[0]
    try:
        found = ipaddress.ip_address(host.partition("%")[0])
    except ValueError:
        return address
    if isinstance(found, ipaddress.IPv4Address):
        return str(found)
    if found.ipv4_mapped:
        return str(found.ipv4_mapped)
    return str(ipaddress.IPv6Network((found, 64), strict=False))


def is_private(address: str) -> bool:
    try:
        return ipaddress.ip_address(address).is_private
    except ValueError:
        return True  # a socket of this machine has none
