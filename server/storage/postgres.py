"""The store on PostgreSQL: the same lines as in the files, and what is derived from them beside them.

Whoever appends has the ledger's row of `book` locked, on whichever machine he is; line, names and licenses are written
in one transaction. So nothing has to be caught up with: each look-up is one indexed read of what was committed.
"""

from __future__ import annotations

import logging
import re
import threading
import time
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from datetime import datetime, timedelta
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import msgspec
import psycopg

from server.domain.fold import fold
from server.domain.keys import license_id
from server.domain.license import LATEST, DeviceLine, License, Wanted, devices_after
from server.domain.purchase import Entry, email_name, name_hash
from server.errors import Conflict, DamagedFile, StartPutOff, StartRefused, StorageUnavailable
from server.storage.base import Finding, Found, Progress, Store, StoreState, T, Transaction, no_progress, retried
from server.storage.log import RESTORE, START, UNREADABLE, Mark, ascii_json, decoder, line_hash
from server.storage.postgres_letters import PgLetterBox
from server.storage.postgres_link import Database, Put, Query, Row, at_once, commit, fetched, signed
from server.storage.postgres_log import DEVICES, LEDGER, Book, chained, check_link, license_of, license_puts, name_put
from server.storage.postgres_orders import PgOrderBook
from server.storage.postgres_shelf import PgLimitTable, PgShelf
from server.storage.usage import Count
from server.storage.view import spellings

log = logging.getLogger(__name__)

_PAGE = 500
SMALL_SHOP = 10_000  # in which what is looked for is counted, too
_TABLES = "ledger device_line order_line name license placed letter shelf".split()
_LOCK: Query = (
    "SELECT name, seq, head, ends, closed FROM book WHERE name IN ('ledger', 'devices') ORDER BY name DESC FOR UPDATE"
)
_ENDS: Query = (  # in one statement, which sees one moment: others sell meanwhile
    "SELECT book.seq, book.head, book.closed, ledger.seq, ledger.line"
    " FROM book LEFT JOIN ledger ON ledger.seq = (SELECT max(seq) FROM ledger) WHERE book.name = 'ledger'"
)
_FIND: Query = (
    "SELECT key, record, devices, validation_count, last_validation FROM license WHERE id = %s AND record IS NOT NULL"
)
_ALL_BOOKS: Query = "SELECT closed FROM book ORDER BY name FOR UPDATE"
_NAMED: Query = "SELECT DISTINCT ledger.seq, ledger.line FROM name JOIN ledger USING (seq) WHERE name.hash = ANY(%s)"
_read_entry = decoder(Entry).decode
_read_device_line = decoder(DeviceLine).decode


class PostgresStore(Store):
    letterbox: PgLetterBox
    orders: PgOrderBook
    shelf: PgShelf

    def __init__(self, url: str, pace: float = 1.0) -> None:
        """`pace` is the shortest time in seconds between two writings of usage counts. Nothing is connected yet."""
        self.database, self._pace = Database(url), pace
        self.letterbox = PgLetterBox(self.database)
        self.orders = PgOrderBook(self.database)
        self.shelf = PgShelf(self.database)
        self._here = threading.local()
        self._memory = threading.Lock()
        self._counts: dict[str, Count] = {}
        self._last_tidy = -1e9
        self._trouble: str | None = None

    # ------------------------------------------------------------------------------------------------ opening
    def open(self) -> PostgresStore:
        """Raises StartRefused where the database cannot be used, or DamagedFile where its ledger is not whole."""
        self.database.bring_up_to_date()
        try:
            ((seq, head, closed, last, line),) = self._rows(_ENDS)
        except StorageUnavailable as error:
            raise StartPutOff(f"DATABASE_URL: {error.detail}") from error
        if closed is not None:
            raise StartRefused(f"DATABASE_URL: {closed}")
        if (last or 0, line and line_hash(line.encode())) != (seq, head):
            trouble = f"it ends with number {last or 0}, but the book says {seq}: lines were lost, changed or added"
            raise DamagedFile("table ledger", 0, trouble, "Restore the database from a backup")
        return self

    def close_books(self, reason: str | None, unless: str | None = None) -> None:
        """From now on nobody writes, and everybody is told why; None lets them write again. Raises Conflict where it
        was closed for the reason `unless`."""
        with self.database.transaction(_ALL_BOOKS) as (connection, rows):
            if unless is not None and any(closed == unless for (closed,) in rows):
                raise Conflict(unless)
            commit(connection, ("UPDATE book SET closed = %s", (reason,)))

    def close(self) -> None:
        self.database.close()

    def limit_table(self, secret: str, longest: int = 0) -> PgLimitTable:
        return PgLimitTable(self.database, secret)

    # ------------------------------------------------------------------------------------------------ finding
    @property
    def _transaction(self) -> _PgTransaction | None:
        return getattr(self._here, "transaction", None)

    def _rows(self, query: Query, *given: Any) -> list[Row]:
        """Inside a transaction of this thread what that sees, else what was committed."""
        transaction = self._transaction
        return self.database.rows(query, *given) if transaction is None else transaction.rows(query, *given)

    def find_license(self, key: str) -> License | None:
        found = self._rows(_FIND, license_id(key))
        return license_of(found[0]) if found and found[0][0] == key else None

    def find_by_id(self, license_id_text: str) -> tuple[str, License] | None:
        found = self._rows(_FIND, license_id_text)
        return (found[0][0], license_of(found[0])) if found else None

    def licenses(self, after: str = "") -> Iterator[tuple[str, License]]:
        query: Query = (
            "SELECT key, record, devices, validation_count, last_validation, id FROM license"
            " WHERE id > %s AND record IS NOT NULL ORDER BY id LIMIT %s"
        )
        while rows := self._rows(query, after, _PAGE):
            yield from ((row[0], license_of(row)) for row in rows)
            after = rows[-1][5]

    def licenses_of(self, email: str) -> list[tuple[str, License]]:
        name = email_name(email)
        rows = self._rows(
            "SELECT key, record, devices, validation_count, last_validation FROM license"
            " WHERE email = %s AND record IS NOT NULL ORDER BY since, place",
            signed(name_hash(name)),
        )
        found = [(row[0], license_of(row)) for row in rows]
        return [(key, license) for key, license in found if email_name(license.email) == name]

    def find_licenses(self, wanted: Wanted, now: datetime, after: str = "", limit: int = 50) -> Found:
        """The texts are sifted by the database first, as JSON spells them; the index by age gives the order."""
        begin = self.find_by_id(after) if after else None
        patterns = [f"%{_escaped(spelling.decode())}%" for spelling in spellings(wanted.text)]
        is_small = self.state().licenses <= SMALL_SHOP
        found, total = list[tuple[str, License]](), 0
        behind = (begin[1].created_date, begin[0]) if begin else None
        for key, license in self._by_age(patterns, None if is_small else behind):
            if wanted.takes(key, license, now):
                total += 1
                if len(found) < limit and (behind is None or (license.created_date, key) < behind):
                    found.append((key, license))
                if len(found) == limit and not is_small:
                    break
        return Found(licenses=found, total=total if is_small else None)

    def _by_age(self, patterns: list[str], behind: tuple[datetime, str] | None) -> Iterator[tuple[str, License]]:
        """The licenses that hold one of these, the newest first."""
        query: Query = (
            "SELECT key, record, devices, validation_count, last_validation, created FROM license"
            " WHERE record IS NOT NULL AND (created, key) < (%s, %s) AND (%s::text[] IS NULL"
            " OR record ILIKE ANY(%s::text[]) OR key ILIKE ANY(%s::text[]) OR devices ILIKE ANY(%s::text[]))"
            " ORDER BY created DESC, key DESC LIMIT %s"
        )
        sifted = patterns or None
        at, key = behind or (LATEST + timedelta(days=1), "")
        while rows := self._rows(query, at, key, sifted, sifted, sifted, sifted, _PAGE):
            yield from ((row[0], license_of(row)) for row in rows)
            at, key = rows[-1][5], rows[-1][0]

    def told_of(self, email: str) -> list[Entry]:
        name = email_name(email)
        entries = (_entry(*row) for row in self._rows(_NAMED, [signed(name_hash(name))]))
        return [entry for entry in entries if entry.email and email_name(entry.email) == name]

    def scan_devices(self) -> Iterator[DeviceLine]:
        for row in DEVICES.rows_before(self._rows):
            with suppress(*UNREADABLE):
                yield _read_device_line(row.line)

    def purchases_of(self, email: str) -> list[list[Entry]]:
        name, found, seen = email_name(email), list[list[Entry]](), set[int]()
        for seq, line in self._rows(_NAMED, [signed(name_hash(name))]):
            entry = _entry(seq, line)
            if seq not in seen and entry.email and email_name(entry.email) == name:
                found.append(self.history(entry.names()))
                seen |= {other.seq for other in found[-1]}
        return found

    def device_lines(self, key: str, look: bool = True) -> list[DeviceLine]:
        rows = self._rows("SELECT line FROM device_line WHERE license = %s ORDER BY seq", license_id(key))
        return [line for (raw,) in rows if (line := _read_device_line(raw)).license_key == key]

    def history(self, names: Iterable[str]) -> list[Entry]:
        """Names lead to entries, and entries to further names: a round trip for each step, of which most have one."""
        waiting, seen, found = set(names), set[str](), dict[int, Entry]()
        while waiting:
            seen |= waiting
            rows = self._rows(_NAMED, [signed(name_hash(name)) for name in waiting])
            waiting = set()
            for seq, line in rows:
                if seq not in found:
                    entry = _entry(seq, line)
                    linked = set(entry.names())
                    if not linked.isdisjoint(seen):
                        found[seq] = entry
                        waiting |= linked - seen
        return [found[seq] for seq in sorted(found)]

    def find_event(self, identity: str) -> Entry | None:
        entries = [_entry(*row) for row in self._rows(_NAMED, [signed(name_hash(identity))])]
        known = (entry for entry in entries if entry.identity == identity)
        return max(known, key=lambda entry: entry.revision, default=None)

    def scan(self, kind: type[T], newest_first: bool = False, below: int | None = None) -> Iterator[T]:
        read = msgspec.json.Decoder(kind).decode
        for row in LEDGER.rows_before(self._rows, below) if newest_first else LEDGER.rows_after(self._rows):
            if below is not None and row.seq >= below:
                return
            with suppress(*UNREADABLE):
                yield read(row.line)

    def entries(self, after: Mark = START) -> Iterator[tuple[Mark, list[Entry]]]:
        if after.seq and LEDGER.mark_at(self._rows, after.seq) != after:
            trouble = f"what was read from it before, up to number {after.seq}, was cut or changed"
            raise DamagedFile("table ledger", 0, trouble, RESTORE)
        batch, mark = list[Entry](), after
        for row in LEDGER.rows_after(self._rows, after.seq):
            entry = _entry(row.seq, row.line)
            check_link("table ledger", row, entry, mark)
            mark = row.mark
            batch.append(entry)
            if len(batch) == 1000:
                yield mark, batch
                batch = []
        if batch:
            yield mark, batch

    def inspect(self, progress: Progress = no_progress) -> Iterator[Finding]:
        """By the inspection of the files, on a copy: whatever is wrong there is wrong here."""
        from server.storage.inspection import inspect_folder
        from server.storage.postgres_copy import to_folder

        with TemporaryDirectory(prefix="keyledger-inspect-") as folder:
            try:
                to_folder(self.database, Path(folder))
            except (StorageUnavailable, DamagedFile) as error:
                yield Finding("database", "DATABASE_URL", str(error))
                return
            for finding in inspect_folder(Path(folder), progress):
                where = finding.where.replace("purchases.jsonl", "ledger").replace("activity.jsonl", "device_line")
                where = where.replace("orders.jsonl", "order_line").replace("licenses.json", "license")
                yield msgspec.structs.replace(finding, where=where)

    # ------------------------------------------------------------------------------------------------ writing
    @contextmanager
    def transaction(self) -> Iterator[Transaction]:
        with self.database.transaction(_LOCK) as (connection, rows):
            books = {name: Book(Mark(ends, seq, head), closed) for name, seq, head, ends, closed in rows}
            books["ledger"].refuse_where_closed()
            writing = self._here.transaction = _PgTransaction(self, connection, books)
            try:
                yield writing
            finally:
                self._here.transaction = None
                if writing.is_whole:  # what was appended stays, as in a file, whatever goes wrong behind it
                    writing.commit()

    def count_usage(self, key: str, now: datetime, times: int = 1) -> None:
        with self._memory:
            known = self._counts.get(key)
            self._counts[key] = Count(known.number + times, now) if known else Count(times, now)

    # ------------------------------------------------------------------------------------------------ the rest
    def tidy(self, force: bool = False) -> float | None:
        if not self._counts:
            return None
        wait = self._last_tidy + self._pace - time.monotonic()
        if wait > 0 and not force:
            return wait
        self._last_tidy = time.monotonic()
        with self._memory:
            counts, self._counts = self._counts, {}
        try:
            self._write_usage(counts)
        except StorageUnavailable as error:
            log.error("storage: usage counts wait: %s", error.detail)
            with self._memory:
                for key, count in counts.items():
                    self._counts[key] = count.plus(self._counts[key]) if key in self._counts else count
            return 5.0
        return None

    @retried
    def _write_usage(self, counts: Mapping[str, Count]) -> None:
        """In one order for all, so that two who write the same ones do not wait for each other."""
        ids = [license_id(key) for key in counts]
        numbers, moments = [c.number for c in counts.values()], [c.last for c in counts.values()]
        lock: Query = "SELECT id FROM license WHERE id = ANY(%s) ORDER BY id FOR UPDATE"
        update: Query = (
            "UPDATE license SET validation_count = validation_count + told.number,"
            " last_validation = GREATEST(last_validation, told.last)"
            " FROM unnest(%s::text[], %s::bigint[], %s::timestamptz[]) AS told (id, number, last)"
            " WHERE license.id = told.id"
        )
        with self.database.transaction(lock, ids) as (connection, _):
            commit(connection, (update, (ids, numbers, moments)))

    def state(self, probe: bool = False) -> StoreState:
        try:
            if probe:
                self.database.rows("UPDATE book SET probed = now() WHERE name = 'door'")
            ((seq, licenses, closed),) = self.database.rows(
                "SELECT seq, licenses, closed FROM book WHERE name = 'ledger'"
            )
        except StorageUnavailable as error:
            return StoreState(kind="postgresql", trouble=error.detail, licenses=0, ledger_lines=0)
        return StoreState(kind="postgresql", trouble=closed, licenses=licenses, ledger_lines=seq)

    def sizes(self) -> dict[str, int]:
        query: Query = "SELECT name, pg_total_relation_size(name::regclass) FROM unnest(%s::text[]) AS told (name)"
        with suppress(StorageUnavailable):
            return dict(self.database.rows(query, [*_TABLES]))
        return {}

    def rebuild(self) -> int:
        from server.storage.postgres_copy import rebuild

        return rebuild(self.database)


class _PgTransaction(Transaction):
    """What is to be written waits until somebody reads, or for the end: then it goes with COMMIT in one round trip."""

    def __init__(self, store: PostgresStore, connection: psycopg.Connection[Row], books: Mapping[str, Book]) -> None:
        self._store, self._connection = store, connection
        self._ledger, self._devices = books["ledger"].mark, books["devices"].mark
        self._pending: Put | None = None
        self.is_whole = True

    def rows(self, query: Query, *given: Any) -> list[Row]:
        try:
            self._flush()
            return fetched(self._connection, query, given)
        except psycopg.Error:
            self.is_whole = False
            raise

    def _add(self, *puts: Put) -> None:
        self._flush()
        self._pending = at_once(puts)

    def _flush(self) -> None:
        pending, self._pending = self._pending, None
        if pending is not None:
            self._connection.execute(*pending)

    def commit(self) -> None:
        pending, self._pending = self._pending, None
        commit(self._connection, pending)

    # ------------------------------------------------------------------------------------------------ appending
    def append(self, entries: Sequence[Entry], licenses: Mapping[str, License] | None = None) -> None:
        if not entries:
            return
        rows, self._ledger = chained(entries, self._ledger)
        lines = LEDGER.insert(rows), name_put(entries)
        if licenses is not None:
            self._add(*lines, *license_puts(licenses, entries, self._ledger))
        else:
            self._add(*lines)
            self._add(*license_puts(self._folded(entries), entries, self._ledger))

    def _folded(self, entries: Sequence[Entry]) -> dict[str, License]:
        found, done = dict[str, License](), set[int]()
        for entry in entries:
            if entry.seq not in done:
                history = self._store.history(entry.names())
                done |= {other.seq for other in history}
                found |= fold(history)
        return found

    def append_devices(self, lines: Sequence[DeviceLine]) -> None:
        if not lines:
            return
        rows, self._devices = chained(lines, self._devices)
        self._add(
            DEVICES.insert(rows, [license_id(line.license_key) for line in lines]), DEVICES.advance(self._devices)
        )
        keys = list(dict.fromkeys(line.license_key for line in lines))
        bound = [devices_after(self._store.device_lines(key)) for key in keys]
        put: Query = (
            "INSERT INTO license (id, key, devices) SELECT * FROM unnest(%s::text[], %s::text[], %s::text[])"
            " ON CONFLICT (id) DO UPDATE SET devices = excluded.devices"
        )
        told = [ascii_json(devices).decode() if devices else None for devices in bound]
        self._add((put, ([license_id(key) for key in keys], keys, told)))

    def rest_on_disk(self) -> None:
        """What was committed is on disk before anybody sees it."""


def _escaped(text: str) -> str:
    """As LIKE takes it literally."""
    return re.sub(r"([\\\\%_])", r"\\\\\1", text)


def _entry(seq: int, line: str) -> Entry:
    try:
        entry: Entry = _read_entry(line)
        return entry
    except UNREADABLE:
        raise DamagedFile("table ledger", seq, "the line cannot be read", RESTORE) from None
