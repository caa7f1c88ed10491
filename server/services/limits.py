"""Who may ask how often. Buckets by client address and by key; smaller ones for what nobody honest does often.

The limits protect the service and never take it down: where the table cannot be used, everybody is let in, one line of
the log and /health say so, and it is tried again.
"""

from __future__ import annotations

import ipaddress
import logging
import time
from collections.abc import Callable
from functools import lru_cache

from server.domain import keys
from server.domain.rate import Allowance, Rate
from server.errors import StorageUnavailable, TooManyRequests
from server.services.seats import Seats
from server.storage.limits import LimitTable

log = logging.getLogger(__name__)

HARDER = 10  # of unknown keys and failed proofs a tenth of the limit is let through
_REST = 1_000_000_000  # nanoseconds in which a table that failed is left alone
_QUIET = 10_000_000_000  # nanoseconds between two lines of the log about refused requests
_WHAT = {
    "address": "requests from this address",
    "key": "requests for this license key",
    "unknown": "unknown license keys from this address",
    "webhook": "webhooks without proof from this address",
    "bearer": "wrong tokens from this address",
}


class RateLimits:
    def __init__(
        self, table: LimitTable, rate: Rate, seats: Seats, clock: Callable[[], int] = time.monotonic_ns
    ) -> None:
        """The clock is one that all processes of this machine share, and that nobody sets."""
        self.clock = clock
        self._table, self._seats = table, seats
        self._rates = {what: rate.part(1 if what in ("address", "key") else HARDER) for what in _WHAT}
        self._trouble: str | None = None
        self._rests_until: int | None = None
        self._told_at: int | None = None
        self._refused = 0
        self._hidden_by_proxy = False

    # ------------------------------------------------------------------------------------------------ the verbs
    def of_address(self, address: str) -> Allowance | None:
        """Count a request of a desktop app. None where nothing is known. Raises TooManyRequests, as all verbs do."""
        return self._take("address", network_of(address))

    def of_key(self, license_key: str, address: str, hardware_id: str | None) -> Allowance | None:
        """Count it for its key as well. An address that tried too many unknown keys learns nothing more about keys, be
        they right or wrong; only a device that holds a seat of the key is answered, so that one who guesses does not
        shut out the apps of his whole office."""
        allowance = self._take("key", keys.one_spelling(license_key))
        guessing = self._look("unknown", network_of(address))
        if guessing and not guessing.granted and not self._seats.has_seat(license_key, hardware_id):
            self._refuse("unknown", guessing)
        return allowance

    def of_failure(self, what: str, address: str) -> Allowance | None:
        """Count an unknown key ("unknown") or a failed proof ("webhook", "bearer"). Called when it has failed, so a
        proof that is good is taken whatever came from its address before."""
        return self._take(what, network_of(address))

    def trouble(self) -> str | None:
        """Why the limits are not kept just now. Tries the table, so that every worker knows."""
        self._guarded(lambda now: self._table.take("trouble", self._rates["address"], now))
        return self._trouble

    def notice(self) -> str | None:
        return _HIDDEN if self._hidden_by_proxy else None

    def saw_proxy(self, address: str) -> None:
        """A request came by a proxy that nobody told us to trust. (A stranger may claim that; a neighbour does not.)"""
        if not self._hidden_by_proxy and is_private(address):
            self._hidden_by_proxy = True
            log.warning(_HIDDEN)

    # ------------------------------------------------------------------------------------------------ the table
    def _take(self, what: str, subject: str) -> Allowance | None:
        rate = self._rates[what]
        allowance = self._guarded(lambda now: self._table.take(f"{what} {subject}", rate, now))
        if allowance and not allowance.granted:
            self._refuse(what, allowance)
        return allowance

    def _look(self, what: str, subject: str) -> Allowance | None:
        rate = self._rates[what]
        return self._guarded(lambda now: self._table.look(f"{what} {subject}", rate, now))

    def _refuse(self, what: str, allowance: Allowance) -> None:
        """A line for each refused request would be what a flood fills the disk with: now and then is enough."""
        self._refused += 1
        now = self.clock()
        if self._told_at is None or not self._told_at <= now < self._told_at + _QUIET:
            log.warning("too many %s", _WHAT[what], extra={"refused": self._refused})
            self._told_at, self._refused = now, 0
        wait = allowance.retry_after
        raise TooManyRequests(
            f"too many {_WHAT[what]}: try again in {wait} s", allowance.limit, allowance.reset, retry_after=wait
        )

    def _guarded(self, ask: Callable[[int], Allowance]) -> Allowance | None:
        now = self.clock()
        if self._rests_until is not None and now < self._rests_until <= now + _REST:
            return None
        try:
            allowance = ask(now)
        except (OSError, StorageUnavailable) as error:
            self._rests_until = now + _REST
            self._tell(f"{self._table.path.name} cannot be used, so no rate limit is kept: {_reason(error)}")
            return None
        if self._trouble is not None:
            self._rests_until = None
            self._tell(None)
        return allowance

    def _tell(self, trouble: str | None) -> None:
        if trouble != self._trouble:
            log.warning(trouble or "rate limits are kept again")
            self._trouble = trouble


_HIDDEN = "requests come by a proxy, but TRUSTED_PROXIES is 0: all clients share one rate limit"


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


@lru_cache(maxsize=256)
def is_private(address: str) -> bool:
    try:
        return ipaddress.ip_address(address).is_private
    except ValueError:
        return True  # a socket of this machine has none
