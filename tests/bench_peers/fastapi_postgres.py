"""The same program on PostgreSQL, with the pool that SQLAlchemy brings: the tables are in the schema of PEER_URL."""

from __future__ import annotations

import os
from collections.abc import Iterable

import psycopg
from fastapi import FastAPI
from sqlalchemy import create_engine

from tests.bench_peers import fastapi_sqlalchemy


def fill(url: str, licenses: Iterable[tuple[str, str]]) -> None:
    """Write keys with their devices."""
    engine = _engine(url)
    fastapi_sqlalchemy.Base.metadata.create_all(engine)
    engine.dispose()
    pairs = list(licenses)
    with psycopg.connect(url) as connection, connection.cursor() as cursor:
        with cursor.copy("COPY licenses (key, sale_id, email, active) FROM STDIN") as copy:
            for number, (key, _) in enumerate(pairs):
                copy.write_row((key, f"s{number}", f"customer{number}@mail.example.com", True))
        with cursor.copy("COPY devices (key, hardware_id) FROM STDIN") as copy:
            for pair in pairs:
                copy.write_row(pair)
        cursor.execute("ANALYZE licenses, devices")


def app() -> FastAPI:
    return fastapi_sqlalchemy.app_on(_engine(os.environ["PEER_URL"]))


def _engine(url: str):
    return create_engine(url.replace("postgresql://", "postgresql+psycopg://"))
