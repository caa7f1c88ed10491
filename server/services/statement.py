"""A platform's own record of what was paid and what went back, read from its API page by page.

What was read is kept in the data folder until the reconciliation is done, so that an interruption (or a limit on how
often one may ask) costs no page twice.
"""

from __future__ import annotations

import os
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from datetime import datetime, timedelta
from pathlib import Path
from typing import Protocol, TypeVar

import msgspec

from server.domain.purchase import PurchaseEvent
from server.errors import Conflict, PlatformUnreachable, StorageUnavailable
from server.platforms.base import Page
from server.platforms.web_client import RateLimited
from server.storage import durable
from server.storage.base import Progress, no_progress

KEPT_FOR = timedelta(hours=12)
TRIES, LONGEST_WAIT = 6, 300.0

T = TypeVar("T")
Sleep = Callable[[float], None]


class Paged(Protocol):
    """Whoever tells a platform's record page by page (see Platform.page)."""

    @property
    def name(self) -> str: ...

    def page(self, since: datetime, at: str | None) -> Page: ...


class _Spool(msgspec.Struct):
    """The first line of what is kept: what was asked for, and when that began."""

    platform: str
    since: datetime
    begun: datetime


class _Kept(msgspec.Struct):
    """A page, the answer to `at`."""

    at: str | None
    events: tuple[PurchaseEvent, ...]
    next: str | None
    unreadable: int = 0


class Statement:
    """The record of one platform since a moment, by its API. `begun` is when it was asked for: what came later may be
    missing in it."""

    def __init__(self, platform: Paged, folder: Path, clock: Callable[[], datetime], sleep: Sleep = time.sleep) -> None:
        self._platform, self._clock, self._sleep = platform, clock, sleep
        self._path = folder / f"reconcile-{platform.name}.jsonl"
        self.notes = folder / f"reconcile-{platform.name}.notes.jsonl"  # of who reconciles this reading in steps
        self._lock = durable.Lock(folder / f"reconcile-{platform.name}.lock", patience=0)
        self.begun = clock()
        self.events: list[PurchaseEvent] = []
        self.unreadable = self.pages = 0
        self.resumed = 0  # pages that an earlier run had read

    @contextmanager
    def alone(self) -> Iterator[None]:
        """Only one reconciliation of a platform at a time: two would mix their pages. Raises Conflict."""
        try:
            with self._lock.held(wait=False):
                yield
        except StorageUnavailable as error:
            if "is held" not in error.detail:
                raise
            raise Conflict(f"another reconciliation of {self._platform.name} is running") from None

    def read(self, since: datetime, progress: Progress = no_progress) -> list[PurchaseEvent]:
        """All of it. Raises PlatformUnreachable after some patience; what was read by then is kept."""
        for pages in self.reading(since):
            progress(pages, 0)
        return self.events

    def reading(self, since: datetime) -> Iterator[int]:
        """Page by page, each kept before the next: how many there are. Behind the last one `events` are whole."""
        pages = self._kept(since)
        self.resumed = len(pages)
        if not pages:
            self._begin(_Spool(self._platform.name, since, self.begun))
        while not pages or pages[-1].next is not None:
            pages.append(self._page(since, pages[-1].next if pages else None))
            append_line(self._path, pages[-1])
            yield len(pages)
        self.pages = len(pages)
        self.unreadable = sum(page.unreadable for page in pages)
        self.events = [event for page in pages for event in page.events]

    def forget(self) -> None:
        for path in (self._path, self.notes):
            path.unlink(missing_ok=True)

    def _page(self, since: datetime, at: str | None) -> _Kept:
        page = patiently(lambda: self._platform.page(since, at), self._sleep)
        if page.next is not None and page.next == at:
            raise PlatformUnreachable(f"{self._platform.name} names the same page as the next one")
        return _Kept(at, page.events, page.next, page.unreadable)

    # ------------------------------------------------------------------------------------------------ what is kept
    def _kept(self, since: datetime) -> list[_Kept]:
        """The pages of an interrupted reading of the same; a line that was cut ends them, and is cut off."""
        try:
            first, *rest = self._path.read_bytes().split(b"\n")
            spool = msgspec.json.decode(first, type=_Spool)
        except (OSError, msgspec.MsgspecError):
            return []
        age = self.begun - spool.begun
        if (spool.platform, spool.since) != (self._platform.name, since) or not timedelta(0) <= age <= KEPT_FOR:
            return []
        pages = _sound(rest[:-1])  # what follows the last newline was cut
        if pages:
            os.truncate(self._path, sum(len(line) + 1 for line in (first, *rest[: len(pages)])))
            self.begun = spool.begun
        return pages

    def _begin(self, spool: _Spool) -> None:
        self.forget()
        append_line(self._path, spool)


def append_line(path: Path, line: msgspec.Struct) -> None:
    """Customers are named in it: it is the owner's alone. Raises StorageUnavailable."""
    flags = os.O_WRONLY | os.O_CREAT | os.O_APPEND
    try:
        with open(os.open(path, flags, durable.PRIVATE_FILE), "ab") as file:
            file.write(msgspec.json.encode(line) + b"\n")
    except OSError as error:
        raise StorageUnavailable(f"{path.name} cannot be written: {error.strerror or error}") from error


def _sound(lines: list[bytes]) -> list[_Kept]:
    """The pages up to the first line that was cut, or that does not go on where the one before it ended."""
    pages: list[_Kept] = []
    for line in lines:
        try:
            page = msgspec.json.decode(line, type=_Kept)
        except msgspec.MsgspecError:
            break
        if page.at != (pages[-1].next if pages else None):
            break
        pages.append(page)
    return pages


def patiently(ask: Callable[[], T], sleep: Sleep = time.sleep) -> T:
    """The answer of a platform that may be busy or out of order: asked a few times, and never earlier than it wants.
    Raises PlatformUnreachable."""
    for tried in range(TRIES):
        is_last = tried == TRIES - 1
        try:
            return ask()
        except RateLimited as error:
            wait = max(error.wait * 2**tried, float(tried))
            if is_last or error.wait > LONGEST_WAIT:
                raise PlatformUnreachable(_later(error)) from None
        except PlatformUnreachable as error:
            if is_last or error.is_refused:
                raise
            wait = 2.0**tried
        sleep(min(wait, LONGEST_WAIT))
    raise AssertionError("the last try answers or raises")


def _later(error: RateLimited) -> str:
    minutes = max(1, round(error.wait / 60))
    return f"{error.detail}: start again in {minutes} minute{'s' if minutes > 1 else ''}, it goes on where it stopped"
