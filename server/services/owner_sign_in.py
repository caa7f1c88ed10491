"""The owner's sign-in: one password, slow on guesses, and sessions that end with it.

Each try is counted before the password is looked at, over all workers and restarts: for its network, and for all
networks together, in a small bucket that fills soon and a larger one that fills in a day, so that who goes on waits
longer and longer. A browser in which the owner signed in before has buckets of its own: no stranger can use those up,
so none locks him out.
"""

from __future__ import annotations

import hashlib
import logging
import secrets
import time
from collections.abc import Callable, Sequence
from datetime import datetime, timedelta

import msgspec
from werkzeug.security import check_password_hash

from server.domain.license import Moment
from server.domain.rate import Rate
from server.errors import StorageUnavailable, TooManyRequests
from server.services.limits import network_of
from server.services.seals import Seal
from server.services.sign_in import Sessions
from server.settings import Settings
from server.storage.base import Shelf
from server.storage.limits import LimitTable

log = logging.getLogger(__name__)

LASTS, IDLE, KNOWN_FOR = timedelta(hours=12), timedelta(hours=1), timedelta(days=365)
OWNER = "owner"
_MINUTE = 60_000_000_000
_DAY = 24 * 60 * _MINUTE
LONGEST = _DAY
# Of each subject two buckets; the numbers stand in the table, beside those of `limits.Kind`.
_ONE: Sequence[tuple[int, Rate]] = ((10, Rate(5, 5 * _MINUTE)), (11, Rate(20, _DAY)))
_ALL: Sequence[tuple[int, Rate]] = ((12, Rate(40, 10 * _MINUTE)), (13, Rate(300, _DAY)))


class KnownBrowser(msgspec.Struct, frozen=True):
    """A browser in which the owner signed in."""

    id: str
    until: Moment


class OwnerSignIn:
    def __init__(
        self,
        password_hash: str,
        settings: Settings,
        shelf: Shelf,
        table: LimitTable,
        clock: Callable[[], datetime],
        ticks: Callable[[], int] = time.monotonic_ns,
    ) -> None:
        """`ticks` is a clock that all processes share and nobody sets. Another password is another purpose: what was
        sealed under the one before, and what was guessed of it, is nothing any more."""
        self._hash, self._table, self._clock, self.ticks = password_hash, table, clock, ticks
        self._password = hashlib.sha256(password_hash.encode()).hexdigest()[:16]
        self._known = Seal(settings.secret_key, f"owner's browser {self._password}", KnownBrowser)
        self.sessions = Sessions(shelf, settings, clock, f"owner's session {self._password}", LASTS, IDLE)

    def is_right(self, password: str, address: str, browser: str = "") -> bool:
        """Whether this is the owner. Raises TooManyRequests where it was tried too often, without a look at it."""
        self._count(address, browser)
        found = check_password_hash(self._hash, password)
        log.log(logging.INFO if found else logging.WARNING, "dashboard: %s", "signed in" if found else "wrong password")
        return found

    def browser_cookie(self) -> str:
        """By which a browser in which the owner signs in is known from now on."""
        return self._known.close(KnownBrowser(secrets.token_urlsafe(12), self._clock() + KNOWN_FOR))

    def _count(self, address: str, browser: str) -> None:
        known = self._known.open(browser) if browser else None
        if known is not None and self._clock() < known.until:
            self._take(f"browser\0{known.id}", _ONE)
            return
        self._take(f"network\0{network_of(address)}", _ONE)
        self._take("everybody", _ALL)

    def _take(self, subject: str, buckets: Sequence[tuple[int, Rate]]) -> None:
        for kind, rate in buckets:
            try:
                allowance, _ = self._table.take(f"dashboard\0{self._password}\0{subject}", kind, rate, self.ticks())
            except (OSError, StorageUnavailable) as error:  # who cannot sign in cannot look what is wrong with the disk
                log.error("dashboard: tries to sign in are not counted: %s", error)
                return
            if not allowance.granted:
                wait = allowance.retry_after
                raise TooManyRequests(
                    f"too many tries to sign in: try again in {_told(wait)}", allowance.limit, allowance.reset, wait
                )


def _told(seconds: int) -> str:
    return f"{seconds} seconds" if seconds <= 90 else f"{-(-seconds // 60)} minutes"
