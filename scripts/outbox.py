#!/usr/bin/env python3
"""The outbox: the letters that are owed, their attempts, and those that were given up."""

from __future__ import annotations

import sys
from functools import cache
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

import click
import msgspec

from scripts.asking import ask_service
from scripts.printing import (
    FINDINGS,
    Commands,
    complain,
    json_option,
    output_options,
    progress,
    show,
    show_json,
)
from server.services.outbox import STATES
from server.wiring import Services, open_services

COLUMNS = "id kind to state attempts first_at at next_at error".split()


@click.group(cls=Commands, help=__doc__)
def outbox() -> None: ...


@cache
def services() -> Services:
    return open_services()


@outbox.command()
@click.option("--url", help="Ask the service at this address instead of opening the files (needs ADMIN_API_KEY).")
@json_option
def send(url: str | None, as_json: bool) -> None:
    """Send what is owed and due. Exit code 1 where a letter failed."""
    with progress("sending") as tick:
        report = (
            ask_service(url, "/outbox/send")
            if url
            else msgspec.to_builtins(services().outbox.send_due(progress=tick, by_hand=True))
        )
    tell(report, as_json)


def tell(report: dict[str, Any], as_json: bool) -> None:
    if as_json:
        show_json(report)
    elif report["busy"]:
        click.echo("another process is sending")
    else:
        told = [f"{report[name]} {name}" for name in ("sent", "failed", "dead", "dropped", "waiting")]
        answered = report.get("answered")  # a service of an earlier version asks nothing
        click.echo(", ".join(told + ([f"{answered} inquiries answered"] if answered else [])))
    for trouble in filter(None, (report["trouble"], report.get("refusal"))):
        complain(trouble)
    sys.exit(FINDINGS if report["failed"] or report["dead"] or report["trouble"] else 0)


# ---------------------------------------------------------------------------------------------------- the letters
@outbox.command("list")
@click.option("--state", type=click.Choice(STATES))
@output_options
def list_(state: str | None, form: str | None) -> None:
    """The letters that are still kept. Exit code 1 where some were given up."""
    found = services().outbox
    show([msgspec.structs.asdict(letter) for letter in found.list(state)], COLUMNS, form)
    dead = found.summary()["dead"]
    if dead:
        complain(f"{dead} were given up: scripts/outbox.py retry --all, once the reason is mended")
    sys.exit(FINDINGS if dead else 0)


@outbox.command()
@click.argument("letter", required=False)
@click.option("--all", "every", is_flag=True, help="All that were given up.")
@json_option
def retry(letter: str | None, every: bool, as_json: bool) -> None:
    """Try a letter again, by its id, or all that were given up; for a week more."""
    if (letter is None) != every:
        raise click.UsageError("name one letter, or give --all")
    services().outbox.retry(letter)
    with progress("sending") as tick:
        report = services().outbox.send_due(progress=tick, by_hand=True)
    tell(msgspec.to_builtins(report), as_json)


if __name__ == "__main__":
    outbox()
