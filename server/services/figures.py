"""Figures of the last 30 days, and the sales that wait: what each worker keeps in memory for the dashboard.

The ledger is read once, or taken up from where another worker kept it (kept_figures.py); from then on only what was
appended. A charge is added to its day as it comes. Where a line says that money went back, or takes another line's
place, the charges that it speaks of are taken off and added once more.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterator, Sequence
from datetime import date, datetime, timedelta
from functools import lru_cache
from itertools import takewhile
from operator import attrgetter
from pathlib import Path

import msgspec

from server.domain import money
from server.domain.license import DeviceEvent
from server.domain.money import amount
from server.domain.purchase import EventKind
from server.services.kept_figures import Charge, Kept, KeptFile, Took
from server.services.revenue import Line, Waiting, is_charge
from server.services.reversals import ALL, Reversals
from server.storage.base import Store

_KEEP_EVERY = 60.0  # seconds between two looks whether the file is behind
DAYS = 30
WINDOWS = (1, 7, DAYS)
_RENEWAL, _DISPUTE = str(EventKind.RENEWAL), str(EventKind.DISPUTE)
_REFUNDS = frozenset({str(EventKind.REFUND), str(EventKind.PARTIAL_REFUND)})
_COUNTED = ("sales", "renewals", "refunds", "disputes", "activations")


class Sum(msgspec.Struct, frozen=True, kw_only=True):
    """What some days took in one currency on one platform. `back` is what was ever taken back of these charges."""

    purchases: int
    gross: str
    back: str
    net: str
    net_minor: int


class Currency(msgspec.Struct, frozen=True, kw_only=True):
    """`by_day` has each platform's days, the oldest first; `by_window` its sums, and `together` those of all."""

    code: str
    platforms: Sequence[str]
    days: Sequence[date]
    by_day: dict[str, Sequence[Sum]]
    by_window: dict[int, dict[str, Sum]]
    together: dict[int, Sum]


class Told(msgspec.Struct, frozen=True, kw_only=True):
    currencies: Sequence[Currency]
    counts: dict[str, dict[int, int]]


class Figures:
    def __init__(self, store: Store, clock: Callable[[], datetime], file: Path | None = None) -> None:
        """`file` is where they are kept for workers to come."""
        self._store, self._clock = store, clock
        self._file = KeptFile(file, store) if file else None
        self._alone = threading.Lock()
        self._keep_next = 0.0
        self._forget()

    def told(self) -> Told:
        """Raises what reading the logs raises."""
        with self._alone:
            self._look()
            days = self._days()
            return Told(
                currencies=[one for code in sorted(self._kept.places) if (one := self._currency(code, days)).platforms],
                counts={name: {last: self._count(name, days[-last:]) for last in WINDOWS} for name in _COUNTED},
            )

    def waiting(self) -> list[Line]:
        """As `waiting_lines`, without reading the ledger again."""
        with self._alone:
            self._look()
            return sorted(self._waiting.lines.values(), key=attrgetter("seq"))

    def keep(self) -> None:
        """Write down what a worker to come would have to read, now and then; it takes its time, so not while somebody
        waits. Raises what reading the logs raises."""
        if self._file is None or time.monotonic() < self._keep_next:
            return
        self._keep_next = time.monotonic() + _KEEP_EVERY
        if not self._file.is_behind(self._store.state().ledger_lines):
            return
        with self._alone:
            was_asked = self._kept.seq > 0
            self._look()
            self._kept.pack()
            self._kept.waiting = list(self._waiting.lines.values())
            self._file.write(self._kept)
            if not was_asked:
                self._forget()

    # ------------------------------------------------------------------------------------------------ reading on
    def _forget(self) -> None:
        self._take_up(Kept())

    def _take_up(self, kept: Kept) -> None:
        self._kept, self._waiting, self._reversals = kept, Waiting(), Reversals(kept.telling)
        for line in kept.waiting:
            self._waiting.read(line)

    def _look(self) -> None:
        try:
            self._begin()
            tells, news = self._turn_day(), dict[date, list[Charge]]()
            for line in self._news():
                self._kept.seq = line.seq
                self._waiting.read(line)
                tells = self._read(line, news) or tells
            if tells:
                self._tell_anew()
            for day, charges in news.items():
                self._kept.charges.setdefault(day, []).extend(charges)
                self._add(day, charges, self._reversals)
            self._look_at_devices()
        except BaseException:
            self._forget()  # what was added up by half
            raise

    def _begin(self) -> None:
        """With what another worker kept; from the ledger's beginning, where the clock was set back beyond midnight."""
        today = self._clock().date()
        if self._kept.today and self._kept.today > today:
            self._forget()
        if self._kept.seq == 0 and self._file:
            kept = self._file.read()
            if kept and kept.today and kept.today <= today:
                self._take_up(kept)

    def _turn_day(self) -> bool:
        """When another day has begun, what is too old by now is forgotten. Whether that changes what went back."""
        today, kept = self._clock().date(), self._kept
        self._first = today - timedelta(days=DAYS - 1)
        if today == kept.today:
            return False
        kept.today = today
        kept.forget_before(self._first)
        telling = [line for line in kept.telling if self._may_tell(line)]
        is_changed, kept.telling = len(telling) < len(kept.telling), telling
        return is_changed

    def _news(self) -> Iterator[Line]:
        if self._kept.seq == 0:
            return self._store.scan(Line)
        newest = takewhile(lambda line: line.seq > self._kept.seq, self._store.scan(Line, newest_first=True))
        return reversed(list(newest))

    def _read(self, line: Line, news: dict[date, list[Charge]]) -> bool:
        """Whether it tells something of what went back."""
        day, kind = _happened(line), _kind(line)
        if day >= self._first:
            if kind is not None and not line.is_test and not line.is_withdrawn:
                self._kept.events.setdefault(kind, {}).setdefault(day, set()).add(line.identity)
            if is_charge(line):
                news.setdefault(day, []).append(_charge(line))
        if not line.tells or not self._may_tell(line):
            return False
        self._kept.telling.append(line)
        return True

    def _may_tell(self, line: Line) -> bool:
        """What tells something of a charge is written down after it, unless a clock was wrong by more than days."""
        return _day(line.timestamp[:10]) >= self._first - timedelta(days=DAYS)

    # ------------------------------------------------------------------------------------------------ adding up
    def _tell_anew(self) -> None:
        """Take off what the charges that are spoken of came to, and add what they come to now."""
        before, now = self._reversals, Reversals(self._kept.telling)
        names = (before.names ^ now.names) | before.parted | now.parted
        events = dict(before.newest.items() ^ now.newest.items())
        ids, event_ids = {name for _, name in names}, {event_id for _, event_id in events}
        self._kept.unpack()
        for day, charges in self._kept.charges.items():
            spoken_of = [
                charge
                for charge in charges
                if charge.sale_id in ids or charge.event_id in event_ids or not ids.isdisjoint(charge.links)
            ]
            self._add(day, spoken_of, before, -1)
            self._add(day, spoken_of, now)
        self._reversals = now

    def _add(self, day: date, charges: Sequence[Charge], reversals: Reversals, times: int = 1) -> None:
        kept = self._kept
        for charge in charges:
            if not reversals.counts(charge.identity, charge.revision):
                continue
            counted = kept.counts.setdefault("renewals" if charge.is_renewal else "sales", {})
            counted[day] = counted.get(day, 0) + times
            if charge.code is None:
                continue
            took = kept.places.setdefault(charge.code, {}).setdefault(charge.source, {}).setdefault(day, Took())
            back = reversals.of(charge.names, charge.code)
            took.purchases += times
            took.gross += charge.minor * times
            took.back += (charge.minor if back == ALL else min(back, charge.minor)) * times

    def _look_at_devices(self) -> None:
        newest = self._kept.device_seq
        bindings = self._kept.counts.setdefault("activations", {})
        for line in self._store.scan_devices():
            day = line.timestamp.date()
            if line.seq <= self._kept.device_seq or day < self._first - timedelta(days=1):
                break
            newest = max(newest, line.seq)
            bindings[day] = bindings.get(day, 0) + (line.event is DeviceEvent.ACTIVATION)
        self._kept.device_seq = newest

    # ------------------------------------------------------------------------------------------------ telling
    def _days(self) -> list[date]:
        return [self._first + timedelta(days=number) for number in range(DAYS)]

    def _count(self, name: str, days: Sequence[date]) -> int:
        if events := self._kept.events.get(name):
            return len(set().union(*(events.get(day, ()) for day in days)))
        counts = self._kept.counts.get(name, {})
        return sum(counts.get(day, 0) for day in days)

    def _currency(self, code: str, days: Sequence[date]) -> Currency:
        of_days = {
            source: [sums.get(day, Took()) for day in days] for source, sums in sorted(self._kept.places[code].items())
        }
        found = {source: sums for source, sums in of_days.items() if any(took.purchases for took in sums)}
        return Currency(
            code=code,
            platforms=list(found),
            days=days,
            by_day={source: [_sum(code, [took]) for took in sums] for source, sums in found.items()},
            by_window={last: {source: _sum(code, sums[-last:]) for source, sums in found.items()} for last in WINDOWS},
            together={last: _sum(code, [t for sums in found.values() for t in sums[-last:]]) for last in WINDOWS},
        )


def _sum(code: str, found: Sequence[Took]) -> Sum:
    gross, back = sum(took.gross for took in found), sum(took.back for took in found)
    return Sum(
        purchases=sum(took.purchases for took in found),
        gross=money.told(gross, code),
        back=money.told(back, code),
        net=money.told(gross - back, code),
        net_minor=gross - back,
    )


def _charge(line: Line) -> Charge:
    code, minor = amount(line.price, line.currency) or (None, 0)
    is_renewal = line.event == _RENEWAL
    return Charge(line.source, line.event_id, line.sale_id, line.links, line.revision, is_renewal, code, minor)


def _happened(line: Line) -> date:
    """Of a charge when it was paid, of all else when it happened."""
    return _day(((line.purchase_date if is_charge(line) else line.occurred_at) or line.timestamp)[:10])


@lru_cache(4096)
def _day(text: str) -> date:
    return date.fromisoformat(text)


def _kind(line: Line) -> str | None:
    if line.event in _REFUNDS:
        return "refunds"
    return "disputes" if line.event == _DISPUTE else None
