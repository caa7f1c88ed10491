"""A reconciliation in steps that each take seconds, for who asks over HTTP: again and again, until it is done.

Between the steps stand what was read of the platform's record and what was done by now, in the data folder. What was
repaired is in the ledger, and the next step finds the rest.
"""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Mapping, Sequence
from datetime import datetime, timedelta
from pathlib import Path
from typing import Literal, TypedDict

from server.errors import PlatformOff
from server.platforms.base import Platform
from server.services.fulfilment import Fulfilment
from server.services.inquiries import Inquiries
from server.services.order_record import record_of
from server.services.reconcile import Drift, Reconciliation
from server.services.reconcile_notes import Notes
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
STEP = 6.0  # seconds after which a step begins nothing new: a worker answers for 30 at most, a page takes 20
REPAIRS, REPAIRING = 100, 5.0  # of one step, in number and seconds: each is synced, and some are asked about


class Report(TypedDict):
    """Come again with the same words while `state` is not done, after `wait` seconds.

    By now `pages` of the platform's record were read, `asked` questions asked one by one, `repaired` findings repaired.
    `findings` are what differs, or differed before any step repaired it, `left` how many are left. To `unchecked`
    questions there was no answer.
    """

    state: Literal["reading", "asking", "repairing", "done"]
    wait: int
    pages: int
    asked: int
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
                        return _going_on("reading", pages)
            except _ComeAgain as rest:
                return _going_on("reading", pages, rest)
            notes = Notes(statement.notes, _come_again, lambda: self._seconds() >= deadline)
            try:
                report = self._compare(platform, statement, notes, since, until, is_applied, deadline)
            except _ComeAgain as rest:
                return _going_on("asking", statement.pages, rest, notes)
            if report["state"] == "done":
                statement.forget()
            return report

    def _compare(
        self,
        platform: str,
        statement: Statement,
        notes: Notes,
        since: datetime,
        until: datetime | None,
        is_applied: bool,
        deadline: float,
    ) -> Report:
        books = Reconciliation(self._store, self._fulfilment, self._inquiries, self._clock, ask=notes.ask)

        def compare() -> list[Drift]:
            return books.compare(platform, statement.events, since, until, as_of=statement.begun)

        drifts = left = compare()
        if is_applied and self._repair(books, drifts, notes):
            if self._seconds() >= deadline:
                return _going_on("repairing", statement.pages, notes=notes)
            left = compare()
        found = (notes.repaired if is_applied else {}) | {drift.name: drift for drift in drifts}
        told = Told(platform, since, statement.events, [*found.values()], left, is_applied)
        is_repaired = told.is_repaired()
        goes_on = is_applied and any(_is_untried(drift, notes) for drift in left)
        return {
            "state": "repairing" if goes_on else "done",
            "wait": 0,
            "pages": statement.pages,
            "asked": notes.asked,
            "compared": len(statement.events),
            "repaired": repaired(told),
            "left": len(findings(left)),
            "unchecked": books.unchecked,
            "findings": [row_of(drift, is_applied, is_repaired(drift)) for drift in findings(told.drifts)],
            "unmapped": unmapped(left),
            "verdict": verdict(told),
        }

    def _repair(self, books: Reconciliation, drifts: Sequence[Drift], notes: Notes) -> bool:
        """As much as a step may, of what no step tried yet. Whether there was anything."""
        untried, until = [drift for drift in drifts if _is_untried(drift, notes)], self._seconds() + REPAIRING
        for done, drift in enumerate(books.repairing(untried), 1):
            notes.note_repaired(drift)
            if done == REPAIRS or self._seconds() >= until:
                break
        return bool(untried)


def _is_untried(drift: Drift, notes: Notes) -> bool:
    return drift.can_be_repaired and drift.name not in notes.repaired


def _going_on(
    state: Literal["reading", "asking", "repairing"],
    pages: int,
    rest: _ComeAgain | None = None,
    notes: Notes | None = None,
) -> Report:
    """Of a step that ended before there was anything to tell."""
    return {
        "state": state,
        "wait": math.ceil(rest.seconds) if rest else 0,
        "pages": pages,
        "asked": notes.asked if notes else 0,
        "compared": 0,
        "repaired": len(notes.repaired) if notes else 0,
        "left": 0,
        "unchecked": 0,
        "findings": [],
        "unmapped": [],
        "verdict": None,
    }


def _come_again(seconds: float) -> None:
    raise _ComeAgain(seconds)
