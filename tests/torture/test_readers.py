"""Readers beside a rewriting writer: no file is ever seen torn, and nobody misses what was acknowledged."""

from __future__ import annotations

import json
import os
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from server.storage import durable, flatfile
from server.storage.log import ChainedLog
from tests.storage.backroom import BackRoom, records, room_for, written
from tests.torture.account import Torture
from tests.torture.processes import Child, Tell, children, spread

SALES = [f"s{number}" for number in range(12)]
AT_ONCE = 1000


def rewriting(folder: Path) -> Child:
    """A process that rewrites the view all the time, from one or the other of two workers."""

    def rewrite(tell: Tell) -> None:
        workers = [BackRoom(folder), BackRoom(folder)]
        tell("begun")
        while True:
            for worker in workers:
                worker.store.tidy(force=True)

    return Child(rewrite)


def torn_reads(folder: Path, keys: set[str], reads: int) -> tuple[int, int]:
    """How often licenses.json was not a whole view, and how many different ones were seen."""
    torn, seen = 0, set()
    for _ in range(reads):
        with open(folder / "licenses.json", "rb") as file:
            seen.add(os.fstat(file.fileno()).st_ino)
            data = file.read()
        try:
            torn += set(json.loads(data)["licenses"]) != keys
        except ValueError:
            torn += 1
    return torn, len(seen)


def shop(folder: Path) -> set[str]:
    room = BackRoom(folder)
    keys = {room.sell(sale_id) for sale_id in SALES}
    room.store.tidy(force=True)
    return keys


def test_no_reader_ever_sees_a_torn_view(torture: Torture) -> None:
    reads = torture.of(10_000, 1_000_000)
    with room_for() as folder:
        keys = shop(folder)
        with children([]) as started:
            started.append(rewriting(folder))
            assert started[0].hear() == "begun"
            views = 0
            found = spread(lambda _: torn_reads(folder, keys, AT_ONCE), range(reads // AT_ONCE))
            for torn, seen in torture.each("reads of licenses.json beside a writer", found, reads, AT_ONCE):
                assert torn == 0
                views += seen
    assert views > reads // AT_ONCE, "the writer never came to write"


def test_mutant_a_view_that_is_written_in_its_place_is_caught(monkeypatch):
    def in_place(path: Path, pieces: Iterable[bytes | memoryview]) -> None:
        descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600)
        for piece in pieces:
            durable.write_all(descriptor, bytes(piece))
        os.close(descriptor)

    with room_for() as folder:
        keys = shop(folder)
        monkeypatch.setattr(durable, "replace", in_place)
        with children([]) as started:
            started.append(rewriting(folder))
            started[0].hear()
            assert any(torn_reads(folder, keys, AT_ONCE)[0] for _ in range(20))


def test_a_worker_reads_on_while_others_rewrite_the_view(monkeypatch):
    """Every look-up of a worker is right, whichever view it has mapped and however many were written since."""
    monkeypatch.setattr(flatfile, "_RELOAD_FROM", 3)
    with room_for() as folder:
        room = BackRoom(folder)
        keys = [room.sell(sale_id) for sale_id in SALES]

        def rewrite(tell: Tell) -> None:
            other = BackRoom(folder)
            for number in range(150):
                tell(other.sell(f"more-{number}"))
                other.store.tidy(force=True)

        with children([rewrite]) as (child,):
            while (key := child.hear()) is not None:
                keys.append(key)
                for one in keys[:: max(1, len(keys) // 10)]:
                    assert room.code(one) == "VALID"
                assert room.code(key) == "VALID"
            child.end()
            assert child.status == 0
        assert set(records(room.store)) == set(keys) == set(written(folder))
        assert len(keys) == 162


def acknowledged_and_missed(folder: Path, sales: int) -> int:
    """Ping-pong: how many of these sales, each acknowledged by one process, another one did not know right then."""
    reader = BackRoom(folder)

    def write(tell: Tell) -> None:
        room = BackRoom(folder)
        for number in range(sales):
            tell(room.sell(f"s{number}"))
            if number % 40 == 0:
                room.store.tidy(force=True)

    child = Child(write)
    missed = 0
    while (key := child.hear()) is not None:
        missed += reader.store.find_license(key) is None
    child.end()
    assert child.status == 0
    return missed


def test_a_reader_knows_what_a_writer_was_promised(torture: Torture) -> None:
    sales = torture.of(300, 20_000)
    with room_for() as folder:
        missed = acknowledged_and_missed(folder, sales)
    torture.tried("sales asked for in another process right after their answer", sales, missed)
    assert missed == 0


def test_mutant_mtime_cache_is_caught(monkeypatch):
    """Whoever looks at the time of a file's last change misses what is appended within the clock's resolution."""
    real = ChainedLog.read_new
    seen: dict[int, int] = {}

    def read_new(self: ChainedLog[Any]) -> Any:
        changed = int(self.path.stat().st_mtime) if self.path.exists() else 0
        if seen.get(id(self)) == changed:
            return []
        seen[id(self)] = changed
        return real(self)

    monkeypatch.setattr(ChainedLog, "read_new", read_new)
    with room_for() as folder:
        assert acknowledged_and_missed(folder, 300) > 0
