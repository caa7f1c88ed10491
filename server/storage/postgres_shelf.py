"""What all workers share for a time, in the database: things on the shelf, and the buckets of the rate limits."""

from __future__ import annotations

from datetime import datetime

from server.domain.rate import Allowance, Rate
from server.storage.base import Shelf, retried
from server.storage.postgres_link import Database, Query, commit, digest, fetched


class PgShelf(Shelf):
    def __init__(self, database: Database) -> None:
        self._database = database

    def get(self, name: str, now: datetime) -> str | None:
        query: Query = "SELECT value FROM shelf WHERE name = %s AND until > %s"
        return next((value for (value,) in self._database.rows(query, name, now)), None)

    def things(self) -> dict[str, tuple[str, datetime]]:
        """All that is on it, with its end."""
        return {name: (value, until) for name, value, until in self._database.rows("SELECT * FROM shelf")}

    @retried
    def put(self, name: str, value: str, until: datetime, now: datetime) -> None:
        query: Query = (
            "INSERT INTO shelf VALUES (%s, %s, %s)"
            " ON CONFLICT (name) DO UPDATE SET value = excluded.value, until = excluded.until"
        )
        with self._database.writing() as connection:
            connection.execute(_CLEAR, (now,))
            commit(connection, (query, (name, value, until)))

    @retried
    def claim(self, name: str, until: datetime, now: datetime) -> bool:
        query: Query = (
            "INSERT INTO shelf AS kept VALUES (%s, '', %s) ON CONFLICT (name)"
            " DO UPDATE SET value = '', until = excluded.until WHERE kept.until <= %s RETURNING true"
        )
        with self._database.writing() as connection:
            return bool(fetched(connection, query, (name, until, now)))


_CLEAR: Query = "DELETE FROM shelf WHERE until <= %s"


class PgLimitTable:
    """The buckets of all application machines, by the database's clock. A hit is a statement that waits for no disk."""

    name = "table bucket"

    def __init__(self, database: Database, secret: str) -> None:
        self._database, self._key, self._hits = database, secret.encode()[:64], 0

    def take(self, subject: str, kind: int, rate: Rate, now: int, beside: int = 0) -> tuple[Allowance, int]:
        """As `LimitTable.take`. The moment that comes along is told by the caller's clock, which is this machine's."""
        self._sweep()
        tag = digest(subject, self._key)
        interval = rate.period // rate.limit
        given = {"tag": tag ^ kind, "beside": tag ^ beside, "interval": interval, "burst": interval * rate.limit}
        ((there, after, before, other),) = self._database.rows(_TAKE, given)
        if after is not None:
            allowance = rate.take(after - interval, there)
        else:  # where somebody was faster, what was read may be older than what it was refused by
            allowance = rate.take(max(before or 0, there + given["burst"] - interval + 1), there)
        return allowance, now + other - there if other else 0

    def _sweep(self) -> None:
        """Buckets that are full again say nothing: they go now and then."""
        self._hits += 1
        if self._hits % 5000 == 0:
            self._database.rows(
                "DELETE FROM bucket WHERE full_at < (extract(epoch FROM clock_timestamp()) * 1000000)::bigint * 1000"
            )


_TAKE: Query = """
WITH clock AS (SELECT (extract(epoch FROM clock_timestamp()) * 1000000)::bigint * 1000 AS now),
hit AS (
    INSERT INTO bucket AS kept (tag, full_at) SELECT %(tag)s::bigint, now + %(interval)s FROM clock
    ON CONFLICT (tag) DO UPDATE SET full_at = %(interval)s + CASE
        WHEN kept.full_at BETWEEN excluded.full_at - %(interval)s AND excluded.full_at - %(interval)s + %(burst)s
        THEN kept.full_at ELSE excluded.full_at - %(interval)s END
    WHERE kept.full_at + %(interval)s <= excluded.full_at - %(interval)s + %(burst)s
        OR kept.full_at > excluded.full_at - %(interval)s + %(burst)s
    RETURNING full_at
)
SELECT clock.now, hit.full_at, (SELECT full_at FROM bucket WHERE tag = %(tag)s::bigint),
    (SELECT full_at FROM bucket WHERE tag = %(beside)s::bigint)
FROM clock LEFT JOIN hit ON true
"""
