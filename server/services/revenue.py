"""Revenue: which lines of the ledger are money that came in, and which of it went out again.

A charge is a sale or a renewal, or what the owner issued, imported or fulfilled at a price. It counts once, however
many lines complete it; a test never does. What went back is taken off again (reversals.py). Amounts are minor units of
their currency; currencies are never summed.
"""

from __future__ import annotations

from array import array
from collections import Counter, defaultdict
from collections.abc import Mapping
from datetime import date, timedelta
from functools import lru_cache
from operator import attrgetter
from typing import Any, TypedDict, cast

import msgspec

from server.domain import money
from server.domain.license import Moment
from server.domain.money import amount
from server.domain.purchase import CHARGES, OWNER_ISSUING, PAID, EventKind, Outcome
from server.services.reversals import ALL, Name, Reversal, Reversals
from server.storage.base import Store

TOP = 10

# Plain words: to look up an Enum's member costs as much as to decode a field.
_RENEWAL = str(EventKind.RENEWAL)
_UNMAPPED, _PENDING = str(Outcome.UNMAPPED), str(Outcome.PENDING)
_WAITING = frozenset({_UNMAPPED, _PENDING})

Kind = tuple[str, str | None, str | None, str | None, str | None]  # source, product, its name, price, currency
Money = Counter[str]  # minor units by currency


class SoldItem(msgspec.Struct, frozen=True, gc=False):
    ids: tuple[str, ...]
    product_id: str | None = None

    @property
    def name(self) -> str:
        return self.product_id or next(iter(self.ids), "")


class Line(Reversal, gc=False, kw_only=True):
    """What statistics need of a ledger line; moments stay text, since most are never looked at."""

    seq: int
    timestamp: str
    subscription_id: str | None
    product_id: str | None
    product_name: str | None
    purchase_date: str | None
    is_test: bool
    outcome: str
    is_withdrawn: bool = False
    items: tuple[SoldItem, ...] = ()

    @property
    def subscription(self) -> Name:
        return self.source, self.subscription_id


class Charges:
    """Lets each charge through once: the newest line of an event, and of several events that tell one charge the first.
    A sale that the platform disowned is none."""

    def __init__(self, reversals: Reversals) -> None:
        self._reversals = reversals

    def takes(self, line: Line) -> bool:
        if self._reversals.newest and not self._reversals.counts(line.identity, line.revision):
            return False
        return is_charge(line)


def is_charge(line: Line) -> bool:
    """Whether money came in by it, unless another line took its place."""
    if line.is_test or line.part_of or line.is_withdrawn:
        return False
    return line.event in PAID or (line.event in OWNER_ISSUING and (line.price is not None or line.revision > 0))


class Tally:
    """Charges counted while it is not known yet which of them stand, and which went back.

    Equal charges are one kind. Of each charge its kind is kept and, as hashes, its event and its first name: 24 bytes,
    so that the ledger is read once. What has further names or is no first revision is rare, and kept as it is.
    """

    def __init__(self) -> None:
        self._kinds: dict[Kind, int] = {}
        self._of, self._events, self._names = array("q"), array("q"), array("q")
        self._rare: list[Line] = []

    def add(self, line: Line) -> None:
        kind = self._kinds.setdefault(_kind(line), len(self._kinds))
        if line.revision or line.links:
            self._rare.append(line)
            return
        self._of.append(kind)
        self._events.append(hash((line.source, line.event_id)))
        self._names.append(hash((line.source, line.sale_id)))

    def counted(self, reversals: Reversals) -> dict[tuple[Kind, int], int]:
        """How many of each kind there are of which so much went back; in the order in which the kinds were met."""
        charges, kinds = Charges(reversals), list(self._kinds)
        rare = (line for line in self._rare if charges.takes(line))
        found = Counter((self._kinds[_kind(line)], reversals.of(line.names, line.currency)) for line in rare)
        gone = set(map(hash, reversals.newest))
        back = {hash(name): name for name in reversals.names | reversals.parted}
        if gone or back:
            charged = zip(self._of, self._events, self._names, strict=True)
            found.update(
                (of, reversals.of([back[name]], kinds[of][-1]) if name in back else 0)
                for of, event, name in charged
                if event not in gone
            )
        else:
            found.update({(of, 0): times for of, times in Counter(self._of).items()})
        return {(kinds[of], went_back): found[of, went_back] for of, went_back in sorted(found)}


def _kind(line: Line) -> Kind:
    """What an order of several products took is none of them's alone: the ledger has its price as a whole."""
    if len(line.items) > 1 and len(names := {item.name for item in line.items}) > 1:
        return line.source, " + ".join(sorted(names)), None, line.price, line.currency
    return line.source, line.product_id, line.product_name, line.price, line.currency


class Waiting:
    """The lines that still wait for a license, as far as the ledger was read.

    A renewal that came before its sale waits for that sale; anything else for the line that completes it.
    """

    def __init__(self) -> None:
        self.lines: dict[Name, Line] = {}

    def read(self, line: Line) -> None:
        if line.outcome in _WAITING:
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


def told(sums: Money) -> dict[str, str]:
    return {code: money.told(sums[code], code) for code in sorted(sums)}


class Takings:
    """Sums over some charges: how many, gross, and what went back of them."""

    def __init__(self) -> None:
        self.purchases = self.taken_back = 0
        self.gross, self.refunded = Money(), Money()

    def add(self, sum_: tuple[str, int] | None, back: int, times: int = 1) -> None:
        """So many charges of this sum, of each of which so much went back (see `Reversals.of`)."""
        self.purchases += times
        self.taken_back += times * (back == ALL or (sum_ is not None and 0 < sum_[1] <= back))
        if sum_ is not None:
            code, minor = sum_
            self.gross[code] += minor * times
            self.refunded[code] += (minor if back == ALL else min(back, minor)) * times

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
    """Money is by currency, as decimal strings; revenue is net of what was refunded or charged back."""

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
    """What `audit.py stats` tells, from one reading of the ledger."""
    waiting, tally, telling = Waiting(), Tally(), list[Line]()
    events, tests = defaultdict[str, int](int), 0
    first = line = next(store.scan(Line), None)
    for line in store.scan(Line):
        events[line.event] += 1
        tests += line.is_test
        if waiting.lines or line.outcome in _WAITING:
            waiting.read(line)
        if line.tells:
            telling.append(line)
        if is_charge(line):
            tally.add(line)
    lines = sum(events.values())
    stats = _charge_stats(tally.counted(Reversals(telling))) | {
        "by_event": dict(Counter(events).most_common()),
        "test_lines": tests,
        "unmapped": sum(held.outcome == _UNMAPPED for held in waiting.lines.values()),
        "held": sum(held.outcome == _PENDING for held in waiting.lines.values()),
        "ledger_lines": lines,
        "missing_lines": line.seq - lines if line else 0,
        "first": first.timestamp if first else None,
        "last": line.timestamp if line else None,
    }
    return cast(Stats, stats)


def _charge_stats(found: Mapping[tuple[Kind, int], int]) -> dict[str, Any]:
    total, unreadable, names = Takings(), 0, dict[Name, str | None]()
    by_source, by_product = defaultdict[str, Takings](Takings), defaultdict[Name, Takings](Takings)
    for ((source, product_id, product_name, price, currency), back), times in found.items():
        product: Name = (product_id or "", None if product_id else product_name)
        sum_, names[product] = amount(price, currency), product_name
        unreadable += times * (sum_ is None and price is not None)
        for takings in (total, by_source[source], by_product[product]):
            takings.add(sum_, back, times)
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
    reversals = Reversals.of_ledger(store)
    charges = Charges(reversals)
    for line in store.scan(Line):
        if not charges.takes(line):
            continue
        begin, sum_ = start_of(by, (line.purchase_date or line.timestamp)[:10]), amount(line.price, line.currency)
        if sum_ is not None and begins[0] <= begin <= begins[-1]:
            if sum_[0] not in found:
                found[sum_[0]] = {start: Takings() for start in begins}
            found[sum_[0]][begin].add(sum_, reversals.of(line.names, line.currency))
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
