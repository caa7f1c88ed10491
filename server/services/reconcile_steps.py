"""A reconciliation in steps that each take seconds, for who asks over HTTP: again and again, until it is done.

Between the steps stands what was read of the platform's record, in the data folder. What was repaired is in the ledger,
and the next step finds the rest.
"""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Mapping
from datetime import datetime, timedelta
from pathlib import Path
from typing import Literal, TypedDict

from server.errors import PlatformOff, PlatformUnreachable
from server.platforms.base import Platform
from server.services.fulfilment import Fulfilment
from server.services.inquiries import Inquiries
from server.services.order_record import record_of
from server.services.reconcile import Drift, Reconciliation
from server.services.reconcile_report import (
    FindingRow,
    Told,
    UnmappedProduct,
    findings,
    repaired,
    row_of,
    unmapped,
    verdict,
)
from server.services.settlement import Settlement
from server.services.statement import Statement
from server.storage.base import Store

EARLIER = {"stripe": timedelta(days=30)}  # an invoice is listed by when it was made, and may be paid weeks later
STEP = 8.0  # seconds after which a step begins nothing new: a worker answers for 30 at most
REPAIRS = 100  # of one step: each is synced


class Report(TypedDict):
    """Come again with the same words while `state` is not done, after `wait` seconds.

    `pages` of the platform's record were read by now. `findings` are what differs, or differed before this step
    repaired it, `left` how many are left. `unchecked` had to be asked about one by one: no time, or no answer.
    """

    state: Literal["reading", "repairing", "done"]
    wait: int
    pages: int
    compared: int
    repaired: int
    left: int
    unchecked: int
    findings: list[FindingRow]
    unmapped: list[UnmappedProduct]
    verdict: str | None


class _ComeAgain(Exception):
    """In the place of a rest that the platform wants: whoever asked rests himself."""

    def __init__(self, seconds: float) -> None:
        self.seconds = seconds


class ReconcileSteps:
    def __init__(
        self,
        store: Store,
        platforms: Mapping[str, Platform],
        fulfilment: Fulfilment,
        inquiries: Inquiries,
        settlement: Settlement,
        folder: Path,
        clock: Callable[[], datetime],
        seconds: Callable[[], float] = time.monotonic,
    ) -> None:
        self._store, self._platforms, self._settlement, self._folder = store, platforms, settlement, folder
        self._fulfilment, self._inquiries, self._clock, self._seconds = fulfilment, inquiries, clock, seconds

    def step(self, platform: str, since: datetime, until: datetime | None, is_applied: bool) -> Report:
        """Raises PlatformOff, Conflict while another reconciliation of it runs, Unprocessable where it has no record to
        be asked for, PlatformUnreachable."""
        configured = self._platforms.get(platform)
        if configured is None:
            raise PlatformOff("this platform is not configured here")
        record = record_of(configured, self._store, self._settlement)
        statement = Statement(record, self._folder, self._clock, _come_again)
        deadline = self._seconds() + STEP
        with statement.alone():
            pages = 0
            try:
                for pages in statement.reading(since - EARLIER.get(platform, timedelta(0))):
                    if self._seconds() >= deadline:
                        return _reading(pages, 0)
            except _ComeAgain as rest:
                return _reading(pages, max(1, math.ceil(rest.seconds)))
            report = self._compare(platform, statement, since, until, is_applied, deadline)
            if report["state"] == "done":
                statement.forget()
            return report | {"pages": statement.pages}

    def _compare(
        self,
        platform: str,
        statement: Statement,
        since: datetime,
        until: datetime | None,
        is_applied: bool,
        deadline: float,
    ) -> Report:
        def is_late() -> bool:
            return self._seconds() >= deadline

        books = Reconciliation(self._store, self._fulfilment, self._inquiries, self._clock, _no_rest, is_late)

        def compare() -> list[Drift]:
            return books.compare(platform, statement.events, since, until, as_of=statement.begun)

        drifts = left = compare()
        if is_applied and any(drift.can_be_repaired for drift in drifts):
            books.repair(drifts, most=REPAIRS)
            left = compare()
        told = Told(platform, since, statement.events, drifts, left, is_applied)
        done = repaired(told)
        is_repaired = told.is_repaired()
        goes_on = is_applied and done > 0 and any(drift.can_be_repaired for drift in left)
        return {
            "state": "repairing" if goes_on else "done",
            "wait": 0,
            "pages": 0,
            "compared": len(statement.events),
            "repaired": done,
            "left": len(findings(left)),
            "unchecked": books.unchecked,
            "findings": [row_of(drift, is_applied, is_repaired(drift)) for drift in findings(drifts)],
            "unmapped": unmapped(left),
            "verdict": verdict(told),
        }


def _reading(pages: int, wait: int) -> Report:
    return {
        "state": "reading",
        "wait": wait,
        "pages": pages,
        "compared": 0,
        "repaired": 0,
        "left": 0,
        "unchecked": 0,
        "findings": [],
        "unmapped": [],
        "verdict": None,
    }


def _come_again(seconds: float) -> None:
    raise _ComeAgain(seconds)


def _no_rest(seconds: float) -> None:
    raise PlatformUnreachable("it wants to be left alone for a while")
