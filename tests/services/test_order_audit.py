"""What was told of an order and is not believed: in the order's lines, a letter, /health and the audit."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest

from server.domain.order import OrderState, Step
from server.domain.purchase import EventKind
from server.errors import StorageUnavailable
from server.services.audit import PurchaseAuditLog
from server.services.letter_subjects import LetterSubjects
from server.services.letter_writing import Matter, render
from server.services.letters import SUSPICIOUS, letters_owed
from server.services.order_audit import OrderFilters
from tests.conftest import Clock, Shop, settings_for
from tests.scripts.conftest import Owner
from tests.storage.backroom import NOW
from tests.storage.counter import Counter, back, notice, ordered, paid


@pytest.fixture
def counter(tmp_path: Path) -> Counter:
    return Counter(tmp_path)


def audit(counter: Counter) -> PurchaseAuditLog:
    return PurchaseAuditLog(counter.store)


def suspicious_notes(counter: Counter, order) -> list[str | None]:
    return [line.note for line in counter.file(order).of(Step.SUSPICIOUS)]


# ------------------------------------------------------------------------------------------------ recorded
def test_what_does_not_agree_with_its_order_stands_in_its_lines_once(counter: Counter) -> None:
    order = counter.order()
    wrong = [paid(order, price="49.99"), paid(order, currency="eur"), paid(order, is_test=True)]
    counter.tell([*wrong, *wrong])
    assert suspicious_notes(counter, order) == [
        f"not believed: 49.99 pln is not the 50.00 pln of order {order.number}",
        f"not believed: 50.00 eur is not the 50.00 pln of order {order.number}",
        f"not believed: order {order.number} is no test",
    ]
    assert counter.state(order) is OrderState.PENDING
    assert dict(counter.store.licenses()) == {}
    counter.tell([paid(order)])
    assert counter.state(order) is OrderState.PAID
    assert len(suspicious_notes(counter, order)) == 3


def test_a_line_that_was_lost_by_a_kill_is_written_when_the_notice_comes_again(counter: Counter) -> None:
    order = counter.order()
    counter.hear(paid(order, price="49.99"))  # the ledger's line alone: then it was killed
    assert suspicious_notes(counter, order) == []
    counter.tell([paid(order, price="49.99")])
    assert len(suspicious_notes(counter, order)) == 1


def test_what_is_told_of_an_order_that_nobody_knows_is_no_order_s_matter(counter: Counter) -> None:
    order = counter.order()
    counter.tell([paid(ordered(source="jazzcash")), paid(order)])
    assert counter.store.orders.suspicious(NOW) == 0


# ------------------------------------------------------------------------------------------------ told
def test_the_list_of_what_is_not_believed(counter: Counter) -> None:
    orders = [counter.order(), counter.order()]
    counter.tell([paid(orders[0], price="1.00")])
    counter.now = NOW + timedelta(days=3)
    counter.tell([paid(orders[1], currency="eur"), paid(orders[0])])
    rows = audit(counter).get_suspicious()
    assert [(row["seq"], row["order"], row["told_as"], row["price"], row["currency"]) for row in rows] == [
        (2, orders[1].number, EventKind.SALE, "50.00", "eur"),
        (1, orders[0].number, EventKind.SALE, "1.00", "pln"),
    ]
    assert rows[1]["note"] == f"1.00 pln is not the 50.00 pln of order {orders[0].number}"
    assert [row["seq"] for row in audit(counter).get_suspicious(NOW + timedelta(days=1))] == [2]


def test_without_the_order_book_an_order_goes_by_its_id(counter: Counter, monkeypatch: pytest.MonkeyPatch) -> None:
    order = counter.order()
    counter.tell([paid(order, price="1.00")])

    def gone(name: str) -> None:
        raise StorageUnavailable("orders.jsonl line 1: it was changed")

    monkeypatch.setattr(counter.store.orders, "find", gone)
    assert [row["order"] for row in audit(counter).get_suspicious()] == [order.order_id]


def test_how_each_order_stands(counter: Counter) -> None:
    made = [counter.order("wave", "team"), counter.order(email="Bob@Example.com"), counter.order(source="jazzcash")]
    counter.tell([paid(made[0]), back(made[0], "30.00"), notice(made[1], EventKind.CANCELLATION)])
    rows = audit(counter).get_orders(OrderFilters(), counter.now)
    assert [(row["number"], row["state"], row["amount"], row["refunded"]) for row in rows] == [
        (made[0].number, "partially_refunded", "100.00", "30.00"),
        (made[1].number, "cancelled", "50.00", "0.00"),
        (made[2].number, "pending", "50.00", "0.00"),
    ]
    assert (rows[0]["packages"], rows[0]["paid_at"]) == (["wave", "team"], NOW + timedelta(minutes=3))

    def numbers(**wanted: object) -> list[str]:
        found = audit(counter).get_orders(OrderFilters(**wanted), counter.now)
        return [row["number"] for row in found]

    assert numbers(source="jazzcash") == [made[2].number]
    assert numbers(email="bob@example.com ") == [made[1].number]
    assert numbers(state=OrderState.PARTIALLY_REFUNDED) == [made[0].number]
    assert numbers(since=NOW + timedelta(seconds=1)) == numbers(until=NOW - timedelta(seconds=1)) == []
    assert len(numbers(since=NOW, until=NOW)) == 3


def test_the_owner_s_letter_names_the_order_and_what_to_do(counter: Counter, tmp_path: Path) -> None:
    order = counter.order("wave", "team")
    (told,) = counter.tell([paid(order, price="1.00")])
    (letter,) = letters_owed(told.entry, "owner@shop.example")
    assert letter.kind == SUSPICIOUS
    subjects = LetterSubjects(counter.store, lambda: NOW)
    matter = Matter(now=NOW, entry=told.entry, order=subjects.order(told.entry))
    message = render(letter, matter, settings_for(tmp_path))
    assert message["Subject"] == "A notice that does not fit its order: wave and team"
    said = " ".join(message.get_body(("plain",)).get_content().split())
    assert f"PayU told something of order {order.number} that does not agree with it: 1.00 pln is not" in said
    assert "Look the payment up at PayU: the sale below is the id" in said
    assert f"Sale: {order.order_id} Order: {order.number} " in said
    assert "Customer: Ann Example ann@example.com" in said
    assert "secret in your webhook" not in said


# ------------------------------------------------------------------------------------------------ over HTTP
def test_health_tells_of_it_for_a_week(shop: Shop, clock: Clock) -> None:
    store, settlement = shop.services.store, shop.services.settlement
    order = store.orders.place(ordered(), clock.now)
    settlement.hear([paid(order, price="1.00")])
    told = shop.client.get("/health")
    assert (told.status_code, told.json["status"]) == (200, "degraded")
    assert told.json["checks"]["orders"] == {
        "ok": False,
        "detail": "1 order: something was told within 7 days that is not believed; scripts/audit.py suspicious",
    }
    clock.forward(days=7, seconds=1)
    assert shop.client.get("/health").json["checks"]["orders"] == {"ok": True, "detail": None}


def test_a_damaged_order_book_holds_up_no_letter(shop: Shop, clock: Clock) -> None:
    store = shop.services.store
    order = store.orders.place(ordered(), clock.now)
    shop.services.settlement.hear([notice(order, EventKind.PENDING)])
    clock.forward(hours=1)
    shop.sale("s1")
    book = shop.folder / "orders.jsonl"
    book.write_bytes(book.read_bytes().replace(b"Ann", b"Eve"))
    again = Shop(shop.folder, clock)
    report = again.services.outbox.send_due()
    assert (report.sent, report.failed, report.trouble) == (1, 1, None)
    (waiting,) = again.services.store.letterbox.waiting()
    assert "orders.jsonl line 1" in (waiting.error or "")


# ------------------------------------------------------------------------------------------------ at the terminal
def test_the_owner_reads_both_lists(shop: Shop) -> None:
    store, now = shop.services.store, datetime.now(UTC)
    owner = Owner(shop.folder)
    order = store.orders.place(ordered(name="=cmd()", placed_at=now), now)
    shop.services.settlement.hear([paid(order, price="1.00")])
    done = owner.run("audit", "suspicious", code=1)
    assert f"payu sale {order.number} 1.00 pln 1.00 pln is not the 50.00 pln" in " ".join(done.stdout.split())
    assert "None of it gave a license" in done.stdout
    assert owner.run("audit", "suspicious", "--since", "2099-01-01", "--csv").stdout.count("\n") == 1
    assert [row["order"] for row in owner.json("audit", "suspicious", code=1)] == [order.number]
    csv = owner.run("audit", "orders", "--state", "pending", "--csv").stdout
    assert csv.startswith("number,state,amount,currency,refunded,source,email,name,packages,")
    assert f"{order.number},pending,50.00,pln,0.00,payu,ann@example.com,'=cmd()," in csv


# ------------------------------------------------------------------------------------------------ the story of a key
def test_the_story_names_the_order_and_says_what_was_not_believed(
    counter: Counter, monkeypatch: pytest.MonkeyPatch
) -> None:
    order = counter.order()
    counter.tell([paid(order, price="1.00"), paid(order), back(order, "20.00"), back(order, "30.00", 2)])
    ((key, _),) = counter.store.licenses()
    first, second, third, last = audit(counter).explain(key, counter.now).steps
    assert first.said == (
        f"something that is not believed: a sale for 1.00 pln; order {order.number}; "
        f"note: 1.00 pln is not the 50.00 pln of order {order.number}"
    )
    assert first.did == ("nothing changed",)
    assert second.said == f"a sale for 50.00 pln; order {order.number}; product: wave"
    assert third.said == f"a part of the charge was refunded: 20.00 pln; order {order.number}"
    assert last.did == ("inactive: refunded",)
    put_away = counter.folder / "orders.jsonl"
    put_away.rename(counter.folder / "elsewhere")
    (counter.folder / "orders.jsonl").write_text("{garbage}\n{garbage}\n")
    assert f"order {order.order_id}" in audit(counter).explain(key, counter.now).steps[1].said
