"""The account of the tortures: how much was tried, what was broken, which mutant was killed; two tables at the end.

Each torture runs in a quick form, and under `-m slow` in a full one that tells how far it has come. What it tried
travels with its test's report, so that the tables are the same whether one process ran the tests or several.
"""

from __future__ import annotations

import sys
import time
from collections.abc import Iterable, Iterator
from typing import Any, TypeVar

import pytest

T = TypeVar("T")
HERE = "tests/torture/"
MUTANT = "::test_mutant_"
_EVERY = 10.0  # seconds between two lines of progress, where no terminal shows one line that changes


class Torture:
    """One torture while it runs: how thorough it is to be, and what it has tried."""

    def __init__(self, request: pytest.FixtureRequest, is_full: bool) -> None:
        self._node, self.is_full = request.node, is_full
        self._capture = request.config.pluginmanager.getplugin("capturemanager")
        self._begun = self._told = time.monotonic()

    def of(self, quick: T, full: T) -> T:
        return full if self.is_full else quick

    def each(self, what: str, things: Iterable[T], total: int | None = None, weight: int = 1) -> Iterator[T]:
        """These things one by one, each counted as so many when it is done."""
        done = 0
        try:
            for thing in things:
                yield thing
                done += weight
                self._tell(what, done, total)
        finally:
            self.tried(what, done)

    def tried(self, what: str, count: int, violations: int = 0) -> None:
        self._node.user_properties.append(("tried", [what, count, violations]))

    def _tell(self, what: str, done: int, total: int | None) -> None:
        now = time.monotonic()
        is_seen = sys.__stderr__ is not None and sys.__stderr__.isatty()
        if self.is_full and now - self._told >= (0.2 if is_seen else _EVERY):
            self._told = now
            line = f"{_torture(self._node.nodeid)}: {what}, {done:,}{f' of {total:,}' if total else ''}"
            with self._capture.global_and_fixture_disabled():
                print(f"{line} ({now - self._begun:.0f} s)", file=sys.stderr, end="\r" if is_seen else "\n", flush=True)


# ---------------------------------------------------------------------------------------------------- the tables
def pytest_terminal_summary(terminalreporter: Any) -> None:
    reports = [
        report
        for outcome in ("passed", "failed", "error")
        for report in terminalreporter.stats.get(outcome, ())
        if report.nodeid.startswith(HERE) and (report.when == "call" or report.failed)
    ]
    if any("full" in _form(report) for report in reports):
        _print(terminalreporter, ("torture", "what was tried", "count", "violations", "s"), tortures(reports))
        _print(terminalreporter, ("mutant", "killed by"), mutants(reports))


def tortures(reports: Iterable[Any]) -> list[tuple[str, ...]]:
    """A row for each thing that was tried; a test that failed stopped at the first violation."""
    rows: dict[tuple[str, str], list[float]] = {}
    for report in reports:
        if MUTANT in report.nodeid:
            continue
        tried = [value for name, value in report.user_properties if name == "tried"]
        if not tried:
            tried = [[_words(report.nodeid.rpartition("::test_")[2]), 1, 0]]
        for place, (what, count, violations) in enumerate(tried):
            row = rows.setdefault((_torture(report.nodeid), what), [0, 0, 0.0])
            row[0] += count
            row[1] += max(violations, int(report.failed))
            row[2] += 0 if place else report.duration
    return [
        (torture, what, f"{count:,.0f}", f"{violations:.0f}", f"{seconds:.0f}" if seconds else "")
        for (torture, what), (count, violations, seconds) in sorted(rows.items())
    ]


def mutants(reports: Iterable[Any]) -> list[tuple[str, ...]]:
    found: dict[tuple[str, str], bool] = {}
    for report in reports:
        if MUTANT in report.nodeid:
            name = _words(report.nodeid.rpartition(MUTANT)[2])
            key = name.removesuffix(" is caught").removesuffix(" are caught"), _torture(report.nodeid)
            found[key] = found.get(key, True) and report.passed
    return [(name, torture if killed else "NOT KILLED") for (name, torture), killed in sorted(found.items())]


def _torture(nodeid: str) -> str:
    return _words(nodeid.removeprefix(HERE).removeprefix("test_").partition(".py")[0])


def _words(name: str) -> str:
    return name.partition("[")[0].replace("_", " ")


def _form(report: Any) -> str:
    return str(report.nodeid.rpartition("[")[2])


def _print(reporter: Any, head: tuple[str, ...], rows: list[tuple[str, ...]]) -> None:
    widths = [max(map(len, column)) for column in zip(head, *rows, strict=True)]
    reporter.write_line("")
    for row in (head, tuple("-" * width for width in widths), *rows):
        cells = [_cell(text, width) for text, width in zip(row, widths, strict=True)]
        reporter.write_line("  ".join(cells).rstrip())


def _cell(text: str, width: int) -> str:
    return text.rjust(width) if text[:1].isdigit() else text.ljust(width)
