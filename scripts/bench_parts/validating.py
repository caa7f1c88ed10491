"""Validations against a bare route that reads JSON and answers JSON of the same size; signed ones against that route
and one signature."""

from __future__ import annotations

from collections.abc import Sequence

from scripts.bench_parts.rows import Row, ratio_row
from scripts.bench_parts.run import Run
from scripts.bench_parts.sent import VALID, VALIDATE, validation
from scripts.bench_parts.servers import Server, take_turns
from scripts.bench_parts.shops import Shop

BARE, BETWEEN_SIZES, SIGNED = 1.35, 1.1, 1.2  # the goals
NONCE = "q83vEjRWeJCrze8SNFZ4kA"


def validate(run: Run) -> list[Row]:
    return [*_validate(run, "known device", True), *_validate(run, "no device", False), *_signed(run)]


def _signed(run: Run) -> list[Row]:
    """Each server has a folder of its own: two on one would rewrite its view for each other."""
    shop = run.shops.of(run.sizes.small)
    with run.ours(run.shops.copy(shop)) as signed, run.ours(run.shops.copy(shop)) as plain:
        answer = signed.post(_some(shop, True, 50, nonce=NONCE), b"Signature: sig1=:")
        plain.post(_some(shop, True, 50), VALID)
        with run.bare(answer) as route, run.bare(answer) as signing:
            run.say("validating with a nonce")
            rounds = [_signed_round(run, shop, route, signing, plain, signed) for _ in range(run.sizes.rounds)]
    routes, limits, unsigned, ours = zip(*rounds, strict=True)
    by_hand = [without + limit - route for route, limit, without in zip(routes, limits, unsigned, strict=True)]
    what = f"validation with a nonce, {run.sizes.small:,} licenses: CPU against"
    return [
        ratio_row(f"{what} a bare route and one signature", ours, limits, SIGNED),
        ratio_row(f"{what} one without, and one signature", ours, by_hand, None),
    ]


def _signed_round(run: Run, shop: Shop, *servers: Server) -> list[float]:
    route, signing, plain, signed = servers
    number = run.sizes.validations
    loads = (
        (route, _some(shop, True, number, "/", NONCE)),
        (signing, _some(shop, True, number, "/sign", NONCE)),
        (plain, _some(shop, True, number)),
        (signed, _some(shop, True, number, nonce=NONCE)),
    )
    return [spent.cpu for spent in take_turns(VALID, *loads)]


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


def _some(shop: Shop, known: bool, number: int, path: str = VALIDATE, nonce: str | None = None) -> list[bytes]:
    return [validation(key, known, path, nonce) for key in shop.some(number)]
