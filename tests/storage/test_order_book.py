"""A damaged, torn, cut or replaced order book stops the store front by name, and nothing else; and it heals."""

from __future__ import annotations

import errno
import json
import logging
import os
from collections.abc import Iterator
from datetime import timedelta
from pathlib import Path
from typing import Any

import msgspec
import pytest

from server.domain.order import OrderLine, OrderState, Step
from server.domain.purchase import EventKind, PurchaseEvent
from server.errors import StorageUnavailable
from server.storage import durable
from server.storage.flatfile import FlatFileStore
from tests.conftest import CATALOGUE, NOW, Clock, Shop
from tests.storage.backroom import chain, room_for
from tests.storage.counter import SECRET, Counter, Till, back, notice, ordered, paid
from tests.torture.processes import failing

BOOK = "orders.jsonl"
LATER = NOW + timedelta(hours=1)


@pytest.fixture
def counter() -> Iterator[Counter]:
    """Three orders: one is paid, one refunded in part, one waits."""
    with room_for() as folder:
        counter = Counter(folder)
        made = [counter.order(), counter.order("team"), counter.order()]
        counter.tell([paid(made[0]), paid(made[1]), back(made[1], "20.00")])
        counter.tell([notice(made[2], EventKind.PENDING)])
        yield counter


def orders(store: FlatFileStore) -> dict[str, list[Step]]:
    return {file.order.order_id: [line.step for line in file.lines] for file in store.orders.placed(None, NOW)}


def opened(folder: Path) -> FlatFileStore:
    return FlatFileStore(folder).open()


def put(folder: Path, content: bytes | None) -> None:
    (folder / BOOK).unlink(missing_ok=True)
    if content is not None:
        (folder / BOOK).write_bytes(content)


# ------------------------------------------------------------------------------------------------ torn
def test_a_line_that_is_torn_anywhere_is_sealed_and_counts_nothing(counter: Counter) -> None:
    whole, before = (counter.folder / BOOK).read_bytes(), orders(counter.store)
    start = whole[:-1].rfind(b"\n") + 1
    last = next(reversed(before))
    for cut in range(start, len(whole)):
        put(counter.folder, whole[:cut])
        store = opened(counter.folder)
        known = orders(store)
        assert known == before | {last: before[last][:-1]}
        (made,) = [file.order for file in store.orders.placed(None, NOW) if file.order.order_id == last]
        assert store.orders.note(OrderLine(timestamp=NOW, order_id=last, step=Step.BEGUN))
        assert store.orders.place(ordered(), NOW).order_id in orders(opened(counter.folder))
        assert store.orders.find(made.number) is not None
        assert len(chain(counter.folder / BOOK)) == len(whole.splitlines()) + 1
        store.close()


# ------------------------------------------------------------------------------------------------ damaged
def damages(whole: bytes) -> Iterator[tuple[str, bytes, int]]:
    """What is damaged, the file, and which line is to be named."""
    lines = whole.splitlines(keepends=True)
    yield "changed", whole.replace(b"ann@example.com", b"eve@example.com", 1), 1
    yield "garbage", b"".join([lines[0], b'{"garbage"}\n', *lines[2:]]), 2
    yield "missing", b"".join([lines[0], *lines[2:]]), 2
    yield "twice", b"".join([*lines, lines[-1]]), len(lines) + 1
    yield "another step", whole.replace(b'"step":"placed"', b'"step":"plaaed"', 1), 1
    yield "zeros", bytes(len(lines[0]) - 1) + b"\n" + b"".join(lines[1:]), 1


@pytest.mark.parametrize("number", range(6))
def test_a_damaged_book_is_refused_by_its_line_and_heals_when_it_is_put_back(counter: Counter, number: int) -> None:
    whole, before = (counter.folder / BOOK).read_bytes(), orders(counter.store)
    first = next(iter(before))
    name, damaged, line = list(damages(whole))[number]
    put(counter.folder, damaged)
    store = opened(counter.folder)
    # what of the book stands behind the damage is never guessed at
    deeds = [
        lambda: store.orders.find(first),
        lambda: store.orders.of_email("ann@example.com"),
        lambda: list(store.orders.placed(None, NOW)),
        lambda: store.orders.suspicious(NOW),
        lambda: store.orders.place(ordered(), NOW),
        lambda: store.orders.note(OrderLine(timestamp=NOW, order_id=first, step=Step.CANCELLED)),
    ]
    for deed in deeds:
        with pytest.raises(StorageUnavailable, match=rf"orders\.jsonl line {line}: ") as refused:
            deed()
        assert "Restore the file from a backup" in refused.value.detail, name
    assert (counter.folder / BOOK).read_bytes() == damaged
    put(counter.folder, whole)
    assert orders(store) == before
    assert store.orders.note(OrderLine(timestamp=NOW, order_id=first, step=Step.CANCELLED))


def test_a_book_that_is_damaged_under_a_running_store_front_is_not_trusted_further(counter: Counter) -> None:
    """What is known already still stands; nothing is added to a file that does not go on from it."""
    whole, before = (counter.folder / BOOK).read_bytes(), orders(counter.store)
    with open(counter.folder / BOOK, "ab") as book:
        book.write(whole.splitlines(keepends=True)[0])
    with pytest.raises(StorageUnavailable, match=r"orders\.jsonl line"):
        counter.order()
    put(counter.folder, whole)
    assert orders(counter.store) == before
    assert len(orders(counter.store) | {counter.order().order_id: []}) == 4


@pytest.mark.parametrize("how", ["cut", "gone", "another shop's", "empty"])
def test_a_book_that_was_replaced_is_read_anew(counter: Counter, how: str) -> None:
    """An older backup was put in its place, or nothing: what it says now counts, in every worker."""
    whole, before, other = (counter.folder / BOOK).read_bytes(), orders(counter.store), opened(counter.folder)
    assert orders(other) == before
    first = whole[: whole.index(b"\n") + 1]
    with room_for() as elsewhere:
        theirs = Counter(elsewhere)
        theirs.order()
        contents = {"cut": first, "gone": None, "empty": b"", "another shop's": (elsewhere / BOOK).read_bytes()}
    put(counter.folder, contents[how])
    known = orders(opened(counter.folder))
    assert len(known) == (how in ("cut", "another shop's"))
    assert orders(counter.store) == orders(other) == known
    made = counter.order()
    assert orders(other) == known | {made.order_id: [Step.PLACED]}
    assert len(chain(counter.folder / BOOK)) == len(known) + 1


# ------------------------------------------------------------------------------------------------ a damaged shelf
DAMAGE = (b"", b"null", b'{"link":', b"\0" * 100, b"[" * 100_000)


def test_a_damaged_shelf_is_begun_anew_loudly(counter: Counter, caplog: pytest.LogCaptureFixture) -> None:
    """Whoever was given something before it is known by the word that he does not have."""
    shelf, words = counter.store.shelf, [""]
    assert shelf.claim("link", LATER, NOW)
    assert shelf.begun(NOW) == ""
    for content in DAMAGE:
        (counter.folder / "shelf.json").write_bytes(content)
        assert counter.store.state().view.startswith("shelf.json is damaged: ")
        with caplog.at_level(logging.ERROR):
            words += [shelf.begun(NOW)]
        assert "shelf.json is damaged" in caplog.text
        assert shelf.claim("link", LATER, NOW)
        assert not shelf.claim("link", LATER, NOW)
        assert shelf.begun(NOW) == opened(counter.folder).shelf.begun(NOW) == words[-1]
        told = f"shelf.json was damaged at {NOW:%Y-%m-%dT%H:%M:%SZ}: everybody was signed out, and links"
        assert [notice for notice in opened(counter.folder).state().notices if notice.startswith(told)]
        assert counter.store.state().view is None
    assert len(set(words)) == 1 + len(DAMAGE)
    assert (counter.folder / "shelf.json").stat().st_mode & 0o777 == 0o600


def test_no_byte_of_a_shelf_changes_unseen(counter: Counter) -> None:
    """Or a name is another's, and what was ended under the one before is good again."""
    shelf, file = counter.store.shelf, counter.folder / "shelf.json"
    shelf.put("session", "word", LATER, NOW)
    whole = file.read_bytes()
    for place in range(len(whole)):
        file.write_bytes(whole[:place] + bytes([whole[place] ^ 1]) + whole[place + 1 :])
        assert shelf.get("session", NOW) == "word" or shelf.begun(NOW), place


def test_a_shelf_of_an_older_version_is_read(counter: Counter) -> None:
    (counter.folder / "shelf.json").write_bytes(b'{"link":{"value":"spent","until":"%s"}}' % LATER.isoformat().encode())
    assert (counter.store.shelf.get("link", NOW), counter.store.shelf.begun(NOW)) == ("spent", "")


def test_what_cannot_be_written_down_was_not_claimed(counter: Counter) -> None:
    shelf = counter.store.shelf
    for call, number in (("replace", errno.ENOSPC), ("fsync", errno.EIO), ("open", errno.EROFS)):
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(durable.os, call, failing(number))
            with pytest.raises(StorageUnavailable):
                shelf.claim(call, LATER, NOW)
        assert shelf.claim(call, LATER, NOW)
    assert not list(counter.folder.glob(".shelf*"))


# ------------------------------------------------------------------------------------------------ over HTTP
PRICED: dict[str, Any] = json.loads(json.dumps(CATALOGUE))
PRICED["products"]["wave"] |= {"price": {"pln": "50.00"}, "published": True}


def started(folder: Path) -> Shop:
    shop = Shop(folder, Clock(), PRICED)
    shop.services.platforms["payu"] = Till()
    return shop


@pytest.fixture
def front(tmp_path: Path) -> Shop:
    return started(tmp_path / "data")


def initiate(shop: Shop) -> Any:
    wish = {"package_ids": ["wave"], "email": "ann@example.com", "name": "Ann", "payment_provider": "payu"}
    return shop.client.post("/api/v1/checkout/initiate", json=wish)


def tell(shop: Shop, *events: PurchaseEvent) -> Any:
    return shop.client.post("/api/v1/webhooks/payu", query_string={"secret": SECRET}, data=msgspec.json.encode(events))


def test_where_the_book_is_damaged_the_store_front_stops_and_nothing_else_does(front: Shop) -> None:
    order_id = initiate(front).json["order_id"]
    file = front.services.store.orders.find(order_id)
    assert file is not None
    key = front.sale("s1")
    whole = (front.folder / BOOK).read_bytes()
    put(front.folder, whole.replace(b"ann@example.com", b"eve@example.com", 1))
    front = started(front.folder)
    asked = [
        initiate(front),
        front.client.get(f"/api/v1/checkout/order/{order_id}"),
        front.client.get(f"/pay/{order_id}"),
        tell(front, paid(file.order)),
        front.owner("POST", f"/orders/{order_id}/refund"),
    ]
    for answered in asked:
        assert answered.status_code == 503, answered.text
        assert "orders.jsonl line 1" in answered.text
        assert answered.headers["Retry-After"]
    assert front.code(key, hardware_id="pc") == "VALID"
    assert front.code(front.sale("s2")) == "VALID"
    assert front.client.get("/api/v1/packages").status_code == 200
    health = front.client.get("/health")
    assert (health.status_code, health.json["status"]) == (200, "degraded")
    assert "orders.jsonl" in health.json["checks"]["orders"]["detail"]
    put(front.folder, whole)
    told = tell(front, paid(file.order)).json
    assert (told["outcome"], len(told["license_keys"])) == ("issued", 1)
    assert front.client.get(f"/api/v1/checkout/order/{order_id}").json["status"] == OrderState.PAID
    assert front.client.get("/health").json["status"] == "ok"


def test_a_full_disk_is_a_503_and_heals(front: Shop) -> None:
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(durable.os, "write", failing(errno.ENOSPC))
        answered = initiate(front)
        assert (answered.status_code, os.strerror(errno.ENOSPC) in answered.text) == (503, True)
    answered = initiate(front)
    assert answered.status_code == 201
    assert len(list(front.services.store.orders.placed(None, NOW))) == 1
