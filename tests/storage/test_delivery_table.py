"""`webhooks.table`: exact over processes, of a fixed size, and whatever is done to its file, it is begun anew."""

from __future__ import annotations

import os
import signal
from collections.abc import Callable, Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest

from server.errors import StorageUnavailable
from server.storage import deliveries, durable
from server.storage.deliveries import KEPT, PAGE, DeliveryTable, Failure, Failures
from tests.torture.processes import children, together

NOW = datetime(2026, 11, 20, 12, 34, 56, tzinfo=UTC)
PLATFORMS, REASONS = ("gumroad", "stripe", ""), ("proof", "content")
SIZE = PAGE * (1 + len(PLATFORMS) * len(REASONS))


def table_at(path: Path) -> DeliveryTable:
    return DeliveryTable(path, PLATFORMS, REASONS)


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "webhooks.table"


@pytest.fixture
def table(path: Path) -> Iterator[DeliveryTable]:
    made = table_at(path)
    yield made
    made.close()


def failure(number: int = 0, detail: str = "it failed", at: datetime = NOW) -> Failure:
    return Failure(at + timedelta(seconds=number), 100 + number, detail)


def page_of(table: DeliveryTable, platform: str = "stripe", reason: str = "proof") -> Failures | None:
    return next((page for page in table.failures() if (page.platform, page.reason) == (platform, reason)), None)


def counted(table: DeliveryTable, platform: str = "stripe", reason: str = "proof") -> int:
    page = page_of(table, platform, reason)
    return page.total if page else 0


def test_what_failed_is_counted_and_the_newest_of_it_is_kept(table, path):
    for number in range(KEPT + 3):
        table.failed("stripe", "proof", failure(number))
    table.failed("gumroad", "content", failure(detail="Zoë \u2028 <b>"))
    reader = table_at(path)
    page = page_of(reader)
    assert page is not None
    assert page.total == KEPT + 3
    assert [one.size for one in page.newest] == [110, 109, 108, 107, 106, 105, 104, 103]
    assert page.since == NOW
    found = page_of(reader, "gumroad", "content")
    assert found is not None
    assert [one.detail for one in found.newest] == ["Zoë \u2028 <b>"]
    assert page_of(reader, "", "proof") is None


def test_what_one_reason_is_flooded_with_takes_no_others_place_and_no_more_room(table, path):
    table.failed("stripe", "content", failure(detail="the one that matters"))
    for number in range(300):
        table.failed("stripe", "proof", failure(number, detail="\U0001f600" * 200))
    page = page_of(table, "stripe", "content")
    assert page is not None
    assert [one.detail for one in page.newest] == ["the one that matters"]
    assert counted(table) == 300
    assert path.stat().st_size <= SIZE


def test_hours_tell_how_many_there_were_in_a_day(table):
    for hour in range(60):
        for _ in range(2):
            table.failed("stripe", "proof", failure(at=NOW + timedelta(hours=hour)))
    page = page_of(table)
    assert page is not None
    assert page.lately(NOW + timedelta(hours=59)) == 48
    assert page.lately(NOW + timedelta(hours=60)) == 46
    assert page.lately(NOW + timedelta(hours=84)) == 0
    assert page.lately(NOW) == 0  # a clock that was set back tells of nothing that is still to come
    assert page.total == 120


def test_a_success_ends_what_failed_before_it(table):
    table.failed("stripe", "proof", failure(0))
    table.failed("stripe", "proof", failure(1))
    table.took("stripe", NOW + timedelta(seconds=5))
    page = page_of(table)
    assert page is not None
    assert page.since == NOW
    table.failed("stripe", "proof", failure(9))
    table.failed("stripe", "proof", failure(10))
    page = page_of(table)
    assert page is not None
    assert page.since == NOW + timedelta(seconds=9)


def test_a_success_is_told_by_platform(table, path):
    assert table.taken() == {}
    table.took("stripe", NOW)
    table.took("gumroad", NOW + timedelta(seconds=1))
    table.took("stripe", NOW + timedelta(seconds=2))
    told = {"gumroad": NOW + timedelta(seconds=1), "stripe": NOW + timedelta(seconds=2)}
    assert table_at(path).taken() == told


# ------------------------------------------------------------------------------------------------ exact
def counted_by_all(path: Path) -> int:
    def fail(tell: Callable[[int], None], begin: Callable[[], None]) -> None:
        table = table_at(path)
        begin()
        for number in range(50):
            table.failed("stripe", "proof", failure(number))
        tell(1)

    assert [sum(told) for told in together([fail] * 4)] == [1] * 4
    return counted(table_at(path))


@pytest.fixture
def patient(monkeypatch: pytest.MonkeyPatch) -> None:
    """A busy machine gives no failure up."""
    monkeypatch.setattr(deliveries, "_PATIENCE", 60.0)


@pytest.mark.usefixtures("patient")
def test_all_processes_together_count_every_failure(path):
    assert counted_by_all(path) == 200


def test_who_holds_a_page_is_not_waited_for(path, monkeypatch):
    monkeypatch.setattr(deliveries, "_PATIENCE", 0.01)
    table = table_at(path)
    table.failed("stripe", "proof", failure())

    def hold(tell: Callable[[int], None]) -> None:
        descriptor = os.open(path, os.O_RDWR)
        durable.lock_bytes(descriptor, 0, SIZE, 60.0)
        tell(1)
        signal.pause()

    with children([hold]) as (holder,):
        assert holder.hear() == 1
        with pytest.raises(StorageUnavailable, match="bytes of a file are held"):
            table.failed("stripe", "proof", failure())
    assert counted(table) == 1


# ------------------------------------------------------------------------------------------------ disposable
@pytest.mark.parametrize("garbage", [b"", b"\0" * 100, b"{" * SIZE, os.urandom(SIZE), b"[]\n" * 3000, b"null"])
def test_garbage_is_begun_anew(path, table, garbage):
    path.write_bytes(garbage)
    assert table.failures() == []
    for moment in table.taken().values():
        assert moment.tzinfo is UTC
    table.failed("stripe", "proof", failure())
    table.took("stripe", NOW)
    assert counted(table) == 1
    assert table.taken()["stripe"] == NOW


def test_a_page_of_another_version_is_begun_anew(path, table):
    table.failed("stripe", "proof", failure())
    other = DeliveryTable(path, ("stripe", "gumroad"), ("content", "proof", "news"))
    assert [page.total for page in other.failures()] == []


def test_a_file_that_was_deleted_is_made_again(path, table):
    table.failed("stripe", "proof", failure())
    path.unlink()
    assert table.failures() == []
    table.failed("stripe", "proof", failure())
    assert counted(table_at(path)) == 1
    assert path.stat().st_mode & 0o777 == 0o600


def test_nothing_is_ever_synced(table, monkeypatch):
    synced: list[int] = []
    monkeypatch.setattr(os, "fsync", synced.append)
    table.failed("stripe", "proof", failure())
    table.took("stripe", NOW)
    assert synced == []


def test_what_cannot_be_opened_is_told(path, table):
    path.mkdir()
    for verb in (table.taken, table.failures, lambda: table.took("stripe", NOW)):
        with pytest.raises(IsADirectoryError):
            verb()
