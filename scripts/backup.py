#!/usr/bin/env python3
"""Backups of the books: made while the service runs, checked, and put back. Your .env is in none of them."""

from __future__ import annotations

import sys
from collections.abc import Iterator, Sequence
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

import click
import msgspec

from scripts.printing import FINDINGS, Commands, json_option, plain, progress, show, show_json
from server.platforms import PLATFORMS
from server.services.backup import make
from server.settings import Settings, load_settings
from server.storage import backup as backups
from server.storage.archive import BadBackup, Manifest

COLUMNS = "name size lines".split()
NOT_IN_IT = (
    "Not in it: .env. Keep a copy of that in another safe place, since LICENSE_SECRET makes the keys; what the "
    "environment or the files of X_FILE settings give, too"
)

archive = click.argument("file", type=click.Path(exists=True, dir_okay=False, path_type=Path))
folder = click.Path(file_okay=False, path_type=Path)


@click.group(cls=Commands, help=__doc__)
def backup() -> None: ...


@backup.command()
@click.option("--to", type=folder, help="Where backups are kept; else beside DATA_DIR: data-backups.")
@click.option("--keep", type=click.IntRange(1), metavar="N", help="Take away all but the newest N.")
@json_option
def create(to: Path | None, keep: int | None, as_json: bool) -> None:
    """Make a backup, beside the running service too. Exit code 1 where the books in it are damaged."""
    settings, now = load_settings(), datetime.now(UTC)
    with progress("backing up") as tick:
        made = make(settings, now, to, keep, tick)
    tell(made, as_json, [NOT_IN_IT, *(f"Taken away: {path.name}" for path in made.removed)])


@backup.command()
@archive
@json_option
def verify(file: Path, as_json: bool) -> None:
    """Read a backup from its first byte to its last, and inspect the books in it. Exit code 1 on findings."""
    try:
        with progress("verifying") as tick:
            checked = backups.verify(file, tick)
    except BadBackup as error:
        if not as_json:
            raise
        show_json({"file": str(file), "sound": False, "findings": [error.detail]})
        sys.exit(FINDINGS)
    tell(checked, as_json, [])


def tell(checked: backups.Checked, as_json: bool, more: Sequence[str]) -> None:
    found = [f"{finding.where}: {finding.detail}" for finding in checked.findings]
    if as_json:
        told = msgspec.to_builtins(checked.manifest) | {"sound": not found, "findings": found}
        show_json({"file": str(checked.file), **told, "removed": [str(path) for path in checked.removed]})
        sys.exit(FINDINGS if found else 0)
    show(rows_of(checked.manifest), COLUMNS, None)
    for line in [*(f"WRONG: {line}" for line in found), *more, verdict(checked)]:
        click.echo(plain(line))
    sys.exit(FINDINGS if found else 0)


def rows_of(manifest: Manifest) -> list[dict[str, Any]]:
    return [{"name": kept.name, "size": kept.size, "lines": kept.seq} for kept in manifest.files]


def verdict(checked: backups.Checked) -> str:
    manifest, size = checked.manifest, checked.file.stat().st_size
    state = f"{len(checked.findings)} findings" if checked.findings else "sound"
    return f"{checked.file} ({size} bytes): of {manifest.created:%Y-%m-%d %H:%M} UTC, {state}"


# ---------------------------------------------------------------------------------------------------- restore
@backup.command()
@archive
@click.option("--to", type=folder, help="The data folder to be; else DATA_DIR.")
@click.option("--force", is_flag=True, help="Although a ledger is there. The old folder is moved aside, not deleted.")
@json_option
def restore(file: Path, to: Path | None, force: bool, as_json: bool) -> None:
    """Put a backup in the place of a data folder. The server must be stopped; the backup is checked first.

    With DATABASE_URL, and without --to, it goes into that database, which has to be empty.
    """
    settings = load_settings()
    data = to or settings.data_dir
    with progress("restoring") as tick:
        if settings.database_url is None or to is not None:
            done = backups.restore(file, data, datetime.now(UTC), force, tick)
        else:
            from server.storage import postgres_backup

            done = postgres_backup.restore(file, settings.database_url, data, tick)
    if as_json:
        aside = str(done.aside) if done.aside else None
        told = msgspec.to_builtins(done.manifest)
        show_json({"folder": str(done.folder), "aside": aside, **told, "next": list(next_steps(settings, done))})
        return
    show(rows_of(done.manifest), COLUMNS, None)
    place = plain(done.folder) if settings.database_url is None or to else "The database"
    click.echo(f"{place} is now as it was at {done.manifest.created:%Y-%m-%d %H:%M} UTC")
    if done.aside:
        click.echo(f"What was there before is in {plain(done.aside)}")
    click.echo("Next:")
    for step in next_steps(settings, done):
        click.echo(f"  {plain(step)}")


def next_steps(settings: Settings, done: backups.Restored) -> Iterator[str]:
    """What happened since the backup is asked of the platforms; a day earlier costs nothing."""
    since = done.manifest.created - timedelta(days=1)
    if done.folder != settings.data_dir.resolve():
        yield f"set DATA_DIR={done.folder}"
    yield "./scripts/server"
    yield ".venv/bin/python scripts/audit.py verify"
    for platform, kind in PLATFORMS.items():
        if kind.from_settings(settings) is not None:
            file = " --from EXPORT.csv" if platform == "jvzoo" else ""
            yield f".venv/bin/python scripts/reconcile.py {platform} --since {since:%Y-%m-%d}{file}  # then --apply"


if __name__ == "__main__":
    backup()
