#!/usr/bin/env python3
"""The purchase audit: what was sold and refunded, whether the books are sound, why a license stands as it does."""

from __future__ import annotations

import shutil
import sys
from collections.abc import Callable, Iterator
from datetime import UTC, datetime
from itertools import dropwhile
from pathlib import Path
from typing import Any, TypeVar

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

import click

from scripts.printing import (
    FINDINGS,
    Commands,
    bars,
    complain,
    json_option,
    output_options,
    plain,
    progress,
    show,
    show_json,
)
from server.domain.order import OrderState
from server.domain.purchase import EventKind, Outcome
from server.errors import SettingsError
from server.services.audit import COLUMNS, PurchaseAuditLog, read_moment
from server.services.order_audit import ORDER_COLUMNS, SUSPICIOUS_COLUMNS, OrderFilters
from server.services.revenue import Period, Stats
from server.services.story import Story
from server.settings import Settings, load_settings

F = TypeVar("F", bound=Callable[..., Any])

IN_SHORT = "seq purchase_date event outcome email product_id price currency license_key".split()
SUSPICIOUS = "seq timestamp source told_as order price currency note".split()
ORDERS = "number state amount currency refunded source email placed_at".split()
MONTHS = {"day": 30, "week": 26, "month": 24}


@click.group(cls=Commands, help=__doc__)
def audit() -> None: ...


def settings() -> Settings:
    found = load_settings()
    if not found.data_dir.is_dir():
        raise SettingsError(f"DATA_DIR: there is no folder {found.data_dir}")
    return found


def ledger() -> PurchaseAuditLog:
    """The audit of the books as they stand. Opening a store reads licenses.json and the index; here nothing needs them,
    and what is damaged must be told instead of refused."""
    found = settings()
    if found.database_url is None:  # without the mail and the pages that all of the wiring brings along
        from server.storage.flatfile import FlatFileStore

        return PurchaseAuditLog(FlatFileStore(found.data_dir))
    from server.wiring import closed_store

    return PurchaseAuditLog(closed_store(found))


def filter_options(command: F) -> F:
    options = [
        click.option("--source", help="gumroad, owner, import, ..."),
        click.option("--event", type=click.Choice([str(kind) for kind in EventKind]), metavar="EVENT"),
        click.option("--outcome", type=click.Choice([str(outcome) for outcome in Outcome]), metavar="OUTCOME"),
        click.option("--email"),
        click.option("--product", help="A product's id in products.json."),
        click.option("--key", "license_key", help="A license key."),
        click.option("--since", metavar="DAY", help="Purchased on this day or later (or a moment, RFC 3339)."),
        click.option("--until", metavar="DAY", help="Purchased on this day or earlier."),
        click.option("--test/--no-test", "is_test", default=None, help="Only tests, or none."),
    ]
    for option in reversed(options):
        command = option(command)
    return command


@audit.command()
@json_option
def stats(as_json: bool) -> None:
    """What came in: purchases, revenue per currency, sources, products."""
    with progress("reading the ledger"):
        found = ledger().get_purchase_stats()
    show_json(found) if as_json else print_stats(found)
    if found["missing_lines"]:
        complain(f"{found['missing_lines']} line(s) of the ledger cannot be read: scripts/audit.py verify")
        sys.exit(FINDINGS)


def print_stats(found: Stats) -> None:
    label = None
    for name, line in stats_lines(found):
        click.echo(f"{name if name != label else '':12}{plain(line)}")
        label = name


def stats_lines(found: Stats) -> Iterator[tuple[str, str]]:
    back = found["refunded_purchases"]
    yield "Purchases", f"{found['total_purchases']}{f', {back} of them refunded or charged back' if back else ''}"
    for code, net in found["total_revenue"].items():
        yield "Revenue", f"{net} {code}  (gross {found['gross_revenue'][code]}, refunded {found['refunded'][code]})"
    for source, number in found["by_source"].items():
        yield "Sources", f"{source}: {number}{sums(found['revenue_by_source'][source])}"
    for product in found["top_products"]:
        name = product["product_id"] or f"{product['product_name']} (not mapped)"
        yield "Products", f"{name}: {product['purchases']}{sums(product['revenue'])}"
    yield "Ledger", f"{found['ledger_lines']} lines, from {found['first'] or '-'} to {found['last'] or '-'}"
    yield from (("Ledger", f"{event}: {number}") for event, number in found["by_event"].items())
    yield from (("Note", f"{found[name]} {what}") for name, what in NOTES.items() if found[name])  # type: ignore[literal-required]


NOTES = {
    "test_lines": "lines of tests, which count in no revenue",
    "unreadable_prices": "charges whose price cannot be read; they are counted without it",
    "unmapped": "sales of products that nobody mapped: see products.json, then scripts/licenses.py fulfil",
    "held": "sales that are held: scripts/licenses.py fulfil tells why",
}


def sums(revenue: dict[str, str]) -> str:
    return "".join(f"  {amount} {code}" for code, amount in revenue.items())


@audit.command("list")
@filter_options
@click.option("--limit", default=50, show_default=True, help="How many at most; 0 for all.")
@click.option("--below", type=int, metavar="SEQ", help="Go on below this line of the ledger.")
@output_options
def list_(limit: int, below: int | None, form: str | None, **filters: Any) -> None:
    """The ledger's lines, newest first."""
    with progress("reading the ledger"):
        rows, cursor = ledger().page(filters, limit, below)
    show(rows, IN_SHORT, form, COLUMNS)
    if cursor is not None:
        click.echo(f"more: --below {cursor}", err=True)


@audit.command()
@output_options
def refunds(form: str | None) -> None:
    """The lines by which money went back in full: refunds that did not fail, and lost disputes."""
    with progress("reading the ledger"):
        rows = ledger().get_refunded_purchases()
    show(rows, IN_SHORT, form, COLUMNS)


@audit.command()
@click.argument("text")
@output_options
def find(text: str, form: str | None) -> None:
    """The lines that hold TEXT: an address, a name, a sale, a license key as it was typed, a lic_ id."""
    with progress("reading the ledger"):
        rows = ledger().find(text)
    show(rows, IN_SHORT, form, COLUMNS)


@audit.command()
@click.option("--since", metavar="DAY", help="Written down on this day or later.")
@output_options
def suspicious(since: str | None, form: str | None) -> None:
    """What was told and is not believed, newest first. Exit code 1 on findings.

    Another amount, currency, account or mode than the order's, or what the platform itself says is not so."""
    begin = read_moment(since, "--since") if since else None
    with progress("reading the ledger"):
        rows = ledger().get_suspicious(begin)
    show(rows, SUSPICIOUS, form, SUSPICIOUS_COLUMNS)
    if rows and form is None:
        click.echo("None of it gave a license. Look the payment up at its platform; refund there what is not yours")
    sys.exit(FINDINGS if rows else 0)


@audit.command()
@click.option("--source", help="payu, stripe, ...")
@click.option("--state", type=click.Choice([str(state) for state in OrderState]), metavar="STATE")
@click.option("--email")
@click.option("--since", metavar="DAY", help="Placed on this day or later (or a moment, RFC 3339).")
@click.option("--until", metavar="DAY", help="Placed on this day or earlier.")
@output_options
def orders(
    source: str | None, state: str | None, email: str | None, since: str | None, until: str | None, form: str | None
) -> None:
    """The store front's orders and how they stand, oldest first."""
    from server.wiring import open_store

    filters = OrderFilters(
        state=OrderState(state) if state else None,
        since=read_moment(since, "--since") if since else None,
        until=read_moment(until, "--until", ends=True) if until else None,
        source=source,
        email=email,
    )
    with progress("reading the orders"):
        rows = PurchaseAuditLog(open_store(settings())).get_orders(filters, datetime.now(UTC))
    show(rows, ORDERS, form, ORDER_COLUMNS)


@audit.command()
@click.argument("path", type=click.Path(dir_okay=False, path_type=Path))
@filter_options
def export(path: Path, **filters: Any) -> None:
    """Write the ledger's lines to a CSV that a spreadsheet can open safely."""
    with progress("writing"):
        number = ledger().export_to_csv(path, filters)
    click.echo(f"{number} rows in {plain(path)}")


@audit.command()
@output_options
def verify(form: str | None) -> None:
    """Check every line's place in the chain, and the licenses against what the logs say. Exit code 1 on findings."""
    with progress("verifying") as tick:
        found = ledger().verify(tick)
    rows = [{"kind": f.kind, "where": f.where, "detail": f.detail, "is_note": f.is_note} for f in found]
    wrong = [row for row in rows if not row["is_note"]]
    if form == "json":
        show_json({"sound": not wrong, "findings": wrong, "notes": [row for row in rows if row["is_note"]]})
    elif form == "csv":
        show(rows, ["kind", "where", "detail", "is_note"], form)
    else:
        for row in rows:
            click.echo(f"{'note' if row['is_note'] else 'WRONG'}: {plain(row['where'])}: {plain(row['detail'])}")
        click.echo(f"{len(wrong)} findings" if wrong else "the books are sound")
    sys.exit(FINDINGS if wrong else 0)


# ---------------------------------------------------------------------------------------------------- one license
@audit.command()
@click.argument("key")
@click.option("--as-of", metavar="MOMENT", help="A day (its end) or a moment: on what was known by then.")
@json_option
def explain(key: str, as_of: str | None, as_json: bool) -> None:
    """The story of a license: every line that it rests on, what each did, and the verdict."""
    from server.services.catalogue_file import CatalogueFile
    from server.wiring import open_store

    moment = read_moment(as_of, "--as-of", ends=True) if as_of else None
    here = settings()
    prefixes = CatalogueFile(here.data_dir / "products.json").current().prefixes
    story = PurchaseAuditLog(open_store(here)).explain(key, moment, prefixes)
    show_json(story) if as_json else print_story(story)


def print_story(story: Story) -> None:
    click.echo(f"{plain(story.license_key)}  {story.id}\n")
    for step in story.steps:
        happened = f" (on {plain(step.occurred_at)})" if step.occurred_at else ""
        click.echo(f"{plain(step.at)}  {step.log} {step.seq}: {plain(step.said)}{happened}")
        for did in step.did:
            click.echo(f"{'':18}-> {plain(did)}")
    click.echo(f"\nAs of {plain(story.moment)} UTC this license {story.detail} ({story.code})")
    if story.license is None:
        return
    license = story.license
    facts = {
        "customer": f"{license.customer_name} <{license.email}>",
        "product": license.product_id or "none",
        "paid through": license.expiry_date or "for life",
        "active": "yes" if license.is_active else f"no: {license.inactive_reason}",
        "because of": story.because_of,
        "replaced by": story.replaced_by,
        "seats": f"{len(story.devices)} of {license.max_devices} taken",
        "purchase": f"{license.purchase_source} {license.purchase_id}",
    }
    for name, value in facts.items():
        if value:
            click.echo(f"{name:>14}  {plain(value)}")
    for device in story.devices:
        click.echo(f"{'device':>14}  {plain(device.device_name or 'unnamed')} {plain(device.hardware_id)}")


# ---------------------------------------------------------------------------------------------------- over time
@audit.command()
@click.option("--by", type=click.Choice(list(MONTHS)), default="month", show_default=True)
@click.option("--last", type=click.IntRange(1, 1000), help="How many of them (24 months, 26 weeks, 30 days).")
@output_options
def revenue(by: str, last: int | None, form: str | None) -> None:
    """What came in over time, net of what was refunded of it, as a plot for each currency."""
    with progress("reading the ledger"):
        found = ledger().get_revenue(by, last or MONTHS[by], datetime.now(UTC).date())
    rows = [{name: getattr(period, name) for name in REVENUE} for period in found]
    if form:
        show(rows, REVENUE, form)
    for code in sorted({period.currency for period in found}) if not form else ():
        print_plot(code, by, [period for period in found if period.currency == code])
    if not found and not form:
        click.echo("nothing came in")


REVENUE = "start currency purchases gross refunded net".split()


def print_plot(code: str, by: str, periods: list[Period]) -> None:
    click.echo(f"\n{code}, net of refunds, by {by}")
    periods = list(dropwhile(lambda period: not period.purchases, periods))
    figure = max(len(period.net) for period in periods)
    room = max(10, shutil.get_terminal_size().columns - figure - len("2026-11-20") - 12)
    for period, bar in zip(periods, bars([period.net_minor for period in periods], room), strict=True):
        start = f"{period.start:%Y-%m}   " if by == "month" else period.start.isoformat()
        click.echo(f"{start}  {period.net:>{figure}}  {period.purchases:>5}  {bar}")


if __name__ == "__main__":
    audit()
