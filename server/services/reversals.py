"""Money that went back: which charges of the ledger it was taken of, and how much.

A refund or a lost dispute takes back the charges whose sale id or link it names (the fold's own rule), unless it failed
afterwards; of a partial refund it is the sum, where the platform tells one: Stripe does, Gumroad does not.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from datetime import datetime

import msgspec

from server.domain.money import amount
from server.domain.purchase import CHARGES, Entry, EventKind
from server.storage.base import Store

# Plain words: to look up an Enum's member costs as much as to decode a field.
_REFUND, _PARTIAL, _FAILED, _LOST = map(
    str, (EventKind.REFUND, EventKind.PARTIAL_REFUND, EventKind.REFUND_FAILED, EventKind.DISPUTE_LOST)
)
_TELLING = frozenset({_REFUND, _PARTIAL, _FAILED, _LOST})

ALL = -1  # of a charge went back
Name = tuple[str, str | None]
Which = tuple[str, str | None, str | None]  # refund of which sale: its name may be the owner's word for several sales'


class Reversal(msgspec.Struct, gc=False, kw_only=True):
    """What tells of a line whether money went back by it, or whether another line took its place."""

    event: str
    event_id: str
    source: str
    sale_id: str | None
    incident: str | None = None
    links: tuple[str, ...] = ()
    occurred_at: str | None = None
    price: str | None = None
    currency: str | None = None
    refunded_total: str | None = None
    revision: int = 0
    part_of: str | None = None

    @property
    def identity(self) -> Name:
        return self.source, self.event_id

    @property
    def which(self) -> Which:
        return self.source, self.sale_id, self.incident

    @property
    def names(self) -> list[Name]:
        return [(self.source, name) for name in (self.sale_id, *self.links) if name]

    @property
    def is_linking(self) -> bool:
        return bool(self.links) and (self.event not in CHARGES or self.part_of is not None)

    @property
    def tells(self) -> bool:
        """Whether what went back can be known from lines like this one alone."""
        return self.revision > 0 or self.event in _TELLING or (bool(self.links) and self.is_linking)


class Reversals:
    """`names` are those of the charges of which all went back, `parted` those of which a part did; `newest` is the last
    revision of each event that has several."""

    def __init__(self, lines: Iterable[Reversal]) -> None:
        """From all of the ledger, or from those of its lines that tell something."""
        telling = [line for line in lines if line.tells]
        self.newest: dict[Name, int] = {}
        for line in telling:
            if line.revision:
                self.newest[line.identity] = max(line.revision, self.newest.get(line.identity, 0))
        self._failures = [line for line in telling if line.event == _FAILED]
        linking = [line for line in telling if line.is_linking]
        self.names = _spread({name for line in telling if self.stands(line) for name in line.names}, linking)
        partial = _last_of_each([line for line in telling if line.event == _PARTIAL or self._is_what_is_left(line)])
        self._parts = [(_spread(set(line.names), linking), part) for line in partial if (part := self._part(line))]
        self.parted = {name for names, _ in self._parts for name in names}

    @classmethod
    def of_ledger(cls, store: Store) -> Reversals:
        return cls(store.scan(Reversal))

    def counts(self, identity: Name, revision: int) -> bool:
        """Whether this revision of an event is its last."""
        return not self.newest or self.newest.get(identity, 0) == revision

    def stands(self, line: Reversal | Entry) -> bool:
        """Whether by this line all of a charge went back, and stayed there."""
        if self.newest.get((line.source, line.event_id), 0) != line.revision:
            return False
        return line.event == _LOST or (line.event == _REFUND and not self._has_failed(line))

    def of(self, names: Sequence[Name], currency: str | None) -> int:
        """What went back of the charge of these names, in minor units of its currency; ALL where it was all of it."""
        if not self.names.isdisjoint(names):
            return ALL
        if self.parted.isdisjoint(names):
            return 0
        code = (currency or "").lower()
        return sum(minor for known, (told, minor) in self._parts if told == code and not known.isdisjoint(names))

    def _has_failed(self, line: Reversal | Entry) -> bool:
        which, moment = (line.source, line.sale_id, line.incident), _text(line.occurred_at)
        return any(failure.which == which and _is_later(failure.occurred_at, moment) for failure in self._failures)

    def _is_what_is_left(self, line: Reversal) -> bool:
        """A sum so far that was all of it, until one of the refunds that made it up failed."""
        return line.event == _REFUND and line.refunded_total is not None and self._has_failed(line)

    def _part(self, line: Reversal) -> tuple[str, int] | None:
        """What went back of a payment so far, less what failed of it afterwards; None where no sum is told."""
        is_own = line.refunded_total is None and line.incident is not None  # a platform that tells each refund's amount
        total = amount(line.price if is_own else line.refunded_total, line.currency)
        if total is None:
            return None
        failed = (f for f in self._failures if f.which == line.which and _is_later(f.occurred_at, line.occurred_at))
        came_back = (amount(failure.price, failure.currency) for failure in failed)
        return total[0], max(0, total[1] - sum(sum_[1] for sum_ in came_back if sum_))


def _spread(names: set[Name], linking: list[Reversal]) -> set[Name]:
    """With the further names of the same charges: a payment is the invoice's that it paid, where a line says so."""
    before = -1
    while before != len(names):
        before = len(names)
        for line in linking:
            if not names.isdisjoint(line.names):
                names.update(line.names)
    return names


def _last_of_each(lines: list[Reversal]) -> list[Reversal]:
    """Of the lines about one payment the latest: each says what went back so far."""
    ordered = sorted(lines, key=lambda line: (line.occurred_at or "", line.revision))
    return list({line.which: line for line in ordered}.values())


def _is_later(moment: str | None, other: str | None) -> bool:
    return moment is None or other is None or moment >= other


def _text(moment: datetime | str | None) -> str | None:
    return f"{moment:%Y-%m-%dT%H:%M:%SZ}" if isinstance(moment, datetime) else moment
