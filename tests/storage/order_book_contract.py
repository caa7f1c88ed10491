"""What every order book and every shelf promise: tests that the contract of the store inherits."""

from __future__ import annotations

from abc import ABC
from collections import Counter
from collections.abc import Callable
from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest

from server.domain.order import Order, OrderLine, Step, new_order_id
from server.errors import NotFound, StorageUnavailable
from server.storage import orders
from server.storage.base import Store
from tests.storage.backroom import NOW
from tests.storage.counter import ordered
from tests.torture.processes import Tell, together

WORKERS = 8


def line(order: Order, step: Step, at: int = 1, **more: Any) -> OrderLine:
    return OrderLine(timestamp=NOW + timedelta(minutes=at), order_id=order.order_id, step=step, **more)


def placed(store: Store, *more: str, **said: Any) -> Order:
    return store.orders.place(ordered(*more, **said), NOW)


def found(store: Store, name: str) -> list[Step] | None:
    file = store.orders.find(name)
    return [told.step for told in file.lines] if file else None


class OrderBookContract(ABC):
    """Needs what StoreContract has: `store`, `another`, `opened`, `impatient`."""

    opened: Callable[[Path], Store]
    impatient: Callable[[Store], None]

    def test_an_empty_book_knows_nothing(self, store):
        assert store.orders.find(new_order_id()) is None
        assert store.orders.of_email("ann@example.com") == []
        assert list(store.orders.placed(None, NOW)) == []
        assert store.orders.suspicious(NOW - timedelta(days=7)) == 0

    def test_an_order_is_found_as_it_was_placed_by_its_id_and_its_number(self, store, another):
        order = placed(store, name="Zoë \u2028 \U0001f600", email="zoë@exämple.com", phone="03001234567", is_test=True)
        placed(store)
        for reader in (store, another()):
            for name in (order.order_id, order.number):
                file = reader.orders.find(name)
                assert file is not None
                assert (file.order, [told.step for told in file.lines]) == (order, [Step.PLACED])
            for name in (order.order_id[:-1], order.order_id.lower(), order.number[:-1], "", "ann@example.com"):
                assert reader.orders.find(name) is None

    def test_every_worker_reads_what_any_worker_wrote(self, store, another):
        other = another()
        for writer, reader in ((store, other), (other, store)):
            order = placed(writer)
            assert found(reader, order.order_id) == [Step.PLACED]
            reader.orders.note(line(order, Step.BEGUN, reference="P1", payment_url="https://pay.example/1"))
            file = writer.orders.find(order.number)
            assert file is not None
            assert (file.reference, file.payment_url) == ("P1", "https://pay.example/1")

    def test_what_was_said_before_is_not_written_twice(self, store, another):
        order, other = placed(store), another()
        said = (
            {"step": Step.BEGUN},
            {"step": Step.BEGUN, "reference": "P1"},
            {"step": Step.SUSPICIOUS, "note": "one"},
            {"step": Step.SUSPICIOUS, "note": "another"},
            {"step": Step.REFUND_ASKED, "refund_id": "r1", "amount": 5},
            {"step": Step.REFUND_ASKED, "refund_id": "r2", "amount": 5},
            {"step": Step.CANCELLED, "note": "one"},
        )
        assert [store.orders.note(line(order, **one)) for one in said] == [True] * 7
        assert [other.orders.note(line(order, at=9, **one)) for one in said] == [False] * 7
        assert store.orders.note(line(order, Step.CANCELLED, note="another")) is False
        assert found(other, order.order_id) == [Step.PLACED, *(one["step"] for one in said)]

    def test_a_line_of_an_order_that_nobody_placed_is_refused(self, store):
        with pytest.raises(NotFound):
            store.orders.note(line(ordered(), Step.BEGUN))
        assert list(store.orders.placed(None, NOW)) == []

    def test_a_number_is_given_once(self, store, another, monkeypatch):
        first = placed(store)
        monkeypatch.setattr(orders, "new_number", lambda now: f"ORD-{now:%Y%m%d}-NEXT")
        second = another().orders.place(ordered(number=first.number), NOW)
        assert (second.number, second.order_id != first.order_id) == (f"ORD-{NOW:%Y%m%d}-NEXT", True)
        assert store.orders.find(second.number).order == second
        assert store.orders.find(first.number).order == first

    def test_the_orders_of_an_address_in_any_case_the_newest_first(self, store, another):
        mine = [placed(store, email=email) for email in ("ann@example.com", "Ann@Example.com", " ANN@example.com ")]
        placed(store, email="ann@example.org")
        store.orders.note(line(mine[0], Step.BEGUN))
        for reader in (store, another()):
            for email in ("ann@example.com", " ANN@EXAMPLE.COM"):
                assert [file.order for file in reader.orders.of_email(email)] == mine[::-1]
            assert [len(file.lines) for file in reader.orders.of_email("ann@example.com")] == [1, 1, 2]
        assert store.orders.of_email("") == store.orders.of_email("nn@example.com") == []

    def test_what_was_placed_on_a_platform_since_then_page_by_page(self, store, another):
        days = [NOW + timedelta(days=day) for day in range(6)]
        made = [placed(store, source=("payu", "jazzcash")[at % 2], placed_at=day) for at, day in enumerate(days)]
        for reader in (store, another()):
            assert [file.order for file in reader.orders.placed(None, NOW)] == made
            assert [file.order for file in reader.orders.placed("payu", days[1])] == [made[2], made[4]]
            assert [file.order for file in reader.orders.placed("payu", NOW, made[2].order_id)] == [made[4]]
            assert [file.order for file in reader.orders.placed(None, days[4], made[1].order_id)] == made[4:]
            assert list(reader.orders.placed(None, NOW, made[-1].order_id)) == []
            assert list(reader.orders.placed(None, NOW, new_order_id())) == []

    def test_what_was_placed_the_newest_first_and_up_to_a_day(self, store, another):
        days = [NOW + timedelta(days=day) for day in range(8)]
        made = [placed(store, source=("payu", "jazzcash")[at % 2], placed_at=day) for at, day in enumerate(days)]
        for reader in (store, another()):

            def told(source: str | None, since: Any, orders: Any = reader.orders, **more: Any) -> list[Order]:
                return [file.order for file in orders.placed(source, since, newest_first=True, **more)]

            assert told(None, NOW) == made[::-1]
            assert told("payu", days[1], until=days[5]) == [made[4], made[2]]
            assert told(None, days[2], after=made[4].order_id) == [made[3], made[2]]
            assert told(None, NOW, after=made[4].order_id, until=days[1]) == [made[1], made[0]]
            assert told(None, NOW, after=made[0].order_id) == told(None, NOW, after=new_order_id()) == []
            assert told(None, days[4], until=days[3]) == []
            assert [file.order for file in reader.orders.placed(None, days[2], until=days[4])] == made[2:5]

    def test_what_is_placed_meanwhile_disturbs_no_reader(self, store, another):
        first = placed(store)
        reading = another().orders.placed(None, NOW)
        assert next(reading).order == first
        second = placed(store)
        assert [file.order for file in reading] in ([], [second])

    def test_suspicious_orders_are_counted_once_and_for_a_time(self, store, another):
        one, two = placed(store), placed(store)
        for note in ("too little", "another currency"):
            store.orders.note(line(one, Step.SUSPICIOUS, note=note))
        store.orders.note(line(two, Step.SUSPICIOUS, at=60, note="too little"))
        for reader in (store, another()):
            assert reader.orders.suspicious(NOW) == 2
            assert reader.orders.suspicious(NOW + timedelta(minutes=30)) == 1
            assert reader.orders.suspicious(NOW + timedelta(hours=2)) == 0

    def test_who_is_alone_may_write_and_nobody_else(self, store, another):
        order, other = placed(store), another()
        self.impatient(other)
        with store.orders.alone():
            assert store.orders.note(line(order, Step.BEGUN))
            with pytest.raises(StorageUnavailable):
                other.orders.note(line(order, Step.CANCELLED))
            with pytest.raises(StorageUnavailable):
                placed(other)
            assert found(other, order.order_id) == [Step.PLACED, Step.BEGUN]
        assert other.orders.note(line(order, Step.CANCELLED))

    def test_eight_processes_place_orders_each_under_its_own_number(self, store, another, tmp_path, monkeypatch):
        """All of them draw from the same few numbers, so that they meet."""
        drawn = [f"ORD-20261120-{number:04}" for number in range(100)]

        def work(worker: int) -> Callable[[Tell, Callable[[], None]], None]:
            def run(tell: Tell, begin: Callable[[], None]) -> None:
                mine, numbers = self.opened(tmp_path), iter(drawn)
                monkeypatch.setattr(orders, "new_number", lambda now: next(numbers))
                begin()
                for at in range(8):
                    order = mine.orders.place(ordered(number=drawn[at]), NOW)
                    mine.orders.note(line(order, Step.BEGUN, reference=f"{worker}-{at}"))
                    tell([order.order_id, order.number, f"{worker}-{at}"])

            return run

        told = [tuple(one) for words in together(map(work, range(WORKERS))) for one in words if one != "ready"]
        assert Counter(number for _, number, _ in told).most_common(1)[0][1] == 1
        for reader in (store, another()):
            files = list(reader.orders.placed(None, NOW))
            assert {(f.order.order_id, f.order.number, f.reference) for f in files} == set(told)
            assert len(files) == 8 * WORKERS
            assert all(reader.orders.find(number).order.order_id == order_id for order_id, number, _ in told)

    def test_eight_processes_write_one_line_once(self, store, tmp_path):
        order = placed(store)

        def run(tell: Tell, begin: Callable[[], None]) -> None:
            mine = self.opened(tmp_path)
            begin()
            tell([mine.orders.note(line(order, step)) for step in (Step.BEGUN, Step.PROCESSING, Step.CANCELLED)])

        told = [words[-1] for words in together([run] * WORKERS)]
        assert [sum(column) for column in zip(*told, strict=True)] == [1, 1, 1]
        assert Counter(found(store, order.order_id)).most_common(1)[0][1] == 1

    # ------------------------------------------------------------------------------------------------ the shelf
    def test_what_is_put_on_the_shelf_is_there_for_its_time(self, store, another):
        later = NOW + timedelta(hours=1)
        store.shelf.put("token", "secret", later, NOW)
        for reader in (store, another()):
            assert reader.shelf.get("token", NOW) == "secret"
            assert reader.shelf.get("token", later - timedelta(seconds=1)) == "secret"
            assert reader.shelf.get("token", later) is None
            assert reader.shelf.get("toke", NOW) is None
        another().shelf.put("token", "newer", later + timedelta(hours=1), later)
        assert store.shelf.get("token", later) == "newer"

    def test_things_whose_time_is_over_are_taken_off_the_shelf(self, store):
        for minute in range(20):
            now = NOW + timedelta(minutes=minute)
            store.shelf.put(f"t{minute}", "x", now + timedelta(minutes=2), now)
        last = NOW + timedelta(minutes=19)
        assert [store.shelf.get(f"t{minute}", last) for minute in (17, 18, 19)] == [None, "x", "x"]
        assert store.shelf.get("t0", NOW) is None

    def test_a_name_is_claimed_once_until_its_time_is_over(self, store, another):
        until, other = NOW + timedelta(hours=1), another()
        assert store.shelf.claim("link", until, NOW)
        assert not other.shelf.claim("link", until, NOW)
        assert not store.shelf.claim("link", until + timedelta(days=1), until - timedelta(seconds=1))
        assert other.shelf.claim("link", until + timedelta(hours=1), until)
        assert other.shelf.claim("other link", until, NOW)

    def test_of_eight_processes_one_claims_a_name(self, store, tmp_path):
        until = NOW + timedelta(hours=1)

        def run(tell: Tell, begin: Callable[[], None]) -> None:
            mine = self.opened(tmp_path)
            begin()
            tell([mine.shelf.claim(f"link {number}", until, NOW) for number in range(10)])

        told = [words[-1] for words in together([run] * WORKERS)]
        assert [sum(column) for column in zip(*told, strict=True)] == [1] * 10
        assert not any(store.shelf.claim(f"link {number}", until, NOW) for number in range(10))
