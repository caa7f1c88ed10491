#!/usr/bin/env python3
"""The owner's verbs on licenses. NAME is a license key, as typed, or a lic_ id. Safe beside a running server."""

from __future__ import annotations

import sys
from collections.abc import Callable
from functools import cache
from pathlib import Path
from typing import Any, TypeVar

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

import click
import msgspec

from scripts.printing import (
    FINDINGS,
    Commands,
    complain,
    json_option,
    output_options,
    plain,
    progress,
    refuse,
    show,
    show_json,
)
from server.domain.keys import license_id
from server.domain.license import License, devices_after
from server.domain.purchase import Entry
from server.errors import KeyledgerError, Unprocessable
from server.services.audit import read_moment
from server.services.backlog import Backlog
from server.services.importer import Importer, Plan
from server.services.legacy import read_old_books
from server.services.letters import mail_address
from server.services.license_manager import FOR_LIFE
from server.services.sunset import TABLE, Sunset
from server.wiring import Services, open_services

F = TypeVar("F", bound=Callable[..., Any])

IN_SHORT = "license_key status email product_id expiry_date seats purchase_source purchase_id".split()
IN_FULL = (
    "license_key id status email customer_name product_id created_date expiry_date is_active inactive_reason "
    "max_devices hardware_id device_name last_validation validation_count purchase_source purchase_id is_test"
).split()
LETTERS_AT_ONCE = 50


@click.group(cls=Commands, help=__doc__)
def licenses() -> None: ...


@cache
def services() -> Services:
    return open_services()


def address(_context: click.Context, _parameter: click.Parameter, value: str | None) -> str | None:
    try:
        return str(mail_address(value.strip()).addr_spec) if value is not None else None
    except KeyledgerError as error:
        raise click.BadParameter(error.detail) from None


# ---------------------------------------------------------------------------------------------------- looking
def row_of(key: str, license: License) -> dict[str, Any]:
    now = services().clock()
    license = license.at(now)
    devices = devices_after(services().store.device_lines(key))
    return {
        "license_key": key,
        "id": license_id(key),
        **msgspec.to_builtins(license),
        "max_devices": license.max_devices,
        "status": license.status(now),
        "seats": f"{len(devices)} of {license.max_devices}",
        "devices": msgspec.to_builtins(devices),
    }


def tell(keys: tuple[str, ...], as_json: bool, done: str) -> None:
    rows = [row_of(key, license) for key in keys if (license := services().store.find_license(key))]
    if as_json:
        show_json(rows[0] if len(rows) == 1 else rows)
        return
    for row in rows:
        click.echo(f"{done}: {plain(row['license_key'])}")
        for name in (*IN_FULL[1:], "seats"):
            if (value := row.get(name)) is not None:
                click.echo(f"{name:>17}  {plain(value)}")
        for device in row["devices"]:
            click.echo(f"{'device':>17}  {plain(device['device_name'])} {plain(device['hardware_id'])}")


def tell_decision(entry: Entry, as_json: bool, done: str) -> None:
    tell(entry.license_keys[:1], as_json, done)


def send_letters() -> None:
    """What was decided may owe a letter. The running service would send it with its next request."""
    if services().settings.email_backend == "console" and not sys.stdout.isatty():
        click.echo("mail is off (EMAIL_BACKEND=console)", err=True)
        return
    with progress("sending mail") as tick:
        report = services().outbox.send_due(LETTERS_AT_ONCE, tick)
    if report.trouble:
        complain(f"mail: {report.trouble}; it is tried again")
    elif report.sent or report.waiting:
        click.echo(f"mail: {report.sent} sent, {report.waiting} waiting", err=True)


@licenses.command("show")
@click.argument("name")
@json_option
def show_one(name: str, as_json: bool) -> None:
    """A license with its devices."""
    key, license = services().licenses.get(name)
    tell((key,), as_json, license.status(services().clock()))


@licenses.command("list")
@click.option("--email")
@click.option("--product")
@click.option("--status", type=click.Choice(["active", "expired", "suspended", "banned"]))
@click.option("--purchase-id")
@output_options
def list_(form: str | None, **wanted: str | None) -> None:
    """All licenses, or those that match."""
    if wanted["email"]:
        wanted["email"] = wanted["email"].strip().lower()
    with progress("reading the licenses") as tick:
        total, rows = services().store.state().licenses, []
        for done, (key, license) in enumerate(services().store.licenses(), 1):
            tick(done, total)
            if matches(license, wanted):
                rows.append(row_of(key, license))
    show(rows, IN_SHORT, form, IN_FULL)


def matches(license: License, wanted: dict[str, str | None]) -> bool:
    has = {
        "email": license.email.lower(),
        "product": license.product_id,
        "status": license.status(services().clock()),
        "purchase_id": license.purchase_id,
    }
    return all(value is None or has[name] == value for name, value in wanted.items())


# ---------------------------------------------------------------------------------------------------- deciding
@licenses.command()
@click.option("--email", required=True, callback=address)
@click.option("--name", "customer_name", required=True, help="The customer's name.")
@click.option("--product", "product_id", help="A product's id in products.json; else its default_product.")
@click.option("--days", type=click.IntRange(1, 36_500), help="How long, instead of the product's duration.")
@click.option("--lifetime", is_flag=True, help="For life, whatever the product's duration is.")
@click.option("--devices", "max_devices", type=click.IntRange(1, 100_000), help="Seats, instead of the product's.")
@click.option("--note", help="For yourself; it stands in the ledger.")
@json_option
def issue(days: int | None, lifetime: bool, as_json: bool, **said: Any) -> None:
    """Issue a license and mail it; a bundle gives one for each of its products."""
    if days and lifetime:
        raise click.UsageError("--days and --lifetime contradict each other")
    entry = services().licenses.issue(duration_days=FOR_LIFE if lifetime else days, **said)
    tell(entry.license_keys, as_json, "issued")
    send_letters()


@licenses.command()
@click.argument("name")
@click.option("--days", type=click.IntRange(1, 36_500), help="From its end; from today where it has ended.")
@click.option("--until", metavar="DAY", help="A day (its end), or a moment (RFC 3339).")
@json_option
def extend(name: str, days: int | None, until: str | None, as_json: bool) -> None:
    """Extend a license: by days, until a day, or by its product's duration."""
    if days and until:
        raise click.UsageError("--days and --until contradict each other")
    if days or until:
        moment = read_moment(until, "--until", ends=True).replace(microsecond=0) if until else None
        entry = services().licenses.extend(name, days, moment)
    else:
        entry = services().licenses.renew(name)
    tell_decision(entry, as_json, "extended")


def note_option(command: F) -> F:
    return click.option("--note", help="Why; it stands in the ledger.")(command)


@licenses.command()
@click.argument("name")
@note_option
@json_option
def suspend(name: str, note: str | None, as_json: bool) -> None:
    """Suspend a license until it is reinstated."""
    tell_decision(services().licenses.suspend(name, note), as_json, "suspended")


@licenses.command()
@click.argument("name")
@note_option
@json_option
def reinstate(name: str, note: str | None, as_json: bool) -> None:
    """Set aside everything that keeps a license inactive; what comes later counts again."""
    tell_decision(services().licenses.reinstate(name, note), as_json, "reinstated")


@licenses.command()
@click.argument("name")
@note_option
@json_option
def revoke(name: str, note: str | None, as_json: bool) -> None:
    """Ban a license."""
    tell_decision(services().licenses.revoke(name, note), as_json, "revoked")


@licenses.command()
@click.argument("name")
@click.argument("email", callback=address)
@click.option("--name", "customer_name", help="The new customer's name.")
@json_option
def transfer(name: str, email: str, customer_name: str | None, as_json: bool) -> None:
    """Give a license to another customer; its devices are released and it is mailed."""
    tell_decision(services().licenses.transfer(name, email, customer_name), as_json, "transferred")
    send_letters()


@licenses.command("reset-devices")
@click.argument("name")
@json_option
def reset_devices(name: str, as_json: bool) -> None:
    """Release all devices of a license."""
    services().licenses.reset_devices(name)
    tell((services().licenses.get(name)[0],), as_json, "devices released")


@licenses.command()
@click.argument("name")
@json_option
def reissue(name: str, as_json: bool) -> None:
    """Replace a leaked key: a new one is mailed, the old one is banned."""
    tell_decision(services().licenses.reissue(name), as_json, "reissued")
    send_letters()


@licenses.command()
@click.argument("name")
def resend(name: str) -> None:
    """Mail a license to its customer once more."""
    key, license = services().licenses.get(name)
    services().outbox.resend(key)
    click.echo(f"queued for {plain(license.email)}")
    send_letters()


# ---------------------------------------------------------------------------------------------------- many at once
@licenses.command()
@click.argument("sale", required=False)
@click.option("--email", callback=address, help="Who gets the license.")
@click.option("--name", "customer_name", help="The customer's name.")
@click.option("--product", "product_id", help="A product's id in products.json, instead of the mapped one.")
@output_options
def fulfil(sale: str | None, form: str | None, **mended: str | None) -> None:
    """Issue sales that wait for a license: the SALE of this event id or sale id, or all that can be issued now.

    Mended are only sales that are named. Exit code 1 where a named one still waits.
    """
    if sale is None and any(mended.values()):
        raise click.UsageError("--email, --name and --product are for one sale: name it")
    backlog = Backlog(services().store, services().catalogue, services().fulfilment)
    with progress("issuing") as tick:
        tried = [backlog.complete(sale, **mended)] if sale is not None else backlog.complete_all(tick)
    rows = [{field: getattr(one, field) for field in one.__struct_fields__} for one in tried]
    if rows or form:
        show(rows, list(rows[0]) if rows else [], form)
    else:
        click.echo("no sale waits for a license")
    send_letters()
    sys.exit(FINDINGS if sale is not None and tried[0].why else 0)


@licenses.command()
def rebuild() -> None:
    """Make licenses.json and the index anew from the logs."""
    with progress("rebuilding"):
        number = services().store.rebuild()
    click.echo(f"{number} licenses")


@licenses.command()
@click.option("--out", type=click.Path(file_okay=False, path_type=Path), help="A new folder; else beside DATA_DIR.")
@json_option
def sunset(out: Path | None, as_json: bool) -> None:
    """Sign license files without an end for all live customers, for the day the server goes away. Nobody gets mail.

    Each license gets a file for each of its devices and one for any device. There is no way to take one back.
    """
    data = services().settings.data_dir
    folder = out or data.with_name(f"{data.name}-sunset-{services().clock():%Y%m%d}")
    with progress("signing") as tick:
        told = Sunset(services().store, services().signing, services().files, services().clock).run(folder, tick)
    if as_json:
        show_json({field: getattr(told, field) for field in told.__struct_fields__} | {"folder": str(told.folder)})
        return
    click.echo(f"{told.licenses} licenses, {told.files} files in {plain(told.folder)}; {told.left_out} not live")
    click.echo(f"{TABLE} in it tells whose they are. Nobody got mail.")


@licenses.command("import")
@click.argument("path", type=click.Path(exists=True, path_type=Path))
@click.option("--product", "product_id", help="A product's id in products.json, for licenses that name none.")
@click.option("--dry-run", is_flag=True, help="Say what would be imported, and write nothing.")
@click.option("--skip-bad", is_flag=True, help="Import the others where some cannot be.")
@json_option
def import_(path: Path, product_id: str | None, dry_run: bool, skip_bad: bool, as_json: bool) -> None:
    """Import licenses: a CSV, or an older licenses.json (with purchases.jsonl beside it) or their folder.

    Keys stay as they are, nobody gets mail, and a second run imports nothing twice. Where one license cannot be
    imported, none is, unless --skip-bad is given.
    """
    if services().settings.data_dir.resolve() in (path.resolve(), path.resolve().parent):
        refuse("these are this server's own files: copy the old ones to a folder of their own", 2)
    if product_id and services().catalogue.current().find(product_id) is None:
        raise Unprocessable(f"--product: there is no product {product_id!r} in products.json")
    importer = Importer(services().store, services().catalogue, services().fulfilment, services().clock)
    plan = importer.plan(read_old_books(path), product_id)
    blocked, imported = bool(plan.refused) and not skip_bad, 0
    if not dry_run and not blocked:
        with progress("importing") as tick:
            imported = importer.run(plan, tick)
        services().store.tidy(force=True)
    tell_import(plan, imported, dry_run, as_json)
    sys.exit(FINDINGS if blocked else 0)


def tell_import(plan: Plan, imported: int, dry_run: bool, as_json: bool) -> None:
    if as_json:
        found = {"imported": imported, "new": plan.new, "known": plan.known, "dry_run": dry_run}
        refused = [{"place": place, "why": why} for place, why in plan.refused]
        show_json(found | {"refused": refused, "warnings": plan.warnings})
        return
    for warning in plan.warnings:
        complain(warning)
    for place, why in plan.refused:
        complain(f"{place}: {why}")
    if plan.refused:
        complain(f"{len(plan.refused)} cannot be imported; --skip-bad imports the others")
    click.echo(f"{f'{plan.new} would be' if dry_run else imported} imported, {plan.known} were here already")


if __name__ == "__main__":
    licenses()
