"""The lines of the table, and how ratios become one: round by round, their median against the goal."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from statistics import median

from rich.table import Table

from scripts.bench_parts.servers import Spent


@dataclass(frozen=True)
class Row:
    """What was measured, its limit, and the value that the goal is about; without a goal it is only told."""

    what: str
    measured: str
    limit: str
    value: float
    goal: float | None
    unit: str = "x"
    spread: tuple[float, float] | None = None

    @property
    def met(self) -> bool:
        return self.goal is None or self.value <= self.goal


def ratio_row(what: str, ours: Sequence[float], limits: Sequence[float], goal: float | None) -> Row:
    """A machine that was slow in one round was slow for both."""
    ratios = [one / limit for one, limit in zip(ours, limits, strict=True)]
    return _row(what, ours, limits, ratios, goal)


def flat_row(what: str, pairs: Pairs, small: Pairs, name: str, goal: float) -> Row:
    """One size against another, each against the limit that it took turns with."""
    ratios = [getattr(one.over(a).over(few.over(b)), name) for (a, one), (b, few) in zip(pairs, small, strict=True)]
    return _row(what, _column(pairs, 1, name), _column(small, 1, name), ratios, goal)


def sale_row(what: str, pairs: Pairs, name: str, goal: float | None) -> Row:
    return ratio_row(what, _column(pairs, 1, name), _column(pairs, 0, name), goal)


Pairs = Sequence[tuple[Spent, Spent]]  # the limit and the product, by round


def _column(pairs: Pairs, place: int, name: str) -> list[float]:
    return [getattr(pair[place], name) for pair in pairs]


def _row(what: str, ours: Sequence[float], limits: Sequence[float], ratios: Sequence[float], goal: float | None) -> Row:
    return Row(what, _told(ours), _told(limits), median(ratios), goal, spread=(min(ratios), max(ratios)))


def _told(seconds: Sequence[float]) -> str:
    middle = median(seconds)
    return f"{middle * 1e6:.0f} us" if middle < 0.1 else f"{middle:.2f} s"


def table(rows: Sequence[Row]) -> Table:
    drawn = Table("what", "measured", "limit", "value (spread)", "goal", "met?")
    for row in rows:
        spread = f" ({row.spread[0]:.2f} to {row.spread[1]:.2f})" if row.spread else ""
        goal, met = (f"{row.goal:g} {row.unit}", "yes" if row.met else "no") if row.goal is not None else ("", "")
        drawn.add_row(row.what, row.measured, row.limit, f"{row.value:.2f}{spread}", goal, met)
    return drawn
