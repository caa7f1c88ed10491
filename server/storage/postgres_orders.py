"""The store front's orders in a database. Who writes has the log's row locked; who decides, that of `alone` before."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from datetime import datetime

import msgspec
import psycopg

from server.domain.order import Order, OrderFile, OrderLine, Step
from server.domain.purchase import email_name, name_hash
from server.errors import NotFound
from server.storage import orders
from server.storage.base import OrderBook, retried
from server.storage.log import Mark, decoder
from server.storage.postgres_held import Held
from server.storage.postgres_link import Database, Put, Query, Row, at_once, commit, fetched, signed
from server.storage.postgres_log import ORDERS, Book, LogRow, chained

_PAGE = 200
_read = decoder(OrderLine).decode
_LINES: Query = "SELECT line FROM order_line WHERE of = %s ORDER BY seq"
_PLACED_AFTER: Query = (
    "SELECT seq, of FROM placed WHERE seq > %s AND at >= %s AND (%s::timestamptz IS NULL OR at <= %s)"
    " AND (%s::text IS NULL OR source = %s) ORDER BY seq LIMIT %s"
)
_PLACED_BEFORE: Query = (
    "SELECT seq, of FROM placed WHERE seq < %s AND at >= %s AND (%s::timestamptz IS NULL OR at <= %s)"
    " AND (%s::text IS NULL OR source = %s) ORDER BY seq DESC LIMIT %s"
)
_LOCK: Query = "SELECT name, seq, head, ends, closed FROM book WHERE name = 'orders' FOR UPDATE"
_LOCK_BOTH: Query = (
    "SELECT name, seq, head, ends, closed FROM book WHERE name IN ('alone', 'orders') ORDER BY name FOR UPDATE"
)


class PgOrderBook(OrderBook):
    def __init__(self, database: Database) -> None:
        self._database = database
        self.right = Held(database, "alone")

    # ------------------------------------------------------------------------------------------------ reading
    def find(self, name: str) -> OrderFile | None:
        query: Query = "SELECT of FROM placed WHERE number = %s"
        file = _file(self._database.rows(_LINES, _hash(name)))
        if file and file.order.order_id == name:
            return file
        for (order,) in self._database.rows(query, _number(name)):
            file = _file(self._database.rows(_LINES, order))
        return file if file and file.order.number == name else None

    def of_email(self, email: str) -> list[OrderFile]:
        name = email_name(email)
        query: Query = "SELECT of FROM placed WHERE email = %s ORDER BY seq DESC"
        rows = self._database.rows(query, signed(name_hash(name)))
        files = (_file(self._database.rows(_LINES, order)) for (order,) in rows)
        return [file for file in files if file and email_name(file.order.email) == name]

    def placed(
        self,
        source: str | None,
        since: datetime,
        after: str | None = None,
        until: datetime | None = None,
        newest_first: bool = False,
    ) -> Iterator[OrderFile]:
        last = self._behind(after, newest_first)
        query = _PLACED_BEFORE if newest_first else _PLACED_AFTER
        while rows := self._database.rows(query, last, since, until, until, source, source, _PAGE):
            for _, order in rows:
                if file := _file(self._database.rows(_LINES, order)):
                    yield file
            last = rows[-1][0]

    def _behind(self, after: str | None, newest_first: bool) -> int:
        """Whoever goes through the book page by page reads none twice; behind one that nobody placed there is none."""
        if after is None:
            return 1 << 62 if newest_first else 0
        query: Query = "SELECT seq FROM placed WHERE of = %s"
        nowhere = 0 if newest_first else 1 << 62
        return next((seq for (seq,) in self._database.rows(query, _hash(after))), nowhere)

    def suspicious(self, since: datetime) -> int:
        query: Query = "SELECT count(*) FROM placed WHERE suspicious >= %s"
        return int(self._database.rows(query, since)[0][0])

    # ------------------------------------------------------------------------------------------------ writing
    @contextmanager
    def alone(self) -> Iterator[None]:
        with self.right.held():
            yield

    @retried
    def place(self, order: Order, now: datetime) -> Order:
        with self._writing() as (connection, book):
            query: Query = "SELECT 1 FROM placed WHERE number = %s"
            while fetched(connection, query, (_number(order.number),)):
                order = msgspec.structs.replace(order, number=orders.new_number(now))
            line = OrderLine(timestamp=now, order_id=order.order_id, step=Step.PLACED, order=order)
            commit(connection, self._put(line, book.mark))
        return order

    @retried
    def note(self, line: OrderLine) -> bool:
        with self._writing() as (connection, book):
            file = _file(fetched(connection, _LINES, (_hash(line.order_id),)))
            if file is None or file.order.order_id != line.order_id:
                raise NotFound("there is no such order")
            if file.has(line):
                return False
            commit(connection, self._put(line, book.mark))
        return True

    @contextmanager
    def _writing(self) -> Iterator[tuple[psycopg.Connection[Row], Book]]:
        """Nobody writes while another one is alone with the book."""
        with self._database.transaction(_LOCK if self.right.is_mine() else _LOCK_BOTH) as (connection, rows):
            _, seq, head, ends, closed = rows[-1]
            book = Book(Mark(ends, seq, head), closed)
            book.refuse_where_closed()
            yield connection, book

    def _put(self, line: OrderLine, mark: Mark) -> Put:
        rows, mark = chained([line], mark)
        return at_once([ORDERS.insert(rows, [_hash(line.order_id)]), ORDERS.advance(mark), *order_puts(rows[0], line)])


def order_puts(row: LogRow, line: OrderLine) -> list[Put]:
    """By what the line is found and counted."""
    puts: list[Put] = []
    if (order := line.order) is not None:
        place: Query = "INSERT INTO placed (seq, of, number, email, source, at) VALUES (%s, %s, %s, %s, %s, %s)"
        email = signed(name_hash(email_name(order.email)))
        puts.append(
            (place, (row.seq, _hash(order.order_id), _number(order.number), email, order.source, order.placed_at))
        )
    if line.step is Step.SUSPICIOUS:
        told: Query = "UPDATE placed SET suspicious = %s WHERE of = %s"
        puts.append((told, (line.timestamp, _hash(line.order_id))))
    return puts


def _file(rows: list[Row]) -> OrderFile | None:
    lines = tuple(_read(line) for (line,) in rows)
    placed = next((line.order for line in lines if line.order is not None), None)
    return OrderFile(placed, lines) if placed else None


def _hash(order_id: str) -> int:
    return signed(name_hash(f"id\0{order_id}"))


def _number(number: str) -> int:
    return signed(name_hash(f"number\0{number}"))
