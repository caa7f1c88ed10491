"""What the store needs of a database, tried out: each says in words how it is, or raises OSError with what is wrong."""

from __future__ import annotations

import time
from collections.abc import Callable
from datetime import UTC, datetime

from server.storage.postgres import PostgresStore
from server.storage.postgres_link import Query, schema_parts

_APART, _SPARE = 30.0, 10


def answers(store: PostgresStore) -> str:
    began = time.perf_counter()
    ((version,),) = store.database.rows("SELECT current_setting('server_version')")
    store.database.rows("SELECT 1")
    return f"PostgreSQL {version} answers in {(time.perf_counter() - began) * 500:.1f} ms"


def schema(store: PostgresStore) -> str:
    known = len(schema_parts())
    ((table,),) = store.database.rows("SELECT to_regclass('schema_version')::text")
    ((found,),) = store.database.rows("SELECT max(version) FROM schema_version") if table else [(0,)]
    if found > known:
        raise OSError(f"its schema is {found}, and this version knows {known}: a newer version of Keyledger wrote it")
    return f"its schema is {found}" if found == known else f"its schema is {found}; the next start makes it {known}"


def durability(store: PostgresStore) -> str:
    """What was answered has to survive a power cut of its machine. Where `synchronous_commit` is off, we set it."""
    off = [name for name in ("fsync", "full_page_writes") if _setting(store, name) == "off"]
    if off:
        raise OSError(f"{' and '.join(off)} off: a power cut may lose what was sold")
    return "what is committed is on its disk"


def clock(store: PostgresStore) -> str:
    ((there,),) = store.database.rows("SELECT clock_timestamp()")
    apart = abs((datetime.now(UTC) - there).total_seconds())
    if apart > _APART:
        raise OSError(f"its clock is {apart:.0f} seconds from this machine's")
    return f"its clock is {apart:.1f} seconds from this machine's"


def connections(store: PostgresStore) -> str:
    query: Query = "SELECT count(*) FROM pg_stat_activity WHERE backend_type = 'client backend'"
    ((used,),) = store.database.rows(query)
    most = int(_setting(store, "max_connections"))
    if most - used < _SPARE:
        raise OSError(f"{used} of {most} connections are taken: a worker needs up to four")
    return f"{used} of {most} connections are taken"


def _setting(store: PostgresStore, name: str) -> str:
    return str(store.database.rows("SELECT current_setting(%s)", name)[0][0])


TRIALS: tuple[Callable[[PostgresStore], str], ...] = (answers, schema, durability, clock, connections)
