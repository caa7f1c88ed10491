"""Whole processes: how long a start takes, what a worker's memory holds, and the owner's statistics."""

from __future__ import annotations

import subprocess
import sys
import time
from collections.abc import Callable, Sequence

import click

from scripts.bench_parts.limits import LEDGER_PASS, LICENSES_DECODE
from scripts.bench_parts.rows import Row, ratio_row
from scripts.bench_parts.run import Run
from scripts.bench_parts.sent import UNKNOWN, VALID, validation
from scripts.bench_parts.servers import environment
from scripts.bench_parts.shops import Shop
from server.settings import ROOT

START, MEMORY, STATS = 1.5, 800.0, 1.5  # the goals: times the bare decode, bytes a license, times the bare pass
EMPTY_WORKER = 80.0  # MiB


def start(run: Run) -> list[Row]:
    """Seconds beyond a start with an empty folder, against msgspec's decoding of all of licenses.json."""
    return [row for what, shop in _large_shops(run).items() for row in _start_rows(run, what, shop)]


def _large_shops(run: Run) -> dict[str, Shop]:
    large = run.sizes.large
    return {
        f"{large:,} licenses": run.shops.of(large),
        f"{large:,} and a tenth not in the view": run.shops.behind(large),
    }


def _start_rows(run: Run, what: str, shop: Shop) -> list[Row]:
    run.say(f"starting with {what}")
    decode = [sys.executable, "-c", LICENSES_DECODE, str(run.shops.of(run.sizes.large).folder / "licenses.json")]
    limits = [float(_output(decode, shop)) for _ in range(run.sizes.starts)]
    ways = {"create_app": _create_app, "/health under gunicorn": lambda shop: _ready(run, shop)}
    return [
        ratio_row(f"start beyond an empty one, {what}: {way}", _beyond_empty(run, took, shop), limits, START)
        for way, took in ways.items()
    ]


def _beyond_empty(run: Run, took: Callable[[Shop], float], shop: Shop) -> list[float]:
    return [max(1e-6, took(shop) - took(run.shops.of(0))) for _ in range(run.sizes.starts)]


def _create_app(shop: Shop) -> float:
    code = "import time; t = time.perf_counter(); import wsgi; print(time.perf_counter() - t)"
    return float(_output([sys.executable, "-c", code], shop))


def _ready(run: Run, shop: Shop) -> float:
    with run.ours(shop) as server:
        return server.ready_after


# ---------------------------------------------------------------------------------------------------- memory
def memory(run: Run) -> list[Row]:
    empty = _worker_memory(run, run.shops.of(0), ["NONE"] * run.sizes.lookups, UNKNOWN)
    shown = f"{empty[0] / 1024:.1f} MiB"
    rows = [Row("memory of an empty worker", shown, "", empty[0] / 1024, EMPTY_WORKER, "MiB")]
    for what, shop in _large_shops(run).items():
        full = _worker_memory(run, shop, shop.some(run.sizes.lookups), VALID)
        for kind, used, without in zip(("resident", "private"), full, empty, strict=True):
            name = f"memory beyond an empty worker, {what}: {kind}"
            each = (used - without) * 1024 / run.sizes.large
            rows.append(
                Row(name, f"{used / 1024:.1f} MiB", f"{without / 1024:.1f} MiB", each, MEMORY, "bytes a license")
            )
    return rows


def _worker_memory(run: Run, shop: Shop, keys: Sequence[str], expected: bytes) -> tuple[float, float]:
    run.say("reading memory")
    with run.ours(shop) as server:
        server.post([validation(key, True) for key in keys], expected)
        return server.memory()


# ---------------------------------------------------------------------------------------------------- statistics
def audit(run: Run) -> list[Row]:
    """The owner's statistics, and a bare pass of msgspec over the same file."""
    run.say("audit.py stats")
    shop = run.shops.of(run.sizes.large)
    script = [sys.executable, "scripts/audit.py", "stats"]
    bare_pass = [sys.executable, "-c", LEDGER_PASS, str(shop.folder / "purchases.jsonl")]
    _timed(bare_pass, shop)  # the file is in memory then
    pairs = [(_timed(bare_pass, shop), _timed(script, shop)) for _ in range(run.sizes.starts)]
    limits, ours = zip(*pairs, strict=True)
    return [ratio_row(f"audit.py stats, {run.sizes.large:,} lines", ours, limits, STATS)]


def _output(command: list[str], shop: Shop) -> str:
    done = subprocess.run(command, cwd=ROOT, env=environment(shop.folder), capture_output=True, text=True)
    if done.returncode:
        raise click.ClickException(f"{command[1]} failed:\n{done.stderr}")
    return done.stdout


def _timed(command: list[str], shop: Shop) -> float:
    began = time.perf_counter()
    _output(command, shop)
    return time.perf_counter() - began
