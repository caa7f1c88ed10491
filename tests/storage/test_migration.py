"""Moving the books between the files and a database: nothing is lost, nothing is done twice, and either place refuses
to be used once the other one counts."""

from __future__ import annotations

import json
import shutil
from datetime import UTC, datetime, timedelta
from pathlib import Path

import psycopg
import pytest

from server.domain.license import DeviceEvent
from server.domain.order import Step
from server.domain.purchase import EventKind
from server.errors import Conflict, DamagedFile, StartRefused, StorageUnavailable
from server.storage import migration
from server.storage.base import Letter
from server.storage.durable import MOVED
from server.storage.flatfile import FlatFileStore
from server.storage.log import Mark
from server.storage.migration import differences, to_files, to_postgres
from server.storage.postgres import PostgresStore
from tests import databases
from tests.storage.backroom import NOW, counted, device_line, entry, letter, records, sold
from tests.storage.order_book_contract import line, placed

LOGS = ("purchases.jsonl", "activity.jsonl", "orders.jsonl")


def a_shop(folder: Path) -> None:
    """Some of everything that a store keeps, with a torn tail of a killed writer in the middle of the ledger."""
    store = FlatFileStore(folder, pace=0.0).open()
    with store.transaction() as books:
        books.append([sold(1), sold(2, customer_name="Zoë \u2028 \U0001f600", email="zoë@exämple.com")])
    with open(folder / "purchases.jsonl", "ab") as ledger:
        ledger.write(b'{"seq":3,"timestamp":"20\xff\x00')
    with store.transaction() as books:
        books.append([sold(number) for number in range(3, 60)])
        books.append([entry(EventKind.REFUND, "s2:refund", said={"sale_id": "s2"})])
        books.append_devices([device_line("KEY-1", "a"), device_line("KEY-3", "b"), device_line("nobody", "c")])
        books.append_devices([device_line("KEY-1", "a", DeviceEvent.DEACTIVATION), device_line("KEY-1", "d")])
    order = placed(store)
    store.orders.note(line(order, Step.BEGUN, reference="P1"))
    store.orders.note(line(placed(store), Step.SUSPICIOUS, note="too little"))
    store.count_usage("KEY-1", NOW, times=7)
    store.count_usage("KEY-5", NOW + timedelta(hours=1))
    with store.letterbox.turn():
        store.letterbox.write([letter("1"), letter("2"), letter("3")])
        store.letterbox.write([letter("1", "sent"), letter("2", "dead")])
        store.letterbox.write([Letter(id="covers", covers=Mark(10, 1, "a"), at=NOW)])
    with open(folder / "outbox.jsonl", "ab") as outbox:  # of a newer version
        outbox.write(b'{"id":"4","kind":"delivery","to":"a@b.example","at":"2026-11-20T12:00:00Z","colour":"red"}\n')
    store.shelf.put("token", "secret", NOW + timedelta(days=90000), NOW)
    store.tidy(force=True)
    store.close()


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    a_shop(tmp_path / "data")
    return tmp_path / "data"


@pytest.fixture
def url(folder: Path) -> str:
    return databases.url_for(folder)


def contents(folder: Path) -> dict[str, bytes]:
    return {name: (folder / name).read_bytes() for name in LOGS}


def test_the_books_are_the_same_there_and_back(folder, url):
    before, known = contents(folder), FlatFileStore(folder).open()
    licenses, counts, head = dict(known.licenses()), counted(known), known.ledger.mark.head
    moved = to_postgres(folder, url)
    assert (moved.ledger_lines, moved.device_lines, moved.order_lines, moved.licenses) == (60, 5, 4, 59)
    assert (moved.letters, moved.head) == (4, head)
    store = PostgresStore(url).open()
    assert dict(store.licenses()) == licenses
    assert (counts["KEY-1"], counts["KEY-5"], counted(store)) == (7, 1, counts)
    assert {one.id: one.state for one in store.letterbox.letters()} == {
        "1": "sent",
        "2": "dead",
        "3": "queued",
        "4": "queued",
    }
    assert [finding for finding in store.inspect() if not finding.is_note] == []
    store.close()
    shutil.rmtree(folder)
    folder.mkdir()
    assert to_files(folder, url, NOW).head == head
    assert contents(folder) == before
    again = FlatFileStore(folder).open()
    assert dict(again.licenses()) == licenses
    assert again.letterbox.note("covers").covers == Mark(10, 1, "a")
    assert '"colour":"red"' in (folder / "outbox.jsonl").read_text()
    assert again.shelf.get("token", NOW) == "secret"
    assert again.rebuild() == 59
    assert (dict(again.licenses()), counted(again)) == (licenses, counts)


def test_what_was_sold_in_the_database_comes_back_too(folder, url):
    to_postgres(folder, url)
    store = PostgresStore(url).open()
    with store.transaction() as books:
        books.append([sold(60)])
        books.append_devices([device_line("KEY-60", "pc")])
    store.count_usage("KEY-60", NOW)
    store.tidy(force=True)
    live = dict(store.licenses())
    store.close()
    moved = to_files(folder, url, NOW)
    assert moved.ledger_lines == 61
    aside = Path(str(moved.aside))
    assert (aside.parent, len((aside / "purchases.jsonl").read_bytes().splitlines())) == (folder, 61)  # one was torn
    files = FlatFileStore(folder).open()
    assert dict(files.licenses()) == live
    assert (live["KEY-60"].hardware_id, live["KEY-60"].validation_count) == ("pc", 1)


def test_the_old_place_takes_nothing_more_and_lets_nobody_start(folder, url):
    worker, order_book = FlatFileStore(folder).open(), FlatFileStore(folder).open()
    to_postgres(folder, url)
    deeds = [
        lambda: worker.transaction().__enter__(),
        lambda: placed(order_book),
        lambda: worker.letterbox.enqueue([letter("9")]),
        lambda: worker.letterbox.turn().__enter__(),
        lambda: worker.shelf.put("a", "b", NOW, NOW),
        lambda: worker.shelf.claim("a", NOW, NOW),
    ]
    for deed in deeds:
        with pytest.raises(StorageUnavailable, match="moved to PostgreSQL"):
            deed()
    assert worker.find_license("KEY-1") is not None  # apps are answered until the restart
    with pytest.raises(StartRefused, match="DATA_DIR: the books were moved to PostgreSQL"):
        FlatFileStore(folder).open()
    with pytest.raises(Conflict, match="were moved"):
        to_postgres(folder, url)


def test_the_database_takes_nothing_more_once_the_files_count_again(folder, url):
    to_postgres(folder, url)
    worker = PostgresStore(url).open()
    to_files(folder, url, NOW)
    deeds = [
        lambda: worker.transaction().__enter__(),
        lambda: placed(worker),
        lambda: worker.orders.alone().__enter__(),
        lambda: worker.letterbox.enqueue([letter("9")]),
        lambda: worker.letterbox.turn().__enter__(),
        lambda: worker.shelf.put("a", "b", NOW, NOW),
        lambda: worker.shelf.claim("a", NOW, NOW),
    ]
    for deed in deeds:
        with pytest.raises(StorageUnavailable, match="moved to files"):
            deed()
    assert worker.find_license("KEY-1") is not None
    assert "moved to files" in str(worker.state(probe=True).trouble)
    with pytest.raises(StartRefused, match="DATABASE_URL: the books were moved to files"):
        PostgresStore(url).open()
    with pytest.raises(Conflict, match="holds a ledger that was not moved"):
        to_files(folder, url, NOW)
    with FlatFileStore(folder).open().transaction() as books:
        books.append([sold(77)])
    with pytest.raises(Conflict, match="other books"):
        to_postgres(folder, url)


@pytest.mark.parametrize("step", ["fill", "_equal"])
def test_a_move_that_fails_leaves_the_files_in_use(folder, url, step, monkeypatch):
    def fail(*given: object) -> None:
        with pytest.raises(StorageUnavailable, match="are being moved"):
            worker.transaction().__enter__()
        raise KeyboardInterrupt

    worker = FlatFileStore(folder).open()
    with monkeypatch.context() as patch:
        patch.setattr(migration, step, fail)
        with pytest.raises(KeyboardInterrupt):
            to_postgres(folder, url)
    with worker.transaction() as books:
        books.append([sold(60)])
    if step == "fill":
        assert to_postgres(folder, url).ledger_lines == 61
    else:  # the copy is there already, and older than the files now
        with pytest.raises(Conflict, match="other books"):
            to_postgres(folder, url)


@pytest.mark.parametrize("step", ["to_folder", "_checked", "_put_in_place"])
def test_a_move_back_that_fails_leaves_the_database_in_use(folder, url, step, monkeypatch):
    def fail(*given: object) -> None:
        with pytest.raises(StorageUnavailable, match="are being moved"):
            worker.transaction().__enter__()
        raise KeyboardInterrupt

    to_postgres(folder, url)
    worker = PostgresStore(url).open()
    with monkeypatch.context() as patch:
        patch.setattr(migration, step, fail)
        with pytest.raises(KeyboardInterrupt):
            to_files(folder, url, NOW)
    with worker.transaction() as books:
        books.append([sold(60)])
    with pytest.raises(StartRefused, match="moved to PostgreSQL"):
        FlatFileStore(folder).open()
    assert to_files(folder, url, NOW).ledger_lines == 61


def test_a_move_that_was_killed_is_begun_again(folder, url):
    (folder / MOVED).write_text(f"{migration.OUT}\n")
    with pytest.raises(StartRefused, match="are being moved"):
        FlatFileStore(folder).open()
    assert to_postgres(folder, url).ledger_lines == 60
    (folder / MOVED).write_text(f"{migration.OUT}\n")  # killed at its very end: everything is there
    assert to_postgres(folder, url).ledger_lines == 60
    store = PostgresStore(url)
    store.close_books(migration.BACK)
    with pytest.raises(StartRefused, match="are being moved"):
        PostgresStore(url).open()
    assert to_files(folder, url, NOW).ledger_lines == 60


def test_damaged_books_are_not_moved(folder, url):
    raw = (folder / "purchases.jsonl").read_bytes()
    (folder / "purchases.jsonl").write_bytes(raw.replace(b"s7:sale", b"s7:SALE"))
    with pytest.raises((Conflict, DamagedFile), match=r"purchases\.jsonl line"):
        to_postgres(folder, url)
    assert PostgresStore(url).state().ledger_lines == 0
    assert not (folder / MOVED).exists()


def test_books_are_never_put_over_others(folder, url, tmp_path):
    with pytest.raises(Conflict, match=r"no purchases\.jsonl"):
        to_postgres(tmp_path / "empty", databases.url_for(tmp_path / "empty"))
    to_postgres(folder, url)
    a_shop(tmp_path / "other")
    with pytest.raises(Conflict, match="holds a ledger that was not moved"):
        to_files(tmp_path / "other", url, NOW)
    with pytest.raises(Conflict, match="no ledger"):
        to_files(tmp_path / "none", databases.url_for(tmp_path / "none"), NOW)


CHANGES = {
    "a line of the ledger": "UPDATE ledger SET line = replace(line, 'Ann Lee', 'Bob Lee') WHERE seq = 5",
    "where a line ends": "UPDATE ledger SET ends = ends + 1 WHERE seq = 5",
    "a torn line": "UPDATE ledger SET torn = NULL WHERE torn IS NOT NULL",
    "the last line": "DELETE FROM ledger WHERE seq = 60",
    "the book": "UPDATE book SET seq = 59 WHERE name = 'ledger'",
    "a device line": "DELETE FROM device_line WHERE seq = 5",
    "an order's line": "UPDATE order_line SET line = replace(line, 'P1', 'P2')",
    "a license": "UPDATE license SET record = replace(record, 'ann@', 'bob@') WHERE key = 'KEY-9'",
    "a missing license": "DELETE FROM license WHERE key = 'KEY-9'",
    "a device": "UPDATE license SET devices = NULL WHERE key = 'KEY-3'",
    "a count": "UPDATE license SET validation_count = 8 WHERE key = 'KEY-1'",
    "a letter": "DELETE FROM letter WHERE id = '2'",
    "the shelf": "UPDATE shelf SET value = 'other'",
}


@pytest.mark.parametrize("change", CHANGES)
def test_the_proof_of_equality_sees_every_change(folder, url, change):
    files = FlatFileStore(folder).open()
    to_postgres(folder, url)
    store = PostgresStore(url).open()
    assert list(differences(files, store)) == []
    with psycopg.connect(url) as connection:
        connection.execute("SET session_replication_role = replica")  # past the trigger that keeps the logs as they are
        assert connection.execute(CHANGES[change]).rowcount > 0
    assert list(differences(files, store)) != []


def test_old_doubles_in_the_books_are_moved_as_they_are(tmp_path):
    folder = tmp_path / "data"
    store = FlatFileStore(folder).open()
    double = sold(1)
    double.grants = (*double.grants, *(sold(2).grants))
    double.license_keys = ("KEY-1", "KEY-2")
    with store.transaction() as books:
        books.append([double])
    store.close()
    assert [finding.kind for finding in store.inspect()] == ["double"]
    assert to_postgres(folder, databases.url_for(folder)).licenses == 2
    there = PostgresStore(databases.url_for(folder)).open()
    assert [finding.kind for finding in there.inspect()] == ["double"]
    assert there.rebuild() == 2


def test_a_damaged_shelf_is_begun_anew_and_its_word_goes_along(folder, url):
    (folder / "shelf.json").write_bytes(b"{")
    to_postgres(folder, url)
    assert PostgresStore(url).open().shelf.begun(datetime.now(UTC)) != ""


def test_records_hold_no_more_than_in_the_files(folder, url):
    """The lean view: what is a default is not written."""
    to_postgres(folder, url)
    with psycopg.connect(url) as connection:
        ((record,),) = connection.execute("SELECT record FROM license WHERE key = 'KEY-9'")
    assert set(json.loads(record)) - set(records(PostgresStore(url))["KEY-9"]) == {
        "last_validation",
        "validation_count",
    }
