#!/usr/bin/env python3
"""Hold the ledger against a payment platform's own record: what was paid, refunded and disputed there since a day.

Nothing is changed unless --apply is given. Exit code 1 where something differs that was not repaired, or where the
record could not be had; 2 where the command or a setting is wrong.
"""

from __future__ import annotations

import shlex
import sys
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from datetime import datetime, timedelta
from functools import cache
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

import click
import msgspec

from scripts.asking import ask_service
from scripts.printing import FINDINGS, Command, complain, output_options, plain, progress, show, show_json
from server.domain.purchase import PurchaseEvent
from server.errors import BadRequest, KeyledgerError, SettingsError, Unprocessable
from server.platforms import PLATFORMS
from server.services.audit import read_moment
from server.services.order_record import record_of as orders_of
from server.services.reconcile import Drift, Kind, Reconciliation
from server.services.reconcile_report import Told, counted, findings, repaired, row_of, unmapped, verdict
from server.services.reconcile_steps import EARLIER
from server.services.statement import Statement
from server.services.statement_file import read_statement_file
from server.wiring import Services, open_services

COLUMNS = "finding sale_id email told repair".split()  # as many as a screen has room for
CSV_COLUMNS = "finding field sale_id email platform ledger license_keys repair".split()
MOST_HINTS = 20
IDLE_STEPS = 6  # after which a platform that does not answer the service is left alone


class Record(msgspec.Struct, frozen=True):
    """What is compared, and when it was true."""

    events: Sequence[PurchaseEvent]
    as_of: datetime
    without_quantity: frozenset[str] = frozenset()


@cache
def services() -> Services:
    return open_services()


@click.command(cls=Command, help=__doc__)
@click.argument("platform", type=click.Choice(sorted(PLATFORMS)))
@click.option(
    "--since",
    required=True,
    metavar="DAY",
    help="What was sold from this day (or moment) on, and what became of it. Refunds of what was sold before are "
    "told by some platforms only: look back as far as you refund.",
)
@click.option("--until", metavar="DAY", help="Up to this day; needed only for a file that ends earlier than now.")
@click.option(
    "--from",
    "path",
    type=click.Path(exists=True, dir_okay=False, path_type=Path),
    help="The platform's record in a file, CSV or JSON, instead of its API.",
)
@click.option("--apply", "is_applied", is_flag=True, help="Repair what can be repaired.")
@click.option("--url", help="Ask the service at this address instead of opening the files (needs ADMIN_API_KEY).")
@output_options
def reconcile(
    platform: str,
    since: str,
    until: str | None,
    path: Path | None,
    is_applied: bool,
    url: str | None,
    form: str | None,
) -> None:
    begin = read_moment(since, "--since")
    end = read_moment(until, "--until", ends=True) if until else None
    if end is not None and begin > end:
        raise BadRequest(f"--until: {until} is before --since {since}")
    if url is not None:
        if path is not None:
            raise click.UsageError("--from names a file of this machine, --url asks another one: give one of them")
        tell_report(ask_in_steps(url, platform, {"since": since, "until": until, "apply": is_applied}), form)
        return
    with record_of(platform, path, begin) as record:
        drifts, left = run(platform, record, begin, end, is_applied)
    tell(Told(platform, begin, record.events, drifts, left, is_applied), form)
    sys.exit(FINDINGS if findings(left) else 0)


def run(
    platform: str, record: Record, begin: datetime, end: datetime | None, is_applied: bool
) -> tuple[list[Drift], list[Drift]]:
    """What differs, and what of it is left."""
    ours = services()
    books = Reconciliation(ours.store, ours.fulfilment, ours.inquiries, ours.clock)

    def compare(what: str) -> list[Drift]:
        with progress(what) as tick:
            return books.compare(platform, record.events, begin, end, tick, record.without_quantity, record.as_of)

    drifts = left = compare(f"comparing {len(record.events)} events")
    if is_applied and any(drift.can_be_repaired for drift in drifts):
        with progress(f"repairing {len(findings(drifts))} findings") as tick:
            books.repair(drifts, tick)
        left = compare("comparing once more")
    if books.unchecked:
        complain(
            f"{platform} did not answer about {books.unchecked} licenses, refunds or disputes that had to be asked "
            "about one by one: run again"
        )
    return drifts, left


# ---------------------------------------------------------------------------------------------------- the record
@contextmanager
def record_of(platform: str, path: Path | None, since: datetime) -> Iterator[Record]:
    """What was read of an API is kept until all is done, so that whoever is interrupted goes on."""
    if path is not None:
        read = read_statement_file(path, PLATFORMS[platform])
        yield Record(read.events, services().clock(), read.without_quantity)
        return
    statement = statement_of(platform)
    with statement.alone():
        yield Record(read_all(platform, statement, since), statement.begun)
        statement.forget()


def statement_of(platform: str) -> Statement:
    ours = services()
    configured = ours.platforms.get(platform)
    if configured is None:
        raise SettingsError(f"{platform} is off: its settings are missing (or name a file with --from)")
    record = orders_of(configured, ours.store, ours.settlement)
    return Statement(record, ours.settings.data_dir, ours.clock)


def read_all(platform: str, statement: Statement, since: datetime) -> Sequence[PurchaseEvent]:
    try:
        with progress(f"reading {platform}'s record"):  # nobody knows of how many pages
            events = statement.read(since - EARLIER.get(platform, timedelta(0)))
    except Unprocessable as error:  # no API, or no key to it
        raise SettingsError(f"{error.detail}; --from reads a file") from None
    if statement.resumed:
        complain(f"{statement.resumed} pages were read at {statement.begun:%Y-%m-%d %H:%M} UTC, before an interruption")
    if statement.unreadable:
        complain(
            f"{statement.unreadable} objects of {platform}'s record cannot be read and are left out: a license without "
            "payment may be one of these"
        )
    return events


# ---------------------------------------------------------------------------------------------------- over HTTP
def ask_in_steps(url: str, platform: str, asked: dict[str, Any]) -> dict[str, Any]:
    """The service works for seconds and is asked again until it is done."""
    done = idle = 0
    with progress(f"{platform}, at {url}") as tick:
        while idle < IDLE_STEPS:
            report = ask_service(url, f"/reconcile/{platform}", asked)
            if report["state"] == "done":
                return report
            by_now = report["pages"] + report["asked"] + report["repaired"]
            idle, done = 0 if by_now > done else idle + 1, by_now
            tick(done, 0)
            time.sleep(max(report["wait"], idle**2))
    raise KeyledgerError(f"{platform} does not answer {url}: start again later, it goes on where it stopped")


def tell_report(report: dict[str, Any], form: str | None) -> None:
    if form == "json":
        show_json(report)
    elif form == "csv":
        show(report["findings"], CSV_COLUMNS, form)
    else:
        if report["findings"]:
            show([in_short(row) for row in report["findings"]], COLUMNS, form)
        notes = [
            f"note: nobody mapped {one['product']} ({counted(one['sales'], 'sale')})" for one in report["unmapped"]
        ]
        for line in [*notes, report["verdict"]]:
            click.echo(plain(line))
    if report["unchecked"]:
        complain(f"{report['unchecked']} had to be asked about one by one, and there was no answer: run it again")
    sys.exit(FINDINGS if report["left"] else 0)


# ---------------------------------------------------------------------------------------------------- telling it
def tell(told: Told, form: str | None) -> None:
    is_repaired = told.is_repaired()
    found = findings(told.drifts)
    rows = [dict(row_of(drift, told.is_applied, is_repaired(drift))) for drift in found]
    if form == "json":
        counts = {"compared": len(told.record), "repaired": repaired(told), "left": len(findings(told.left))}
        head = {"platform": told.platform, "since": told.since, "applied": told.is_applied}
        tail = {"findings": rows, "unmapped": unmapped(told.left)}
        show_json(head | counts | {"verdict": verdict(told)} | tail)
        return
    if form == "csv":
        show(rows, CSV_COLUMNS, form)
    elif rows:
        show([in_short(row) for row in rows], COLUMNS, form)
    for line in [*hints(told, findings(told.left)), *notes(told.left), verdict(told)]:
        click.echo(plain(line), err=form == "csv")


def in_short(row: dict[str, Any]) -> dict[str, Any]:
    """What the platform tells and what the ledger, where there are two words, in one column."""
    if row["field"]:
        return row | {"finding": f"{row['field']} differs", "told": f"{row['platform']}, here {row['ledger']}"}
    return row | {"told": row["platform"] or f"here {row['ledger']}"}


def hints(told: Told, left: Sequence[Drift]) -> Iterator[str]:
    """What to do by hand, for each sale."""
    by_hand = [drift for drift in left if told.is_applied or not drift.can_be_repaired]
    for drift in by_hand[:MOST_HINTS]:
        yield f"  {drift.sale_id}: {hint(told.platform, drift)}"
    if len(by_hand) > MOST_HINTS:
        yield f"  and {len(by_hand) - MOST_HINTS} more: --json names them"


def hint(platform: str, drift: Drift) -> str:
    if drift.kind is Kind.UNPAID:
        keys = " ".join(map(shlex.quote, drift.license_keys))
        return f"look it up at {platform}; where nobody paid for it: scripts/licenses.py revoke {keys}"
    if drift.kind is Kind.LONE:
        return "its first sale is not in the ledger: give --since a day before that"
    return "could not be repaired; look at it by scripts/audit.py find, and repair it by scripts/licenses.py"


def notes(drifts: Sequence[Drift]) -> Iterator[str]:
    for note in unmapped(drifts):
        yield (
            f"note: nobody mapped {note['product']} ({counted(note['sales'], 'sale')}): if it is yours, map it in "
            "products.json, then --apply"
        )


if __name__ == "__main__":
    reconcile()
