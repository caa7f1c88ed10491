"""Locks whose holders are killed, stopped or forked, whose file is deleted, and file systems that have none."""

from __future__ import annotations

import signal
from pathlib import Path

import pytest

from server.errors import StorageUnavailable
from server.storage import durable, flatfile
from tests.storage.backroom import BackRoom, room_for, written
from tests.torture.processes import Child, Tell, children

SALES = [f"s{number}" for number in range(12)]


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
