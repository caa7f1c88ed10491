#!/usr/bin/env python3
"""Look the installation over: settings, folder, disk, clock, mail, the running service, the books. One line a check.

Nothing is changed and no letter is sent. Exit code 1 where something is wrong; a warning (!) is for you to judge, and
what cannot be asked now (-) is no finding.
"""

from __future__ import annotations

import sys
from datetime import UTC, datetime
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

import click
import msgspec

from scripts.printing import FINDINGS, Command, json_option, plain, progress, show_json
from server.errors import SettingsError
from server.services import doctor as checks
from server.services.doctor import Check, Patient, Status
from server.services.doctor_front import FRONT
from server.services.doctor_settings import SETTINGS
from server.settings import env_file, load_settings

MARKS = {Status.GOOD: "✔", Status.WARNING: "!", Status.WRONG: "✘", Status.SKIPPED: "-"}
PLAIN_MARKS = {Status.GOOD: "ok", Status.WARNING: "!", Status.WRONG: "WRONG", Status.SKIPPED: "-"}


@click.command(cls=Command, help=__doc__)
@click.option("--webhooks", is_flag=True, help="Knock at each webhook of the running service; nothing is written.")
@json_option
def doctor(webhooks: bool, as_json: bool) -> None:
    with progress("looking"):
        found = examine(webhooks)
    if as_json:
        show_json([msgspec.structs.asdict(check) for check in found])
    else:
        for check in found:
            click.echo(line_of(check))
        click.echo(verdict(found))
    sys.exit(FINDINGS if any(check.status is Status.WRONG for check in found) else 0)


def examine(webhooks: bool) -> list[Check]:
    """Without settings that can be read there is nothing else to look at."""
    from server.wiring import closed_store

    try:
        settings = load_settings()
    except SettingsError as error:
        return [checks.wrong("settings", error.detail, "Mend that one, and look again")]
    patient = Patient(settings, closed_store(settings), env_file(), datetime.now(UTC))
    service = [*checks.SERVICE, *([checks.webhooks] if webhooks else [])]
    return list(checks.run([*SETTINGS, *FRONT, *checks.MACHINE, *service, *checks.BOOKS], patient))


def line_of(check: Check) -> str:
    is_utf8 = (sys.stdout.encoding or "").lower().replace("-", "") == "utf8"
    mark = (MARKS if is_utf8 else PLAIN_MARKS)[check.status]
    todo = f" -> {check.todo}" if check.todo else ""
    return plain(f"{mark} {check.name}: {check.words}{todo}")


def verdict(found: list[Check]) -> str:
    count = {status: sum(check.status is status for check in found) for status in Status}
    if not count[Status.WRONG] and not count[Status.WARNING]:
        return "all is well"
    return f"{count[Status.WRONG]} wrong, {count[Status.WARNING]} to think about"


if __name__ == "__main__":
    doctor()
