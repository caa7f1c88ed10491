"""`limits.table`: exact over processes and threads, and whatever is done to its file, nobody is shut out by it."""

from __future__ import annotations

import os
import random
import threading
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from server.domain.rate import Rate
from server.errors import StorageUnavailable
from server.storage import durable, limits
from server.storage.limits import SETS, WAYS, LimitTable
from tests.torture.processes import Child, together

SECOND = 1_000_000_000
NOW = 500 * SECOND
RATE = Rate(6, 60 * SECOND)
SIZE = SETS * WAYS * 16


@pytest.fixture
def path(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setattr(limits, "_PATIENCE", 30.0)  # on a busy machine whoever has the lock may have to wait himself
    return tmp_path / "limits.table"


@pytest.fixture
def table(path: Path) -> Iterator[LimitTable]:
    made = LimitTable(path, "secret")
    yield made
    made.close()


def passed(table: LimitTable, subject: str = "ann", tries: int = 10, now: int = NOW, rate: Rate = RATE) -> int:
    return sum(table.take(subject, 1, rate, now)[0].granted for _ in range(tries))


# ------------------------------------------------------------------------------------------------ exact
def passed_over_processes(path: Path, rate: Rate, tries: int) -> int:
    def knock(tell: Callable[[int], None], begin: Callable[[], None]) -> None:
        table = LimitTable(path, "secret")
        begin()
        tell(passed(table, tries=tries, rate=rate))

    return sum(sum(told) for told in together([knock] * 6))


def passed_over_threads(table: LimitTable, rate: Rate, tries: int) -> int:
    gate = threading.Barrier(4)

    def knock(_: int) -> int:
        gate.wait()
        return passed(table, tries=tries, rate=rate)

    with ThreadPoolExecutor(4) as pool:
        return sum(pool.map(knock, range(4)))


@pytest.fixture
def slow_reads(monkeypatch: pytest.MonkeyPatch) -> None:
    """Others get their turn between the reading and the writing of a slot."""
    read = limits._read

    def yielding(descriptor: int, start: int) -> tuple[tuple[int, ...], tuple[int, ...]]:
        found = read(descriptor, start)
        for _ in range(20):
            os.sched_yield()
        return found

    monkeypatch.setattr(limits, "_read", yielding)


@pytest.mark.parametrize("limit", [1, 100, 777])
def test_all_processes_together_get_the_limit_exactly(path, limit):
    assert passed_over_processes(path, Rate(limit, 60 * SECOND), 400) == limit


@pytest.mark.usefixtures("slow_reads")
def test_all_threads_together_get_the_limit_exactly(table):
    assert passed_over_threads(table, Rate(100, 60 * SECOND), 100) == 100


@pytest.mark.usefixtures("slow_reads")
def test_mutant_a_table_without_locks_lets_more_through(path, monkeypatch):
    assert passed_over_processes(path, Rate(100, 60 * SECOND), 100) == 100
    path.unlink()
    monkeypatch.setattr(durable, "lock_bytes", lambda *_: None)
    monkeypatch.setattr(durable, "unlock_bytes", lambda *_: None)
    assert passed_over_processes(path, Rate(100, 60 * SECOND), 100) > 100


@pytest.mark.usefixtures("slow_reads")
def test_mutant_a_table_without_a_mutex_lets_more_through(table, monkeypatch):
    class Open:
        def acquire(self, wait: bool = True, timeout: float = -1) -> bool:
            return True

        def release(self) -> None:
            pass

    monkeypatch.setattr(limits, "_mutex", Open())
    assert passed_over_threads(table, Rate(100, 60 * SECOND), 100) > 100


def test_many_subjects_at_once_are_each_exact(path):
    rate = Rate(20, 60 * SECOND)
    subjects = [f"198.51.100.{number}" for number in range(40)]

    def knock(tell: Callable[[list[int]], None], begin: Callable[[], None]) -> None:
        table = LimitTable(path, "secret")
        begin()
        tell([passed(table, subject, 12, rate=rate) for subject in subjects])

    told = together([knock] * 4)
    assert [sum(counts) for counts in zip(*(child[0] for child in told), strict=True)] == [20] * len(subjects)


def test_a_fork_goes_on_in_the_same_table(table):
    assert passed(table, tries=4) == 4
    assert Child(lambda tell: tell(passed(table))).told() == [2]
    assert passed(table) == 0


def test_a_fork_beside_a_thread_that_is_in_the_table_is_not_hung_up(table, monkeypatch):
    monkeypatch.setattr(limits, "_PATIENCE", 0.01)
    with limits._mutex:
        assert Child(lambda tell: tell(passed(table))).told() == [RATE.limit]


def test_a_stopped_holder_hangs_nobody_up_and_a_killed_one_holds_nothing(table, path, monkeypatch):
    start, _ = table._place("ann")

    def hold(tell: Callable[[str], None]) -> None:
        durable.lock_bytes(os.open(path, os.O_RDWR | os.O_CREAT), start, 128, 0)
        tell("held")
        threading.Event().wait(60)

    child = Child(hold)
    try:
        assert child.hear() == "held"
        with monkeypatch.context() as patch:
            patch.setattr(limits, "_PATIENCE", 0.01)
            with pytest.raises(StorageUnavailable):
                table.take("ann", 1, RATE, NOW)
        assert table.take("bob", 1, RATE, NOW)[0].granted  # other sets are not held
    finally:
        child.kill()
    assert passed(table) == RATE.limit


# ------------------------------------------------------------------------------------------------ whose bucket
def test_a_subject_has_a_bucket_of_each_kind_and_may_look_at_another(table):
    assert table.take("ann", 1, RATE, NOW, beside=2)[1] == 0
    second, _ = table.take("ann", 2, RATE, NOW)
    assert table.take("ann", 1, RATE, NOW, beside=2)[1] == second.full_at
    assert table.take("bob", 1, RATE, NOW, beside=2)[1] == 0
    assert passed(table) == RATE.limit - 2
    assert table.take("ann", 1, RATE, NOW, beside=2)[1] == second.full_at  # a refusal looks as well
    assert sum(table.take("ann", 2, RATE, NOW)[0].granted for _ in range(9)) == RATE.limit - 1


def in_one_set(table: LimitTable, number: int) -> list[str]:
    """So many subjects that share a set, which nobody can choose without the secret."""
    there = [f"s{n}" for n in range(number * SETS * 2) if table._place(f"s{n}")[0] == 0]
    assert len(there) >= number
    return there[:number]


def test_neighbours_in_one_set_do_not_pay_for_each_other(table):
    for subject in in_one_set(table, WAYS):
        assert passed(table, subject) == RATE.limit
    for subject in in_one_set(table, WAYS):
        assert passed(table, subject) == 0


def test_mutant_slots_without_a_tag_shut_innocents_out(table, monkeypatch):
    guilty, innocent = in_one_set(table, 2)
    monkeypatch.setattr(LimitTable, "_place", lambda *_: (0, 1))
    assert passed(table, guilty) == RATE.limit
    assert passed(table, innocent) == 0


def test_in_a_full_set_the_bucket_that_is_nearest_to_full_is_forgotten(table):
    *crowd, light, newcomer = in_one_set(table, WAYS + 1)
    for subject in crowd:
        assert passed(table, subject) == RATE.limit
    assert passed(table, light, tries=1) == 1
    assert passed(table, newcomer) == RATE.limit  # a full table shuts nobody out
    assert [passed(table, subject) for subject in crowd] == [0] * len(crowd)  # and lets none of the busy ones off


def test_a_bucket_that_is_over_makes_room(table):
    *crowd, newcomer = in_one_set(table, WAYS + 1)
    first, *others = crowd
    passed(table, first, now=NOW)
    for subject in others:
        passed(table, subject, now=NOW + 30 * SECOND)
    assert passed(table, newcomer, now=NOW + 61 * SECOND) == RATE.limit
    assert [passed(table, subject, now=NOW + 31 * SECOND) for subject in others] == [0] * len(others)


def test_where_a_subject_lies_depends_on_the_secret(path, table):
    other = LimitTable(path, "another secret")
    subjects = [f"s{number}" for number in range(100)]
    assert sum(table._place(subject)[0] == other._place(subject)[0] for subject in subjects) < 5


def test_the_file_names_nobody(path, table):
    passed(table, "address 198.51.100.7")
    assert b"198.51" not in path.read_bytes()
    assert path.stat().st_size <= SIZE
    assert path.stat().st_mode & 0o777 == 0o600


# ------------------------------------------------------------------------------------------------ the clock
def test_it_fills_with_the_time(table):
    assert passed(table) == RATE.limit
    assert passed(table, now=NOW + 20 * SECOND) == 2
    assert passed(table, now=NOW + 3600 * SECOND) == RATE.limit


@pytest.mark.parametrize("jump", [-61 * SECOND, -499 * SECOND, 3600 * SECOND, 10**18])
def test_a_clock_that_jumps_shuts_nobody_out(table, jump):
    """Backwards as after a reboot, where the clock begins anew and the table is still there."""
    assert passed(table) == RATE.limit
    assert passed(table, now=NOW + jump) == RATE.limit
    assert passed(table, now=NOW + jump) == 0


def test_a_clock_that_slips_back_a_little_costs_no_more_than_it_slipped(table):
    assert passed(table, tries=3) == 3
    assert passed(table, now=NOW - 10 * SECOND) == 2
    assert passed(table, now=NOW + 10 * SECOND) == 2


# ------------------------------------------------------------------------------------------------ the file
def test_a_table_that_is_cut_off_while_it_is_open_is_empty_and_goes_on(path, table):
    assert passed(table) == RATE.limit
    os.truncate(path, 0)
    assert passed(table) == RATE.limit
    assert passed(table) == 0


@pytest.mark.parametrize("size", [0, 1, 15, 16, 100, SIZE // 2 + 3, SIZE, 2 * SIZE])
def test_garbage_of_any_length_shuts_nobody_out(path, table, size):
    path.write_bytes(random.Random(size).randbytes(size))
    subjects = [f"s{number}" for number in range(200)]
    assert [passed(table, subject) for subject in subjects] == [RATE.limit] * len(subjects)
    assert [passed(table, subject) for subject in subjects] == [0] * len(subjects)


def test_neighbours_in_a_set_of_garbage_keep_their_buckets(path, table):
    path.write_bytes(random.Random(1).randbytes(SIZE))
    subjects = in_one_set(table, WAYS)
    assert [passed(table, subject) for subject in subjects] == [RATE.limit] * WAYS
    assert [passed(table, subject) for subject in subjects] == [0] * WAYS


@pytest.mark.parametrize("byte", [b"\x00", b"\x01", b"\x7f", b"\xff"])
def test_a_file_of_one_byte_shuts_nobody_out(path, table, byte):
    path.write_bytes(byte * SIZE)
    assert passed(table) == RATE.limit
    assert passed(table) == 0


def test_a_table_that_was_deleted_is_left_behind_by_all(path, table):
    other = LimitTable(path, "secret")
    assert passed(table) == RATE.limit
    assert passed(other) == 0
    path.unlink()
    later = NOW + SECOND
    assert [passed(table, now=later), passed(other, now=later)] == [RATE.limit, 0]  # in one and the same new file


def test_a_table_that_was_replaced_is_found(path, table):
    other = LimitTable(path.with_name("other"), "secret")
    passed(other, tries=4, now=NOW + SECOND)
    assert passed(table) == RATE.limit
    os.replace(other.path, path)
    assert passed(table, now=NOW + SECOND) == 2


def test_what_cannot_be_a_table_is_told_to_its_user_and_heals(path, table):
    path.mkdir()
    with pytest.raises(OSError, match="directory"):
        table.take("ann", 1, RATE, NOW)
    path.rmdir()
    assert passed(table) == RATE.limit


def test_a_full_disk_is_told_to_its_user_and_heals(table, monkeypatch):
    def full(*_: object) -> int:
        raise OSError(28, "No space left on device")

    with monkeypatch.context() as patch:
        patch.setattr(limits.os, "pwrite", full)
        with pytest.raises(OSError, match="No space"):
            table.take("ann", 1, RATE, NOW)
    assert passed(table) == RATE.limit  # the lock was let go of
