"""What a deed costs the disk, and how a shop's view follows while it grows."""

from __future__ import annotations

import os
from collections.abc import Callable
from typing import Any

import pytest

from server.storage import flatfile
from tests.storage.backroom import BackRoom, from_logs, records, room_for, written
from tests.torture.processes import Tap


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
            most = max(most, len(reader.store._known.changed))
        assert most <= 11
