"""Validations against a bare route that reads JSON and answers JSON of the same size."""

from __future__ import annotations

from collections.abc import Sequence

from scripts.bench_parts.rows import Row, ratio_row
from scripts.bench_parts.run import Run
from scripts.bench_parts.sent import VALID, VALIDATE, validation
from scripts.bench_parts.servers import Server, take_turns
from scripts.bench_parts.shops import Shop

BARE, BETWEEN_SIZES = 1.35, 1.1  # the goals


def validate(run: Run) -> list[Row]:
    return [*_validate(run, "known device", True), *_validate(run, "no device", False)]


def _validate(run: Run, what: str, known: bool) -> list[Row]:
    few, many = run.shops.of(run.sizes.small), run.shops.of(run.sizes.large)
    with run.ours(few) as small, run.ours(many) as large:
        answer = [server.post(_some(shop, known, 50), VALID) for server, shop in ((small, few), (large, many))]
        with run.bare(answer[0]) as limit:
            rounds = [_round(run, known, limit, small, large) for _ in range(run.sizes.rounds)]
    return _rows(run, what, rounds)


def _round(run: Run, known: bool, limit: Server, small: Server, large: Server) -> list[float]:
    few, many = run.shops.of(run.sizes.small), run.shops.of(run.sizes.large)
    number = run.sizes.validations
    run.say("validating")
    loads = (
        (limit, _some(few, known, number, "/")),
        (small, _some(few, known, number)),
        (large, _some(many, known, number)),
    )
    return [spent.cpu for spent in take_turns(VALID, *loads)]


def _rows(run: Run, what: str, rounds: Sequence[Sequence[float]]) -> list[Row]:
    limit, small, large = zip(*rounds, strict=True)
    few, many = f"{run.sizes.small:,}", f"{run.sizes.large:,}"
    return [
        ratio_row(f"validation, {what}, {few} licenses: CPU against a bare route", small, limit, BARE),
        ratio_row(f"validation, {what}, {many} licenses: CPU against a bare route", large, limit, BARE),
        ratio_row(f"validation, {what}: CPU at {many} against {few}", large, small, BETWEEN_SIZES),
    ]


def _some(shop: Shop, known: bool, number: int, path: str = VALIDATE) -> list[bytes]:
    return [validation(key, known, path) for key in shop.some(number)]
