"""Locks whose holders are killed, stopped or forked, whose file is deleted, and file systems that have none."""

from __future__ import annotations

import errno
import os
import random
import signal
from collections import Counter
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path

import pytest

from server.errors import DamagedFile, StorageUnavailable
from server.storage import durable, flatfile
from server.storage.flatfile import FlatFileStore
from tests.storage.backroom import BackRoom, chain, from_logs, records, room_for, written
from tests.torture.account import Torture
from tests.torture.processes import Child, Tell, children, failing, together

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


def test_a_child_of_a_killed_writer_does_not_hold_its_lock() -> None:
    """It was forked while its parent was in the middle of a sale, and lives on."""
    with room_for() as folder:
        child_outlives_holder(folder)


def child_outlives_holder(folder: Path) -> None:
    def work(tell: Tell) -> None:
        with BackRoom(folder).store.transaction():
            tell(Child(lambda tell: signal.pause()).pid)
            signal.pause()

    room = BackRoom(folder)
    room.store._folder_lock.patience = 1.0
    holder = Child(work)
    orphan = holder.hear()
    holder.kill()
    try:
        assert room.code(room.sell("s1")) == "VALID"
    finally:
        os.kill(orphan, signal.SIGKILL)


def test_mutant_a_child_that_keeps_the_lock_it_inherited_is_caught(monkeypatch):
    monkeypatch.setattr(durable.FolderLock, "forget", lambda self: None)
    with room_for() as folder, pytest.raises(StorageUnavailable, match="held by another process"):
        child_outlives_holder(folder)


def test_a_child_that_was_forked_inside_does_not_end_its_parents_turn() -> None:
    with room_for() as folder:
        room = BackRoom(folder)
        room.store._folder_lock.patience = 0.02

        def leave(tell: Tell) -> None:
            inside.__exit__(None, None, None)

        inside = durable.FolderLock(folder / "folder.lock", 1.0).held()
        with inside:
            child = Child(leave)
            child.told()
            assert child.status == 0
            with pytest.raises(StorageUnavailable, match="held by another process"):
                room.sell("s1")
        assert room.code(room.sell("s1")) == "VALID"


# ------------------------------------------------------------------------------------------------ a deleted file
def sell_while_it_is_deleted(folder: Path, sales: list[str], workers: int) -> int:
    """All workers deliver all sales while somebody deletes the lock file again and again; how often it was deleted."""

    def deliver(tell: Tell, begin: Callable[[], None]) -> None:
        room = BackRoom(folder)
        begin()
        tell([room.sell(sale_id) for sale_id in random.Random(os.getpid()).sample(sales, len(sales))])

    def delete(tell: Tell, begin: Callable[[], None]) -> None:
        begin()
        deleted = 0
        while (folder / "purchases.jsonl").read_bytes().count(b"\n") < len(sales):
            for _ in range(100):
                with suppress(FileNotFoundError):
                    (folder / "folder.lock").unlink()
                    deleted += 1
        tell(deleted)

    BackRoom(folder).sell(sales[0])
    *_, (deleted,) = together([deliver] * workers + [delete])
    lines = chain(folder / "purchases.jsonl")
    assert Counter(line["sale_id"] for line in lines) == dict.fromkeys(sales, 1)
    assert records(BackRoom(folder).store) == from_logs(folder)
    return int(deleted)


def test_a_lock_file_that_is_deleted_under_load_lets_nobody_in_twice(torture: Torture) -> None:
    sales = [f"s{number}" for number in range(torture.of(300, 10_000))]
    with room_for() as folder:
        deleted = sell_while_it_is_deleted(folder, sales, 4)
    torture.tried("sales by four workers while the lock file is deleted", len(sales) * 4)
    torture.tried("deletions of the lock file", deleted)
    assert deleted > 3


def both_are_in(folder: Path) -> bool:
    """Whether a second one gets in after the lock file was deleted beside a holder that knew it."""
    first, second = (durable.FolderLock(folder / "folder.lock", 0.02) for _ in range(2))
    with first.held():
        (folder / "folder.lock").unlink()
        try:
            with second.held():
                return True
        except StorageUnavailable:
            return False
        finally:
            second.close()


def test_a_lock_file_that_is_deleted_beside_its_holder_lets_nobody_in() -> None:
    with room_for() as folder:
        assert not both_are_in(folder)


def test_mutant_a_lock_on_the_file_alone_is_caught(monkeypatch):
    monkeypatch.setattr(durable.FolderLock, "_open_folder", lambda self: -1)
    with room_for() as folder:
        assert both_are_in(folder)


def both_are_in_later(folder: Path) -> bool:
    """Whether two get in who come after the lock file was deleted, one of whom knew the old one."""
    first, second = (durable.FolderLock(folder / "folder.lock", 0.02) for _ in range(2))
    with first.held():
        pass
    (folder / "folder.lock").unlink()
    with first.held():
        try:
            with second.held():
                return True
        except StorageUnavailable:
            return False


def test_where_folders_cannot_be_locked_a_new_lock_file_is_the_lock_of_all(monkeypatch):
    monkeypatch.setattr(durable.FolderLock, "_open_folder", lambda self: -1)
    with room_for() as folder:
        assert not both_are_in_later(folder)


def test_mutant_a_lock_on_a_deleted_file_is_caught(monkeypatch):
    monkeypatch.setattr(durable.FolderLock, "_open_folder", lambda self: -1)
    monkeypatch.setattr(durable.FolderLock, "_is_in_place", lambda self: True)
    with room_for() as folder:
        assert both_are_in_later(folder)


# ------------------------------------------------------------------------------------------------ no locks at all
@pytest.mark.parametrize("number", [errno.ENOSYS, errno.ENOLCK, errno.EOPNOTSUPP])
def test_a_file_system_that_refuses_locks_is_refused(monkeypatch, number):
    monkeypatch.setattr(durable.fcntl, "flock", failing(number))
    with room_for() as folder, pytest.raises(DamagedFile, match=r"locks do not work here .*Move DATA_DIR"):
        FlatFileStore(folder).open()


def test_a_file_system_whose_locks_lock_nobody_out_is_refused(monkeypatch):
    monkeypatch.setattr(durable.fcntl, "flock", lambda descriptor, how: None)
    with room_for() as folder, pytest.raises(DamagedFile, match=r"two can hold one.*Move DATA_DIR"):
        FlatFileStore(folder).open()
