"""Revenue: which lines of the ledger are money that came in, and which of it went out again.

A charge is a sale or a renewal, or what the owner issued, imported or fulfilled at a price. It counts once, however
many lines complete it; a test never does. What was refunded in full or charged back is taken off again (by the fold's
own rule: a refund means the charges whose sale id or link it names). A partial refund is only recorded, since platforms
tell no sum with it. Amounts are minor units of their currency; currencies are never summed.
"""

from __future__ import annotations

from collections import Counter, defaultdict
from datetime import date, datetime, timedelta
from functools import lru_cache
from operator import attrgetter
from typing import Any, TypedDict, cast

import msgspec

from server.domain import money
from server.domain.license import Moment
from server.domain.purchase import CHARGES, OWNER_ISSUING, PAID, Entry, EventKind, Outcome
from server.errors import BadRequest
from server.storage.base import Store

TOP = 10

# Plain words: to look up an Enum's member costs as much as to decode a field.
_REFUND, _REFUND_FAILED, _DISPUTE_LOST = map(str, (EventKind.REFUND, EventKind.REFUND_FAILED, EventKind.DISPUTE_LOST))
_REVERSALS = frozenset({_REFUND, _REFUND_FAILED, _DISPUTE_LOST})
_RENEWAL = str(EventKind.RENEWAL)
_LINKING = str(EventKind.IGNORED)
_UNMAPPED, _PENDING = str(Outcome.UNMAPPED), str(Outcome.PENDING)

Name = tuple[str, str | None]
Money = Counter[str]  # minor units by currency


class Line(msgspec.Struct, gc=False):
    """What statistics need of a ledger line; moments stay text, since most are never looked at."""

    seq: int
    timestamp: str
    event: str
    event_id: str
    source: str
    sale_id: str | None
    subscription_id: str | None
    product_id: str | None
    product_name: str | None
    price: str | None
    currency: str | None
    purchase_date: str | None
    is_test: bool
    outcome: str
    revision: int = 0
    links: tuple[str, ...] = ()
    part_of: str | None = None
    is_withdrawn: bool = False

    @property
    def identity(self) -> Name:
        return self.source, self.event_id

    @property
    def subscription(self) -> Name:
        return self.source, self.subscription_id


class Reversal(msgspec.Struct, gc=False):
    """What tells of a line whether money went back by it, or whether another line took its place."""

    event: str
    event_id: str
    source: str
    sale_id: str | None
    incident: str | None = None
    links: tuple[str, ...] = ()
    occurred_at: str | None = None
    revision: int = 0
    part_of: str | None = None

    @property
    def identity(self) -> Name:
        return self.source, self.event_id

    @property
    def which(self) -> Name:
        return self.source, self.incident or self.sale_id

    @property
    def names(self) -> tuple[str, ...]:
        return tuple(name for name in (self.sale_id, *self.links) if name)


class Reversals:
    """The charges whose money went back, by all the names that refunds, lost disputes and links give them; and of the
    lines that were completed or corrected, the last revision."""

    def __init__(self, store: Store) -> None:
        found: list[Reversal] = []
        self.newest: dict[Name, int] = {}
        linking: list[Reversal] = []
        for line in store.scan(Reversal):
            if line.revision:
                self.newest[line.identity] = max(line.revision, self.newest.get(line.identity, 0))
            if line.event in _REVERSALS:
                found.append(line)
            if line.links and (line.event not in CHARGES or line.part_of):
                linking.append(line)
        self._failures = [line for line in found if line.event == _REFUND_FAILED]
        stand = [line for line in found if self.stands(line)]
        self._names: set[Name] = {(line.source, name) for line in stand for name in line.names}
        self._spread(linking)

    def _spread(self, linking: list[Reversal]) -> None:
        """A payment that was refunded is the invoice's that it paid, where a line says so."""
        before = -1
        while before != len(self._names):
            before = len(self._names)
            for line in linking:
                names = {(line.source, name) for name in line.names}
                if not names.isdisjoint(self._names):
                    self._names |= names

    def stands(self, line: Reversal | Entry) -> bool:
        """Whether by this line money went back, and stayed there."""
        if self.newest.get((line.source, line.event_id), 0) != line.revision:
            return False
        return line.event == _DISPUTE_LOST or (line.event == _REFUND and not self._has_failed(line))

    def _has_failed(self, line: Reversal | Entry) -> bool:
        which, moment = (line.source, line.incident or line.sale_id), _text(line.occurred_at)
        later = (f for f in self._failures if f.which == which)
        return any(moment is None or f.occurred_at is None or f.occurred_at >= moment for f in later)

    def hit(self, charge: Line) -> bool:
        if (charge.source, charge.sale_id) in self._names:
            return True
        return any((charge.source, link) in self._names for link in charge.links)


def _text(moment: datetime | str | None) -> str | None:
    return f"{moment:%Y-%m-%dT%H:%M:%SZ}" if isinstance(moment, datetime) else moment


class Charges:
    """Lets each charge through once: the newest line of an event, and of several events that tell one charge the first.
    A sale that the platform disowned is none."""

    def __init__(self, reversals: Reversals) -> None:
        self._newest = reversals.newest

    def takes(self, line: Line) -> bool:
        if line.is_test or line.part_of or line.is_withdrawn:
            return False
        if self._newest and self._newest.get(line.identity, 0) != line.revision:
            return False
        return line.event in PAID or (line.event in OWNER_ISSUING and (line.price is not None or line.revision > 0))


class Waiting:
    """The lines that still wait for a license, as far as the ledger was read.

    A renewal that came before its sale waits for that sale; anything else for the line that completes it.
    """

    def __init__(self) -> None:
        self.lines: dict[Name, Line] = {}

    def read(self, line: Line) -> None:
        if line.outcome in (_UNMAPPED, _PENDING):
            for_its_sale = line.event == _RENEWAL and line.subscription_id
            self.lines[line.subscription if for_its_sale else line.identity] = line
        elif self.lines:
            self.lines.pop(line.identity, None)
            if line.event in CHARGES:
                self.lines.pop(line.subscription, None)


def waiting_lines(store: Store) -> list[Line]:
    waiting = Waiting()
    for line in store.scan(Line):
        waiting.read(line)
    return sorted(waiting.lines.values(), key=attrgetter("seq"))


@lru_cache(4096)
def amount(price: str | None, currency: str | None) -> tuple[str, int] | None:
    """Currency and minor units; None where a line names no sum, or none that can be read."""
    if price is None or currency is None:
        return None
    try:
        code = money.currency_code(currency)
        return code, money.minor_units(price, code)
    except BadRequest:
        return None


def told(sums: Money) -> dict[str, str]:
    return {code: money.told(sums[code], code) for code in sorted(sums)}


class Takings:
    """Sums over some charges: how many, gross, and what went back of them."""

    def __init__(self) -> None:
        self.purchases = self.taken_back = 0
        self.gross, self.refunded = Money(), Money()

    def add(self, sum_: tuple[str, int] | None, is_taken_back: bool, times: int = 1) -> None:
        self.purchases += times
        self.taken_back += times * is_taken_back
        if sum_ is not None:
            code, minor = sum_
            self.gross[code] += minor * times
            self.refunded[code] += minor * times * is_taken_back

    @property
    def net(self) -> Money:
        return Money({code: minor - self.refunded[code] for code, minor in self.gross.items()})


# ---------------------------------------------------------------------------------------------------- the statistics
class ProductStats(TypedDict):
    product_id: str | None
    product_name: str | None
    purchases: int
    revenue: dict[str, str]


class Stats(TypedDict):
    """Money is by currency, as decimal strings; revenue is net of what was refunded or charged back in full."""

    total_purchases: int
    total_revenue: dict[str, str]
    gross_revenue: dict[str, str]
    refunded: dict[str, str]
    refunded_purchases: int
    unreadable_prices: int
    by_source: dict[str, int]
    revenue_by_source: dict[str, dict[str, str]]
    top_products: list[ProductStats]
    by_event: dict[str, int]
    test_lines: int
    unmapped: int
    held: int
    ledger_lines: int
    missing_lines: int
    first: Moment | None
    last: Moment | None


def purchase_stats(store: Store) -> Stats:
    """What `audit.py stats` tells, from two readings of the ledger. Equal charges are counted, not kept."""
    reversals, waiting = Reversals(store), Waiting()
    charges = Charges(reversals)
    events, found, tests = Counter[str](), Counter[tuple[Any, ...]](), 0
    first = line = next(store.scan(Line), None)
    for line in store.scan(Line):
        events[line.event] += 1
        tests += line.is_test
        waiting.read(line)
        if charges.takes(line):
            found[line.source, line.product_id, line.product_name, line.price, line.currency, reversals.hit(line)] += 1
    lines = events.total()
    stats = _charge_stats(found) | {
        "by_event": dict(events.most_common()),
        "test_lines": tests,
        "unmapped": sum(held.outcome == _UNMAPPED for held in waiting.lines.values()),
        "held": sum(held.outcome == _PENDING for held in waiting.lines.values()),
        "ledger_lines": lines,
        "missing_lines": line.seq - lines if line else 0,
        "first": first.timestamp if first else None,
        "last": line.timestamp if line else None,
    }
    return cast(Stats, stats)


def _charge_stats(found: Counter[tuple[Any, ...]]) -> dict[str, Any]:
    total, unreadable, names = Takings(), 0, dict[Name, str | None]()
    by_source, by_product = defaultdict[str, Takings](Takings), defaultdict[Name, Takings](Takings)
    for (source, product_id, product_name, price, currency, is_taken_back), times in found.items():
        product: Name = (product_id or "", None if product_id else product_name)
        sum_, names[product] = amount(price, currency), product_name
        unreadable += times * (sum_ is None and price is not None)
        for takings in (total, by_source[source], by_product[product]):
            takings.add(sum_, is_taken_back, times)
    best = sorted(by_product, key=lambda product: (-by_product[product].purchases, product[0]))[:TOP]
    return {
        "total_purchases": total.purchases,
        "total_revenue": told(total.net),
        "gross_revenue": told(total.gross),
        "refunded": told(total.refunded),
        "refunded_purchases": total.taken_back,
        "unreadable_prices": unreadable,
        "by_source": {source: by_source[source].purchases for source in sorted(by_source)},
        "revenue_by_source": {source: told(by_source[source].net) for source in sorted(by_source)},
        "top_products": [
            {
                "product_id": product[0] or None,
                "product_name": names[product],
                "purchases": by_product[product].purchases,
                "revenue": told(by_product[product].net),
            }
            for product in best
        ],
    }


# ---------------------------------------------------------------------------------------------------- over time
class Period(msgspec.Struct, frozen=True, kw_only=True):
    """One bar of the plot: the charges of a day, week or month, less what was ever taken back of them."""

    start: date
    currency: str
    purchases: int
    gross: str
    refunded: str
    net: str
    net_minor: int


def periods(store: Store, by: str, last: int, today: date) -> list[Period]:
    """The last so many days, weeks (from Monday) or months up to today, for each currency that took something."""
    begins = starts(by, last, today)
    found: dict[str, dict[date, Takings]] = {}
    reversals = Reversals(store)
    charges = Charges(reversals)
    for line in store.scan(Line):
        if not charges.takes(line):
            continue
        begin, sum_ = start_of(by, (line.purchase_date or line.timestamp)[:10]), amount(line.price, line.currency)
        if sum_ is not None and begins[0] <= begin <= begins[-1]:
            if sum_[0] not in found:
                found[sum_[0]] = {start: Takings() for start in begins}
            found[sum_[0]][begin].add(sum_, reversals.hit(line))
    return [_period(start, code, found[code][start]) for code in sorted(found) for start in begins]


def _period(start: date, code: str, takings: Takings) -> Period:
    return Period(
        start=start,
        currency=code,
        purchases=takings.purchases,
        gross=money.told(takings.gross[code], code),
        refunded=money.told(takings.refunded[code], code),
        net=money.told(takings.net[code], code),
        net_minor=takings.net[code],
    )


@lru_cache(4096)
def start_of(by: str, day: str) -> date:
    """The beginning of the day, week or month of an ISO date."""
    found = date.fromisoformat(day)
    if by == "month":
        return found.replace(day=1)
    return found - timedelta(days=found.weekday()) if by == "week" else found


def starts(by: str, last: int, today: date) -> list[date]:
    """The beginnings of the last so many periods, the oldest first."""
    found = [start_of(by, today.isoformat())]
    while len(found) < last:
        found.append(start_of(by, (found[-1] - timedelta(days=1)).isoformat()))
    return found[::-1]
