"""Signing in: links that are mailed, and the sessions that they are changed into.

A link is made when its letter is written and stands in no file of ours. It is good for an hour and for one use, over
all workers; so is the end of a session. Nothing else of either is kept anywhere: they are sealed words. All sessions of
an account end by one word on the shelf, which those begun since then know; no clock has a part in that. So do all links
and sessions by the shelf's own word, where it was damaged and nobody knows any more what was spent or ended.
"""

from __future__ import annotations

import hashlib
import secrets
from collections.abc import Callable
from datetime import datetime, timedelta

import msgspec

from server.domain.license import Moment
from server.services.accounts import account_of
from server.services.seals import Seal
from server.settings import Settings
from server.storage.base import Shelf

LINK_FOR = timedelta(hours=1)
SESSION_FOR = timedelta(days=14)
_RENEW_AFTER = timedelta(minutes=1)  # a renewed cookie for each request would be one too many


class Link(msgspec.Struct, frozen=True, omit_defaults=True):
    """`license` is the public id of the one that it leads to; "" leads to the account. `begun` is the shelf's word."""

    email: str
    until: Moment
    nonce: str
    license: str = ""
    begun: str = ""


class Session(msgspec.Struct, frozen=True, omit_defaults=True):
    """Who is signed in. `csrf_token` has to come back with whatever changes something; `since` is the account's word
    from the last time that all its sessions were ended, `begun` the shelf's. One that ends when it is not
    used lasts `until` then, and `at_most` however much it is used."""

    email: str
    until: Moment
    id: str
    csrf_token: str
    since: str = ""
    at_most: Moment | None = None
    begun: str = ""


class Links:
    def __init__(self, shelf: Shelf, settings: Settings, clock: Callable[[], datetime]) -> None:
        self._shelf, self._clock, self._base = shelf, clock, settings.app_url
        self._seal = Seal(settings.secret_key, "sign-in link", Link)

    def make(self, email: str, license: str = "") -> str:
        """The address of a fresh link."""
        now, nonce = self._clock(), secrets.token_urlsafe(9)
        link = Link(account_of(email), now + LINK_FOR, nonce, license, self._shelf.begun(now))
        return f"{self._base}/portal/sign-in/{self._seal.close(link)}"

    def read(self, token: str) -> Link | None:
        """The link, be it over or not; None where it is none of ours."""
        return self._seal.open(token)

    def is_open(self, link: Link) -> bool:
        now = self._clock()
        return now < link.until and _is_known(self._shelf, link, now) and self._shelf.get(_spent(link), now) is None

    def spend(self, link: Link) -> bool:
        """True for the first who spends it, while it lasts."""
        now = self._clock()
        if now >= link.until or not self._shelf.claim(_spent(link), link.until, now):
            return False
        return _is_known(self._shelf, link, now)  # after the claim, which may be what finds the shelf damaged


class Sessions:
    """Sessions of one kind of people: `purpose` keeps them apart from all others. They last `lasts`, and where `idle`
    is told not longer than that beyond their last use."""

    def __init__(
        self,
        shelf: Shelf,
        settings: Settings,
        clock: Callable[[], datetime],
        purpose: str = "session",
        lasts: timedelta = SESSION_FOR,
        idle: timedelta | None = None,
    ) -> None:
        self._shelf, self._clock, self._lasts, self._idle = shelf, clock, lasts, idle
        self._seal = Seal(settings.secret_key, purpose, Session)

    def begin(self, email: str) -> tuple[Session, str]:
        """A session under a name that nobody knew before, and the cookie that carries it."""
        now = self._clock()
        since = self._shelf.get(_all_ended(email), now) or ""
        end, idle = now + self._lasts, now + self._idle if self._idle else None
        id, csrf_token = secrets.token_urlsafe(16), secrets.token_urlsafe(16)
        known = self._shelf.begun(now)
        session = Session(email, min(end, idle or end), id, csrf_token, since, end if idle else None, known)
        return session, self._seal.close(session)

    def find(self, cookie: str) -> Session | None:
        session, now = self._seal.open(cookie), self._clock()
        if session is None or now >= session.until or self._shelf.get(_ended(session), now) is not None:
            return None
        if not _is_known(self._shelf, session, now):
            return None
        return session if self._shelf.get(_all_ended(session.email), now) in (None, session.since) else None

    def renewed(self, session: Session) -> tuple[Session, str] | None:
        """The same session, used just now, with its new cookie; None where it lasts no longer by that."""
        if self._idle is None or session.at_most is None:
            return None
        until = min(session.at_most, self._clock() + self._idle)
        if until - session.until < _RENEW_AFTER:
            return None
        session = msgspec.structs.replace(session, until=until)
        return session, self._seal.close(session)

    def end(self, session: Session) -> None:
        """For every worker; on disk when this returns."""
        self._shelf.put(_ended(session), "", session.at_most or session.until, self._clock())

    def seconds_left(self, session: Session) -> int:
        return int((session.until - self._clock()).total_seconds())

    def end_all(self, email: str) -> None:
        """Every session of the account, wherever it is. The word may go when none of them would last any more."""
        now = self._clock()
        self._shelf.put(_all_ended(email), secrets.token_urlsafe(9), now + SESSION_FOR, now)


def _is_known(shelf: Shelf, given: Link | Session, now: datetime) -> bool:
    """Whether the shelf would still know if this was spent or ended."""
    return shelf.begun(now) in ("", given.begun)


def _spent(link: Link) -> str:
    return f"link:{_digest(link.nonce)}"


def _ended(session: Session) -> str:
    return f"session:{_digest(session.id)}"


def _all_ended(email: str) -> str:
    return f"sessions:{_digest(account_of(email))}"


def _digest(text: str) -> str:
    """A name that tells nobody who reads the shelf what it stands for."""
    return hashlib.sha256(text.encode()).hexdigest()[:32]
