"""Sales against a bare route with one append and one fsync; and how long a sale waits while the view is rewritten."""

from __future__ import annotations

import json
import time
from functools import cache

from scripts.bench_parts.rows import Pairs, Row, flat_row, sale_row
from scripts.bench_parts.run import Run
from scripts.bench_parts.sent import ISSUED, http, new_sale, sale_requests
from scripts.bench_parts.servers import Server, Spent, take_turns
from scripts.bench_parts.shops import sell_unwritten
from server.storage.flatfile import SMALL_SHOP

GOALS = {"cpu": 1.5, "wall": 1.2}
FLAT = 1.25
SLOWEST = 1.0  # seconds
TAKING_UP = 2.0  # seconds in which a new view is taken up by its readers
_LONGEST_REWRITE = 120.0  # seconds


def sale(run: Run) -> list[Row]:
    small, *others = sizes = (run.sizes.small, *run.sizes.middles, run.sizes.large)
    share = cache(lambda size: _rewrite_share(run, size))
    by_size: dict[int, list[tuple[Spent, Spent]]] = {size: [] for size in sizes}
    with run.bare(*run.first_sale()) as limit:
        for _ in range(run.sizes.rounds):
            for size in sizes:
                by_size[size].append(_round(run, limit, size, share(size)))
    rows = [row for size in sizes for row in _rows(size, by_size[size])]
    rows += [row for size in others for row in _flat_rows(size, by_size[size], small, by_size[small])]
    return [*rows, _beside_a_rewrite(run)]


def _round(run: Run, limit: Server, size: int, share: float) -> tuple[Spent, Spent]:
    """The limit and the product; a small shop starts anew each round, so that it stays small."""
    is_small = size <= SMALL_SHOP
    shop = run.shops.copy(run.shops.of(size)) if is_small else run.shops.for_selling(run.shops.of(size))
    with run.ours(shop) as server:
        run.say(f"selling at {size:,} licenses")
        server.post(sale_requests(20), ISSUED)
        appends = [http("/append", json.dumps(new_sale()).encode()) for _ in range(run.sizes.sales)]
        bare, ours = take_turns(ISSUED, (limit, appends), (server, sale_requests(run.sizes.sales)))
    if is_small:
        run.shops.throw_away(shop)
    return bare, Spent(ours.cpu + share, ours.wall)


def _rewrite_share(run: Run, size: int) -> float:
    """A large shop's view is written when a tenth has changed, too seldom for a round: each sale's share of it."""
    if size <= SMALL_SHOP:
        return 0.0
    shop = run.shops.copy(run.shops.behind(size))
    store = shop.open()
    began = time.process_time()
    store.tidy(force=True)
    spent = time.process_time() - began
    store.close()
    run.shops.throw_away(shop)
    return spent / (size // 10)


def _beside_a_rewrite(run: Run) -> Row:
    """Sales one after the other, from before the view of the large shop is due until it was written."""
    size = run.sizes.large
    shop = run.shops.copy(run.shops.behind(size))
    sell_unwritten(shop, size // 50)  # now more than a tenth is new: the first answer is followed by the rewriting
    view = shop.folder / "licenses.json"
    with run.ours(shop) as server:
        run.say("selling beside a rewriting of the view")
        before, given_up, slowest = view.stat().st_ino, time.monotonic() + _LONGEST_REWRITE, 0.0
        until = given_up
        while time.monotonic() < until:
            began = time.perf_counter()
            server.post(sale_requests(1), ISSUED)
            slowest = max(slowest, time.perf_counter() - began)
            if until == given_up and view.stat().st_ino != before:
                until = time.monotonic() + TAKING_UP
    run.shops.throw_away(shop)
    what = f"sale, {size:,} licenses: the slowest beside a rewriting of the view"
    return Row(what, f"{slowest:.2f} s", "", slowest, SLOWEST, "s")


def _rows(size: int, pairs: Pairs) -> list[Row]:
    what = f"sale, {size:,} licenses: {{}} against route + append + fsync"
    return [sale_row(what.format(name), pairs, name, goal) for name, goal in GOALS.items()]


def _flat_rows(size: int, pairs: Pairs, small: int, small_pairs: Pairs) -> list[Row]:
    what = f"sale: {{}} at {size:,} against {small:,}"
    return [flat_row(what.format(name), pairs, small_pairs, name, FLAT) for name in GOALS]
