"""The store: what the services need of the books, whoever keeps them.

Facts run one way: the ledger's and the device log's lines are the truth, licenses are derived from them. One contract
test holds for every store. All writing happens in a `transaction`; reading needs none and always sees what any process
was told was stored.
"""

from __future__ import annotations

import functools
import random
import time
from abc import ABC, abstractmethod
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager
from datetime import datetime
from typing import ParamSpec, TypeVar

import msgspec

from server.domain.license import DeviceLine, License, Moment, Wanted
from server.domain.order import Order, OrderFile, OrderLine
from server.domain.purchase import Entry
from server.errors import Contended
from server.storage.log import START, Mark

T = TypeVar("T")
P = ParamSpec("P")
R = TypeVar("R")
_TRIES = 12
Progress = Callable[[int, int], None]  # how much is done, of how much


def no_progress(done: int, total: int) -> None:
    """For callers that nobody watches."""


def retried(work: Callable[P, R]) -> Callable[P, R]:
    """For what is one transaction: again where the store put another one before it, since nothing of it was written."""

    @functools.wraps(work)
    def tried(*given: P.args, **named: P.kwargs) -> R:
        for attempt in range(_TRIES):
            try:
                return work(*given, **named)
            except Contended:
                time.sleep(random.uniform(0, 0.002 * 2 ** min(attempt, 6)))  # noqa: S311  # so that two part
        return work(*given, **named)

    return tried


class Finding(msgspec.Struct, frozen=True):
    """What an inspection found, and where. A note is worth knowing, but nothing is wrong."""

    kind: str
    where: str
    detail: str
    is_note: bool = False


class StoreState(msgspec.Struct, frozen=True, kw_only=True):
    """How the store is, for /health and the owner: `trouble` says why writes fail, None when they do not.

    `view` says why licenses.json is behind, `behind` by how many lines it is; `notices` are what had to be mended since
    the start.
    """

    kind: str
    trouble: str | None
    licenses: int
    ledger_lines: int
    view: str | None = None
    behind: int = 0
    notices: tuple[str, ...] = ()


class Found(msgspec.Struct, frozen=True, kw_only=True):
    """A page of what was looked for, and how many there are, on this page and elsewhere; None where that are so many
    that a store may leave them uncounted."""

    licenses: Sequence[tuple[str, License]]
    total: int | None


class Letter(msgspec.Struct, kw_only=True, omit_defaults=True):
    """A line of the outbox: one letter's newest state. `id` is the ledger line and kind that owe it, or its own.

    `state` is queued, sending, sent, failed (tried again at `next_at`), dead (given up), or dropped (overtaken by what
    happened since). `seq` and `about` are the ledger line that owes it and its event's identity, `request_id` is the
    request that it goes back to, for logs; `text` is what an alert says. A line without a kind is a note of the
    sender's own; the one called `covers` tells up to where the ledger was looked through for letters that are owed.
    """

    id: str
    kind: str = ""
    to: str = ""
    state: str = "queued"
    at: Moment | None = None
    first_at: Moment | None = None
    next_at: Moment | None = None
    attempts: int = 0
    error: str | None = None
    license_key: str | None = None
    seq: int = 0
    about: str | None = None
    text: str | None = None
    request_id: str | None = None
    covers: Mark | None = None


class LetterBox(ABC):
    """Where letters and their attempts are kept. Only the holder of `turn` sends and writes; anyone may enqueue.

    Every verb but `turn` raises StorageUnavailable where the box cannot be read or written.
    """

    @abstractmethod
    def turn(self, wait: bool = False) -> AbstractContextManager[None]:
        """The right to send, for one process at a time. Raises StorageUnavailable when another has it."""

    @abstractmethod
    def waiting(self) -> Sequence[Letter]:
        """The letters that are queued, sending or failed, in the order they were first written."""

    @abstractmethod
    def dead(self) -> Sequence[Letter]:
        """The letters that were given up."""

    @abstractmethod
    def counts(self, but: Collection[str] = ()) -> dict[str, int]:
        """How many letters are in each state, among those that are still kept, `but` those of these kinds."""

    @abstractmethod
    def letters(self) -> Sequence[Letter]:
        """The newest state of every letter that is still kept; reads the whole box."""

    @abstractmethod
    def newest(self, state: str | None = None, skip: int = 0) -> Iterator[Letter]:
        """Those of them that are in this state (or all), the one that was written last first, without the first so
        many; whoever stops early has read little."""

    @abstractmethod
    def named(self, ids: Collection[str]) -> dict[str, Letter]:
        """Those of them that have these ids."""

    @abstractmethod
    def letters_about(self, keys: Collection[str]) -> Sequence[Letter]:
        """Those of them that speak of one of these license keys, in the order in which they were first written."""

    @abstractmethod
    def note(self, name: str) -> Letter | None:
        """The newest note of this name."""

    @abstractmethod
    def write(self, letters: Sequence[Letter], durably: bool = True) -> None:
        """Append these states, for the holder of the turn."""

    @abstractmethod
    def enqueue(self, letters: Sequence[Letter]) -> None:
        """Append these states, whoever has the turn; on disk when this returns."""


class OrderBook(ABC):
    """Where the store front's orders are kept, line by line. Every verb raises StorageUnavailable where the book cannot
    be read or written."""

    @abstractmethod
    def place(self, order: Order, now: datetime) -> Order:
        """Write a new order, under another number where another one has its own; on disk when this returns."""

    @abstractmethod
    def alone(self) -> AbstractContextManager[None]:
        """The right to decide by what the book says and to write it down, for one process at a time."""

    @abstractmethod
    def note(self, line: OrderLine) -> bool:
        """Write a line of an order unless it says nothing new; on disk when this returns."""

    @abstractmethod
    def find(self, name: str) -> OrderFile | None:
        """An order by its id or its number."""

    @abstractmethod
    def of_email(self, email: str) -> list[OrderFile]:
        """The orders of this address, in whatever case it is written; the newest first."""

    @abstractmethod
    def placed(
        self,
        source: str | None,
        since: datetime,
        after: str | None = None,
        until: datetime | None = None,
        newest_first: bool = False,
    ) -> Iterator[OrderFile]:
        """The orders of a platform (or of all) that were placed from `since` on, up to `until`, the oldest first or the
        newest; in that direction behind the order `after`."""

    @abstractmethod
    def suspicious(self, since: datetime) -> int:
        """Of how many orders something was told since then that was not believed."""


BEGUN = "begun anew"


class Shelf(ABC):
    """Small things that all workers share and that end by themselves: tokens of platforms, spent links, sessions that
    were signed out of. Every verb raises StorageUnavailable."""

    @abstractmethod
    def get(self, name: str, now: datetime) -> str | None:
        """What was put there, unless its time is over."""

    @abstractmethod
    def put(self, name: str, value: str, until: datetime, now: datetime) -> None:
        """On disk when this returns."""

    @abstractmethod
    def claim(self, name: str, until: datetime, now: datetime) -> bool:
        """True for the first who claims this name, of all processes, until its time is over."""

    def begun(self, now: datetime) -> str:
        """The word since when it knows everything; "" where it lost nothing. What was given out under another word may
        have been spent or ended, and nobody knows."""
        return self.get(BEGUN, now) or ""


class Transaction(ABC):
    """The right to write, with everything read that was written before."""

    @abstractmethod
    def append(self, entries: Sequence[Entry], licenses: Mapping[str, License] | None = None) -> None:
        """Add ledger lines, numbered and chained here; on disk when the transaction has ended.

        `licenses` are those of the lines' purchase where the writer has just folded them: it is not done twice then.
        Raises StorageUnavailable.
        """

    @abstractmethod
    def append_devices(self, lines: Sequence[DeviceLine]) -> None:
        """Add lines to the device log; on disk when the transaction has ended. Raises StorageUnavailable."""

    @abstractmethod
    def rest_on_disk(self) -> None:
        """Make sure that all that was read is on disk, before an answer rests on it."""


class Store(ABC):
    letterbox: LetterBox
    orders: OrderBook
    shelf: Shelf

    @abstractmethod
    def transaction(self) -> AbstractContextManager[Transaction]:
        """Alone over all processes and threads. Raises StorageUnavailable, and then nothing was promised; Contended,
        and nothing was written, where `retried` may run the whole of it once more."""

    # ------------------------------------------------------------------------------------------------ reading
    @abstractmethod
    def find_license(self, key: str) -> License | None:
        """The license of exactly this key."""

    @abstractmethod
    def find_by_id(self, license_id_text: str) -> tuple[str, License] | None:
        """Key and license of a public id (`lic_…`)."""

    @abstractmethod
    def licenses(self, after: str = "") -> Iterator[tuple[str, License]]:
        """All licenses with their keys in the order of their public ids, from the one behind `after`."""

    @abstractmethod
    def licenses_of(self, email: str) -> list[tuple[str, License]]:
        """The licenses that belong to this address now, in whatever case it is written, in the order in which they came
        to be spoken of. Raises StorageUnavailable where the books cannot be read."""

    @abstractmethod
    def purchases_of(self, email: str) -> list[list[Entry]]:
        """The entries of each purchase in which this address was ever named, in whatever case it is written. Raises
        StorageUnavailable where the books cannot be read."""

    @abstractmethod
    def find_licenses(self, wanted: Wanted, now: datetime, after: str = "", limit: int = 50) -> Found:
        """What is wanted, the newest first, from the license behind the one with the public id `after` on."""

    @abstractmethod
    def device_lines(self, key: str, look: bool = True) -> list[DeviceLine]:
        """The device log's lines of one license, in order; without `look` as of the look before, for a caller that has
        just found the license."""

    @abstractmethod
    def history(self, names: Iterable[str]) -> list[Entry]:
        """The entries of the purchase that these names speak of, and of all that they are linked to, in order."""

    @abstractmethod
    def told_of(self, email: str) -> list[Entry]:
        """The entries that name this address, in whatever case it is written, in order. Raises StorageUnavailable."""

    @abstractmethod
    def find_event(self, identity: str) -> Entry | None:
        """The newest entry of an event; None when it was never heard of."""

    @abstractmethod
    def scan(self, kind: type[T], newest_first: bool = False, below: int | None = None) -> Iterator[T]:
        """The ledger's lines as a narrower type, those before the `seq` `below`; unchecked, for statistics and lists.
        Needs nothing to be opened."""

    @abstractmethod
    def scan_devices(self) -> Iterator[DeviceLine]:
        """The device log's lines, the newest first, unchecked, for statistics."""

    @abstractmethod
    def inspect(self, progress: Progress = no_progress) -> Iterator[Finding]:
        """Check all that is stored, line by line, and what is derived against it. Writes nothing, opens nothing."""

    @abstractmethod
    def entries(self, after: Mark = START) -> Iterator[tuple[Mark, list[Entry]]]:
        """The ledger in order, in batches with the mark behind each. Raises DamagedFile, naming the line."""

    # ------------------------------------------------------------------------------------------------ the rest
    @abstractmethod
    def count_usage(self, key: str, now: datetime, times: int = 1) -> None:
        """So many validations; written later, at most about a second of them may be lost in a crash."""

    @abstractmethod
    def tidy(self, force: bool = False) -> float | None:
        """Do what is due after the answers went out (rewrite the view, write usage).

        Returns in how many seconds to call again, None when nothing is left to do.
        """

    @abstractmethod
    def state(self, probe: bool = False) -> StoreState:
        """How the store is; `probe` tries to write."""

    def sizes(self) -> dict[str, int]:
        """How many bytes each part of the books takes, by its name; empty where the store cannot tell."""
        return {}

    @abstractmethod
    def rebuild(self) -> int:
        """Make everything that is derived anew from the logs; returns the number of licenses."""
