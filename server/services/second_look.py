"""A second look at a line of the ledger: what handling it again would do, in words beforehand, and then that.

A sale that waits is issued where its product is mapped by now; what a platform has still to say is asked; what was
ignored is read once more with today's parser and catalogue. All of it goes the way of every webhook, where an event
counts once: whoever asks twice, or for what is done, changes nothing.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from enum import StrEnum

import msgspec

from server.domain.purchase import Entry, EventKind, Outcome, PurchaseEvent
from server.errors import BadRequest, PlatformUnreachable, Unverified
from server.platforms import PLATFORMS, Platform
from server.platforms.base import Checkout
from server.services.backlog import Backlog
from server.services.catalogue_sanity import line_to_add
from server.services.fulfilment import Fulfilment, completes
from server.services.inquiries import Inquiries
from server.services.letter_writing import SHOPS
from server.services.settlement import Settlement
from server.storage.base import Store


class Way(StrEnum):
    """How a line is handled again."""

    NOTHING = "nothing"  # there is nothing to be done
    WAITS = "waits"  # nor here, before its product is mapped, or the owner says what and whose it is
    FULFIL = "fulfil"
    ASK = "ask"
    READ = "read"


class Prospect(msgspec.Struct, frozen=True, kw_only=True):
    """What would happen. `line` is what products.json lacks."""

    way: Way
    words: str
    line: str | None = None


class Handled(msgspec.Struct, frozen=True, kw_only=True):
    """What happened. `entry` is the line that tells it: a new one, or the newest of the event."""

    words: str
    entry: Entry
    is_news: bool


class SecondLook:
    def __init__(
        self,
        store: Store,
        platforms: Mapping[str, Platform],
        fulfilment: Fulfilment,
        inquiries: Inquiries,
        settlement: Settlement,
        backlog: Backlog,
    ) -> None:
        self._store, self._platforms = store, platforms
        self._fulfilment, self._inquiries, self._settlement = fulfilment, inquiries, settlement
        self._backlog = backlog

    def newest(self, entry: Entry) -> Entry:
        """What the ledger says last of this event."""
        return self._store.find_event(entry.identity) or entry

    # ------------------------------------------------------------------------------------------------ beforehand
    def foresee(self, entry: Entry) -> Prospect:
        newest = self.newest(entry)
        if newest.source not in PLATFORMS:
            return Prospect(way=Way.NOTHING, words="This is a decision of your own, and was carried out at once.")
        if self._backlog.waits(newest):
            return self._of_waiting(newest)
        if newest.inquiry is not None:
            return self._of_question(newest)
        if newest.outcome is Outcome.IGNORED or newest.is_withdrawn:
            return self._of_ignored(newest)
        words = "Nothing will change: it is done, and each event counts once, however often it is told."
        return Prospect(way=Way.NOTHING, words=words)

    def _of_waiting(self, entry: Entry) -> Prospect:
        event = entry.as_event()
        if entry.inquiry is not None:
            return self._of_question(entry)
        if not self._fulfilment.is_mapped(event):
            words = "Nothing will change before its product is mapped in products.json, or named for this sale alone."
            return Prospect(way=Way.WAITS, words=words, line=line_to_add(entry))
        if not entry.email:
            words = "Nothing will change before somebody says whose it is: the sale names no e-mail address."
            return Prospect(way=Way.WAITS, words=words)
        words = f"A license of {', '.join(self._sold(event))} will be issued, and its key sent to {entry.email}."
        if entry.event is EventKind.PENDING:
            words = f"It is held: {entry.note or 'it is not paid yet'}. If you go on all the same: {words}"
        return Prospect(way=Way.FULFIL, words=words)

    def _sold(self, event: PurchaseEvent) -> list[str]:
        parts = self._fulfilment.parts(event)
        return [f"{one.product.name}{f' ({one.quantity} times)' if one.quantity > 1 else ''}" for one in parts]

    def _of_question(self, entry: Entry) -> Prospect:
        shop = SHOPS[entry.source]
        if entry.source not in self._platforms:
            return Prospect(
                way=Way.NOTHING, words=f"{shop} has still to be asked about it, and is not set up any more."
            )
        words = f"{shop} will be asked about it now. What it answers is written down; a license may follow, or end."
        return Prospect(way=Way.ASK, words=words)

    def _of_ignored(self, entry: Entry) -> Prospect:
        if self._order_of(entry) is not None:
            words = (
                f"{SHOPS[entry.source]} will be asked how this order stands now, and what it answers is written down."
            )
            return Prospect(way=Way.ASK, words=words)
        try:
            news = [event for event in self._news(self._read(entry)) if not _is_made_of(entry, event)]
        except (BadRequest, Unverified) as error:
            words = f"Nothing will change: what was kept of it cannot be read as a notice ({error.detail})."
            return Prospect(way=Way.NOTHING, words=words)
        if not news:
            return Prospect(way=Way.NOTHING, words="Nothing will change: read today, it says the same as before.")
        told = ", ".join(str(event.event).replace("_", " ") for event in news)
        words = (
            f"Read today, it says: {told}. That will be written down as a newer line, with all that follows from it."
        )
        if any(event.inquiry for event in news):
            words += f" {SHOPS[entry.source]} will be asked whether it is so."
        return Prospect(way=Way.READ, words=words)

    def _order_of(self, entry: Entry) -> str | None:
        """The order of our own that its platform can be asked about."""
        platform = self._platforms.get(entry.source)
        if entry.order_id is None or not isinstance(platform, Checkout):
            return None
        return entry.order_id if self._store.orders.find(entry.order_id) else None

    def _read(self, entry: Entry) -> list[PurchaseEvent]:
        platform = self._platforms.get(entry.source)
        if platform is None:
            raise BadRequest(f"{entry.source} is not set up any more")
        return platform.read_again(bytes(entry.raw))

    def _news(self, events: Sequence[PurchaseEvent]) -> list[PurchaseEvent]:
        """Those that the ledger does not say already."""
        found = []
        for event in events:
            seen = self._store.find_event(event.identity)
            answered = msgspec.structs.replace(event, inquiry=None)
            if event.event is not EventKind.IGNORED and (seen is None or completes(answered, seen)):
                found.append(event)
        return found

    # ------------------------------------------------------------------------------------------------ done
    def handle(self, entry: Entry) -> Handled:
        """Raises PlatformUnreachable, Unprocessable, StorageUnavailable."""
        newest, prospect = self.newest(entry), self.foresee(entry)
        last, heard = self._last(), list[Entry]()
        if prospect.way is Way.FULFIL:
            self._backlog.complete_entry(newest)
        elif prospect.way is Way.ASK:
            self._ask(newest)
        elif prospect.way is Way.READ:
            heard = [told.entry for told in self._settlement.hear(self._read(newest)) if told.entry is not None]
        if prospect.way in (Way.NOTHING, Way.WAITS):
            return Handled(words=prospect.words, entry=newest, is_news=False)
        now = self.newest(entry)
        news = [one for one in (now, *heard, *self._store.history(newest.names())) if one.seq > last]
        if not news:
            return Handled(words="It was looked at again: it says nothing new.", entry=now, is_news=False)
        return Handled(words=_words(news[0]), entry=news[0], is_news=True)

    def _last(self) -> int:
        """The number of the ledger's last line."""
        return self._store.state().ledger_lines

    def _ask(self, entry: Entry) -> None:
        self._inquiries.wake()
        if (order_id := self._order_of(entry)) is not None:
            self._settlement.ask(order_id)
        elif entry.source in self._platforms:
            self._inquiries.settle(entry)
        else:
            raise PlatformUnreachable(f"{entry.source} is not configured any more")


def _is_made_of(entry: Entry, event: PurchaseEvent) -> bool:
    """Whether a line says of this very event why it gives nothing: its name is the event's with something behind it."""
    return entry.event_id.startswith(f"{event.event_id}:")


def _words(entry: Entry) -> str:
    count = len(entry.license_keys)
    licenses = f", {count} license{'' if count == 1 else 's'}" if count else ""
    return f"It is {entry.outcome} now, by line {entry.seq} of the ledger{licenses}."
