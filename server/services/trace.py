"""Whose doing the work at hand is: the id of the request that it was begun by, for logs and for the ledger's line.

A letter goes out later, by another process perhaps: it finds the id in the line that owes it.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from contextvars import ContextVar

request_id: ContextVar[str | None] = ContextVar("request_id", default=None)


@contextmanager
def on_behalf_of(known: str | None) -> Iterator[None]:
    token = request_id.set(known)
    try:
        yield
    finally:
        request_id.reset(token)
