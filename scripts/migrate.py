#!/usr/bin/env python3
"""Move the books: from the data folder into PostgreSQL, or back. Nothing is deleted; what was copied is compared.

DATABASE_URL names the database, in .env, in the environment or in the file of DATABASE_URL_FILE. The server may run:
sales that come meanwhile are answered 503 and come again. Restart it with the new setting when the move is done.
"""

from __future__ import annotations

import sys
from datetime import UTC, datetime
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

import click
import msgspec

from scripts.printing import Commands, json_option, plain, progress, show_json
from server.errors import SettingsError
from server.settings import Settings, load_settings
from server.storage.migration import Moved, to_files, to_postgres


@click.group(cls=Commands, help=__doc__)
def migrate() -> None: ...


@migrate.command("to-postgres")
@json_option
def postgres(as_json: bool) -> None:
    """Into an empty database. Exit code 0 when everything in it was found equal to the files."""
    settings, url = configured()
    with progress("moving") as tick:
        moved = to_postgres(settings.data_dir, url, tick)
    tell(
        moved,
        as_json,
        ["The files stay where they are, and no start uses them any more.", "Restart with DATABASE_URL."],
    )


@migrate.command("to-files")
@json_option
def files(as_json: bool) -> None:
    """Into DATA_DIR; older books in it are put aside. Exit code 0 when the files were found equal to the database."""
    settings, url = configured()
    with progress("moving") as tick:
        moved = to_files(settings.data_dir, url, datetime.now(UTC), tick)
    aside = [f"What was there before is in {plain(moved.aside)}"] if moved.aside else []
    tell(
        moved,
        as_json,
        [*aside, "The database stays as it is, and no start uses it any more.", "Restart without DATABASE_URL."],
    )


def configured() -> tuple[Settings, str]:
    settings = load_settings()
    if settings.database_url is None:
        raise SettingsError("DATABASE_URL is missing: it names the database to move to, or from")
    return settings, settings.database_url


def tell(moved: Moved, as_json: bool, more: list[str]) -> None:
    if as_json:
        show_json(msgspec.to_builtins(moved) | {"equal": True})
        return
    lines = f"{moved.ledger_lines} lines of the ledger, {moved.device_lines} of devices, {moved.order_lines} of orders"
    click.echo(f"{lines}, {moved.licenses} licenses, {moved.letters} letters: all found equal")
    click.echo(f"The ledger ends with {moved.head}")
    for line in more:
        click.echo(line)


if __name__ == "__main__":
    migrate()
