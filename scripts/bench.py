"""How fast and how small the server is, each figure against a limit that is measured in the same run.

A request's limit is a bare Flask route that reads JSON and answers JSON of the same size, under the same gunicorn; a
signed answer's is that route with one Ed25519 signature, a sale's is it with one raw append of as many bytes and one
fsync. CPU is the worker's whole process clock until it rests, so that threads and work after the answer count. Limit
and product take turns by the fraction of a second, since neighbours make this machine and its disk faster and slower;
ratios are taken round by round, and their median is compared with the goal (in brackets: the smallest and the largest
one). A start's limit is msgspec's decoding of all of licenses.json, that of the statistics a bare pass of msgspec
over the ledger. A page of the dashboard has its goal in milliseconds of CPU.
The part `peers` tells what a user would pick instead under the same load; it has no goal. The part
`postgres` measures the store on PostgreSQL, with the database's own CPU, against the route and against such a peer; it
starts a PostgreSQL of the development requirements, with fsync as it comes.
"""

from __future__ import annotations

import json
import sys
import tempfile
from collections.abc import Callable, Sequence
from dataclasses import asdict
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

import click
from rich.console import Console

from scripts.bench_parts.dashboard import dashboard
from scripts.bench_parts.database import postgres
from scripts.bench_parts.peers import peers
from scripts.bench_parts.rows import Row, table
from scripts.bench_parts.run import FULL, QUICK, Run, Sizes
from scripts.bench_parts.selling import sale
from scripts.bench_parts.together import together
from scripts.bench_parts.validating import validate
from scripts.bench_parts.whole import audit, memory, start

PARTS: dict[str, Callable[[Run], list[Row]]] = {
    "validate": validate,
    "sale": sale,
    "start": start,
    "memory": memory,
    "audit": audit,
    "dashboard": dashboard,
    "peers": peers,
    "postgres": postgres,
    "together": together,
}


@click.command(help=f"Measure the named PARTS, or all of them: {', '.join(PARTS)}.")
@click.argument("parts", nargs=-1, type=click.Choice(list(PARTS)))
@click.option("--quick", is_flag=True, help="Smaller shops and fewer rounds: a minute, less exact.")
@click.option("--json", "as_json", is_flag=True, help="The rows as JSON.")
@click.option("--fail/--no-fail", default=True, help="Exit with 1 when a goal is missed (the default), or never.")
@click.option("--dir", "where", type=click.Path(file_okay=False, exists=True), help="A folder on the disk to measure.")
def main(parts: Sequence[str], quick: bool, as_json: bool, fail: bool, where: str | None) -> None:
    with tempfile.TemporaryDirectory(prefix="keyledger-bench-", dir=where) as folder:
        rows = measure(parts or list(PARTS), Path(folder), QUICK if quick else FULL)
    if as_json:
        click.echo(json.dumps([asdict(row) | {"met": row.met} for row in rows], indent=2))
    else:
        Console(width=None if sys.stdout.isatty() else 160).print(table(rows))
    if fail and not all(row.met for row in rows):
        raise SystemExit(1)


def measure(parts: Sequence[str], folder: Path, sizes: Sizes) -> list[Row]:
    with Console(stderr=True).status("starting") as status:
        run = Run(folder, sizes, status.update)
        return [row for part in dict.fromkeys(parts) for row in PARTS[part](run)]


if __name__ == "__main__":
    main()
