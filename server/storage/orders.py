"""`orders.jsonl`: the store front's orders, chained and fsynced as the ledger is, under a lock of their own.

A process keeps in memory where each order is spoken of, and reads only what was appended since it last looked. Where
this file is damaged the store front stops, and nothing else does.
"""

from __future__ import annotations

import logging
import threading
from array import array
from bisect import bisect_left, bisect_right
from collections import defaultdict
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import UTC, datetime, timedelta
from pathlib import Path

import msgspec

from server.domain.order import Order, OrderFile, OrderLine, Step, new_number
from server.domain.purchase import email_name, name_hash
from server.errors import DamagedFile, NotFound, StorageUnavailable
from server.storage import durable
from server.storage.base import OrderBook
from server.storage.log import START, ChainedLog, Rewound

log = logging.getLogger(__name__)

_CLOCK_SET = timedelta(days=1)  # by so much an order may be dated before one that was placed before it
_FIRST, _LAST = datetime(2000, 1, 1, tzinfo=UTC), datetime(9000, 1, 1, tzinfo=UTC)


class FileOrderBook(OrderBook):
    def __init__(self, path: Path, patience: float) -> None:
        self.log = ChainedLog(path, OrderLine)
        self._lock = durable.Lock(path.with_name("orders.lock"), patience)
        self._memory = threading.RLock()
        self._forget()

    def _forget(self) -> None:
        """The file is closed, too: where it was taken away, nothing may be appended to what no name leads to."""
        self.log.close()
        self.log.mark = START
        self._places: defaultdict[int, array[int]] = defaultdict(lambda: array("Q"))
        self._placed: array[int] = array("Q")  # the places of all orders' first lines
        self._suspicious: dict[str, datetime] = {}  # when such a thing was told last, by order

    def close(self) -> None:
        self.log.close()

    # ------------------------------------------------------------------------------------------------ reading
    def find(self, name: str) -> OrderFile | None:
        with self._looked():
            return self._find(f"id\0{name}") or self._find(f"number\0{name}")

    def _find(self, name: str) -> OrderFile | None:
        first = next(
            (line for line in self._lines(name) if line.order is not None and name in _names(line.order)), None
        )
        if first is None or first.order is None:
            return None
        order_id = first.order_id
        lines = (line for line in self._lines(f"id\0{order_id}") if line.order_id == order_id)
        return OrderFile(first.order, tuple(lines))

    def _lines(self, name: str) -> Iterator[OrderLine]:
        for place in self._places.get(name_hash(name), ()):
            yield self.log.line_at(place)

    def of_email(self, email: str) -> list[OrderFile]:
        name = email_name(email)
        with self._looked():
            placed = [line.order for line in self._lines(name) if line.order and name in _names(line.order)]
            return [file for order in reversed(placed) if (file := self._find(f"id\0{order.order_id}"))]

    def placed(
        self,
        source: str | None,
        since: datetime,
        after: str | None = None,
        until: datetime | None = None,
        newest_first: bool = False,
    ) -> Iterator[OrderFile]:
        with self._looked():
            places = self._placed[self._between(since, until, after, newest_first)]
        for place in reversed(places) if newest_first else places:
            with self._looked():
                order = self._order_at(place)
                is_in_time = since <= order.placed_at and (until is None or order.placed_at <= until)
                is_wanted = is_in_time and source in (None, order.source)
                file = self._find(f"id\0{order.order_id}") if is_wanted else None
            if file is not None:
                yield file

    def _between(self, since: datetime, until: datetime | None, after: str | None, newest_first: bool) -> slice:
        """Where the orders of a time are, by halves: they stand as they were placed, but for a clock that was set.
        Whoever goes through the book page by page reads none twice."""
        begin, end = 0, len(self._placed)
        if since > _FIRST:
            begin = bisect_left(self._placed, since - _CLOCK_SET, key=self._time_of)
        if until is not None and until < _LAST:
            end = bisect_right(self._placed, until + _CLOCK_SET, key=self._time_of)
        if after is not None:
            places = self._places.get(name_hash(f"id\0{after}"), ())
            first = next((at for at in places if self._is_first(at, after)), None)
            if first is None:
                return slice(0, 0)
            known = bisect_left(self._placed, first)
            begin, end = (begin, min(end, known)) if newest_first else (max(begin, known + 1), end)
        return slice(begin, max(begin, end))

    def _order_at(self, place: int) -> Order:
        order = self.log.line_at(place).order
        assert order is not None
        return order

    def _time_of(self, place: int) -> datetime:
        return self._order_at(place).placed_at

    def _is_first(self, place: int, order_id: str) -> bool:
        order = self.log.line_at(place).order
        return order is not None and order.order_id == order_id

    def suspicious(self, since: datetime) -> int:
        with self._looked():
            return sum(told >= since for told in self._suspicious.values())

    @contextmanager
    def _looked(self) -> Iterator[None]:
        """Up to date, and every trouble with the file told as one error."""
        with self._memory:
            try:
                self._catch_up()
                yield
            except DamagedFile as error:
                raise StorageUnavailable(str(error)) from error
            except OSError as error:
                raise StorageUnavailable(f"{self.log.path.name} cannot be read: {error.strerror or error}") from error

    def _catch_up(self) -> None:
        try:
            self._read_on()
        except Rewound:
            self._forget()
            self._read_on()

    def _read_on(self) -> None:
        while found := self.log.read_new():
            for place, line in found:
                self._take(place, line)

    def _take(self, place: int, line: OrderLine) -> None:
        names = _names(line.order) if line.order else (f"id\0{line.order_id}",)
        for name in names:
            self._places[name_hash(name)].append(place)
        if line.order:
            self._placed.append(place)
        if line.step is Step.SUSPICIOUS:
            self._suspicious[line.order_id] = line.timestamp

    # ------------------------------------------------------------------------------------------------ writing
    @contextmanager
    def alone(self) -> Iterator[None]:
        with self._lock.held():
            yield

    def place(self, order: Order, now: datetime) -> Order:
        with self._lock.held(), self._looked():
            while self._places.get(name_hash(f"number\0{order.number}")):
                order = msgspec.structs.replace(order, number=new_number(now))
            self._append(OrderLine(timestamp=now, order_id=order.order_id, step=Step.PLACED, order=order))
        return order

    def note(self, line: OrderLine) -> bool:
        with self._lock.held(), self._looked():
            file = self._find(f"id\0{line.order_id}")
            if file is None:
                raise NotFound("there is no such order")
            if file.has(line):
                self.log.ensure_synced()
                return False
            self._append(line)
        return True

    def _append(self, line: OrderLine) -> None:
        for place, written in self.log.append([line]):
            self._take(place, written)


def _names(order: Order) -> tuple[str, ...]:
    return f"id\0{order.order_id}", f"number\0{order.number}", email_name(order.email)
