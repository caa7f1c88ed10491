#!/usr/bin/env python3
"""Hold the ledger against a payment platform's own record: what was paid, refunded and disputed there since a day.

Nothing is changed unless --apply is given. Exit code 1 where something differs that was not repaired.
"""

from __future__ import annotations

import sys
from collections import Counter
from collections.abc import Sequence
from datetime import datetime, timedelta
from functools import cache
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

import click

from scripts.printing import FINDINGS, Command, complain, output_options, progress, show, show_json
from server.domain.purchase import CHARGES, PurchaseEvent
from server.errors import PlatformOff
from server.platforms import PLATFORMS
from server.services.audit import read_moment
from server.services.reconcile import NOTES, Drift, Reconciliation
from server.services.statement import Statement, read_statement_file
from server.wiring import Services, open_services

COLUMNS = "finding field sale_id email platform ledger repair".split()
OVERLAP = timedelta(days=3)  # an invoice is made some time before it is paid: the record is read from a little earlier


@cache
def services() -> Services:
    return open_services()


@click.command(cls=Command, help=__doc__)
@click.argument("platform", type=click.Choice(sorted(PLATFORMS)))
@click.option("--since", required=True, help="From this day (or moment) on, such as 2026-11-01.")
@click.option("--until", help="Up to this day; needed only for a file that ends earlier than now.")
@click.option(
    "--from",
    "path",
    type=click.Path(exists=True, dir_okay=False, path_type=Path),
    help="The platform's record in a file, CSV or JSON, instead of its API.",
)
@click.option("--apply", "is_applied", is_flag=True, help="Repair what can be repaired.")
@output_options
def reconcile(
    platform: str, since: str, until: str | None, path: Path | None, is_applied: bool, form: str | None
) -> None:
    begin = read_moment(since, "since")
    end = read_moment(until, "until", ends=True) if until else None
    ours = services()
    books = Reconciliation(ours.store, ours.fulfilment, ours.inquiries, ours.clock)
    record = read_record(platform, path, begin)
    with progress(f"comparing {len(record)} events") as tick:
        drifts = books.compare(platform, record, begin, end, tick)
    left, repaired = drifts, 0
    if is_applied:
        with progress("repairing") as tick:
            repaired = books.repair(drifts, tick)
        left = books.compare(platform, record, begin, end)
    tell(platform, begin, record, drifts, left, repaired, is_applied, form)
    sys.exit(FINDINGS if findings(left) else 0)


def read_record(platform: str, path: Path | None, since: datetime) -> list[PurchaseEvent]:
    if path is not None:
        return read_statement_file(path, PLATFORMS[platform])
    configured = services().platforms.get(platform)
    if configured is None:
        raise PlatformOff(f"{platform} is not configured: its settings are missing")
    statement = Statement(configured, services().settings.data_dir, services().clock)
    with progress(f"reading {platform}'s record") as tick:
        events = statement.read(since - OVERLAP, tick)
    if statement.resumed:
        complain("went on where an earlier run was interrupted")
    if statement.unreadable:
        complain(f"{statement.unreadable} objects of {platform}'s record could not be read and are left out")
    statement.forget()
    return events


def findings(drifts: Sequence[Drift]) -> list[Drift]:
    return [drift for drift in drifts if drift.kind not in NOTES]


def tell(
    platform: str,
    since: datetime,
    record: Sequence[PurchaseEvent],
    drifts: Sequence[Drift],
    left: Sequence[Drift],
    repaired: int,
    is_applied: bool,
    form: str | None,
) -> None:
    rows = [row_of(drift, is_applied and drift not in left) for drift in drifts]
    if form == "json":
        counts = {"compared": len(record), "repaired": repaired, "left": len(findings(left)), "applied": is_applied}
        show_json({"platform": platform, "since": since, **counts, "findings": rows})
        return
    if rows or form == "csv":
        show(rows, COLUMNS, form)
    click.echo(verdict(platform, since, record, drifts, left, repaired, is_applied), err=form == "csv")


def row_of(drift: Drift, is_repaired: bool) -> dict[str, Any]:
    if is_repaired:
        repair = "repaired"
    elif drift.can_be_repaired:
        repair = "--apply"
    else:
        repair = "map it in products.json" if drift.kind in NOTES else "look it up, then licenses.py revoke"
    return {
        "finding": drift.kind,
        "field": drift.field or None,
        "sale_id": drift.sale_id,
        "email": drift.email,
        "platform": drift.theirs,
        "ledger": drift.ours or None,
        "license_keys": drift.license_keys,
        "repair": repair,
    }


def verdict(
    platform: str,
    since: datetime,
    record: Sequence[PurchaseEvent],
    drifts: Sequence[Drift],
    left: Sequence[Drift],
    repaired: int,
    is_applied: bool,
) -> str:
    charges = sum(event.event in CHARGES for event in record)
    compared = f"{platform} since {since:%Y-%m-%d}: {charges} charges and {len(record) - charges} other events compared"
    if not findings(drifts):
        return f"{compared}; the ledger agrees"
    kinds = Counter(str(drift.kind) for drift in findings(drifts))
    told = ", ".join(f"{count} {kind}" for kind, count in kinds.most_common())
    if not is_applied:
        repairable = sum(drift.can_be_repaired for drift in findings(drifts))
        return f"{compared}; {told}. Nothing was changed: --apply repairs {repairable}"
    rest = f"; {len(findings(left))} left for you" if findings(left) else "; the ledger agrees now"
    return f"{compared}; {told}. {repaired} repaired{rest}. Letters go out with the service's next request"


if __name__ == "__main__":
    reconcile()
