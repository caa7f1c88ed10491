"""What a user would pick instead: the programs of tests/bench_peers under the same load."""

from __future__ import annotations

import json
import os
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from importlib import import_module
from importlib.util import find_spec

from scripts.bench_parts.rows import Row
from scripts.bench_parts.run import Run
from scripts.bench_parts.sent import ISSUED, VALID, hardware_id, http, new_sale, sale_requests, validation
from scripts.bench_parts.servers import GUNICORN, Spent, serving, take_turns

UVICORN = [sys.executable, *"-m uvicorn --factory --log-level warning --no-access-log --port".split(), "{}"]


@dataclass(frozen=True)
class Peer:
    """`module` has `fill(folder, licenses)`, which writes keys with their devices, and `app`, which makes the
    application for the folder that PEER_FOLDER names. It answers POST /validate and /sale as the product answers its
    own doors."""

    name: str
    module: str
    needs: tuple[str, ...] = ()
    command: Sequence[str] = tuple(GUNICORN)
    call: str = "app()"
    longest: int = 10_000_000  # with how many licenses it is still bearable to measure

    @property
    def missing(self) -> list[str]:
        return [package for package in self.needs if find_spec(package) is None]


PEERS = (
    Peer("a JSON file rewritten under a lock", "json_file", longest=10_000),
    Peer("Flask with sqlite3, WAL", "flask_sqlite"),
    Peer(
        "FastAPI with SQLAlchemy on SQLite",
        "fastapi_sqlalchemy",
        needs=("fastapi", "sqlalchemy", "uvicorn"),
        command=tuple(UVICORN),
        call="app",
    ),
)


def peers(run: Run) -> list[Row]:
    rows: list[Row] = []
    for peer in PEERS:
        if peer.missing:
            what = f"{peer.name}: left out, since {', '.join(peer.missing)} is not installed (requirements-bench.txt)"
            rows.append(Row(what, "", "", 0.0, None))
            continue
        for size in (run.sizes.small, *run.sizes.middles, run.sizes.large):
            if size <= peer.longest:
                rows += _against(run, peer, size)
    return rows


def _against(run: Run, peer: Peer, size: int) -> list[Row]:
    run.say(f"{peer.name}, {size:,} licenses")
    shop = run.shops.copy(run.shops.of(size))
    folder = run.folder / f"{peer.module}{size}"
    folder.mkdir()
    import_module(f"tests.bench_peers.{peer.module}").fill(folder, [(key, hardware_id(key)) for key in shop.keys])
    env = os.environ | {"PEER_FOLDER": str(folder)}
    keys, number = shop.some(run.sizes.validations), run.sizes.sales // 3
    with run.ours(shop) as ours, serving(f"tests.bench_peers.{peer.module}:{peer.call}", env, peer.command) as theirs:
        asked = [validation(key, True) for key in keys], [validation(key, True, "/validate") for key in keys]
        validated = take_turns(VALID, (ours, asked[0]), (theirs, asked[1]))
        told = [http("/sale", json.dumps(new_sale()).encode()) for _ in range(number)]
        sold = take_turns(ISSUED, (ours, sale_requests(number)), (theirs, told))
    run.shops.throw_away(shop)
    return [
        row
        for what, spent in (("validation", validated), ("sale", sold))
        for row in _rows(f"{peer.name}, {size:,} licenses: {what}", spent)
    ]


def _rows(what: str, spent: Sequence[Spent]) -> list[Row]:
    """How many times ours it takes; no goal."""
    ours, theirs = spent
    return [
        Row(f"{what}, {name} against ours", _us(getattr(theirs, name)), _us(getattr(ours, name)), times, None)
        for name, times in (("cpu", theirs.over(ours).cpu), ("wall", theirs.over(ours).wall))
    ]


def _us(seconds: float) -> str:
    return f"{seconds * 1e6:.0f} us"
