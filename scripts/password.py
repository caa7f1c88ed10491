#!/usr/bin/env python3
"""Make the line for .env that switches the dashboard on: asks for a password twice and prints its hash.

The password itself is written nowhere. To change it, do the same again: who is signed in by the old one is signed out.
"""

from __future__ import annotations

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

import click
from werkzeug.security import generate_password_hash

SHORTEST = 12


@click.command(help=__doc__)
def password() -> None:
    typed = click.prompt("Password", hide_input=True, err=True, value_proc=long_enough)
    click.prompt("Again", hide_input=True, err=True, value_proc=lambda again: same(typed, again))
    click.echo("Put this line into .env and restart the server:", err=True)
    click.echo(f"ADMIN_PASSWORD_HASH='{generate_password_hash(typed)}'")


def long_enough(typed: str) -> str:
    if len(typed) < SHORTEST:
        raise click.UsageError(f"at least {SHORTEST} characters: a few words are best")
    return typed


def same(typed: str, again: str) -> str:
    if typed != again:
        raise click.UsageError("that is not the same: type the second one again")
    return again


if __name__ == "__main__":
    password()
