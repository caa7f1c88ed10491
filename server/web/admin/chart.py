"""Bars, drawn here: a currency's days, each a stack of its platforms. Colours are classes, since no style may stand in
a page; whoever does not see them has the table beside it."""

from __future__ import annotations

from collections.abc import Mapping
from typing import NamedTuple

from server.services.figures import Currency

WIDTH, HEIGHT, GAP = 600, 160, 4
COLOURS = 6


class Bar(NamedTuple):
    x: float
    y: float
    width: float
    height: float
    colour: int
    title: str


class Chart(NamedTuple):
    width: int
    height: int
    bars: list[Bar]
    highest: int


def chart_of(currency: Currency, shops: Mapping[str, str]) -> Chart:
    """Days that lost more than they took have no bar: the table tells them."""
    stacks = [
        [(place, source, currency.by_day[source][day]) for place, source in enumerate(currency.platforms)]
        for day in range(len(currency.days))
    ]
    highest = max((sum(max(0, sum_.net_minor) for _, _, sum_ in stack) for stack in stacks), default=0)
    step, bars = WIDTH / len(currency.days), list[Bar]()
    for day, stack in enumerate(stacks):
        below = float(HEIGHT)
        for place, source, sum_ in stack:
            if sum_.net_minor > 0 and highest:
                tall = max(1.0, HEIGHT * sum_.net_minor / highest)
                below -= tall
                words = f"{currency.days[day]}, {shops.get(source, source)}: {sum_.net} {currency.code.upper()}"
                left, wide = round(day * step + GAP / 2, 1), round(step - GAP, 1)
                bars.append(Bar(left, round(below, 1), wide, round(tall, 1), place % COLOURS, words))
    return Chart(WIDTH, HEIGHT, bars, highest)
