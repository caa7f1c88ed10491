"""A right that one process has at a time, however long: to send letters, to decide about orders. It is a locked row, so
that whoever is killed has it no more."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from contextlib import contextmanager

import psycopg

from server.errors import StorageUnavailable
from server.storage.postgres_link import Database, Query, Row, unavailable

_WAIT: Query = "SELECT closed FROM book WHERE name = %s FOR UPDATE"
_AT_ONCE: Query = "SELECT closed FROM book WHERE name = %s FOR UPDATE NOWAIT"


class Held:
    def __init__(self, database: Database, name: str) -> None:
        self._database, self._name, self._here = database, name, threading.local()

    @property
    def _connection(self) -> psycopg.Connection[Row] | None:
        return getattr(self._here, "connection", None)

    @contextmanager
    def held(self, wait: bool = True) -> Iterator[None]:
        """Who has it may take it again. Raises StorageUnavailable where another one has it."""
        if self._connection is not None:
            yield
            return
        with self._database.transaction(_WAIT if wait else _AT_ONCE, self._name) as (connection, rows):
            if rows[0][0] is not None:
                raise StorageUnavailable(rows[0][0])
            connection.execute("SET LOCAL idle_in_transaction_session_timeout = 0")  # a mail server may take minutes
            self._here.connection = connection
            try:
                yield
            finally:
                self._here.connection = None

    def is_mine(self) -> bool:
        """Raises StorageUnavailable where the connection was lost, and the right with it."""
        if self._connection is None:
            return False
        try:
            self._connection.execute("SELECT 1")
        except psycopg.Error as error:
            raise unavailable(error) from error
        return True
