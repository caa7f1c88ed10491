"""The way to the database: connections that are kept, what is retried, and every trouble told as StorageUnavailable.

A statement of its own is its own transaction. Where an idle connection turns out to be dead (the server was restarted),
nothing was done yet, so it is tried once more over a fresh one. What goes wrong later is the caller's to repeat, and at
COMMIT it is not known what became of it: whoever repeats it finds out, since every writer looks first.
"""

from __future__ import annotations

import functools
import hashlib
import logging
import os
import time
import weakref
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from importlib.resources import files
from typing import Any, LiteralString, TypeVar

import psycopg
from psycopg import sql
from psycopg.conninfo import conninfo_to_dict, make_conninfo

from server.errors import Contended, StartPutOff, StartRefused, StorageUnavailable
from server.storage.base import retried

log = logging.getLogger(__name__)

R = TypeVar("R")
Row = tuple[Any, ...]
Query = LiteralString | bytes
Put = tuple[Query, Sequence[Any]]  # what is to be written, and with which values
PATIENCE = 4.0  # seconds for a lock: less than the 5 that Gumroad waits for an answer
_REST = 0.5  # seconds for which a database that cannot be reached is left alone: nobody's request waits for it in vain
# How a connection is begun, beside what its URL says. The database lets go of the locks of a process that stands still,
# or whose machine is gone; and what was answered survives its power cut, whatever the server's default is.
_DEFAULTS = {
    "connect_timeout": "3",
    "application_name": "keyledger",
    "tcp_user_timeout": "10000",
    "keepalives_idle": "20",
    "keepalives_interval": "5",
    "keepalives_count": "3",
}
_BEGIN: LiteralString = """
SET statement_timeout = '10s'; SET idle_in_transaction_session_timeout = '15s';
SET tcp_keepalives_idle = 20; SET tcp_keepalives_interval = 5; SET tcp_keepalives_count = 3; SET TimeZone = 'UTC';
SELECT set_config('synchronous_commit', 'on', false) WHERE current_setting('synchronous_commit') = 'off'
"""
_DOOR: LiteralString = "SELECT closed FROM book WHERE name = 'door' FOR SHARE"
_MIGRATING = 0x6B65796C6564  # the advisory lock of those who bring the schema up to date


class Database:
    """One for each process; connections are opened when they are needed, and none survives a fork."""

    def __init__(self, url: str, patience: float = PATIENCE) -> None:
        self.patience = patience
        self._conninfo = make_conninfo("", **{**_DEFAULTS, **conninfo_to_dict(url)})
        self._pid = os.getpid()
        self._idle: list[psycopg.Connection[Row]] = []
        self._inherited: list[object] = []
        self._rests_until = 0.0
        weakref.finalize(self, _close, self._idle, os.getpid())

    def close(self) -> None:
        _close(self._idle, self._pid)

    # ------------------------------------------------------------------------------------------------ connections
    def borrow(self) -> psycopg.Connection[Row]:
        self._leave_what_was_inherited()
        with suppress(IndexError):
            return self._idle.pop()
        return self.connect()

    def give_back(self, connection: psycopg.Connection[Row]) -> None:
        """What it has not committed is undone."""
        status = psycopg.pq.TransactionStatus
        with suppress(psycopg.Error):
            if connection.pgconn.transaction_status in (status.INTRANS, status.INERROR):
                connection.rollback()
            if connection.pgconn.transaction_status == status.IDLE:
                self._idle.append(connection)
                return
        connection.close()

    def connect(self) -> psycopg.Connection[Row]:
        """Raises StorageUnavailable."""
        if time.monotonic() < self._rests_until:
            raise StorageUnavailable("the database cannot be reached")
        try:
            return self._connected()
        except psycopg.Error as error:
            self._rests_until = time.monotonic() + _REST
            raise unavailable(error) from error

    def _connected(self) -> psycopg.Connection[Row]:
        connection = psycopg.connect(self._conninfo, autocommit=True)
        connection.execute(_BEGIN)
        connection.execute("SELECT set_config('lock_timeout', %s, false)", (f"{int(self.patience * 1000)}ms",))
        return connection

    def _leave_what_was_inherited(self) -> None:
        """They are the parent's. Closing them would say goodbye in its name, so they are only put out of sight."""
        if self._pid != os.getpid():
            self._inherited += self._idle
            self._idle.clear()
            self._pid, self._rests_until = os.getpid(), 0.0

    # ------------------------------------------------------------------------------------------------ statements
    @retried
    def rows(self, query: Query, *given: Any) -> list[Row]:
        """What one statement gives. It is its own transaction, and may be tried twice."""
        return self._over_a_live_one(lambda connection: fetched(connection, query, given))

    @contextmanager
    def transaction(self, first: Query, *given: Any) -> Iterator[tuple[psycopg.Connection[Row], list[Row]]]:
        """A transaction with what its first statement gave; committed where its user has not done it."""
        connection, rows = self._over_a_live_one(lambda fresh: (fresh, begun(fresh, first, given)), keeps=True)
        try:
            yield connection, rows
            if connection.pgconn.transaction_status != psycopg.pq.TransactionStatus.IDLE:
                commit(connection)
        except psycopg.Error as error:
            raise unavailable(error) from error
        finally:
            self.give_back(connection)

    @contextmanager
    def writing(self) -> Iterator[psycopg.Connection[Row]]:
        """A transaction for what is in no log; while the books are moved none begins."""
        with self.transaction(_DOOR) as (connection, rows):
            if rows[0][0] is not None:
                raise StorageUnavailable(rows[0][0])
            yield connection

    def _over_a_live_one(self, work: Callable[[psycopg.Connection[Row]], R], keeps: bool = False) -> R:
        while True:
            was_idle = bool(self._idle) and self._pid == os.getpid()
            connection = self.borrow()
            try:
                done = work(connection)
            except psycopg.Error as error:
                broken = connection.closed or connection.broken
                self.give_back(connection)
                if not (was_idle and broken):
                    raise unavailable(error) from error
            except BaseException:
                connection.close()
                raise
            else:
                if not keeps:
                    self.give_back(connection)
                return done

    # ------------------------------------------------------------------------------------------------ the schema
    def bring_up_to_date(self) -> None:
        """Raises StartRefused in one line where this database is none that can be used."""
        parts = schema_parts()
        try:
            with self._connected() as connection:
                if _version(connection) != len(parts):
                    _migrate(connection, parts)
        except psycopg.Error as error:
            is_away = isinstance(error, psycopg.OperationalError)
            raise (StartPutOff if is_away else StartRefused)(f"DATABASE_URL: {_why(error)}") from error


def _close(connections: list[psycopg.Connection[Row]], pid: int) -> None:
    while pid == os.getpid() and connections:
        connections.pop().close()


def schema_parts() -> list[str]:
    """What brings the schema from each version to the next."""
    text = files("server.storage").joinpath("schema.sql").read_text(encoding="utf-8")
    return [part.partition("\n")[2] for part in text.split("\n-- version ")[1:]]


def _version(connection: psycopg.Connection[Row]) -> int:
    (table,) = connection.execute("SELECT to_regclass('schema_version')").fetchone() or (None,)
    if table is None:
        return 0
    (version,) = connection.execute("SELECT coalesce(max(version), 0) FROM schema_version").fetchone() or (0,)
    return int(version)


def _migrate(connection: psycopg.Connection[Row], parts: Sequence[str]) -> None:
    """All that is missing, in one transaction: who waits for the lock finds it done."""
    connection.execute("SET statement_timeout = 0; SET lock_timeout = 0")
    with connection.transaction():
        connection.execute("SELECT pg_advisory_xact_lock(%s)", (_MIGRATING,))
        # While one waits for the lock its catalogue may be behind, but no statement that makes a table works by that.
        connection.execute("CREATE TABLE IF NOT EXISTS schema_version (version integer PRIMARY KEY)")
        (version,) = connection.execute("SELECT coalesce(max(version), 0) FROM schema_version").fetchone() or (0,)
        if version > len(parts):
            raise StartRefused(
                f"DATABASE_URL: a newer version of Keyledger wrote this database (schema {version}, here {len(parts)}):"
                " start that one"
            )
        for number, part in enumerate(parts[version:], version + 1):
            connection.execute(sql.SQL(part))
            connection.execute("INSERT INTO schema_version VALUES (%s)", (number,))


# ---------------------------------------------------------------------------------------------------- statements
def fetched(connection: psycopg.Connection[Row], query: Query, given: Sequence[Any]) -> list[Row]:
    """`given` are the values for its places, or one mapping of them by name."""
    named = given[0] if len(given) == 1 and isinstance(given[0], dict) else given
    cursor = connection.execute(query, named, binary=True)
    return cursor.fetchall() if cursor.pgresult and cursor.pgresult.nfields else []  # `description` would build columns


def begun(connection: psycopg.Connection[Row], query: Query, given: Sequence[Any]) -> list[Row]:
    """The first statement of a transaction, which gives rows, sent together with its beginning."""
    if given:
        with connection.pipeline():
            connection.execute("BEGIN")
            return connection.execute(query, given, binary=True).fetchall()
    cursor = connection.execute(b"BEGIN; " + _bytes(query))  # a third of what a pipeline costs
    cursor.nextset()
    return cursor.fetchall()


def commit(connection: psycopg.Connection[Row], put: Put | None = None) -> None:
    """What is still to be written, and COMMIT, in one round trip."""
    if put is None:
        connection.execute("COMMIT")
        return
    with connection.pipeline():
        connection.execute(*put)
        connection.execute("COMMIT")


def at_once(puts: Sequence[Put]) -> Put:
    """Several as one statement, which is half the work for both ends. All of them see what was there before, and no two
    of them may write the same row."""
    return _joined(tuple(query for query, _ in puts)), [value for _, given in puts for value in given]


@functools.lru_cache(64)
def _joined(queries: tuple[Query, ...]) -> bytes:
    *first, last = map(_bytes, queries)
    parts = [b"part%d AS (%s)" % (number, query) for number, query in enumerate(first)]
    return b"WITH " + b", ".join(parts) + b" " + last if parts else last


def _bytes(query: Query) -> bytes:
    return query if isinstance(query, bytes) else query.encode()


# ---------------------------------------------------------------------------------------------------- trouble
def unavailable(error: psycopg.Error) -> StorageUnavailable:
    """In words that may be public; the log has the rest. Neither has a password: the library tells none."""
    if error.sqlstate in ("40001", "40P01"):
        return Contended("another transaction came first")
    if error.sqlstate == "55P03":
        return StorageUnavailable("the books are held by another process")
    if error.sqlstate == "23505" and "one_license_per_sale" in str(error):
        log.error("storage: a second license of one sale was refused by the database")
        return StorageUnavailable("the database refused a second license of one sale")
    log.error("storage: %s", type(error).__name__, extra={"detail": _line(error), "sqlstate": error.sqlstate})
    if error.sqlstate == "42P01":
        return StorageUnavailable("the database has no tables of Keyledger's: a start or scripts/migrate.py makes them")
    if error.sqlstate is None or error.sqlstate[:2] in ("08", "57"):
        return StorageUnavailable("the database cannot be reached")
    return StorageUnavailable(f"the database refused it (SQLSTATE {error.sqlstate})")


def _why(error: psycopg.Error) -> str:
    """For the owner, who reads it at the start."""
    text = _line(error)
    if error.sqlstate in ("28P01", "28000") or "authentication failed" in text:
        return f"the database lets nobody in with this name and password ({text})"
    if error.sqlstate == "3D000" or ("does not exist" in text and "database" in text):
        return f"there is no such database: create it first ({text})"
    if error.sqlstate == "42501":
        return f"this user may not make tables in the database ({text})"
    return f"the database cannot be used: {text}"


def _line(error: BaseException) -> str:
    return " ".join(str(error).split())[:300]


def signed(number: int) -> int:
    """64 bits as the database's bigint has them."""
    return number - (1 << 64) if number >> 63 else number


def digest(text: str, key: bytes) -> int:
    return int.from_bytes(
        hashlib.blake2b(text.encode("utf-8", "replace"), digest_size=8, key=key).digest(), "big", signed=True
    )
