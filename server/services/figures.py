"""Figures of the last 30 days, and the sales that wait: what each worker keeps in memory for the dashboard.

The ledger is read once; from then on only what was appended. A charge is added to its day as it comes. What says that
money went back, or that another line took a line's place, is rare: then the kept lines are added up anew.
"""

from __future__ import annotations

import threading
from collections import defaultdict
from collections.abc import Callable, Iterator, Sequence
from datetime import date, datetime, timedelta
from itertools import takewhile
from operator import attrgetter

import msgspec

from server.domain import money
from server.domain.license import DeviceEvent
from server.domain.money import amount
from server.domain.purchase import EventKind
from server.services.revenue import Charges, Line, Takings, Waiting, is_charge
from server.services.reversals import Reversals
from server.storage.base import Store

DAYS = 30
WINDOWS = (1, 7, DAYS)
_RENEWAL, _DISPUTE = str(EventKind.RENEWAL), str(EventKind.DISPUTE)
_REFUNDS = frozenset({str(EventKind.REFUND), str(EventKind.PARTIAL_REFUND)})
_COUNTED = ("sales", "renewals", "refunds", "disputes", "activations")
Place = tuple[str, str]  # currency, platform


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
    def __init__(self, store: Store, clock: Callable[[], datetime]) -> None:
        self._store, self._clock = store, clock
        self._alone = threading.Lock()
        self._seq = self._device_seq = 0
        self._is_stale = False
        self._today: date | None = None
        self._kept: list[Line] = []
        self._waiting = Waiting()
        self._bindings: defaultdict[date, int] = defaultdict(int)
        self._begin_anew()

    def told(self) -> Told:
        """Raises what reading the logs raises."""
        with self._alone:
            self._look()
            days = self._days()
            codes = sorted({code for code, _ in self._sums})
            return Told(
                currencies=[self._currency(code, days) for code in codes],
                counts={name: {last: self._count(name, days[-last:]) for last in WINDOWS} for name in _COUNTED},
            )

    def waiting(self) -> list[Line]:
        """As `waiting_lines`, without reading the ledger again."""
        with self._alone:
            self._look()
            return sorted(self._waiting.lines.values(), key=attrgetter("seq"))

    # ------------------------------------------------------------------------------------------------ reading on
    def _look(self) -> None:
        self._turn_day()
        for line in self._news():
            self._seq = line.seq
            self._waiting.read(line)
            if self._is_kept(line):
                self._kept.append(line)
                self._is_stale = self._is_stale or line.tells
                if not self._is_stale:
                    self._add(line)
        if self._is_stale:
            self._begin_anew()
            for line in self._kept:
                self._add(line)
        self._look_at_devices()

    def _news(self) -> Iterator[Line]:
        if self._seq == 0:
            return self._store.scan(Line)
        newest = takewhile(lambda line: line.seq > self._seq, self._store.scan(Line, newest_first=True))
        return reversed(list(newest))

    def _turn_day(self) -> None:
        """When another day has begun, what is too old by now is forgotten."""
        today = self._clock().date()
        if today == self._today:
            return
        self._today, self._is_stale = today, True
        self._kept = [line for line in self._kept if self._is_kept(line)]
        first = today - timedelta(days=DAYS - 1)
        self._bindings = defaultdict(int, {day: n for day, n in self._bindings.items() if day >= first})

    def _is_kept(self, line: Line) -> bool:
        """What tells something of a charge is written down after it, unless a clock was wrong by more than days."""
        assert self._today is not None
        first = self._today - timedelta(days=DAYS - 1)
        if line.tells:
            return _day(line.timestamp) >= first - timedelta(days=DAYS)
        return _happened(line) >= first

    def _begin_anew(self) -> None:
        self._is_stale = False
        self._reversals = Reversals(self._kept)
        self._charges = Charges(self._reversals)
        self._sums: dict[Place, dict[date, Takings]] = {}
        self._seen: defaultdict[tuple[str, date], set[tuple[str, str | None]]] = defaultdict(set)

    def _add(self, line: Line) -> None:
        day, kind = _happened(line), _kind(line)
        if kind is not None and not line.is_test and not line.is_withdrawn:
            self._seen[kind, day].add(line.identity)
        if not self._charges.takes(line):
            return
        self._seen["renewals" if line.event == _RENEWAL else "sales", day].add(line.identity)
        sum_ = amount(line.price, line.currency)
        if sum_ is not None:
            of_place = self._sums.setdefault((sum_[0], line.source), defaultdict(Takings))
            of_place[day].add(sum_, self._reversals.of(line.names, line.currency))

    def _look_at_devices(self) -> None:
        first, newest = self._days()[0], self._device_seq
        for line in self._store.scan_devices():
            day = line.timestamp.date()
            if line.seq <= self._device_seq or day < first - timedelta(days=1):
                break
            newest = max(newest, line.seq)
            self._bindings[day] += line.event is DeviceEvent.ACTIVATION
        self._device_seq = newest

    # ------------------------------------------------------------------------------------------------ telling
    def _days(self) -> list[date]:
        assert self._today is not None
        return [self._today - timedelta(days=DAYS - 1 - number) for number in range(DAYS)]

    def _count(self, name: str, days: Sequence[date]) -> int:
        if name == "activations":
            return sum(self._bindings.get(day, 0) for day in days)
        return len(set().union(*(self._seen.get((name, day), ()) for day in days)))

    def _currency(self, code: str, days: Sequence[date]) -> Currency:
        found = {source: sums for (of, source), sums in sorted(self._sums.items()) if of == code}
        every = list(found.values())
        return Currency(
            code=code,
            platforms=list(found),
            days=days,
            by_day={source: [_sum(code, [sums], [day]) for day in days] for source, sums in found.items()},
            by_window={
                last: {source: _sum(code, [sums], days[-last:]) for source, sums in found.items()} for last in WINDOWS
            },
            together={last: _sum(code, every, days[-last:]) for last in WINDOWS},
        )


def _sum(code: str, sums: Sequence[dict[date, Takings]], days: Sequence[date]) -> Sum:
    found = [takings for of_place in sums for day in days if (takings := of_place.get(day))]
    gross = sum(takings.gross[code] for takings in found)
    back = sum(takings.refunded[code] for takings in found)
    return Sum(
        purchases=sum(takings.purchases for takings in found),
        gross=money.told(gross, code),
        back=money.told(back, code),
        net=money.told(gross - back, code),
        net_minor=gross - back,
    )


def _happened(line: Line) -> date:
    """Of a charge when it was paid, of all else when it happened."""
    return _day((line.purchase_date if is_charge(line) else line.occurred_at) or line.timestamp)


def _day(moment: str) -> date:
    return date.fromisoformat(moment[:10])


def _kind(line: Line) -> str | None:
    if line.event in _REFUNDS:
        return "refunds"
    return "disputes" if line.event == _DISPUTE else None
