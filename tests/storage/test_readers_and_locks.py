"""Readers beside a rewriting writer, locks whose holders die or stop, and shops that grow large."""

from __future__ import annotations

import json
import os
import signal
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

import pytest

from server.errors import StorageUnavailable
from server.storage import durable, flatfile
from tests.storage.backroom import BackRoom, from_logs, records, room_for, written
from tests.storage.processes import Child, Tap, Tell, children

SALES = [f"s{number}" for number in range(12)]


# ------------------------------------------------------------------------------------------------ torn files
def torn_reads(folder: Path, reads: int) -> int:
    """How often licenses.json was not a whole view while another process rewrote it all the time."""
    room = BackRoom(folder)
    keys = {room.sell(sale_id) for sale_id in SALES}
    room.store.tidy(force=True)

    def rewrite(tell: Tell) -> None:
        other = BackRoom(folder)
        tell("begun")
        while True:
            other.store.tidy(force=True)

    torn, seen = 0, set()
    with children([rewrite]) as (child,):
        assert child.hear() == "begun"
        for _ in range(reads):
            with open(folder / "licenses.json", "rb") as file:
                seen.add(os.fstat(file.fileno()).st_ino)
                data = file.read()
            try:
                torn += set(json.loads(data)["licenses"]) != keys
            except ValueError:
                torn += 1
    assert len(seen) > 1, "the writer never came to write"
    return torn


def test_no_reader_ever_sees_a_torn_view():
    with room_for() as folder:
        assert torn_reads(folder, 20_000) == 0


@pytest.mark.slow
def test_no_reader_ever_sees_a_torn_view_in_a_million_reads():
    with room_for() as folder:
        assert torn_reads(folder, 1_000_000) == 0


def test_mutant_a_view_that_is_written_in_its_place_is_caught(monkeypatch):
    def in_place(path: Path, pieces: Iterable[bytes | memoryview]) -> None:
        descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600)
        for piece in pieces:
            durable.write_all(descriptor, bytes(piece))
        os.close(descriptor)

    with room_for() as folder:
        BackRoom(folder)

        def rewrite(tell: Tell) -> None:
            tell("begun")
            while True:
                in_place(folder / "licenses.json", [whole[:100], whole[100:]])

        room = BackRoom(folder)
        for sale_id in SALES:
            room.sell(sale_id)
        room.store.tidy(force=True)
        whole = (folder / "licenses.json").read_bytes()
        torn = 0
        with children([rewrite]) as (child,):
            child.hear()
            for _ in range(20_000):
                torn += (folder / "licenses.json").read_bytes() != whole
        assert torn > 0


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


class Counting(Tap):
    def __init__(self) -> None:
        self.calls: list[str] = []

    def call(self, name: str, real: Callable[..., Any], *given: Any, **named: Any) -> Any:
        self.calls.append(name)
        return real(*given, **named)


def calls_of(deed: Callable[[], Any]) -> list[str]:
    """What a deed does to the disk."""
    counting = Counting()
    with pytest.MonkeyPatch.context() as patch:
        counting.install_with(patch)
        deed()
    return counting.calls


def test_a_sale_is_one_write_and_one_fsync_and_a_validation_nothing():
    with room_for() as folder:
        room, other = BackRoom(folder), BackRoom(folder)
        key = room.sell("s0", "G-TEAM")
        room.code(key, "d0")
        for number in range(1, 4):
            assert calls_of(lambda number=number: room.sell(f"s{number}")) == ["write", "fsync"]
            assert calls_of(lambda number=number: room.sell(f"s{number}")) == []
            assert calls_of(lambda: room.code(key, "d0")) == []
            assert calls_of(lambda: room.code(key)) == []
            assert calls_of(lambda: room.code("no such key")) == []
            room.store.tidy(force=True)
        assert calls_of(lambda: room.code(key, "d1")) == ["write", "fsync"]
        assert other.store.find_license(key) is not None
        assert calls_of(lambda: other.sell("s1")).count("fsync") >= 1, "it rested on what it had not seen on disk"
        assert calls_of(lambda: other.sell("s1")) == []


# ------------------------------------------------------------------------------------------------ locks
def hold_the_lock(folder: Path) -> Child:
    """A process that is in the middle of a transaction, and stays there."""

    def work(tell: Tell) -> None:
        with BackRoom(folder).store.transaction():
            tell("held")
            signal.pause()

    child = Child(work)
    assert child.hear() == "held"
    return child


def test_the_lock_of_a_killed_writer_is_free():
    with room_for() as folder:
        room = BackRoom(folder)
        for sale_id in SALES:
            holder = hold_the_lock(folder)
            holder.kill()
            assert room.code(room.sell(sale_id)) == "VALID"


def test_behind_a_stopped_writer_sales_are_refused_and_validation_goes_on(monkeypatch):
    monkeypatch.setattr(flatfile, "PATIENCE", 0.05)
    with room_for() as folder:
        room = BackRoom(folder)
        key = room.sell("s1", "G-TEAM")
        assert room.code(key, "d1") == "VALID"
        holder = hold_the_lock(folder)
        try:
            holder.signal(signal.SIGSTOP)
            for deed in (lambda: room.sell("s2"), lambda: room.sell("s1"), lambda: room.code(key, "d2")):
                with pytest.raises(StorageUnavailable, match=r"folder\.lock is held by another process"):
                    deed()
            assert room.code(key, "d1") == "VALID"
            assert room.code(key) == "VALID"
            assert room.store.tidy(force=True) == 5.0
            assert "licenses.json is not up to date" in str(room.store.state().view)
            holder.signal(signal.SIGCONT)
        finally:
            holder.kill()
        assert room.code(room.sell("s2")) == "VALID"
        assert room.code(key, "d2") == "VALID"
        room.store.tidy(force=True)
        assert room.store.state().view is None


def test_the_view_lock_of_a_stopped_worker_holds_up_no_sale(monkeypatch):
    monkeypatch.setattr(flatfile, "PATIENCE", 0.05)
    with room_for() as folder:
        room = BackRoom(folder)

        def work(tell: Tell) -> None:
            with durable.Lock(folder / "view.lock", 1.0).held():
                tell("held")
                signal.pause()

        with children([work]) as (holder,):
            assert holder.hear() == "held"
            holder.signal(signal.SIGSTOP)
            key = room.sell("s1")
            assert room.store.tidy(force=True) == 5.0
            assert room.code(key) == "VALID"
        room.store.tidy(force=True)
        assert set(written(folder)) == {key}


def test_lock_files_are_never_deleted():
    with room_for() as folder:
        room = BackRoom(folder)
        locks = {path: path.stat().st_ino for path in folder.glob("*.lock")}
        assert {path.name for path in locks} >= {"folder.lock", "view.lock"}
        for sale_id in SALES:
            room.sell(sale_id)
            room.store.tidy(force=True)
        BackRoom(folder).store.rebuild()
        assert {path: path.stat().st_ino for path in locks} == locks


# ------------------------------------------------------------------------------------------------ large shops
def rewritings(room: BackRoom, sales: range) -> int:
    """How many of these sales were followed by a rewriting of the view."""
    found = 0
    for number in sales:
        before = os.stat(room.folder / "licenses.json").st_ino
        key = room.sell(f"s{number}")
        room.store.tidy()
        assert room.store.find_license(key) is not None
        found += os.stat(room.folder / "licenses.json").st_ino != before
    return found


def test_a_large_shop_rewrites_its_view_by_growth_only(monkeypatch):
    monkeypatch.setattr(flatfile, "SMALL_SHOP", 40)
    with room_for() as folder:
        room, other = BackRoom(folder), BackRoom(folder)
        assert rewritings(room, range(40)) == 40
        assert rewritings(room, range(40, 400)) < 25
        assert len(written(folder)) < 400
        for reader in (room, other, BackRoom(folder)):
            assert len(records(reader.store)) == 400
            assert reader.store.state().licenses == 400
        assert from_logs(folder) == records(other.store)
        room.store.tidy(force=True)
        assert len(written(folder)) == 400


def test_a_worker_takes_a_view_that_another_one_has_written(monkeypatch):
    """What a written view covers need not be kept in memory: a worker that only reads does not grow for ever."""
    monkeypatch.setattr(flatfile, "_RELOAD_FROM", 10)
    with room_for() as folder:
        room, reader = BackRoom(folder), BackRoom(folder)
        most = 0
        for number in range(200):
            key = room.sell(f"s{number}")
            room.store.tidy(force=True)
            assert reader.store.find_license(key) is not None
            most = max(most, len(reader.store._changed))
        assert most <= 11
