"""The books as a whole, out of the database and into it: the files that hold the same, what is derived made anew.

A copy is a moment: it is read in one transaction. With it come the inspection, the backup and the way back to files.
"""

from __future__ import annotations

from array import array
from collections import Counter, defaultdict
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import psycopg

from server.domain.fold import fold
from server.domain.keys import license_id
from server.domain.license import DeviceLine, License, devices_after
from server.domain.order import OrderLine
from server.domain.purchase import Entry, name_hash
from server.errors import Conflict, DamagedFile, StorageUnavailable
from server.storage import durable
from server.storage.archive import DEVICE_LOG, LEDGER, ORDERS
from server.storage.base import Progress, no_progress
from server.storage.grouping import Purchases
from server.storage.letterbox import FileLetterBox
from server.storage.log import RESTORE, UNREADABLE, L, Mark, ascii_json, decoder
from server.storage.postgres_letters import letter_put
from server.storage.postgres_link import Database, Query, Row, signed, unavailable
from server.storage.postgres_log import DEVICES as DEVICE_TABLE
from server.storage.postgres_log import LEDGER as LEDGER_TABLE
from server.storage.postgres_log import (
    LICENSE_COLUMNS,
    LogRow,
    LogTable,
    Origin,
    check_link,
    found_by,
    license_of,
    license_row,
    origins,
)
from server.storage.postgres_log import ORDERS as ORDER_TABLE
from server.storage.postgres_orders import order_puts
from server.storage.shelf import FileShelf, Thing
from server.storage.usage import Count, UsageFile
from server.storage.view import Books, write_view

Connection = psycopg.Connection[Row]
LOGS: tuple[tuple[str, type[Any], LogTable], ...] = (
    (LEDGER, Entry, LEDGER_TABLE),
    (DEVICE_LOG, DeviceLine, DEVICE_TABLE),
    (ORDERS, OrderLine, ORDER_TABLE),
)
_AT_A_TIME = 2000
_COPY_NAMES: Query = "COPY name (hash, seq) FROM STDIN"


# ---------------------------------------------------------------------------------------------------- out of it
def to_folder(database: Database, folder: Path, progress: Progress = no_progress) -> None:
    """Write the files of a data folder that holds these books, into an empty one. Raises StorageUnavailable."""
    with _moment(database) as connection:
        total = sum(seq for _, seq in _ends(connection))
        done = Counter[str]()

        def tick(name: str, number: int) -> None:
            done[name] = number
            progress(sum(done.values()), 2 * total)

        marks = {name: _write_log(connection, folder / name, table, tick) for name, _, table in LOGS}
        counts = dict(_counts(connection))
        usage = UsageFile(folder / "usage.jsonl").start(1, counts) if counts else (0, 0)
        (count,) = connection.execute("SELECT count(*) FROM license WHERE record IS NOT NULL").fetchone() or (0,)
        books = Books(ledger=marks[LEDGER], devices=marks[DEVICE_LOG], usage=usage, count=count)
        write_view(folder / "licenses.json", _Licenses(connection, tick), {}, books)
        letters = connection.execute("SELECT line FROM letter ORDER BY kind <> '', number")
        durable.replace(folder / "outbox.jsonl", (f"{line}\n".encode() for (line,) in letters))
        things = {name: Thing(value, until) for name, value, until in connection.execute("SELECT * FROM shelf")}
        durable.replace(folder / "shelf.json", [ascii_json(things)])


@contextmanager
def _moment(database: Database) -> Iterator[Connection]:
    connection = database.connect()
    try:
        connection.execute("SET statement_timeout = 0; SET idle_in_transaction_session_timeout = 0")
        with connection.transaction():
            connection.execute("SET TRANSACTION ISOLATION LEVEL REPEATABLE READ, READ ONLY")
            yield connection
    except psycopg.Error as error:
        raise unavailable(error) from error
    finally:
        connection.close()


def _ends(connection: Connection) -> list[Row]:
    return connection.execute("SELECT name, seq FROM book WHERE name IN ('ledger', 'devices', 'orders')").fetchall()


def _write_log(connection: Connection, path: Path, table: LogTable, tick: Callable[[str, int], None]) -> Mark:
    """The mark behind its last line; no file where there is none."""
    last = LogRow(0, 0, "")

    def pieces() -> Iterator[bytes]:
        nonlocal last
        for row in _log_rows(connection, table):
            last = row
            yield (row.torn or b"") + row.line.encode() + b"\n"
            if row.seq % _AT_A_TIME == 0:
                tick(path.name, row.seq)

    durable.replace(path, _large(pieces()))
    if not last.seq:
        path.unlink()
    return last.mark if last.seq else Mark()


def _log_rows(connection: Connection, table: LogTable) -> Iterator[LogRow]:
    yield from (LogRow(*row) for row in _streamed(connection, table.all_rows))


def _streamed(connection: Connection, query: Query) -> Iterator[Row]:
    """A large answer, a little at a time."""
    with connection.cursor(name="copy") as cursor:
        cursor.itersize = _AT_A_TIME
        yield from cursor.execute(query, binary=True)


def _large(pieces: Iterable[bytes]) -> Iterator[bytes]:
    waiting, size = list[bytes](), 0
    for piece in pieces:
        waiting.append(piece)
        size += len(piece)
        if size > 1 << 20:
            yield b"".join(waiting)
            waiting, size = [], 0
    yield b"".join(waiting)


def _counts(connection: Connection) -> Iterator[tuple[str, Count]]:
    for key, number, last in connection.execute(
        "SELECT key, validation_count, last_validation FROM license WHERE validation_count > 0 ORDER BY id"
    ):
        yield key, Count(number, last)


class _Licenses:
    """The table of licenses as a view to be written: it has the order of the file."""

    def __init__(self, connection: Connection, tick: Callable[[str, int], None]) -> None:
        self._connection, self._tick = connection, tick

    def rewritten(self, changed: Mapping[str, License]) -> Iterator[memoryview | bytes]:
        rows = _streamed(self._connection, _LICENSES)
        for number, row in enumerate(rows):
            if number % _AT_A_TIME == 0:
                self._tick("licenses", number)
            yield (b",\n" if number else b"") + ascii_json(row[0]) + b": " + ascii_json(license_of(row))


_LICENSES: Query = (
    "SELECT key, record, devices, validation_count, last_validation FROM license WHERE record IS NOT NULL ORDER BY id"
)


# ---------------------------------------------------------------------------------------------------- into it
def log_rows(path: Path, kind: type[L]) -> Iterator[tuple[LogRow, L]]:
    """A log's good lines with the torn ones before them. Raises DamagedFile where one does not follow."""
    read, torn, mark = decoder(kind).decode, b"", Mark()
    if not path.exists():
        return
    with open(path, "rb") as file:
        ends = 0
        for raw in file:
            ends += len(raw)
            try:
                line = read(raw if raw.endswith(b"\n") else b"")
                row = LogRow(line.seq, ends, raw[:-1].decode("ascii"), torn or None)
            except UNREADABLE:
                torn += raw
                continue
            check_link(path.name, row, line, mark)
            mark, torn = row.mark, b""
            yield row, line


def fill(
    database: Database, folder: Path, counts: Iterable[tuple[str, Count]], progress: Progress = no_progress
) -> None:
    """Take a folder's books into an empty database, all of them or nothing. Raises Conflict where it is not empty."""
    with _alone(database) as connection:
        if any(seq for _, seq in _ends(connection)) or connection.execute("SELECT 1 FROM letter LIMIT 1").fetchone():
            raise Conflict("the database holds books already: name an empty one in DATABASE_URL")
        total = 2 * max(1, sum((folder / name).stat().st_size for name, *_ in LOGS if (folder / name).exists()))
        names = array("q")
        bindings = defaultdict[str, list[DeviceLine]](list)
        purchases = Purchases()

        def take_entry(row: LogRow, entry: Entry) -> tuple[()]:
            purchases.add(entry.names())
            for name in found_by(entry):
                names.extend((signed(name_hash(name)), row.seq))
            return ()

        def take_device(row: LogRow, line: DeviceLine) -> tuple[str]:
            bindings[line.license_key].append(line)
            return (license_id(line.license_key),)

        _copy_log(connection, folder / LEDGER, Entry, LEDGER_TABLE, take_entry, progress, total)
        _copy(connection, _COPY_NAMES, zip(names[::2], names[1::2], strict=True))
        _copy_log(connection, folder / DEVICE_LOG, DeviceLine, DEVICE_TABLE, take_device, progress, total)
        _copy_orders(connection, folder / ORDERS, progress, total)
        _derive(connection, purchases, lambda: (entry for _, entry in log_rows(folder / LEDGER, Entry)), bindings)
        _copy_counts(connection, counts)
        _copy_letters(connection, folder)
        things = FileShelf(folder / "shelf.json", 0).things()
        _copy(connection, "COPY shelf FROM STDIN", ((name, thing.value, thing.until) for name, thing in things.items()))
        progress(total, total)
    _analyze(database)


@contextmanager
def _alone(database: Database) -> Iterator[Connection]:
    """A transaction in which nobody else writes."""
    connection = database.connect()
    try:
        connection.execute("SET statement_timeout = 0; SET idle_in_transaction_session_timeout = 0")
        with connection.transaction():
            rows = connection.execute("SELECT closed FROM book ORDER BY name FOR UPDATE").fetchall()
            if closed := next((reason for (reason,) in rows if reason is not None), None):
                raise StorageUnavailable(closed)
            yield connection
    except psycopg.Error as error:
        raise unavailable(error) from error
    finally:
        connection.close()


def _copy(connection: Connection, command: Any, rows: Iterable[tuple[Any, ...]]) -> None:
    with connection.cursor() as cursor, cursor.copy(command) as copy:
        for row in rows:
            copy.write_row(row)


def _copy_log(
    connection: Connection,
    path: Path,
    kind: type[L],
    table: LogTable,
    take: Callable[[LogRow, L], tuple[Any, ...]],
    progress: Progress,
    total: int,
) -> None:
    last = LogRow(0, 0, "")

    def rows() -> Iterator[tuple[Any, ...]]:
        nonlocal last
        for row, line in log_rows(path, kind):
            last = row
            yield *row, *take(row, line)
            if row.seq % _AT_A_TIME == 0:
                progress(row.ends, total)

    _copy(connection, table.copy, rows())
    if last.seq:
        connection.execute(*table.advance(last.mark))


def _copy_orders(connection: Connection, path: Path, progress: Progress, total: int) -> None:
    puts: list[tuple[Query, Any]] = []

    def take(row: LogRow, line: OrderLine) -> tuple[int]:
        puts.extend(order_puts(row, line))
        return (signed(name_hash(f"id\0{line.order_id}")),)

    _copy_log(connection, path, OrderLine, ORDER_TABLE, take, progress, total)
    with connection.pipeline():
        for query, given in puts:
            connection.execute(query, given)


def _derive(
    connection: Connection,
    purchases: Purchases,
    entries: Callable[[], Iterable[Entry]],
    bindings: dict[str, list[DeviceLine]],
) -> int:
    """Every license by a fold of its purchase."""
    waiting, count = set(bindings), 0

    def rows() -> Iterator[tuple[Any, ...]]:
        nonlocal count
        for history in purchases.groups(entries):
            known = origins(history, trusts=True)
            for key, license in fold(history).items():
                waiting.discard(key)
                count += 1
                yield *license_row(key, license, known.get(key, Origin(history[0].seq, 0))), _devices(bindings.get(key))
        for key in waiting:
            yield license_id(key), key, None, None, None, *Origin(0, 0), _devices(bindings[key])

    _copy(connection, f"COPY license ({LICENSE_COLUMNS}, devices) FROM STDIN", rows())
    connection.execute("UPDATE book SET licenses = %s WHERE name = 'ledger'", (count,))
    return count


def _devices(lines: list[DeviceLine] | None) -> str | None:
    bound = devices_after(lines or [])
    return ascii_json(bound).decode() if bound else None


def _copy_counts(connection: Connection, counts: Iterable[tuple[str, Count]]) -> None:
    connection.execute("CREATE TEMPORARY TABLE told (id text, number bigint, last timestamptz) ON COMMIT DROP")
    _copy(connection, "COPY told FROM STDIN", ((license_id(key), count.number, count.last) for key, count in counts))
    connection.execute(
        "UPDATE license SET validation_count = told.number, last_validation = told.last"
        " FROM told WHERE license.id = told.id"
    )


def _copy_letters(connection: Connection, folder: Path) -> None:
    lines = [(letter, raw.decode()) for letter, raw in FileLetterBox(folder / "outbox.jsonl", 0).lines()]
    for at in range(0, len(lines), _AT_A_TIME):
        connection.execute(*letter_put(lines[at : at + _AT_A_TIME]))


def _analyze(database: Database) -> None:
    """Whoever asks first must not be the one who finds the tables unknown to the planner."""
    with database.connect() as connection:
        connection.execute("SET statement_timeout = 0")
        connection.execute("ANALYZE ledger, name, device_line, license, order_line, placed, letter")


# ---------------------------------------------------------------------------------------------------- made anew
def rebuild(database: Database) -> int:
    """Names, licenses and orders from the logs alone; how many licenses. Who reads meanwhile reads the old ones."""
    reading = database.connect()
    try:
        with _alone(database) as connection, reading.transaction():
            reading.execute("SET LOCAL statement_timeout = 0; SET LOCAL idle_in_transaction_session_timeout = 0")
            counts = dict(_counts(connection))
            connection.execute("DELETE FROM name")
            connection.execute("DELETE FROM license")
            purchases, bindings = Purchases(), defaultdict[str, list[DeviceLine]](list)
            _copy(connection, _COPY_NAMES, _names(_lines(reading, LEDGER_TABLE, Entry), purchases))
            for device_line in _lines(reading, DEVICE_TABLE, DeviceLine):
                bindings[device_line.license_key].append(device_line)
            count = _derive(connection, purchases, lambda: _lines(reading, LEDGER_TABLE, Entry), bindings)
            _copy_counts(connection, counts.items())
        return count
    except psycopg.Error as error:
        raise unavailable(error) from error
    finally:
        reading.close()


def _names(entries: Iterable[Entry], purchases: Purchases) -> Iterator[tuple[int, int]]:
    for entry in entries:
        purchases.add(entry.names())
        yield from ((signed(name_hash(name)), entry.seq) for name in found_by(entry))


def _lines(connection: Connection, table: LogTable, kind: type[L]) -> Iterator[L]:
    read = decoder(kind).decode
    for row in _log_rows(connection, table):
        try:
            yield read(row.line)
        except UNREADABLE:
            raise DamagedFile(f"table {table.table}", row.seq, "the line cannot be read", RESTORE) from None
