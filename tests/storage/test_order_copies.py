"""Orders in backups and inspections: no ledger speaks of an order that its copy lacks; what is spent stays spent."""

from __future__ import annotations

import gzip
from collections.abc import Iterator
from contextlib import nullcontext
from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest

from server.domain.order import new_order_id
from server.domain.purchase import EventKind
from server.storage import archive, backup
from server.storage.archive import BadBackup
from server.storage.base import no_progress
from server.storage.inspection import inspect_folder
from tests.storage.backroom import NOW, chain, room_for
from tests.storage.counter import Counter, back, notice, ordered, paid

BOOK = "orders.jsonl"
LATER = NOW + timedelta(hours=1)


@pytest.fixture
def counter() -> Iterator[Counter]:
    with room_for() as room:
        (room / "data").mkdir()
        counter = Counter(room / "data")
        order = counter.order()
        counter.tell([notice(order, EventKind.PENDING), paid(order), back(order, "20.00")])
        counter.sell("s1")
        counter.store.tidy(force=True)
        yield counter


def made(counter: Counter) -> Path:
    return backup.create(counter.folder, counter.folder.with_name("backups"), NOW).file


def findings(folder: Path, notes: bool = False) -> list[str]:
    found = inspect_folder(folder, no_progress)
    return [f"{one.where}: {one.detail}" for one in found if one.is_note == notes]


# ------------------------------------------------------------------------------------------------ backups
def test_a_backup_brings_back_the_orders(counter: Counter) -> None:
    path = made(counter)
    kept = {one.name: one for one in backup.verify(path).manifest.files}[BOOK]
    assert (kept.seq, kept.head) == (2, counter.store.orders.log.mark.head)
    done = backup.restore(path, counter.folder.with_name("new"), NOW)
    assert (done.folder / BOOK).read_bytes() == (counter.folder / BOOK).read_bytes()
    (before,) = counter.store.orders.placed(None, NOW)
    assert list(Counter(done.folder).store.orders.placed(None, NOW)) == [before]


def test_a_backup_of_a_version_without_orders_is_restored(counter: Counter, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("purchases.jsonl", "licenses.json", "history.idx", BOOK):
        (counter.folder / name).unlink()
    older = Counter(counter.folder)
    key = older.sell("s1")
    older.store.tidy(force=True)
    monkeypatch.setattr(backup, "FILES", [name for name in archive.FILES if name != BOOK])
    done = backup.restore(made(older), counter.folder.with_name("new"), NOW)
    assert Counter(done.folder).code(key) == "VALID"


def orders_beside_their_sales(counter: Counter, patch: pytest.MonkeyPatch) -> None:
    """Somebody orders and pays each time before a backup opens a file, and no lock holds him up."""
    real = backup._open_part

    def open_part(path: Path, opened: Any) -> archive.Part:
        counter.tell([paid(counter.order())])
        counter.store.tidy(force=True)
        return real(path, opened)

    with patch.context() as changed:
        changed.setattr(backup, "_between_two_writes", lambda folder, patience: nullcontext())
        changed.setattr(backup, "_open_part", open_part)
        path = made(counter)
    done = backup.restore(path, counter.folder.with_name("new"), NOW)
    placed = {line["order_id"] for line in chain(done.folder / BOOK)}
    paid_for = {line["order_id"] for line in chain(done.folder / "purchases.jsonl") if line.get("order_id")}
    assert len(paid_for) > 3
    assert paid_for <= placed, "a sale of an order that is not there"


def test_no_copy_of_the_ledger_speaks_of_an_order_that_its_book_lacks(
    counter: Counter, monkeypatch: pytest.MonkeyPatch
) -> None:
    orders_beside_their_sales(counter, monkeypatch)


def test_mutant_the_order_book_is_opened_before_the_ledger(counter: Counter, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(backup, "FILES", (BOOK, *(name for name in archive.FILES if name != BOOK)))
    with pytest.raises((AssertionError, BadBackup), match=r"that is not there|orders\.jsonl has no more"):
        orders_beside_their_sales(counter, monkeypatch)


def test_damaged_orders_are_named_and_not_put_in_place(counter: Counter) -> None:
    book = counter.folder / BOOK
    book.write_bytes(book.read_bytes().replace(b"ann@example.com", b"eve@example.com"))
    checked = backup.create(counter.folder, counter.folder.with_name("backups"), NOW)
    assert [finding.where for finding in checked.findings] == ["orders.jsonl line 1"]
    with pytest.raises(BadBackup, match=r"orders\.jsonl line 1: was changed"):
        backup.restore(checked.file, counter.folder.with_name("new"), NOW)


# ------------------------------------------------------------------------------------------------ the shelf
def what_was_spent_stays_spent(counter: Counter) -> None:
    shelf = counter.store.shelf
    path = made(counter)
    assert shelf.claim("link", LATER, NOW)
    counter.store.close()
    done = backup.restore(path, counter.folder, NOW, force=True)
    assert done.aside is not None
    assert not Counter(counter.folder).store.shelf.claim("link", LATER, NOW)
    assert (counter.folder / "shelf.json").stat().st_mode & 0o777 == 0o600


def test_a_link_that_was_spent_before_a_restore_stays_spent(counter: Counter) -> None:
    what_was_spent_stays_spent(counter)


def test_mutant_a_restore_that_forgets_the_shelf(counter: Counter, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(backup, "_keep_shelf", lambda old, fresh: None)
    with pytest.raises(AssertionError):
        what_was_spent_stays_spent(counter)


def test_no_token_of_a_platform_is_in_a_backup(counter: Counter) -> None:
    counter.store.shelf.put("token", "canary-of-the-tests", LATER, NOW)
    assert b"canary-of-the-tests" not in gzip.decompress(made(counter).read_bytes())


# ------------------------------------------------------------------------------------------------ the inspection
def test_sound_books_with_orders_are_sound(counter: Counter) -> None:
    counter.tell([paid(counter.order(), price="1.00")])
    assert findings(counter.folder) == findings(counter.folder, notes=True) == []


def test_a_ledger_that_speaks_of_orders_which_are_gone_is_a_finding(counter: Counter) -> None:
    (order,) = [file.order for file in counter.store.orders.placed(None, NOW)]
    whole = (counter.folder / BOOK).read_bytes()
    later = counter.order()
    counter.tell([paid(later)])
    (counter.folder / BOOK).write_bytes(whole)  # an older copy
    gone = "which orders.jsonl has no more: restore that from a backup"
    assert findings(counter.folder) == [f"purchases.jsonl number 4: is of order {later.order_id}, {gone}"]
    (counter.folder / BOOK).unlink()
    assert findings(counter.folder) == [
        f"purchases.jsonl number 1: is of order {order.order_id}, {gone}",
        f"purchases.jsonl number 4: is of order {later.order_id}, {gone}",
    ]


def test_money_for_an_order_that_was_never_placed_here_is_a_note(counter: Counter) -> None:
    """Another installation may have the same account: its notices must not make backups look damaged."""
    strange = ordered(order_id=new_order_id())
    counter.tell([paid(strange)])
    assert findings(counter.folder) == []
    told = findings(counter.folder, notes=True)
    assert told == [f"purchases.jsonl number 4: is of order {strange.order_id}, which was never placed here"]


def test_each_kind_of_damage_to_the_order_book_is_named_by_its_line(counter: Counter) -> None:
    for _ in range(3):
        counter.order()
    book = counter.folder / BOOK
    lines = book.read_bytes().splitlines(keepends=True)
    kinds = {
        b"".join([lines[0], lines[1], b"{garbage}\n", *lines[3:]]): "orders.jsonl line 3: cannot be read",
        b"".join([*lines[:2], *lines[3:]]): "orders.jsonl line 3: 1 before it missing",
        b"".join([*lines, lines[2]]): "orders.jsonl line 6: does not belong here",
        b"".join(lines).replace(b'"placed"', b'"paid??"', 1): "orders.jsonl line 1: cannot be read",
    }
    for damaged, place in kinds.items():
        book.write_bytes(damaged)
        assert findings(counter.folder)[0].startswith(place)
    book.write_bytes(b"".join(lines) + b'{"seq":6,"or')
    assert findings(counter.folder) == []
    assert findings(counter.folder, notes=True)[0].startswith("orders.jsonl line 6: an unfinished line")
