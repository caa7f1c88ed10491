"""The store on PostgreSQL, under the same load as a bare route and as FastAPI with SQLAlchemy on the same server."""

from __future__ import annotations

import json
import os
import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from importlib import import_module
from importlib.util import find_spec
from pathlib import Path
from statistics import median
from typing import Any
from urllib.parse import quote

import psycopg

from scripts.bench_parts.rows import Row
from scripts.bench_parts.run import Run
from scripts.bench_parts.sent import ISSUED, VALID, hardware_id, http, new_sale, sale_requests, validation
from scripts.bench_parts.servers import Server, environment, serving, take_turns
from scripts.bench_parts.shops import Shop
from server.storage.postgres_copy import fill
from server.storage.postgres_link import Database

AGAINSTPEER, BETWEEN_SIZES = 0.5, 1.25
UVICORN = [sys.executable, *"-m uvicorn --factory --log-level warning --no-access-log --port".split(), "{}"]
PEER = "FastAPI with SQLAlchemy on PostgreSQL"
_TICK = os.sysconf("SC_CLK_TCK")


@dataclass(frozen=True)
class Measured:
    """Seconds of a request: the worker's, its share of the database's, and on the clock."""

    worker: float
    database: float
    wall: float

    @property
    def cpu(self) -> float:
        return self.worker + self.database


def postgres(run: Run) -> list[Row]:
    rows: list[Row] = []
    first: dict[str, float] = {}
    with cluster_in(run.folder) as cluster:
        for size in (run.sizes.small, *run.sizes.middles, run.sizes.large):
            rows += _rows(size, _size(run, cluster, size), first)
    return rows


def peer_is_here() -> bool:
    return not [name for name in ("fastapi", "sqlalchemy", "uvicorn") if find_spec(name) is None]


@contextmanager
def cluster_in(folder: Path) -> Iterator[Any]:
    folder.chmod(0o755)
    with import_module("tests.databases").cluster(folder / "postgres", "shared_buffers=256MB") as made:
        yield made


def _size(run: Run, cluster: Any, size: int) -> dict[str, dict[str, list[Measured]]]:
    """By load and server, what each round spent."""
    shop = run.shops.of(size)
    url = moved_to_database(run, cluster, shop, f"ours{size}")
    env = environment(run.folder / "empty") | {"DATABASE_URL": url}
    found: dict[str, dict[str, list[Measured]]] = {"validation": {}, "sale": {}}
    with serving("wsgi:app", env) as ours:
        answer = ours.post([validation(key, True) for key in shop.some(50)], VALID)
        with run.bare(answer) as route, _peer(run, cluster, shop, size) as peer:
            servers = {"ours": ours, "route": route} | ({"peer": peer} if peer else {})
            for _ in range(run.sizes.rounds):
                run.say(f"validating and selling on PostgreSQL at {size:,} licenses")
                for load, requests in _loads(run, shop).items():
                    for name, server in servers.items():
                        if name in requests:
                            spent = _spent(cluster, server, requests[name], VALID if load == "validation" else ISSUED)
                            found[load].setdefault(name, []).append(spent)
    return found


def moved_to_database(run: Run, cluster: Any, shop: Shop, name: str) -> str:
    """The URL of a schema of this name, with the shop's books in it. The folder `empty` has its catalogue."""
    run.say(f"moving {len(shop.keys):,} licenses to PostgreSQL")
    url = _schema(cluster, name)
    database = Database(url)
    database.bring_up_to_date()
    fill(database, shop.folder, ())
    database.close()
    (run.folder / "empty").mkdir(exist_ok=True)
    (run.folder / "empty" / "products.json").write_bytes((shop.folder / "products.json").read_bytes())
    return url


@contextmanager
def _peer(run: Run, cluster: Any, shop: Shop, size: int) -> Iterator[Server | None]:
    if not peer_is_here():
        yield None
        return
    env = filled_peer(run, cluster, shop, f"peer{size}")
    with serving("tests.bench_peers.fastapi_postgres:app", env, UVICORN) as server:
        yield server


def filled_peer(run: Run, cluster: Any, shop: Shop, name: str) -> dict[str, str]:
    """The environment of the peer on a schema of this name, with the shop's licenses in it."""
    run.say(f"filling {PEER} with {len(shop.keys):,} licenses")
    url = _schema(cluster, name)
    import_module("tests.bench_peers.fastapi_postgres").fill(url, [(key, hardware_id(key)) for key in shop.keys])
    return os.environ | {"PEER_URL": url}


def _schema(cluster: Any, name: str) -> str:
    place = f"postgresql://postgres@/postgres?host={quote(str(cluster.home), safe='')}"
    with psycopg.connect(place, autocommit=True) as connection:
        connection.execute(f"CREATE SCHEMA {name}".encode())
    return f"{place}&options=-csearch_path%3D{name}"


def _loads(run: Run, shop: Shop) -> dict[str, dict[str, list[bytes]]]:
    keys, number = shop.some(run.sizes.validations), run.sizes.sales // 3
    asked = {
        "ours": [validation(key, True) for key in keys],
        "route": [validation(key, True, "/") for key in keys],
        "peer": [validation(key, True, "/validate") for key in keys],
    }
    told = {
        "ours": sale_requests(number),
        "peer": [http("/sale", json.dumps(new_sale()).encode()) for _ in range(number)],
    }
    return {"validation": asked, "sale": told}


def _spent(cluster: Any, server: Server, requests: list[bytes], expected: bytes) -> Measured:
    before = _database_cpu(cluster)
    (spent,) = take_turns(expected, (server, requests))
    return Measured(spent.cpu, (_database_cpu(cluster) - before) / len(requests), spent.wall)


def _database_cpu(cluster: Any) -> float:
    """Seconds of all its processes, those that ended among them."""
    total = 0
    for path in Path("/proc").glob("[0-9]*/stat"):
        try:
            fields = path.read_text().rpartition(")")[2].split()
        except OSError:
            continue
        if int(path.parent.name) == cluster.process.pid:
            total += sum(map(int, fields[11:15]))
        elif int(fields[1]) == cluster.process.pid:
            total += sum(map(int, fields[11:13]))
    return total / _TICK


def _rows(size: int, found: dict[str, dict[str, list[Measured]]], first: dict[str, float]) -> list[Row]:
    rows = []
    for load, by_server in found.items():
        ours = by_server["ours"]
        what = f"{load} on PostgreSQL, {size:,} licenses"
        told = f"{_us(ours, 'worker')} + {_us(ours, 'database')} database"
        for name, goal in (("route", None), ("peer", AGAINSTPEER if load == "validation" else None)):
            if other := by_server.get(name):
                limit = f"{_us(other, 'worker')} + {_us(other, 'database')}"
                ratios = [one.cpu / two.cpu for one, two in zip(ours, other, strict=True)]
                against = "a bare route" if name == "route" else PEER
                spread = (min(ratios), max(ratios))
                rows.append(Row(f"{what}: CPU against {against}", told, limit, median(ratios), goal, spread=spread))
        beside = by_server.get("peer")  # a database grows slower for both, and the machine is busier at times
        share = median(one.cpu / (beside[at].cpu if beside else 1.0) for at, one in enumerate(ours))
        smallest = first.setdefault(load, share)
        per_second = f"{1 / median(one.wall for one in ours):.0f} a second, one client"
        goal = BETWEEN_SIZES if share is not smallest else None
        growth = f"{what}: CPU against the smallest{', beside the growth of the peer' * bool(beside)}"
        rows.append(Row(growth, told, per_second, share / smallest, goal))
    return rows


def _us(measured: Sequence[Measured], name: str) -> str:
    return f"{median(getattr(one, name) for one in measured) * 1e6:.0f} us"
