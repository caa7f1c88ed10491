"""What the scripts share: tables, JSON and CSV on the terminal, progress bars, and errors as one line and an exit code.

Customers choose much of what is printed here. Nothing of theirs is markup, moves the cursor or turns text around, and
no cell of a CSV is a formula.
"""

from __future__ import annotations

import os
import re
import sys
import threading
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from datetime import UTC, datetime
from typing import Any, Literal, NoReturn, TypeVar

import click
import msgspec

from server.errors import BadRequest, KeyledgerError, StartRefused, StorageUnavailable, Unprocessable
from server.services.spreadsheet import csv_lines
from server.storage.base import Progress

FINDINGS, USAGE, STORAGE = 1, 2, 3
ROWS_IN_FULL = 10_000  # columns where nobody looks at a screen: a row is a line there
FOLDED = frozenset("note email to product_id product_name purchase_id why error".split())  # on a narrow screen

# Control characters (those beyond ASCII too), line and paragraph separators, what overrides the direction of text.
_MORE = "\x7f-\x9f\u2028\u2029\u061c\u200e\u200f\u202a-\u202e\u2066-\u2069\ud800-\udfff"
_UNSAFE, _UNSAFE_IN_JSON = re.compile(f"[\x00-\x1f{_MORE}]"), re.compile(f"[{_MORE}]")

F = TypeVar("F", bound=Callable[..., Any])
Row = Mapping[str, Any]


class Command(click.Command):
    """A command that ends with one line and an exit code, whatever goes wrong."""

    def invoke(self, ctx: click.Context) -> Any:
        for stream in (sys.stdout, sys.stderr):
            stream.reconfigure(errors="backslashreplace")  # type: ignore[union-attr]
        try:
            return super().invoke(ctx)
        except KeyledgerError as error:
            refuse(error.detail, exit_code(error))
        except BrokenPipeError:
            os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())  # else Python complains at its end
            sys.exit(141)
        except OSError as error:
            refuse(f"{error.filename or 'the system'}: {error.strerror or error}", STORAGE)


class Commands(Command, click.Group):
    """A group of such commands."""


def exit_code(error: KeyledgerError) -> int:
    if isinstance(error, StorageUnavailable):
        return STORAGE
    is_usage = isinstance(error, BadRequest) and not isinstance(error, Unprocessable)
    return USAGE if is_usage or isinstance(error, StartRefused) else FINDINGS


def refuse(text: str, code: int) -> NoReturn:
    complain(text)
    sys.exit(code)


def complain(text: str) -> None:
    click.echo(f"keyledger: {plain(text)}", err=True)


def output_options(command: F) -> F:
    """--json and --csv, as one argument `form`."""
    for name in ("csv", "json"):
        command = click.option(f"--{name}", "form", flag_value=name, default=None, help=f"Print {name.upper()}.")(
            command
        )
    return command


def json_option(command: F) -> F:
    return click.option("--json", "as_json", is_flag=True, help="Print JSON.")(command)


# ---------------------------------------------------------------------------------------------------- showing
def plain(value: object) -> str:
    """A value as text that a terminal only prints."""
    if value is None:
        return ""
    if isinstance(value, datetime):
        return f"{value.astimezone(UTC):%Y-%m-%d %H:%M}"
    if isinstance(value, list | tuple):
        return " ".join(map(plain, value))
    return _UNSAFE.sub(lambda found: found[0].encode("unicode_escape", "surrogatepass").decode(), str(value))


def show(rows: Sequence[Row], columns: Sequence[str], form: str | None, all_columns: Sequence[str] = ()) -> None:
    """Rows as a table, or whole as JSON or CSV."""
    if form == "json":
        show_json(rows)
    elif form == "csv":
        for line in csv_lines(rows, all_columns or columns):
            click.echo("\n".join(map(plain, line.split("\n"))) if sys.stdout.isatty() else line, nl=False)
    else:
        show_table(rows, columns)


def show_json(value: object) -> None:
    text = msgspec.json.format(msgspec.json.encode(value), indent=2).decode()
    click.echo(_UNSAFE_IN_JSON.sub(lambda found: f"\\u{ord(found[0]):04x}", text))


def show_table(rows: Sequence[Row], columns: Sequence[str]) -> None:
    """On a screen long cells are folded; elsewhere every row is one line."""
    from rich.box import SIMPLE_HEAD
    from rich.console import Console
    from rich.table import Table
    from rich.text import Text

    table = Table(box=SIMPLE_HEAD, show_edge=False, pad_edge=False)
    for column in columns:
        numeric = all(isinstance(row.get(column), int) for row in rows)
        side: Literal["right", "left"] = "right" if numeric and rows else "left"
        table.add_column(column.replace("_", " "), overflow="fold", no_wrap=column not in FOLDED, justify=side)
    for row in rows:
        table.add_row(*(Text(_short(column, plain(row.get(column)))) for column in columns))
    Console(width=None if sys.stdout.isatty() else ROWS_IN_FULL, highlight=False).print(table)


def _short(column: str, text: str) -> str:
    return text[: len("2026-11-20")] if column.endswith("_date") else text


def bars(figures: Sequence[int], width: int) -> list[str]:
    """A bar for each figure, in eighths of a character, the largest one as wide as there is room."""
    blocks = " ▏▎▍▌▋▊▉█" if _prints_blocks() else " .......#"
    most = max([*figures, 1])
    eighths = [max(0, figure) * width * 8 // most for figure in figures]
    return [blocks[8] * (n // 8) + (blocks[n % 8] if n % 8 else "") for n in eighths]


def _prints_blocks() -> bool:
    return (sys.stdout.encoding or "").lower().replace("-", "") == "utf8"


# ---------------------------------------------------------------------------------------------------- progress
@contextmanager
def progress(what: str) -> Iterator[Progress]:
    """A bar on stderr for what takes longer than a second; only where somebody is watching."""
    bar = _Bar(what)
    if sys.stderr.isatty():
        bar.timer.start()
    try:
        yield bar.tick
    finally:
        bar.stop()


class _Bar:
    """Made only after a second, by a timer: most commands are done by then and need not load rich."""

    def __init__(self, what: str) -> None:
        self._what, self._lock, self._stopped = what, threading.Lock(), False
        self._update: Callable[[int, int], None] | None = None
        self._stop: Callable[[], None] | None = None
        self.timer = threading.Timer(1.0, self._start)
        self.timer.daemon = True

    def _start(self) -> None:
        from rich.console import Console
        from rich.progress import Progress as RichProgress

        with self._lock:
            if self._stopped:
                return
            bar = RichProgress(console=Console(stderr=True), transient=True)
            task = bar.add_task(self._what, total=None)
            bar.start()
            self._update = lambda done, total: bar.update(task, completed=done, total=total)
            self._stop = bar.stop

    def tick(self, done: int, total: int) -> None:
        if self._update is not None:
            self._update(done, total)

    def stop(self) -> None:
        self.timer.cancel()
        with self._lock:
            self._stopped = True
            if self._stop is not None:
                self._stop()
