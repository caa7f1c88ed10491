"""Both stores, and the peer on PostgreSQL, with two workers and several clients at once: how many a second, how soon
after the start, with how much memory. The clients run on the same cores: differences show smaller than they are.
"""

from __future__ import annotations

import json
import time
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack
from statistics import median

from scripts.bench_parts.database import PEER, UVICORN, cluster_in, filled_peer, moved_to_database, peer_is_here
from scripts.bench_parts.rows import Row
from scripts.bench_parts.run import Run
from scripts.bench_parts.sent import ISSUED, VALID, http, new_sale, sale_requests, validation
from scripts.bench_parts.servers import GUNICORN, Server, environment, serving
from scripts.bench_parts.shops import Shop

CLIENTS = 4
FILES, DATABASE = "flat files", "PostgreSQL"
_GUNICORN = ["2" if word == "1" else word for word in GUNICORN]
_UVICORN = [*UVICORN[:-2], "--workers", "2", *UVICORN[-2:]]


def together(run: Run) -> list[Row]:
    with cluster_in(run.folder) as cluster:
        return [row for size in (run.sizes.small, run.sizes.large) for row in _size(run, cluster, size)]


def _size(run: Run, cluster: object, size: int) -> list[Row]:
    shop = run.shops.of(size)
    files = run.shops.copy(shop)
    url = moved_to_database(run, cluster, shop, f"together{size}")
    with ExitStack() as stack:
        started = {
            FILES: stack.enter_context(serving("wsgi:app", environment(files.folder), _GUNICORN)),
            DATABASE: stack.enter_context(
                serving("wsgi:app", environment(run.folder / "empty") | {"DATABASE_URL": url}, _GUNICORN)
            ),
        }
        if peer_is_here():
            env = filled_peer(run, cluster, shop, f"peertogether{size}")
            started[PEER] = stack.enter_context(serving("tests.bench_peers.fastapi_postgres:app", env, _UVICORN))
        rates = {name: _rates(run, shop, name, server) for name, server in started.items()}
        rows = [row for name in started for row in _rate_rows(size, name, rates)]
        rows += [_whole_row(size, name, server) for name, server in started.items()]
    run.shops.throw_away(files)
    return rows


def _rates(run: Run, shop: Shop, name: str, server: Server) -> dict[str, list[float]]:
    """Requests a second, by load and round."""
    run.say(f"{CLIENTS} clients on {name}, {len(shop.keys):,} licenses")
    path = {"path": "/validate"} if name == PEER else {}
    found: dict[str, list[float]] = {"validations": [], "sales": []}
    for _ in range(run.sizes.rounds + 1):
        asked = [validation(key, True, **path) for key in shop.some(run.sizes.validations)]
        found["validations"].append(_rate(server, asked, VALID))
        number = run.sizes.sales // 3
        told = [http("/sale", json.dumps(new_sale()).encode()) for _ in range(number)]
        found["sales"].append(_rate(server, told if name == PEER else sale_requests(number), ISSUED))
    return {load: rates[1:] for load, rates in found.items()}  # the first round opens connections and reads the view


def _rate(server: Server, requests: Sequence[bytes], expected: bytes) -> float:
    parts = [requests[at::CLIENTS] for at in range(CLIENTS)]
    began = time.perf_counter()
    with ThreadPoolExecutor(CLIENTS) as pool:
        list(pool.map(lambda part: server.post(part, expected), parts))
    return len(requests) / (time.perf_counter() - began)


def _rate_rows(size: int, name: str, rates: dict[str, dict[str, list[float]]]) -> list[Row]:
    rows = []
    for load, ours in rates[name].items():
        against = median(rates.get(PEER, rates[FILES])[load])
        what = f"{load} with 2 workers and {CLIENTS} clients, {size:,} licenses: {name}"
        ratios = [rate / against for rate in ours]
        spread = (min(ratios), max(ratios))
        rows.append(Row(what, f"{median(ours):.0f} a second", f"{against:.0f}", median(ratios), None, spread=spread))
    return rows


def _whole_row(size: int, name: str, server: Server) -> Row:
    resident, private = server.memory()
    what = f"start to the first answer, and a worker's memory afterwards, {size:,} licenses: {name}"
    shown = f"{resident / 1024:.0f} MiB ({private / 1024:.0f} its own)"
    return Row(what, f"{server.ready_after:.2f} s", shown, server.ready_after, None, "s")
